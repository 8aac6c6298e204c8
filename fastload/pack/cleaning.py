"""What is to be left out of a data set, as one record; nothing is left out that it does not name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from fastload.errors import ConfigError
from fastload.pack.missing import Lenience
from fastload.pack.ranges import Range, parse_range

OnFault = Literal["raise", "skip"]
Depth = Literal["headers", "full"]
Verdict = Literal["ignore", "report", "drop"]
NEAR_BITS = 6  # of 64: at most so far 99% of photographs go by a resize to a quarter, quality 20, or a crop of 2%
MOST_NEAR_BITS = 11  # finding more takes too many probes (`duplicates.NearPictures`)
NEAR_TEXT = 0.8  # as Lee et al., "Deduplicating training data makes language models better", 2022
FACT_MEASURES = ("width", "height", "aspect", "seconds", "characters")  # what a content tells; "bytes" is known before


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """What `pack` leaves out, and how it finds it. Each rule sees what the ones before it have left.

    Classes of which nothing is left keep their numbers, but for classes of rows that lack a value. Shares and folds
    have copies that are only reported on one side, and a near duplicate with the one that it is near; where something
    else says the split, see `Splitting.straddling`.

    What is left out is listed in OUT/rejected.parquet (key, source, reason, detail) and counted in index.json; what is
    only reported, and which files are no samples, in OUT/suspects.parquet. Where a rule needs contents, each is read
    once before packing begins, and once more to be packed; what was found out stays in OUT until packing is done, also
    after an error.

    Attributes:
        drop_missing: leave out rows of a manifest, and samples of a stream (Parquet, a data set of Python, ...), with a
            value that is null, empty or NaN.
        fill: field -> what stands for its missing values instead.
        on_error: "skip" leaves out samples with a content that is missing, empty, truncated or not what its name says,
            or with a value that its field cannot hold: of another type than the first sample's, a list with a null in
            it; "raise" stops at the first. A shard or an archive that cannot be read at all stops the run in any case.
        max_errors: with "skip": how many are put up with; None: any number.
        decode: "full" decodes every picture and sound for it; "headers" reads their headers and looks for their ends,
            unless packing itself decodes (`Prepare` of pictures and sounds, statistics): "skip" then decodes them too.
        ranges: measure -> range that it must be in, both ends included. Measures: any field of numbers; "bytes",
            "width", "height", "aspect" (width / height), "seconds", "characters", of every field that has them, or of
            one, as "image.width". Or as text: `"width=32..,seconds=0.5..30"`.
        zscores: measure -> how many standard deviations from its mean a value may be; NaN is not judged.
        duplicates: samples whose contents are the same bytes as an earlier one's, earlier by key: "drop" or "report".
            Where `Splitting.straddling` drops what is in several splits, that comes before, and "drop" takes samples of
            the smallest split for the earlier ones.
        near_duplicates: likewise samples that are nearly equal to an earlier one that is kept.
        near_bits: pictures are nearly equal if their perceptual hashes differ in at most this many of 64 bits, and
            their colours are alike.
        near_text: texts are nearly equal if their shingles have this Jaccard similarity, as MinHash estimates it.
        compare: the fields that make samples duplicates; None: all but numbers, labels, and what splits group,
            stratify or go by. Between splits, `Splitting.straddling` has numbers count too where it is None.
        label: the field of class names that `label_noise` looks at.
        label_noise: samples that may be labelled wrong: one content under two labels (all of them), or the only member
            of a class. "drop" or "report".

    Raises:
        ConfigError: a value out of range, or one that does not fit another.
    """

    drop_missing: bool = False
    fill: Mapping[str, Any] = field(default_factory=dict)
    on_error: OnFault = "raise"
    max_errors: int | None = None
    decode: Depth = "headers"
    ranges: str | Mapping[str, str | Range] = field(default_factory=dict)
    zscores: str | Mapping[str, float] = field(default_factory=dict)
    duplicates: Verdict = "ignore"
    near_duplicates: Verdict = "ignore"
    near_bits: int = NEAR_BITS
    near_text: float = NEAR_TEXT
    compare: tuple[str, ...] | None = None
    label: str = "label"
    label_noise: Verdict = "ignore"

    def __post_init__(self) -> None:
        _one_of("on_error", self.on_error, OnFault)
        _one_of("decode", self.decode, Depth)
        for name in ("duplicates", "near_duplicates", "label_noise"):
            _one_of(name, getattr(self, name), Verdict)
        if self.max_errors is not None and (not _is_count(self.max_errors) or self.on_error == "raise"):
            raise ConfigError(f"max_errors={self.max_errors!r}: pass a number from 0, with on_error='skip'")
        if not _is_count(self.near_bits) or self.near_bits > MOST_NEAR_BITS:
            raise ConfigError(f"near_bits={self.near_bits!r}: pass a number from 0 to {MOST_NEAR_BITS}")
        if isinstance(self.near_text, bool) or not 0.5 <= self.near_text <= 1:
            raise ConfigError(f"near_text={self.near_text!r}: pass a similarity from 0.5 to 1")
        needed = {"near_bits": "near_duplicates", "near_text": "near_duplicates", "label": "label_noise"}
        for name, rule in needed.items():
            if getattr(self, name) != _DEFAULTS[name] and getattr(self, rule) == "ignore":
                raise ConfigError(f"{name}={getattr(self, name)!r}: pass {rule}='drop' or 'report' too")
        if self.compare is not None and (isinstance(self.compare, str) or not self.compare):
            raise ConfigError(f"compare={self.compare!r}: pass a tuple of names of fields")
        _ = self.bounds, self.deviations

    @property
    def bounds(self) -> dict[str, Range]:
        """Measure -> range."""
        given = _pairs(self.ranges, "ranges", "measure=low..high, as in 'width=32..'")
        return {name: value if isinstance(value, Range) else parse_range(value) for name, value in given.items()}

    @property
    def deviations(self) -> dict[str, float]:
        """Measure -> most standard deviations."""
        found = {}
        for name, value in _pairs(self.zscores, "zscores", "measure=number, as in 'age=3'").items():
            try:
                found[name] = float(value)
            except (TypeError, ValueError):
                found[name] = math.nan
            if not 0 < found[name] < math.inf:
                raise ConfigError(f"zscores: {name}={value!r} must be a number above 0")
        return found

    @property
    def reads_contents(self) -> bool:
        """Whether any rule needs them."""
        measures = {name.rpartition(".")[2] for name in (*self.bounds, *self.deviations)}
        compares = {self.duplicates, self.near_duplicates, self.label_noise} != {"ignore"}
        return self.on_error == "skip" or self.decode == "full" or compares or bool(measures & set(FACT_MEASURES))

    @property
    def lenience(self) -> Lenience:
        """What opening the source passes over."""
        return Lenience(faulty=self.on_error == "skip", drop=self.drop_missing, fill=self.fill)

    def to_json(self) -> dict[str, Any]:
        """As options of a run: what differs from the defaults."""
        plain = {
            "ranges": {name: str(bound) for name, bound in self.bounds.items()},
            "zscores": self.deviations,
            "fill": dict(self.fill),
            "compare": None if self.compare is None else list(self.compare),
        }
        values = {one.name: plain.get(one.name, getattr(self, one.name)) for one in fields(self)}
        return {name: value for name, value in values.items() if value not in (_DEFAULTS[name], {})}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Cleaning:
        """From what `to_json` gave."""
        compare = data.get("compare")
        return Cleaning(**{**data, "compare": None if compare is None else tuple(compare)})


_DEFAULTS = {one.name: one.default for one in fields(Cleaning)}


def _one_of(name: str, value: Any, literal: Any) -> None:
    if value not in get_args(literal):
        raise ConfigError(f"{name}={value!r}: pass one of {', '.join(map(repr, get_args(literal)))}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _pairs(given: str | Mapping[str, Any], option: str, form: str) -> dict[str, Any]:
    """`"a=x,b=y"` as a mapping."""
    if not isinstance(given, str):
        return dict(given)
    pairs: dict[str, Any] = {}
    for part in given.split(","):
        name, mark, value = (piece.strip() for piece in part.partition("="))
        if not mark or not name or name in pairs:
            wrong = "comes twice" if name in pairs else f"is not {form}"
            raise ConfigError(f"{option}={given!r}: {part.strip()!r} {wrong}")
        pairs[name] = value
    return pairs
