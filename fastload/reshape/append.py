"""`append`: new samples as further shards of a packed folder; what is there is not written again.

OUT/.fastload-append/         while an append is under way; hidden, so that readers pass it over
    plan.json                 what is appended, to which index.json, and whether shards are being given their names
    packed/                   the new samples as a data set of their own
    fitted-.../               the same with keys and labels of OUT, where they differ

Then the new shards get their names in OUT, and index.json is replaced last: until then readers see the version before.
Killed at any moment, the same command goes on. What was packed to its end but has no names yet is packed again, as the
source may be another by then; shards that are being given their names are what is appended.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from fastload.errors import ConfigError, PackError, ShardIndexError
from fastload.pack.cleaning import Cleaning
from fastload.pack.job import pack
from fastload.pack.journal import Journal
from fastload.pack.lists import add_lists
from fastload.pack.locking import held
from fastload.pack.objects import Samples
from fastload.pack.prepare import Prepare
from fastload.pack.splitting import Splitting, parse_splitting
from fastload.reshape.grow import check_moves, grown
from fastload.reshape.parts import all_facts, check_keys, in_order, set_parts, typed_bytes
from fastload.reshape.shaping import Shape, write_shaped
from fastload.reshape.sources import PackedSet, is_packed, open_set, set_of
from fastload.reshape.unite import United, changer, unite
from fastload.shards.files import write_atomic
from fastload.shards.foreign import is_shard, names_below
from fastload.shards.index import INDEX_NAME, IndexFile

STAGING_NAME, PLAN_NAME, FITTED = ".fastload-append", "plan.json", "fitted-"
INHERITED = ("shard_size", "shuffle", "seed", "jpeg", "statistics")
UNNOTED = ("workers", "engine", "address", "progress")  # options that change nothing in the result


def append(source: str | Path | Samples, out: str | os.PathLike[str], *, prefix: str = "", **options: Any) -> IndexFile:
    """Add samples to a packed folder as further shards: its next version. No shard that is there is written again.

    A loader that has the folder open goes on with the version that it opened; a state that was saved with it does not
    fit the new version, and `load_state_dict` says so. New classes get the numbers after those that are there. A run
    that was stopped in any way leaves the old version, and goes on when it is started again.

    Args:
        source: what `pack` takes. Packed shards without options keep their splits, contents and order.
        out: the packed folder.
        prefix: put before each new key, such as "more/"; for sources whose samples are numbered from the start.
        options: of `pack` (split, columns, kind, workers, ...). What is not given is as the folder was packed: a split,
            so that a sample goes where it would have gone then, where labels stand, columns and the kind if the source
            is of the same form (a folder, a file of that ending), and cleaning, whose lists of what was left out grow.
            Cleaning, and what keeps contents from straddling splits (`Splitting.straddling`), compare new samples with
            each other, not with those that are there: shares and folds put a copy of one of these on its side, but a
            range, a column or the source may put it on another. A split that gets none of them stays as it is.

    Returns: what index.json says: `packed` has the number of the version and its history.

    Raises:
        ConfigError: an option that does not fit, or no split where the folder has several and does not say how they
            were made.
        ShardIndexError: `out` is not packed, its fields are others, or its tokens of another vocabulary.
        PackError: a key that is there already, or a faulty source; an append of something else is unfinished; another
            process appends or repairs.
    """
    out = Path(os.path.abspath(out))
    IndexFile.load(out / INDEX_NAME)  # a folder without one is left as it is
    with _staging(out) as staging:
        before = IndexFile.load(out / INDEX_NAME)  # another append may just have ended
        base = xxhash.xxh3_64_hexdigest(before.to_bytes())
        plan = {"source": _origin(source), "options": _plain(options), "base": base}
        if _is_done_already(out, staging, plan, before):
            return before
        moving = _is_moving(out, staging, prefix)
        if not moving:
            _remove_finished(staging)
        old = set_of(before, out)
        more, own = _more(source, staging, before, options)
        united = _united(old, more, staging)
        if not moving:
            _refuse_clashes(old, more, prefix)
        ready = _fitted(old, more, united, staging, prefix, own)
        check_moves(out, before, ready, staging)
        if not moving:
            write_atomic(staging / PLAN_NAME, _json({**plan, "moving": prefix}))
        add_lists(out, staging / "packed" if own else Path(os.path.abspath(source)), prefix)  # type: ignore[arg-type]
        entry = {"source": more.name, "after": base, **({"prefix": prefix} if prefix else {})}
        index = grown(out, before, ready, entry)
        _clear(staging)
    return index


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """The folder for what is not finished. After an error it stays if a finished shard is in it, to go on with."""
    staging = out / STAGING_NAME
    with held(out, "appending to or repairing"):
        staging.mkdir(exist_ok=True)
        try:
            yield staging
        finally:
            if not _holds_shards(staging):
                shutil.rmtree(staging)


def _holds_shards(staging: Path) -> bool:
    """Whether a shard, or the index of shards that have their new names already, is among what is not finished."""
    return any(is_shard(name) or name.endswith(INDEX_NAME) for name in names_below(staging))


def _clear(staging: Path) -> None:
    """Remove all, the plan last: without it, nothing that is there would be known."""
    for path in sorted(staging.iterdir(), key=lambda path: path.name == PLAN_NAME):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_done_already(out: Path, staging: Path, plan: dict[str, Any], before: IndexFile) -> bool:
    """Whether a run that was killed had done all but removing its files; else what is to be appended is noted.

    Raises: PackError where an append of something else is unfinished, or index.json has become another since.
    """
    path = staging / PLAN_NAME
    noted: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    same = all(noted.get(name) == plan[name] for name in ("source", "options"))
    done = bool(noted) and _is_done(before, noted)
    if done or not noted or not (same or _holds_shards(staging)):
        _clear(staging)
        if not (same and done):
            write_atomic(path, _json(plan))
        return same and done
    if not same:
        name = next(name for name in ("source", "options") if noted[name] != plan[name])
        raise PackError(
            f"{out} has an unfinished append with {name} {noted[name]!r} instead of {plan[name]!r};"
            f" run that again, or delete {staging}"
        )
    if noted["base"] != plan["base"]:
        raise PackError(f"{out / INDEX_NAME} has changed since that append began; delete {staging} and append again")
    return False


def _is_done(index: IndexFile, plan: Mapping[str, Any]) -> bool:
    """Whether the index is the one that this append made."""
    history = index.packed.get("history") or [{}]
    return bool(history[-1].get("after") == plan["base"])


def _is_moving(out: Path, staging: Path, prefix: str) -> bool:
    """Whether an earlier run began to give the new shards their names: what it has packed is then what is appended.

    Raises: PackError where it did so with another prefix.
    """
    noted: dict[str, Any] = json.loads((staging / PLAN_NAME).read_bytes())
    if noted.get("moving", prefix) != prefix:
        raise PackError(
            f"{out} has an unfinished append with prefix {noted['moving']!r} instead of {prefix!r}; run that again"
        )
    return "moving" in noted


def _remove_finished(staging: Path) -> None:
    """Remove what was packed to its end, and what was made of it: its source may have been mended since, or be another
    list. What is not finished goes on by its journal, which compares."""
    stale = staging / "stale"
    if stale.exists():
        shutil.rmtree(stale)
    for folder in sorted(staging.iterdir()):
        if folder.name.startswith(FITTED) or (folder / INDEX_NAME).exists():
            os.rename(folder, stale)  # at once: nothing could go on with half of it
            shutil.rmtree(stale)


def _json(plan: Mapping[str, Any]) -> bytes:
    return json.dumps(plan, indent=1).encode()


def _origin(source: str | Path | Samples) -> str:
    if isinstance(source, str | os.PathLike):
        return os.path.abspath(source)
    return f"{type(source).__module__}.{type(source).__qualname__}"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them, without those that change nothing in the result."""
    kept = {name: value for name, value in options.items() if name not in UNNOTED}
    split = kept.get("split")
    if isinstance(split, Splitting):
        kept["split"] = split.to_json()
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain


def _more(
    source: str | Path | Samples, staging: Path, before: IndexFile, options: Mapping[str, Any]
) -> tuple[PackedSet, bool]:
    """The new samples as a data set of their own; and whether its files may be moved."""
    if isinstance(source, str | os.PathLike) and is_packed(source) and not _plain(options):
        return open_set(source), False
    folder = staging / "packed"
    if not (folder / INDEX_NAME).exists():
        pack(source, folder, **_options(source, before, options))
    found = set_of(IndexFile.load(folder / INDEX_NAME), folder)
    return replace(found, name=str(found.packed.get("source", found.name))), True


def _options(source: str | Path | Samples, before: IndexFile, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `pack` gets: what was given, else as the folder was packed."""
    known = before.packed.get("options", {})
    options = {name: known[name] for name in INHERITED if known.get(name) is not None}
    options |= {name: known[name] for name in _of_its_form(source, before, given) if known.get(name) is not None}
    if known.get("clean"):
        options["clean"] = Cleaning.from_json(known["clean"])
    if known.get("prepare"):
        options["prepare"] = Prepare(**known["prepare"])
    split = parse_splitting(given["split"]) if "split" in given else _same_splitting(before, known)
    return {**options, **given, "split": replace(split, sparse=True), "format": before.shard_format}


def _of_its_form(source: str | Path | Samples, before: IndexFile, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that say how the folder's source was read, as far as the new one is of the same form."""
    name = str(before.packed.get("source", ""))
    if not isinstance(source, str | os.PathLike):
        return ("columns",) if type(source).__qualname__ == name else ()
    labels = () if {"label_regex", "label_level"} & given.keys() else ("label_regex", "label_level")
    ending = Path(name).suffix.lower()
    if os.path.isdir(source):
        return labels if ending else (*labels, "columns", "kind")
    same = ending == Path(source).suffix.lower()
    return ("columns", "kind") if same else ("columns",) if ending else ()


def _same_splitting(before: IndexFile, known: Mapping[str, Any]) -> Splitting:
    """How the folder's samples were shared out.

    Raises: ConfigError where it does not say.
    """
    if before.packed.get("source_splits") == "kept":
        return Splitting(straddling=known.get("straddling"))
    by, column = known.get("split_by"), known.get("split_column")
    if len(before.splits) == 1 and by is None and column is None and len(known.get("split") or ()) < 2:
        return Splitting(shares={next(iter(before.splits)): 1.0})
    if known.get("split") is None and column is None:
        names = ", ".join(map(repr, before.splits))
        raise ConfigError(f"there are the splits {names}: say which the new samples go to, such as split='train=1'")
    return Splitting(
        shares=known["split"] if by is None and column is None else None,
        ranges=known["split"] if by is not None else None,
        by=by,
        column=column,
        stratify=known.get("stratify"),
        group_by=known.get("group_by"),
        group_regex=known.get("group_regex"),
        straddling=known.get("straddling"),
    )


def _united(old: PackedSet, more: PackedSet, staging: Path) -> United:
    try:
        return unite([old, more], old.shard_format)
    except ShardIndexError:
        _clear(staging)  # nothing that is asked of it will make it fit
        raise


def _refuse_clashes(old: PackedSet, more: PackedSet, prefix: str) -> None:
    for split in more.splits:
        advice = "pass a prefix for the new keys, or leave these samples out"
        rename = lambda number, key: prefix + key if number else key  # noqa: E731
        check_keys([old, more], split, old.shard_format, rename, advice)


def _fitted(old: PackedSet, more: PackedSet, united: United, staging: Path, prefix: str, own: bool) -> PackedSet:
    """The new samples with keys, labels and fields as they are to be in the folder.

    Args:
        own: the shards of `more` may be taken as they are.
    """
    if own and changer(prefix, united.labels[1]) is None and _fits(more, united):
        return more
    folder = staging / f"{FITTED}{xxhash.xxh3_64_hexdigest(prefix.encode())}"
    if not (folder / INDEX_NAME).exists():
        _rewrite(old, more, united, folder, prefix)
    return replace(set_of(IndexFile.load(folder / INDEX_NAME), folder), statistics=more.statistics, name=more.name)


def _fits(more: PackedSet, united: United) -> bool:
    """Whether shards have the fields in the folder's order and dtypes."""
    kinds = [(name, info.kind, info.dtype) for name, info in more.fields.items()]
    return kinds == [(name, info.kind, info.dtype) for name, info in united.fields.items()]


def _rewrite(old: PackedSet, more: PackedSet, united: United, folder: Path, prefix: str) -> None:
    """Write the new samples as a data set that fits the old one."""
    facts = in_order(united.fields, {*all_facts(old), *all_facts(more)})
    known = more.own and more.shard_format == "tar"
    fields = {n: replace(i, extension=more.fields[n].extension if known else None) for n, i in united.fields.items()}
    shape = Shape(
        shard_format=old.shard_format,
        fields=fields,
        infer=not known,
        facts=facts,
        types=typed_bytes(more) if old.shard_format == "parquet" else (),
    )
    with Journal(folder, {"append": more.digest, "prefix": prefix, "fields": repr(united.fields)}) as journal:
        parts = set_parts(more, united.fields, facts, changer(prefix, united.labels[1]))
        shaped = write_shaped(folder, journal, parts, shape)
        IndexFile(shard_format=old.shard_format, fields=shaped.fields, shards=shaped.files, splits=shaped.splits).save(
            folder
        )
        journal.remove()
