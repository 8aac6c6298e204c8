"""What a server gives by a few numbers, and what a cache keeps: against sums by hand and a cache that is played."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.remote.pace import Pace, kept_share

MB = 1e6


def pace(latency: float, connection: float, most: float = 1e12) -> Pace:
    """Of objects of 1 MB, 1, 8 and 32 at a time, which together get no more than the most."""
    single = MB / (latency + MB / connection)
    return Pace(
        object_bytes=MB,
        latency_seconds=latency,
        connection_bytes_per_second=connection,
        rates=tuple((n, min(n * single, most)) for n in (1, 8, 32)),
    )


def test_a_server_that_answers_late_gives_more_to_more_at_a_time_and_of_larger_objects() -> None:
    late = pace(0.09, 100 * MB)  # 0.1 s an object of 1 MB, nearly all of it waiting
    assert late.object_seconds() == pytest.approx(0.1)
    assert late.bytes_per_second(8) == pytest.approx(80 * MB)
    assert late.bytes_per_second(32) == pytest.approx(320 * MB)
    assert late.bytes_per_second(99) == pytest.approx(320 * MB), "nobody tried more"
    assert late.bytes_per_second(8, 9 * MB) == pytest.approx(8 * 9 * MB / 0.18)
    assert late.reason(8) == "latency"


def test_connections_that_are_slow_each_and_those_that_are_together() -> None:
    each = pace(0.01, 2 * MB)
    assert (each.reason(8), each.is_saturated) == ("bandwidth", False)
    assert each.bytes_per_second(16) == pytest.approx(2 * each.bytes_per_second(8))
    together = pace(0.09, 100 * MB, most=40 * MB)
    assert (together.reason(8), together.is_saturated) == ("bandwidth", True)
    assert together.reason(2) == "latency", "two do not reach it"
    assert [together.bytes_per_second(n) for n in (2, 8, 32)] == pytest.approx([20 * MB, 40 * MB, 40 * MB])
    assert together.bytes_per_second(8, 9 * MB) == 40 * MB


@given(st.floats(0, 2), st.floats(0.01, 1))
def test_what_is_kept_is_a_share_and_all_where_all_has_room(room: float, data: float) -> None:
    assert 0 <= kept_share(room, data) <= 1
    assert kept_share(data, data) == kept_share(data, data, shuffled=False) == 1
    assert kept_share(room / 2, data) <= kept_share(room, data)


def test_in_the_order_of_packing_a_cache_that_is_too_small_keeps_nothing() -> None:
    assert kept_share(0.9, 1.0, shuffled=False) == 0
    assert kept_share(0.0, 1.0) == 0


def test_in_the_order_of_packing_a_part_is_the_same_each_time() -> None:
    assert kept_share(0.25, 1.0, shuffled=False, parts=4) == 1
    assert kept_share(0.2, 1.0, shuffled=False, parts=4) == 0
    assert kept_share(1.0, 1.0, parts=4) == 1


@pytest.mark.parametrize(
    ("share", "parts"), [(0.3, 1), (0.5, 1), (0.9, 1), (0.1, 4), (0.25, 4), (0.6, 4), (0.125, 8), (0.9, 8)]
)
def test_a_cache_that_is_played_keeps_as_much(share: float, parts: int) -> None:
    shards, epochs, chance = 200, 30 * parts, random.Random(1)
    kept, found, asked = dict.fromkeys(range(shards)), 0, 0
    for _ in range(epochs):
        for shard in chance.sample(range(shards), shards // parts):
            asked, found = asked + 1, found + (shard in kept)
            kept.pop(shard, None)
            kept[shard] = None  # used last
            while len(kept) > share * shards:
                del kept[next(iter(kept))]
    assert found / asked == pytest.approx(kept_share(share, 1.0, parts=parts), abs=0.03)
