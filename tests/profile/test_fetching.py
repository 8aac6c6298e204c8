"""What is advised where a server gives shards more slowly than the loader takes them, by numbers that are made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fastload.meter import STAGES
from fastload.profile.advice import Advice
from fastload.profile.model import Model
from fastload.profile.network import Network
from fastload.profile.verdict import Trial, Verdict, judge
from fastload.remote.pace import Pace

MB = 1e6
LATE = Pace(
    object_bytes=MB,
    latency_seconds=0.09,
    connection_bytes_per_second=100 * MB,
    rates=((1, 10 * MB), (8, 80 * MB), (32, 320 * MB)),
)
FULL = replace(LATE, latency_seconds=0.01, rates=((1, 39 * MB), (8, 40 * MB), (32, 40 * MB)))


def network(pace: Pace = LATE, **options: Any) -> Network:
    about: dict[str, Any] = {
        "downloads": 8,
        "spare": None,
        "mixed": 0,
        "sample_bytes": MB,
        "missing": 1.0,
        "missing_later": 0.0,
        "data_bytes": 1000 * MB,
        "file_bytes": 2 * MB,
        "room_bytes": 1e12,
        "window": 64,
    }
    return Network(pace=pace, **{**about, **options})


def verdict(about: Network, *, threads: int = 2, trials: tuple[Trial, ...] = (), **stage_ms: float) -> Verdict:
    """Of batches of 10 samples, which are 10 MB."""
    stages = {name: stage_ms.get(name, 0.0) for name in STAGES}
    made = Model(rows=10, stage_ms=stages, cpu_ms=0.0, batch_ms=1.0, waiting_ms=0.0, threads=threads, cores=4)
    made = replace(made, batch_ms=made.predict_ms(), fetch_ms=about.fetch_ms(10))
    return judge(made, trials=trials, network=about)


def advised(found: Verdict, start: str) -> Advice:
    (advice,) = [each for each in found.advice if each.change.startswith(start)]
    return advice


def test_reading_limits_for_the_latency_and_what_the_loader_has_too_much_of_is_not_taken_away() -> None:
    found = verdict(network(), decode=20, step=5)
    assert (found.limit, found.cause, found.behind) == ("read", "latency", "decode")
    assert found.sentence.startswith("read limits, for each request waits 90 ms, 8 at a time (latency); ")
    assert found.samples_per_second == pytest.approx(80), "8 MB in 0.1 s"
    assert found.predicted == pytest.approx(found.samples_per_second)
    assert found.waiting_share == pytest.approx(1 - 10 / 125)
    assert not [each for each in found.advice if {"num_workers", "prefetch_factor"} & set(each.setting)]


def test_as_many_downloads_are_advised_as_bring_something() -> None:
    most = advised(verdict(network(), decode=4), "downloads=")
    assert (most.change, dict(most.setting)) == ("downloads=32 of fastload.Remote, from 8", {"downloads": 32})
    assert (most.gain, most.samples_per_second, most.bound) == (pytest.approx(4), pytest.approx(320), False)
    assert most.why == "8 objects at a time give 76.3 MiB/s, 32 at a time 305.2 MiB/s"
    enough = advised(verdict(network(), decode=2 * 62.5), "downloads=")
    assert dict(enough.setting) == {"downloads": 16}, "from there on decoding limits"
    assert enough.gain == pytest.approx(2)


def test_larger_shards_share_the_wait_and_how_fast_they_come_is_a_bound() -> None:
    larger = advised(verdict(network(), decode=4), "shards of")
    assert larger.change == "shards of 64.0 MiB, from 1.9 MiB (fastload convert --shard-size)"
    assert (larger.bound, larger.gain > 4) == (True, True)
    few = advised(verdict(network(data_bytes=100 * MB), decode=4), "shards of")
    assert few.change.startswith("shards of 8.0 MiB"), "of 100 MB, so that there are 8 to fetch at a time"
    assert not [each for each in verdict(network(FULL)).advice if each.change.startswith("shards of")]


def test_where_all_connections_are_at_their_end_only_fewer_bytes_help() -> None:
    small = Trial(change="store smaller pictures", why="tried", factor=1.0, size=0.5)
    found = verdict(network(FULL), decode=4, trials=(small,))
    assert (found.limit, found.cause) == ("read", "bandwidth")
    assert "the server gives 38.1 MiB/s, 8 shards at a time (bandwidth)" in found.sentence
    assert [each.change for each in found.advice] == [
        "store smaller pictures",
        "a faster connection to the server, or fewer bytes a sample (fastload pack: prepared once)",
    ]
    assert found.advice[0].gain == pytest.approx(2)
    assert found.advice[1].bound


def test_a_cache_without_room_ahead_wants_more_or_a_smaller_window() -> None:
    tight = network(spare=2, mixed=1, room_bytes=100 * MB)
    found = verdict(tight, decode=4)
    assert "2 at a time (latency)" in found.sentence
    cache, window = advised(found, "cache_size of at least"), advised(found, "window=")
    assert cache.change == "cache_size of at least 102.5 MiB, from 95.4 MiB", "6 MB more, and a fifth beside"
    assert window.change == "window=61, from 64"
    assert cache.gain == window.gain == pytest.approx(4)
    assert not [each for each in found.advice if "downloads" in each.setting], "there is no room for those there are"


def test_as_many_are_fetched_at_a_time_as_come_to_be_mixed_though_there_is_no_room_ahead() -> None:
    assert [network(spare=-9, mixed=mixed).at_a_time() for mixed in (0, 3, 64)] == [1, 3, 8]
    assert network(spare=5, mixed=3).at_a_time() == 5
    # 0.8 x 10 MB hold 4 MB less than the 12 that are mixed: with 8 objects more it takes (12 + 8) / 0.8
    none = advised(verdict(network(spare=-4, mixed=6, room_bytes=10 * MB, window=6), decode=4), "cache_size of at")
    assert none.change == "cache_size of at least 23.8 MiB, from 9.5 MiB"
    assert none.why == "in 9.5 MiB there is room for 0 objects ahead of the 6 shards that are mixed"


def test_a_cache_that_loses_shards_costs_every_later_epoch() -> None:
    small = network(missing_later=0.8, room_bytes=400 * MB)
    later = advised(verdict(small, decode=4), "a cache of 953.7 MiB")
    assert later.gain == pytest.approx(100 / 2)
    assert "a cache of 381.5 MiB has 20% from the epoch before" in later.why
    assert not [each for each in verdict(network(), decode=4).advice if each.change.startswith("a cache of")]


def test_of_a_mixture_nothing_is_said_of_a_second_epoch() -> None:
    small = network(missing_later=0.8, room_bytes=400 * MB, window=None)
    later = advised(verdict(small, decode=4), "a cache of 953.7 MiB")
    assert later.why.startswith("once its sources were gone through: of 953.7 MiB, a cache of 381.5 MiB has 20%")


def test_a_server_that_is_fast_enough_changes_nothing() -> None:
    found = verdict(network(missing=0.01), decode=4, step=30)
    assert (found.limit, found.cause) == ("step", "")
    assert not [each for each in found.advice if "downloads" in each.setting]
