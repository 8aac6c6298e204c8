"""Samplers, mixtures and the dealing to ranks: streams that must not change under the same version of the order, as
`test_shuffle` and `test_cursor` have them of the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conformance import epoch_steps, stream_hash

from fastload.order.buckets import LengthBuckets
from fastload.order.distribute import Share
from fastload.order.mix import Mixture
from fastload.order.packing import BoundPacking, PackSequences
from fastload.order.sampler import Base, Sampler, Subset
from fastload.order.shuffle import ORDER_VERSION
from fastload.order.stratified import Stratified
from fastload.order.weighted import ClassBalanced, Weighted

SIZES = np.array([50, 0, 170, 1, 300, 80, 220, 182])  # 1003 samples
NUMBERS = np.arange(1003)
COLUMNS = {"label": NUMBERS**2 % 7, "w": NUMBERS * 37 % 101 / 8, "tokens.count": 1 + NUMBERS**2 * 31 % 90}
SAMPLERS: dict[str, Sampler] = {
    "Subset": Subset(range(5, 1003, 2)),
    "Weighted": Weighted("w"),
    "ClassBalanced": ClassBalanced(samples=700),
    "Stratified": Stratified(),
    "Subset of Stratified": Subset(lambda c: c["w"] > 3, ("w",), then=Stratified()),
    "LengthBuckets": LengthBuckets("tokens", max_tokens=800, pool=200),
    "PackSequences": PackSequences("tokens", 64, pool=300),
}


def bound(name: str, seed: int = 7) -> Any:
    columns = SAMPLERS[name].columns
    base = Base(sizes=SIZES, seed=seed, window=3, lanes=1)
    return SAMPLERS[name].bind(base, {column: COLUMNS[column] for column in columns})


def mixture(names: list[str], weights: list[float], *more: Any) -> Mixture:
    sources = [*(bound(name, seed) for seed, name in enumerate(names)), *more]
    return Mixture(sources, [len(SIZES)] * len(sources), weights, 900)


SEQUENCES: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: bound(name) for name in SAMPLERS},
    "Mix of two": lambda: mixture(["Subset", "Weighted"], [0.7, 0.3]),
    "Mix of three": lambda: mixture(["Subset", "Weighted", "Stratified"], [5, 3, 2]),
    "Mix of a Mix": lambda: mixture(["Subset"], [1, 2], mixture(["Weighted", "Stratified"], [1, 1])),
}

# Version 1 of the order, on one rank and of three in turn. A change here changes what saved states resume to: raise
# ORDER_VERSION with it.
GOLDEN = {
    "Subset": ("4b3b74c40872e19f", "20ba54fedb3b735c"),
    "Weighted": ("a86a020abbff371b", "3c5fdc81318b41b2"),
    "ClassBalanced": ("12f57ba33bb89d79", "934075e790f53946"),
    "Stratified": ("d145ad2a5bf2b0b6", "87bdb5705ce02cde"),
    "Subset of Stratified": ("b7770a58cb3c97a7", "96fb96329d69f32d"),
    "LengthBuckets": ("518938293e402375", "51c1ff0af88cf61b"),
    "PackSequences": ("970e90bf2a334494", "b2e8391c8b0e2988"),
    "Mix of two": ("2e3285587eb7a50a", "1ae0dae7b5373499"),
    "Mix of three": ("424ed932c822448d", "dfe30e90998a700b"),
    "Mix of a Mix": ("e8cf09b29cf17b1c", "4d0ec24f668b3636"),
}


def stream(order: Any, world_size: int) -> str:
    """Two epochs of all ranks, and one that is far away: size, place, epochs, shards and rows of each batch."""
    found: list[int] = []
    for rank in range(world_size):
        share = Share(rank=rank, world_size=world_size, batch_size=8, last_batch="pad")
        for epochs, consumed in ((2, 0), (1, 2**33 * order.samples)):
            for step in epoch_steps(order, share, epochs, consumed):
                found += [step.size, step.consumed, *np.concatenate([step.epochs, step.shards, step.rows]).tolist()]
                if isinstance(order, BoundPacking):
                    pieces = order.pieces(step.epochs, step.shards, step.rows)
                    found += np.concatenate([pieces.bounds, pieces.shards, pieces.rows, pieces.skip]).tolist()
    return stream_hash(found)


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_order_of_version_1_never_changes(name: str) -> None:
    assert ORDER_VERSION == 1
    order = SEQUENCES[name]()
    assert (stream(order, 1), stream(order, 3)) == GOLDEN[name]


def test_what_ranks_are_dealt_never_changes() -> None:
    order = SEQUENCES["Mix of a Mix"]()
    assert [order.deal(0, 12, rank, 3).tolist() for rank in range(3)] == [
        [1, 2, 6, 10],
        [0, 4, 5, 9],
        [3, 7, 8, 11],
    ]
    assert [order.deal(40, 48, rank, 4).tolist() for rank in range(4)] == [[43, 44], [46, 47], [41, 42], [40, 45]]
    assert [order.deal(896, 900, rank, 3).tolist() for rank in range(3)] == [[898, 899], [897], [896]]
