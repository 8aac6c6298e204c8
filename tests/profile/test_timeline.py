"""What threads did and when, from events made up and from a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slowed import SHARDS, make, sleeping

from fastload.meter import ASSEMBLE, DECODE, IDLE, STEP, WAITING
from fastload.profile.measuring import drive
from fastload.profile.rig import Rig
from fastload.profile.timeline import BATCHES, timeline, trace

Packed = Callable[..., Path]
MS = 1_000_000


def test_spans_lie_between_changes_of_stage_and_idle_time_is_left_out() -> None:
    consumer = [(WAITING, 0), (STEP, 10 * MS), (WAITING, 14 * MS), (ASSEMBLE, 19 * MS), (STEP, 20 * MS)]
    thread = [(IDLE, 0), (DECODE, 5 * MS), (IDLE, 12 * MS), (DECODE, 15 * MS)]
    found = timeline([thread, consumer])
    assert found.milliseconds == 10
    first, second = found.lanes
    assert (first.name, second.name) == ("consumer", "thread 1")
    assert first.spans == (("step", 0, 4), ("waiting", 4, 9), ("assemble", 9, 10))
    assert second.spans == (("decode", 0, 2), ("decode", 5, 10)), "cut at both ends"


def test_a_run_is_traced_with_a_lane_for_every_thread(packed: Packed) -> None:
    seen: list[object] = []
    found = drive(trace(Rig(make(packed("tar", SHARDS), "decode", workers=2))), seen.append)
    assert [lane.name for lane in found.lanes] == ["consumer", "thread 1", "thread 2"]
    assert len(seen) > BATCHES
    consumer, *threads = ({stage for stage, _, _ in lane.spans} for lane in found.lanes)
    assert {"waiting", "augment"} <= consumer
    assert all("decode" in stages for stages in threads)
    ends = [stop for lane in found.lanes for _, _, stop in lane.spans]
    assert max(ends) <= found.milliseconds + 1e-6


def test_without_threads_the_consumer_does_all(packed: Packed) -> None:
    found = drive(trace(Rig(make(packed("tar", SHARDS), "decode", workers=0))), sleeping(0.002))
    (lane,) = found.lanes
    assert {"decode", "step", "augment"} <= {stage for stage, _, _ in lane.spans}
