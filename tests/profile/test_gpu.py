"""What is made of a stream's events, on a stream that is a number: the time that the work put on it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from fastload.profile.gpu import StepsOnStream, events_of, queued_and_run


@dataclass
class Stream:
    """Work of so many milliseconds, one after the other."""

    at: float = 0.0
    waited_for: list[float] = field(default_factory=list)

    def do(self, milliseconds: float) -> None:
        self.at += milliseconds

    def event(self) -> Passed:
        return Passed(self)


@dataclass
class Passed:
    stream: Stream
    at: float = field(default=-1.0)

    def record(self) -> None:
        self.at = self.stream.at

    def elapsed_time(self, later: Passed) -> float:
        return later.at - self.at

    def synchronize(self) -> None:
        self.stream.waited_for.append(self.at)


def test_what_lies_between_steps_is_their_share_of_the_streams_time() -> None:
    stream = Stream()
    seen = StepsOnStream(stream.event)
    for step, gap in ((50.0, 500.0), (6.0, 2.0), (6.0, 2.0), (6.0, 9.0)):
        seen.begin()
        stream.do(step)
        seen.end()
        if step == 50.0:
            seen.forget()
        stream.do(gap)
    assert seen.between_share() == pytest.approx(4 / 22), "neither the warm-up nor what comes after the last"


def test_the_host_is_only_a_few_steps_ahead() -> None:
    stream = Stream()
    seen = StepsOnStream(stream.event)
    for _ in range(11):
        seen.begin()
        stream.do(1.0)
        seen.end()
    assert stream.waited_for == [1.0, 2.0, 3.0]


def test_one_step_and_no_events_say_nothing() -> None:
    stream = Stream()
    one, none = StepsOnStream(stream.event), StepsOnStream(events_of(torch.device("cpu")))
    for seen, times in ((one, 1), (none, 3)):
        for _ in range(times):
            seen.begin()
            seen.end()
        assert seen.between_share() is None


def test_events_are_of_the_loaders_gpu_and_not_of_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {torch.device("cuda:0"): Stream(), torch.device("cuda:1"): Stream()}

    class Recorded(Passed):
        def __init__(self, enable_timing: bool) -> None:
            super().__init__(streams[torch.device("cuda:0")])

        def record(self, stream: Stream | None = None) -> None:  # type: ignore[override]
            self.at = (stream or self.stream).at

    monkeypatch.setattr(torch.cuda, "Event", Recorded)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[device])
    make = events_of(torch.device("cuda:1"))
    assert make is not None
    before, after = make(), make()
    before.record()
    streams[torch.device("cuda:1")].do(5.0)
    after.record()
    assert before.elapsed_time(after) == 5.0


def test_work_is_timed_by_the_stream_and_by_the_host() -> None:
    stream, waited = Stream(), []
    queue_ms, device_ms = queued_and_run(lambda: stream.do(7.0), stream.event, lambda: waited.append(stream.at), 4)
    assert device_ms == pytest.approx(7.0)
    assert 0 <= queue_ms < 7.0
    assert waited == [0.0, 7.0, 14.0, 21.0, 28.0], "before each, so that nothing else is on the stream, and at the end"
