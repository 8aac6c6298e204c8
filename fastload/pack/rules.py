"""Which samples of a table are kept: one rule after the other, each looking at what the ones before it have left.

missing values -> unreadable -> ranges -> standard deviations -> label noise -> straddling contents -> duplicates
-> near duplicates (straddling ones too) -> classes of one member (label noise too, of what then is left)

"First" and "earlier" mean by key, so that the order of files or rows does not matter. Of what is in several splits,
where that is not to stay there, the smallest split's is first, whatever its key: a copy in the training set, or what is
nearly one, takes none from the test set.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError, PackError
from fastload.pack.cleaning import Cleaning, Verdict
from fastload.pack.columns import origin, texts
from fastload.pack.duplicates import Equal, Finder, Judge, NearPictures, NearTexts, near_repeats, repeats
from fastload.pack.findings import Findings
from fastload.pack.measures import measure
from fastload.pack.sameness import as_one, digests, ranked, straddlers, with_numbers
from fastload.pack.splitting import Splitting, as_told
from fastload.pack.surveyor import Questions
from fastload.pack.table import Int64s, Table, Values
from fastload.shards.members import sample_key

_SHOWN = 3  # faults that an error lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Why one sample is left out, or should be looked at."""

    key: str
    source: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What is left.

    Attributes:
        rows: of the table, increasing, int64 [m].
        contents: a digest of each one's compared contents, [m], near duplicates having that of the earlier one; None
            where contents were not read.
        rejected: samples that are left out, by key.
        suspects: samples that were to be reported, by key and reason; another rule may have left some of them out.
    """

    rows: Int64s
    contents: Sequence[bytes] | None = None
    rejected: tuple[Note, ...] = ()
    suspects: tuple[Note, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """How many were rejected and reported, by reason, as JSON values."""
        rejected, reported = (Counter(note.reason for note in notes) for notes in (self.rejected, self.suspects))
        return {"rejected": dict(sorted(rejected.items())), "reported": dict(sorted(reported.items()))}


def questions(
    table: Table,
    cleaning: Cleaning,
    *,
    digests: bool = False,
    apart: Collection[str] = (),
    decoded: bool = False,
) -> Questions | None:
    """What the survey has to find out; None if nothing needs it.

    Args:
        table: the samples.
        cleaning: the rules.
        digests: contents are to be compared whatever the rules are.
        apart: fields that make no difference to what is the same, like that of the labels which a rule looks at, unless
            the rules name the fields that do.
        decoded: packing decodes contents, which then have to be whole where faults are to be skipped.

    Raises: ConfigError for fields that are not there, or that cannot be compared.
    """
    if not cleaning.reads_contents and not digests:
        return None
    contents = [name for name, column in table.columns.items() if not isinstance(column, Values)]
    labels = () if cleaning.label_noise == "ignore" else (cleaning.label,)  # of other names than "label" they are texts
    compare = cleaning.compare or tuple(name for name in contents if name not in (*apart, *labels))
    for name in compare:
        if name not in contents:
            known = ", ".join(map(repr, contents))
            raise ConfigError(f"compare={compare!r}: {name!r} is none of the contents, {known}")
    if not compare and {cleaning.duplicates, cleaning.near_duplicates} != {"ignore"}:
        raise ConfigError("there is nothing to compare: the source has numbers and labels only")
    near = compare if cleaning.near_duplicates != "ignore" else ()
    by_kind = {kind: tuple(n for n in near if table.fields[n].kind == kind) for kind in ("image", "text")}
    if near and not any(by_kind.values()):
        raise ConfigError(f"near_duplicates needs a field of pictures or texts; compared are {', '.join(compare)}")
    return Questions(
        full=cleaning.decode == "full" or (decoded and cleaning.on_error == "skip"),
        compare=compare,
        pictures=by_kind["image"],
        texts=by_kind["text"],
        rest=tuple(n for n in near if n not in by_kind["image"] + by_kind["text"]),
    )


def apply_rules(
    table: Table,
    cleaning: Cleaning,
    findings: Findings | None,
    asked: Questions | None = None,
    *,
    splitting: Splitting | None = None,
) -> Cleaned:
    """Go through the rules.

    Args:
        table: the samples.
        cleaning: what to leave out.
        findings: of all contents of the table; None where `questions` asks for none.
        asked: what they answer; None: what `questions` asks for.
        splitting: how samples will be shared out, for contents that straddle splits; None: nothing is done about them.
            Without digests in `findings` the table has to be in memory.

    Raises:
        ConfigError: a field or measure that is not there.
        PackError: a content that cannot be read, where that is not to be skipped; more of them than `max_errors`; no
            sample is left, or none of a split.
    """
    asked = asked or questions(table, cleaning)
    rules = _Rules(table, cleaning, findings, asked, splitting or Splitting())
    if findings is not None:
        rules.unreadable(findings)
    rules.ranges()
    rules.deviations()
    if findings is not None:
        rules.contested(findings)
    rules.straddling()
    if findings is not None:
        rules.duplicates(findings)
        rules.near_duplicates(findings)
    if rules.near:
        rules.straddling()
    rules.lonely()
    return rules.result()


@dataclass
class _Rules:
    """What is left so far, and what was noted."""

    table: Table
    cleaning: Cleaning
    findings: Findings | None
    asked: Questions | None
    splitting: Splitting
    alive: npt.NDArray[np.bool_] = field(init=False)
    rejected: list[Note] = field(default_factory=list)
    suspects: list[Note] = field(default_factory=list)
    copies: set[int] = field(default_factory=set)  # rows of the same bytes as earlier ones
    near: dict[int, int] = field(default_factory=dict)  # row -> that of the earlier one

    def __post_init__(self) -> None:
        self.alive = np.ones(len(self.table.keys), np.bool_)
        for path in self.table.ignored:
            detail = "of a kind that is no sample"
            self.suspects.append(Note(key=sample_key(path), source=path, reason="ignored_file", detail=detail))
        for left in self.table.left_out or ():
            self.rejected.append(Note(key=left.key, source=left.place, reason=left.reason, detail=left.why))

    def result(self) -> Cleaned:
        rows = np.flatnonzero(self.alive)
        if not len(rows):
            reasons = Counter(note.reason for note in self.rejected)
            counted = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            raise PackError(f"cleaning leaves none of {len(self.alive):,} samples: {counted}; loosen its rules")
        return Cleaned(
            rows=rows,
            contents=self.contents(rows),
            rejected=tuple(sorted(self.rejected, key=lambda note: (note.key, note.reason))),
            suspects=tuple(sorted(self.suspects, key=lambda note: (note.key, note.reason))),
        )

    def rows(self) -> Int64s:
        """Those that are left, int64 [m]."""
        return np.flatnonzero(self.alive)

    def contents(self, rows: Int64s) -> list[bytes] | None:
        """See `Cleaned.contents`."""
        if self.findings is None or self.asked is None or not self.asked.compare:
            return None
        found = [digest.tobytes() for digest in self.findings.values["digest"][rows]]
        return as_one(found, self.near, rows)

    def compared(self, rows: Int64s) -> Sequence[bytes]:
        """What makes some samples copies between splits, [m]; empty where they are nothing but numbers and labels."""
        apart = self.splitting.apart
        contents = digests(self.table, rows, apart) if self.findings is None else self.contents(rows) or []
        if self.cleaning.compare is not None or not contents:
            return contents
        return with_numbers(self.table, rows, contents, (*apart, self.cleaning.label))

    def by_key(self) -> list[int]:
        """Those that are left, in the order of their keys."""
        return sorted(self.rows().tolist(), key=self.table.keys.__getitem__)

    def in_order(self, verdict: Verdict) -> list[int]:
        """Those that are left, the first to be kept first: where what straddles is left out, and so are these, the
        smallest split has its samples before the others; within one they go by key."""
        rows = self.by_key()
        if verdict != "drop" or not self.splitting.separates(self.table):
            return rows
        told = as_told(self.table, self.splitting, np.array(rows, np.int64))
        if told is None:
            return rows
        rank = dict(zip(rows, ranked(*told), strict=True))
        return sorted(rows, key=rank.__getitem__)

    def note(self, row: int, reason: str, detail: str, verdict: Verdict = "drop") -> None:
        note = Note(key=self.table.keys[row], source=origin(self.table, row), reason=reason, detail=detail)
        if verdict == "drop":
            self.alive[row] = False
            self.rejected.append(note)
        else:
            self.suspects.append(note)

    def unreadable(self, findings: Findings) -> None:
        cleaning, faults = self.cleaning, sorted(findings.faults.items())
        if faults and cleaning.on_error == "raise":
            row, why = faults[0]
            more = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
            raise PackError(
                f"{origin(self.table, row)}: {why}{more}; remove or mend it, or leave such samples out with"
                " on_error='skip' (--on-error skip)",
                key=self.table.keys[row],
            )
        places = [f"{left.place}: {left.why}" for left in self.table.left_out or () if left.reason == "unreadable"]
        places += [f"{origin(self.table, row)}: {why}" for row, why in faults]
        if cleaning.max_errors is not None and len(places) > cleaning.max_errors:
            raise PackError(
                f"{len(places):,} samples cannot be read, more than max_errors={cleaning.max_errors}:"
                f" {'; '.join(places[:_SHOWN])}{' ...' if len(places) > _SHOWN else ''}; mend them, or raise max_errors"
            )
        for row, why in faults:
            self.note(row, "unreadable", why)

    def ranges(self) -> None:
        for name, bound in self.cleaning.bounds.items():
            rows = self.rows()
            for what, values in measure(self.table, self.findings, name, rows).items():
                held = bound.holds_numbers(values)
                for at in np.flatnonzero(~held & self.alive[rows]).tolist():
                    self.note(int(rows[at]), "range", f"{what}={values[at]:.6g} is not in {bound}")

    def deviations(self) -> None:
        for name, most in self.cleaning.deviations.items():
            rows = self.rows()
            for what, values in measure(self.table, self.findings, name, rows).items():
                numbers = values.astype(np.float64)
                known = numbers[np.isfinite(numbers)]
                mean, deviation = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
                far = np.abs(numbers - mean) > most * deviation if deviation else np.zeros(len(rows), np.bool_)
                for at in np.flatnonzero(far & self.alive[rows]).tolist():
                    away = (numbers[at] - mean) / deviation
                    self.note(
                        int(rows[at]),
                        "zscore",
                        f"{what}={numbers[at]:.6g} is {away:+.1f} standard deviations from {mean:.6g}",
                    )

    def contested(self, findings: Findings) -> None:
        """One content under several labels: none of them can be trusted."""
        if self.cleaning.label_noise == "ignore" or self.asked is None or not self.asked.compare:
            return
        groups = defaultdict(list)
        for row in self.by_key():
            groups[findings.values["digest"][row].tobytes()].append(row)
        for group in groups.values():
            labels = texts(self.table, self.cleaning.label, np.array(group, np.int64))
            if len(set(labels)) > 1:
                for row, label in zip(group, labels, strict=True):
                    other, name = next((at, name) for at, name in enumerate(labels) if name != label)
                    detail = f"labelled {label}; {self.table.keys[group[other]]} has the same content, labelled {name}"
                    self.note(row, "label_conflict", detail, self.cleaning.label_noise)

    def straddling(self) -> None:
        """Contents that are in several splits, as ranges, a column or the source have them: all but one lose them."""
        if not self.splitting.separates(self.table):
            return
        rows = self.rows()
        contents = self.compared(rows)
        told = None if len(set(contents)) == len(contents) else as_told(self.table, self.splitting, rows)
        if told is None:
            return
        keys, (names, numbers) = [self.table.keys[row] for row in rows.tolist()], told
        found = straddlers(keys, contents, names, numbers)
        if not self.splitting.sparse:
            self._refuse_emptied(names, numbers, list(found))
        how = "nearly the same" if self.near else "the same"  # of contents that are the same none straddles any more
        for at, first in found.items():
            here, there = names[numbers[at]], names[numbers[first]]
            self.note(int(rows[at]), "straddles", f"in {here}; {keys[first]} has {how} content, in {there}")

    def _refuse_emptied(self, names: Sequence[str], numbers: Int64s, left_out: Sequence[int]) -> None:
        before, lost = (np.bincount(some, minlength=len(names)).tolist() for some in (numbers, numbers[left_out]))
        for name, count, gone in zip(names, before, lost, strict=True):
            if count and count == gone:
                raise PackError(
                    f"the split {name!r} gets none of {len(numbers)} samples: all {count} that it had are copies of"
                    " others in splits no larger; leave it out, or keep them with straddling='keep' (--straddling keep)"
                )

    def duplicates(self, findings: Findings) -> None:
        verdict = self.cleaning.duplicates
        if verdict == "ignore":
            return
        rows = self.in_order(verdict)
        for at, first in repeats([findings.values["digest"][row].tobytes() for row in rows]).items():
            self.note(rows[at], "duplicate", f"the same bytes as {self.table.keys[rows[first]]}", verdict)
            self.copies.add(rows[at])

    def near_duplicates(self, findings: Findings) -> None:
        verdict = self.cleaning.near_duplicates
        if verdict == "ignore" or self.asked is None:
            return
        finder, others = _judges(self.cleaning, self.asked, findings)
        rows = [row for row in self.in_order(verdict) if row not in self.copies]
        for row, (first, how) in near_repeats(rows, finder, others).items():
            self.note(row, "near_duplicate", f"like {self.table.keys[first]}: {how}", verdict)
            self.near[row] = first

    def lonely(self) -> None:
        """Classes of one member: often a misspelt name."""
        if self.cleaning.label_noise == "ignore":
            return
        rows = self.rows()
        labels = texts(self.table, self.cleaning.label, rows)
        counts = Counter(labels)
        for row, label in zip(rows.tolist(), labels, strict=True):
            if counts[label] == 1:
                self.note(row, "single_class", f"the only sample of {label}", self.cleaning.label_noise)


def _judges(cleaning: Cleaning, asked: Questions, findings: Findings) -> tuple[Finder, list[Judge]]:
    """What finds samples that may be near, and what else has to find them near."""
    values = findings.values
    finders: list[Finder] = []
    if asked.texts:
        finders.append(NearTexts(values["signature"].view(np.uint32), cleaning.near_text))
    for name in asked.pictures:
        hashes, thumbnails = values[f"{name}.phash"], values[f"{name}.thumbnail"]
        finders.append(NearPictures(hashes.view(np.uint64), thumbnails.view(np.uint8), cleaning.near_bits))
    rest = [Equal(values["rest"].view(np.uint8))] if asked.rest else []
    return finders[0], [*finders[1:], *rest]
