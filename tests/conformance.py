"""What a stream of batches must hold, as assertions that name what is wrong; one helper per promise.

Three words: an *id* stands for one sample (its index, or its key); a *batch* is the ids of one rank's batch without its
padding; *ranks* are the batches of every rank, `ranks[r][k]` being batch k of rank r.

The first part is for streams of any kind, a loader's too. The second walks a sequence of the order layer (`Order`, or
a mix or sampler in its place) on every rank, in numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from hypothesis import settings

from fastload.order.cursor import Ordering as OrderSequence
from fastload.order.cursor import Step, steps
from fastload.order.distribute import LastBatch, Share

Id = TypeVar("Id", bound=Hashable)
Ranks = Sequence[Sequence[Sequence[Id]]]

# Properties run on the same examples every time, and however slow the machine is.
PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)

# The grid of configurations that the promises about the order are tested on.
WORLDS = (1, 2, 3, 4, 8, 64)
BATCH_SIZES = (1, 7, 32)
SHARDS = (1, 3, 100)
WINDOWS = (0, 1, 4, 64, 1000)  # the last mixes all shards
LANES = (1, 2, 4)


# Streams of any kind.


def flat(ranks: Ranks[Id]) -> list[Id]:
    """All ids of all ranks' batches."""
    return [one for batches in ranks for batch in batches for one in batch]


def assert_exactly_once(ids: Iterable[Hashable], expected: int | Iterable[Hashable]) -> None:
    """Every expected id (or 0 to `expected` - 1) is there once, and no other is."""
    seen = Counter(ids)
    wanted = set(range(expected)) if isinstance(expected, int) else set(expected)
    missing, foreign = wanted - set(seen), set(seen) - wanted
    repeated = [one for one, times in seen.items() if times > 1]
    assert not missing, f"{len(missing)} of {len(wanted)} samples are missing, first {_first(missing)}"
    assert not repeated, f"{len(repeated)} samples come more than once, first {_first(repeated)}"
    assert not foreign, f"{len(foreign)} samples are not of this epoch, first {_first(foreign)}"


def assert_loses_less_than(ids: Iterable[Hashable], samples: int, global_batch: int) -> None:
    """No id comes twice, and fewer than one global batch of `samples` are missing (last_batch="drop")."""
    found = list(ids)
    assert_exactly_once(found, set(found))
    assert set(found) <= set(range(samples))
    lost = samples - len(found)
    assert lost < global_batch, f"{lost} samples were dropped: a global batch has {global_batch}"


def assert_equal_batches(ranks: Ranks[Id]) -> None:
    """Every rank has the same number of batches."""
    counts = [len(batches) for batches in ranks]
    assert len(set(counts)) == 1, f"ranks have {min(counts)} to {max(counts)} batches: they would wait for each other"


def global_batches(ranks: Ranks[Id]) -> list[list[Id]]:
    """What all ranks together read in each step: ids in the order of the sequence, rank by rank, row by row."""
    assert_equal_batches(ranks)
    absent = object()
    return [
        [one for one in chain.from_iterable(zip_longest(*parts, fillvalue=absent)) if one is not absent]
        for parts in zip(*ranks, strict=True)
    ]


def assert_same_global_batches(ranks: Ranks[Id], other: Ranks[Id]) -> None:
    """Two runs, of whatever world sizes, read the same samples in the same order in each step."""
    left, right = global_batches(ranks), global_batches(other)
    for number, (one, another) in enumerate(zip(left, right, strict=False)):
        assert one == another, f"global batch {number} differs: {_first(one)} and {_first(another)}"
    assert len(left) == len(right), f"{len(left)} global batches, and {len(right)}"


def assert_resumes(start: Callable[[Any], Iterable[tuple[Any, Any]]], batches: int, *, stride: int = 1) -> None:
    """A run that is started again from a saved state goes on with the rest, as if it had not been stopped.

    Args:
        start: `start(state)` gives the run's (batch, state after it), from the beginning for None. Batches are compared
            with ==, so give what compares whole (tuples, bytes), not arrays.
        batches: how many to look at; go over an epoch's edge.
        stride: a state is tried after each `stride` batches, and one of the resumed run again.
    """
    whole = list(islice(start(None), batches))
    assert whole, "the run has no batches, so resuming proves nothing"
    for after in range(0, len(whole), stride):
        rest = list(islice(start(whole[after][1]), len(whole) - after - 1))
        assert rest == whole[after + 1 :], f"resumed after batch {after}, the rest differs"
        if rest:
            again = list(islice(start(rest[len(rest) // 2][1]), len(rest) - len(rest) // 2 - 1))
            assert again == rest[len(rest) // 2 + 1 :], f"resumed after batch {after} and once more, the rest differs"


def stream_hash(ids: Iterable[int]) -> str:
    """The first 16 hex digits of the SHA-256 of a stream of indices as little-endian int64."""
    return hashlib.sha256(np.fromiter(ids, "<i8").tobytes()).hexdigest()[:16]


def _first(ids: Iterable[Hashable]) -> str:
    return ", ".join(sorted(map(repr, islice(ids, 5))))


# Sequences of the order layer, in numbers.


def epoch_steps(order: OrderSequence, share: Share, epochs: int, consumed: int = 0) -> Iterator[Step]:
    """One rank's steps of `epochs` runs of `steps`, each from where the last one ended."""
    for _ in range(epochs):
        for step in steps(order, share, consumed):
            yield step
            consumed = step.consumed


def sample_ids(sizes: npt.ArrayLike, step: Step, *, with_epoch: bool = False) -> list[int]:
    """The sample index of each row of a step; `with_epoch` counts on over the epochs, so that g's image is one id."""
    counts = np.asarray(sizes, np.int64)
    ids = (np.cumsum(counts) - counts)[step.shards] + step.rows
    return (ids + step.epochs * int(counts.sum()) if with_epoch else ids).tolist()  # type: ignore[no-any-return]


def walk(
    order: OrderSequence,
    sizes: npt.ArrayLike,
    *,
    world_size: int,
    batch_size: int,
    last_batch: LastBatch,
    epochs: int = 1,
    consumed: int = 0,
    with_epoch: bool = False,
) -> list[list[list[int]]]:
    """The ranks of a run, as ids: `walk(...)[r][k]` is batch k of rank r."""
    shares = [
        Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch=last_batch)
        for rank in range(world_size)
    ]
    return [
        [sample_ids(sizes, step, with_epoch=with_epoch) for step in epoch_steps(order, share, epochs, consumed)]
        for share in shares
    ]


# Statistics, without a library for them.


def chi_squared_z(observed: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """How far a chi-squared statistic lies from its mean, in standard deviations of a normal variable.

    Wilson and Hilferty, "The distribution of chi-square", PNAS 1931. Beyond 4 on either side has p = 6e-5: positive,
    the counts differ too much; negative, they are more even than chance allows.
    """
    counts = np.asarray(observed, np.float64)
    statistic = float((np.square(counts - expected) / expected).sum())
    return _chi_squared_as_normal(statistic, counts.size - 1)


def placement_z(counts: npt.ArrayLike, trials: int) -> float:
    """The same for counts [n, n] of how often each of n things came to each of n places in so many permutations.

    Rows and columns sum up to `trials`: that leaves (n - 1)**2 degrees, and a statistic larger by n / (n - 1).
    """
    table = np.asarray(counts, np.float64)
    n = len(table)
    statistic = float(np.square(table - trials / n).sum() / (trials / n)) * (n - 1) / n
    return _chi_squared_as_normal(statistic, (n - 1) ** 2)


def _chi_squared_as_normal(statistic: float, k: int) -> float:
    return (math.cbrt(statistic / k) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))


def correlation_z(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Pearson's correlation of two rows of numbers times the root of their length: standard normal if independent."""
    return float(np.corrcoef(a, b)[0, 1] * math.sqrt(np.size(a)))
