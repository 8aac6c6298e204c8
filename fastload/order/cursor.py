"""Walks one rank through the order, batch by batch, and says where it stands.

State is data: how many samples all ranks together were handed, and the fingerprint of the order they were taken from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fastload.errors import StateError
from fastload.order.buckets import BoundBuckets, even_out
from fastload.order.distribute import Share
from fastload.order.mix import visit
from fastload.order.pattern import Composed
from fastload.order.shuffle import Ints

STATE_VERSION = 1
MAX_CONSUMED = 1 << 62  # leaves int64 room for the batch that follows

# Positions are mapped in runs of about this many rows: numpy's cost per call is then spread thin (0.1 us a row), and
# the first batch still comes at once, for runs begin with one batch and grow by PLAN_GROWTH.
PLAN_ROWS = 8192
PLAN_GROWTH = 4


class Ordering(Protocol):
    """What a cursor walks: `shuffle.Order`, or anything that maps (epoch, position) to (shard, row)."""

    @property
    def samples(self) -> int: ...

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]: ...


class Step(NamedTuple):
    """One batch of one rank, in numbers. A tuple, because small batches make many: 0.4 us instead of 1.3.

    Attributes:
        size: rows of the batch; rows from `len(shards)` on are padding.
        epochs, shards, rows: int64 [k], k <= size: where each row comes from.
        consumed: samples consumed over all ranks once this batch is handed over.
    """

    size: int
    epochs: Ints
    shards: Ints
    rows: Ints
    consumed: int


def batches_left(order: Ordering, share: Share, consumed: int) -> int:
    """Batches from `consumed` to the end of its epoch, the same on every rank: how many `steps` gives."""
    if isinstance(order, BoundBuckets) and order.samples:
        return (len(_boundaries(order, share, consumed)[1]) - 1) // share.world_size
    return share.batches_left(order.samples, consumed)


def steps(order: Ordering, share: Share, consumed: int) -> Iterator[Step]:
    """The batches from `consumed` to the end of its epoch, in order. Lazy: numbers are worked out in growing runs."""
    if isinstance(order, BoundBuckets):
        yield from _planned_steps(order, share, consumed)
        return
    left, run = share.batches_left(order.samples, consumed), 1
    while left:
        run = min(run, left)
        batches = _run(order, share, consumed, run, left)
        yield from batches
        consumed = batches[-1].consumed
        left -= run
        run = min(PLAN_GROWTH * run, max(1, PLAN_ROWS // share.rows_at(consumed)))


def _planned_steps(order: BoundBuckets, share: Share, consumed: int) -> Iterator[Step]:
    """The batches of LengthBuckets: rank r has number r, r + world_size, ... of those that are left."""
    if not order.samples:
        return
    start = consumed // order.samples * order.samples  # of the epoch
    sequence, cuts = _boundaries(order, share, consumed)
    for group in range(0, len(cuts) - 1, share.world_size):
        samples = sequence[cuts[group + share.rank] : cuts[group + share.rank + 1]]
        shards, rows = order.place(samples)
        yield Step(
            size=max(1, len(samples)),  # a rank without a sample has one row of padding
            epochs=np.full(len(samples), start // order.samples),
            shards=shards,
            rows=rows,
            consumed=start + int(cuts[group + share.world_size]),
        )


def _boundaries(order: BoundBuckets, share: Share, consumed: int) -> tuple[Ints, Ints]:
    epoch, position = divmod(consumed, order.samples)
    sequence, cuts = order.plan(epoch, share.batch_size)
    return sequence, even_out(cuts, position, share.world_size)


def _run(order: Ordering, share: Share, consumed: int, batches: int, left: int) -> list[Step]:
    """The next `batches` of the `left` that this epoch has."""
    spans = []
    for number in range(batches):
        full = share.rows_at(consumed)
        if number + 1 < left:  # neither at the epoch's end nor before a remainder that is dropped
            start, stop = consumed, consumed + share.world_size * full
            consumed = stop
        else:
            start, stop, consumed = share.span(order.samples, consumed)
        spans.append((_positions(order, share, start, stop), full, consumed))
    g = np.concatenate([rows for rows, _, _ in spans])
    epochs, positions = np.divmod(g, order.samples)
    own_epochs, shards, rows_in_shard = visit(order, epochs, positions)
    result, at = [], 0
    for rows, full, after in spans:
        part = slice(at, at + len(rows))
        at += len(rows)
        size = len(rows) if share.last_batch == "partial" else full
        result.append(Step(size, own_epochs[part], shards[part], rows_in_shard[part], after))
    return result


def _positions(order: Ordering, share: Share, start: int, stop: int) -> Ints:
    """This rank's part of the global batch [start, stop)."""
    if isinstance(order, Composed) and share.world_size > 1:
        return order.deal(start, stop, share.rank, share.world_size)
    return share.rows(start, stop)


class State(NamedTuple):
    """Where a run stands: `{"version", "consumed", "fingerprint"}`, a few hundred bytes at any size of data.

    Attributes:
        consumed: samples handed out over all ranks and epochs.
        fingerprint: what the order depends on, by name ("data", "seed", "window", ...): JSON values.
    """

    consumed: int
    fingerprint: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, "consumed": self.consumed, "fingerprint": dict(self.fingerprint)}

    @staticmethod
    def from_dict(data: Any, fingerprint: Mapping[str, Any]) -> State:
        """Read a saved state, for an order with this fingerprint.

        Raises:
            StateError: not a state, of another version, or of another order; each difference is named.
        """
        if not isinstance(data, Mapping) or not {"version", "consumed", "fingerprint"} <= set(data):
            raise StateError(f"not a state of fastload: expected version, consumed and fingerprint, got {_shape(data)}")
        if data["version"] != STATE_VERSION:
            raise StateError(f"the state has version {data['version']!r}; this fastload reads version {STATE_VERSION}")
        consumed, saved = data["consumed"], data["fingerprint"]
        if not isinstance(consumed, int) or isinstance(consumed, bool) or not 0 <= consumed <= MAX_CONSUMED:
            raise StateError(f"the state's consumed={consumed!r} is not a number of samples in [0, 2**62]")
        if not isinstance(saved, Mapping):
            raise StateError(f"the state's fingerprint is {saved!r}, not a mapping")
        for name in {**fingerprint, **saved}:
            if saved.get(name) != fingerprint.get(name):
                text = _MISMATCH.get(name, _OTHER)
                raise StateError(text.format(name=name, saved=saved.get(name), now=fingerprint.get(name)))
        return State(consumed=consumed, fingerprint=fingerprint)


def _shape(data: Any) -> str:
    return f"a mapping with {', '.join(map(repr, data))}" if isinstance(data, Mapping) else type(data).__name__


_OTHER = (
    "the state was saved with {name}={saved!r}, and this loader has {name}={now!r}; pass {name}={saved!r} to resume"
)
_MISMATCH = {
    "order": "the state was saved under version {saved!r} of the order, and this fastload has version {now!r}: "
    "resume with the fastload that saved it, or start a new run",
    "data": "the state belongs to another data set (digest {saved!r}, here {now!r}): "
    "shards were added, removed or changed",
    "content": "the state was saved with fingerprint={saved!r}, and this loader has fingerprint={now!r}: it belongs to "
    "other data",
    "sources": "the state belongs to a mixture of other sources (digest {saved!r}, here {now!r}): "
    "data, seed, window or sampler of one of them differ",
    "sampler": "the state was saved under the sampler {saved!r}, and this loader has {now!r} (the digits are over its "
    "arguments and the columns it reads): pass the same sampler to resume",
    "mix": "the state was saved under other weights or another stopping rule (digest {saved!r}, here {now!r}): "
    "pass the same to Mix",
    "samples": "the state belongs to a data set of {saved!r} samples; this one has {now!r}",
}
