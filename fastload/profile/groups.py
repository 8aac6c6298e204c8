"""Row groups of Parquet that are decoded for few of their rows, by the order's arithmetic: nothing is read.

A row group is decoded as a whole, and kept while it is among the last ones asked for: those of a window, and two. In a
shuffled epoch of one rank each is used up by then, and a row is decoded for each that a batch takes. More are where
ranks share row groups, for each rank decodes all; where a sampler takes few rows of each; and where batches draw from
more row groups than are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from fastload.dataset import StreamingDataset, row_groups_open
from fastload.inspect import size_text
from fastload.order.cursor import steps
from fastload.order.distribute import Share
from fastload.profile.rig import Rig
from fastload.profile.verdict import Trial
from fastload.shards.access import shards_at_hand
from fastload.shards.index import Index
from fastload.shards.parquet import ROW_GROUP_BYTES

MOST_SAMPLES = 500_000  # under a sampler, which may take microseconds of each to bind; of more, nothing is said
_ROWS = 1 << 18  # of a rank, that are looked at: 0.1 s
_IN_VAIN = 1.1  # rows decoded for each that is taken: fewer are not worth a word
_WIDER = (2, 4, 8)  # times the window


class _Change(NamedTuple):
    """One of the data set: in words, what it takes, and its attributes then."""

    what: str
    takes: str
    attributes: dict[str, Any]


def fewer_rows(rig: Rig) -> list[Trial]:
    """What would have fewer rows decoded in vain; nothing where few are, and of other data than Parquet."""
    dataset, share = rig.loader.dataset, rig.share
    if not isinstance(dataset, StreamingDataset) or dataset.index.shard_format != "parquet":
        return []
    if dataset.sampler is not None and dataset.index.samples > MOST_SAMPLES:
        return []
    now = decoded_rows(dataset, share)
    if now < _IN_VAIN:
        return []
    found = []
    for changes in _alternatives(dataset, share):
        tried = [(decoded_rows(_changed(dataset, change), share), change) for change in changes]
        best = min((then for then, _ in tried), default=now)
        then, change = next(((then, change) for then, change in tried if then <= _IN_VAIN * best), (now, None))
        if change is not None and then < now:
            why = f"{now:.1f} rows are decoded for each that a batch takes, {then:.1f} then; {change.takes}"
            found.append(Trial(change=change.what, why=why, factor=then / now, stage="read", bound=True))
    return found


def decoded_rows(dataset: StreamingDataset, share: Share) -> float:
    """Rows that are decoded for each that a batch of this rank takes, over an epoch; 1 where all stay in memory."""
    sizes, kept = dataset.index.sizes.tolist(), min(row_groups_open(dataset.window), shards_at_hand(dataset.index))
    held: dict[int, int] = {}  # row group -> rows that were taken of it; the one that was not asked for longest first
    decoded = taken = seen = 0
    for step in steps(dataset.order, share, 0):
        for group, rows in Counter(dataset.recipe.shards(step).tolist()).items():
            held[group] = held.pop(group, 0) + rows
            if len(held) > kept:
                first = next(iter(held))
                decoded, taken = decoded + sizes[first], taken + held.pop(first)
        seen += step.size
        if seen >= _ROWS:
            break
    else:
        if taken:  # those that are left are let go in the next epoch
            decoded, taken = decoded + sum(sizes[group] for group in held), taken + sum(held.values())
    return decoded / taken if taken else 1.0


def _alternatives(dataset: StreamingDataset, share: Share) -> Iterator[list[_Change]]:
    """Changes, in each list the lesser ones first."""
    index, ranks = dataset.index, share.world_size
    if dataset.lanes != ranks:
        what = f"lanes={ranks}, from {dataset.lanes}"
        yield [_Change(what, "another order, for a run from its start", {"lanes": ranks})]
    each = sum(file.bytes for file in index.files) // max(1, len(index.sizes))
    if dataset.window:
        wider = sorted({min(times * dataset.window, len(index.sizes)) for times in _WIDER} - {dataset.window})
        yield [
            _Change(
                f"window={window}, from {dataset.window}",
                f"it keeps {size_text(row_groups_open(window) * each)} of row groups in memory",
                {"window": window},
            )
            for window in wider
        ]
    smaller = _cut(index, ROW_GROUP_BYTES)
    if len(smaller.sizes) > len(index.sizes):
        what = f"row groups of {size_text(ROW_GROUP_BYTES)}, from {size_text(each)} (fastload convert --format parquet)"
        yield [_Change(what, "of tars, only the rows that are taken are read", {"index": smaller})]


def _changed(dataset: StreamingDataset, change: _Change) -> StreamingDataset:
    other: StreamingDataset = object.__new__(type(dataset))  # a copy would make its old order anew as well
    other.__dict__.update(dataset.__dict__, _recipe=None, **change.attributes)
    other.order = other.make_order()
    return other


def _cut(index: Index, most_bytes: int) -> Index:
    """With row groups of so many bytes at most, as far as rows are alike."""
    files = []
    for file in index.files:
        rows = max(1, most_bytes * file.samples // max(1, file.bytes))
        groups = tuple(part for whole in file.row_groups for part in _parts(whole, -(-whole // rows)))
        files.append(file._replace(row_groups=groups))
    return replace(index, files=tuple(files))


def _parts(rows: int, count: int) -> list[int]:
    """Rows in so many parts, as even as they can be."""
    return [(i + 1) * rows // count - i * rows // count for i in range(count)]
