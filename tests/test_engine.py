"""The numbered cases of the engine's contract, with jobs that wait for events instead of doing work."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from fastload.engine import Engine
from fastload.errors import EngineError
from fastload.meter import Clock

PATIENCE = 20.0  # a test that waits this long for an event has found a hang


class Task:
    """A job of `parts` parts that records what becomes of it."""

    def __init__(self, number: int, parts: int = 1, work: Callable[[int], object] | None = None) -> None:
        self.number, self.parts, self._work = number, parts, work
        self.threads: dict[int, str] = {}
        self.result_thread = ""

    def __repr__(self) -> str:
        return f"task {self.number}"

    def run(self, part: int, clock: Clock) -> None:
        self.threads[part] = threading.current_thread().name
        if self._work is not None:
            self._work(part)

    def result(self) -> int:
        assert len(self.threads) == self.parts, "handed over before every part had run"
        self.result_thread = threading.current_thread().name
        return self.number


class Plan:
    """Hands out tasks and counts them."""

    def __init__(self, tasks: list[Task], error: BaseException | None = None) -> None:
        self.drawn, self._tasks, self._error = 0, tasks, error

    def __iter__(self) -> Iterator[Task]:
        for task in self._tasks:
            self.drawn += 1
            yield task
        if self._error is not None:
            raise self._error


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE), "nobody set the event: a hang"


def until(condition: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE / 0.002)):
        if condition():
            return
        threading.Event().wait(0.002)
    raise AssertionError("it never came to be")


def settle(threads: int) -> None:
    """Wait until so many threads are left."""
    until(lambda: len(workers()) == threads)


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fastload-")]


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    assert workers() == []
    yield
    assert workers() == [], "nothing may wait for the collector of cycles"


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("parts", [1, 3])
def test_1_results_come_in_the_order_of_the_plan(threads: int, parts: int) -> None:
    tasks = [Task(number, parts) for number in range(50)]
    with Engine(iter(Plan(tasks)), threads=threads, ahead=3) as engine:
        assert list(engine) == list(range(50))
    assert all(set(task.threads) == set(range(parts)) for task in tasks)
    assert {task.result_thread for task in tasks} == {threading.current_thread().name}


def test_1_a_later_job_that_is_done_first_waits_for_its_turn() -> None:
    later = threading.Event()
    tasks = [Task(0, work=lambda _: wait(later)), Task(1, work=lambda _: later.set())]
    with Engine(iter(Plan(tasks)), threads=2, ahead=2) as engine:
        assert list(engine) == [0, 1]


def test_parts_of_one_job_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3)
    tasks = [Task(0, parts=3, work=lambda _: barrier.wait(PATIENCE))]
    with Engine(iter(Plan(tasks)), threads=3, ahead=1) as engine:
        assert list(engine) == [0]
    assert len(set(tasks[0].threads.values())) == 3


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_2_no_more_jobs_are_begun_than_may_be_ahead(ahead: int) -> None:
    plan = Plan([Task(number) for number in range(20)])
    with Engine(iter(plan), threads=2, ahead=ahead) as engine:
        assert plan.drawn == 0, "work began before anybody asked for it"
        for number, result in enumerate(engine):
            assert result == number
            assert plan.drawn == min(20, number + 1 + ahead)


@pytest.mark.parametrize("ahead", [1, 3])
def test_2_without_threads_jobs_are_drawn_ahead_and_run_when_they_are_asked_for(ahead: int) -> None:
    ran: list[int] = []
    plan = Plan([Task(number, work=lambda _, number=number: ran.append(number)) for number in range(9)])
    with Engine(iter(plan), threads=0, ahead=ahead) as engine:
        for number in range(9):
            assert next(engine) == number
            assert plan.drawn == min(9, number + 1 + (ahead if ahead > 1 else 0))
            assert ran == list(range(number + 1))
    assert workers() == []


@pytest.mark.parametrize("threads", [0, 2])
def test_3_the_end_comes_after_every_result_and_threads_are_joined_before_it(threads: int) -> None:
    engine = Engine(iter(Plan([Task(0), Task(1)])), threads=threads, ahead=5)
    assert workers() == [], "who is interrupted before the first next() has nothing to close"
    assert next(engine) == 0
    assert len(workers()) == threads
    assert next(engine) == 1
    with pytest.raises(StopIteration):
        next(engine)
    assert workers() == []
    with pytest.raises(StopIteration):
        next(engine)


@pytest.mark.parametrize("threads", [0, 2])
def test_3_an_empty_plan_ends_at_once(threads: int) -> None:
    assert list(Engine(iter(Plan([])), threads=threads, ahead=2)) == []


def boom(part: int) -> None:
    raise ValueError(f"part {part} broke")


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_4_earlier_results_still_come_and_then_the_error(threads: int) -> None:
    tasks = [Task(0), Task(1), Task(2, work=boom), Task(3)]
    engine = Engine(iter(Plan(tasks)), threads=threads, ahead=4)
    assert [next(engine), next(engine)] == [0, 1]
    with pytest.raises(ValueError, match="part 0 broke"):
        next(engine)
    assert workers() == []
    with pytest.raises(StopIteration):
        next(engine)


def test_4_the_error_waits_for_its_turn_though_it_came_first() -> None:
    failed = threading.Event()

    def fail(part: int) -> None:
        failed.set()
        boom(part)

    tasks = [Task(0, work=lambda _: wait(failed)), Task(1, work=fail)]
    engine = Engine(iter(Plan(tasks)), threads=2, ahead=2)
    assert next(engine) == 0
    with pytest.raises(ValueError, match="broke"):
        next(engine)


def test_4_of_several_errors_in_one_job_the_first_in_time_wins() -> None:
    last_failed = threading.Event()

    def fail(part: int) -> None:
        if part == 0:
            wait(last_failed)
            while len(engine._shared.parts) or engine._shared.finished_parts == 0:
                threading.Event().wait(0.001)  # part 1's error is noted before part 0 raises
        else:
            last_failed.set()
        boom(part)

    engine = Engine(iter(Plan([Task(0, parts=2, work=fail)])), threads=2, ahead=1)
    with pytest.raises(ValueError, match="part 1 broke"):
        next(engine)


def test_4_after_a_failure_the_rest_of_the_job_is_skipped() -> None:
    task = Task(0, parts=50, work=boom)
    with pytest.raises(ValueError, match="part 0 broke"):
        next(Engine(iter(Plan([task])), threads=1, ahead=1))
    assert set(task.threads) == {0}


@pytest.mark.parametrize("threads", [0, 2])
def test_4_an_error_in_the_plan_is_raised_at_its_turn(threads: int) -> None:
    engine = Engine(iter(Plan([Task(0), Task(1)], error=OSError("no plan"))), threads=threads, ahead=4)
    assert [next(engine), next(engine)] == [0, 1]
    with pytest.raises(OSError, match="no plan"):
        next(engine)
    assert workers() == []


@pytest.mark.parametrize("threads", [0, 2])
def test_4_an_error_while_the_result_is_made_closes_the_engine(threads: int) -> None:
    class Broken(Task):
        def result(self) -> int:
            raise RuntimeError("no result")

    engine = Engine(iter(Plan([Broken(0), Task(1)])), threads=threads, ahead=2)
    with pytest.raises(RuntimeError, match="no result"):
        next(engine)
    assert workers() == []


def test_4_what_is_no_exception_comes_through_too() -> None:
    def leave(_: int) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit), Engine(iter(Plan([Task(0, work=leave)])), threads=1, ahead=1) as engine:
        next(engine)


def test_5_breaking_out_discards_what_was_not_begun_and_joins_the_threads() -> None:
    release = threading.Event()
    tasks = [Task(0), *(Task(number, work=lambda _: wait(release)) for number in range(1, 10))]
    with Engine(iter(Plan(tasks)), threads=2, ahead=9) as engine:
        for _ in engine:
            release.set()
            break
        engine.close()
        begun = sum(bool(task.threads) for task in tasks)
    assert workers() == []
    assert begun == sum(bool(task.threads) for task in tasks)


def test_5_closing_waits_for_parts_that_run() -> None:
    running, release = threading.Event(), threading.Event()
    finished: list[int] = []

    def slow(part: int) -> None:
        running.set()
        wait(release)
        finished.append(part)

    plan = Plan([Task(0), Task(1, work=slow), Task(2, work=slow)])
    engine = Engine(iter(plan), threads=1, ahead=2)
    assert next(engine) == 0
    wait(running)
    threading.Timer(0.05, release.set).start()
    engine.close()
    assert finished == [0], "the running part is done, and the one behind it was never begun"
    assert workers() == []


def test_5_an_exception_in_the_consumer_closes_and_its_traceback_keeps_no_thread() -> None:
    kept: list[BaseException] = []
    try:
        with Engine(iter(Plan([Task(number) for number in range(9)])), threads=2, ahead=3) as engine:
            for _ in engine:
                raise KeyError("the consumer's own")
    except KeyError as error:
        kept.append(error)
    assert kept
    assert workers() == []


def test_5_a_dropped_engine_stops_its_threads() -> None:
    engine = Engine(iter(Plan([Task(number) for number in range(9)])), threads=3, ahead=3)
    assert next(engine) == 0
    gone = weakref.ref(engine)
    del engine
    assert gone() is None, "the threads keep their engine alive"
    assert workers() == []


def test_5_what_a_part_raised_that_nobody_waits_for_is_let_go_with_the_engine() -> None:
    running, release = threading.Event(), threading.Event()

    def broken(part: int) -> None:
        running.set()
        wait(release)
        raise KeyError(part)

    task = Task(1, work=broken)
    gone = weakref.ref(task)
    engine = Engine(iter(Plan([Task(0), task])), threads=1, ahead=2)
    assert next(engine) == 0
    wait(running)
    threading.Timer(0.05, release.set).start()
    gc.disable()
    try:
        engine.close()
        del engine, task, broken
        assert gone() is None, "the error holds the thread's frame, and that the error"
    finally:
        gc.enable()


def test_5_an_engine_that_was_never_asked_has_no_threads() -> None:
    engine = Engine(iter(Plan([Task(0)])), threads=2, ahead=1)
    assert workers() == []
    del engine
    assert workers() == []


def test_5_closing_may_happen_at_any_time_and_any_number_of_times() -> None:
    engine = Engine(iter(Plan([Task(0)])), threads=2, ahead=1)
    engine.close()
    engine.close()
    ends = []
    for _ in range(2):
        with pytest.raises((EngineError, StopIteration)) as caught:
            next(engine)
        ends.append(caught.type)
    assert ends == [EngineError, StopIteration], "an error is raised once"


def test_5_a_part_may_close_the_engine_it_runs_in() -> None:
    engines: list[Engine[int]] = []
    engine = Engine(iter(Plan([Task(0, work=lambda _: engines[0].close()), Task(1)])), threads=1, ahead=1)
    engines.append(engine)
    with pytest.raises(EngineError, match="closed before its end"):
        next(engine)
    for thread in threading.enumerate():
        if thread.name.startswith("fastload-"):
            thread.join(PATIENCE)


def test_5_another_thread_may_close_it_and_the_consumer_does_not_wait_for_ever() -> None:
    running, release = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        running.set()
        wait(release)

    engine = Engine(iter(Plan([Task(0, parts=2, work=hold)])), threads=1, ahead=1)

    def close() -> None:
        wait(running)
        threading.Timer(0.05, release.set).start()
        engine.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(EngineError, match="the engine was closed before its end; begin a new iteration"):
        next(engine)
    closer.join()
    assert workers() == []


def closed_elsewhere(engine: Engine[int]) -> None:
    """Close an engine in another thread, and wait for it."""
    closer = threading.Thread(target=engine.close)
    closer.start()
    closer.join()


def test_5_another_thread_may_close_it_while_the_consumer_works_on_a_part() -> None:
    engines: list[Engine[int]] = []
    tasks = [Task(number, work=lambda _: closed_elsewhere(engines[0])) for number in range(3)]
    engine = Engine(iter(Plan(tasks)), threads=0, ahead=2)
    engines.append(engine)
    assert next(engine) == 0
    with pytest.raises(EngineError, match="closed before its end"):
        next(engine)


@pytest.mark.parametrize("threads", [0, 1])
def test_5_a_plan_that_another_thread_has_closed_is_no_end(threads: int) -> None:
    class Closed:
        """A generator that is closed between the engine's looking and its drawing."""

        def __iter__(self) -> Iterator[Task]:
            return self

        def __next__(self) -> Task:
            closed_elsewhere(engine)
            raise StopIteration

    engine = Engine(Closed(), threads=threads, ahead=2)
    with pytest.raises(EngineError, match="closed before its end"):
        next(engine)


@pytest.mark.parametrize("threads", [1, 3])
def test_5_results_that_were_handed_over_are_not_kept_alive(threads: int) -> None:
    class Kept:
        pass

    class Maker(Task):
        def run(self, part: int, clock: Clock) -> None:
            self.made = Kept()
            super().run(part, clock)

        def result(self) -> Kept:  # type: ignore[override]
            return self.made

    engine = Engine((Maker(number) for number in range(3)), threads=threads, ahead=1)
    first = weakref.ref(next(engine))
    next(engine)
    last = weakref.ref(next(engine))
    deadline = threading.Event()
    for _ in range(200):  # a worker lets go a moment after it has said that it is done
        if first() is None and last() is None:
            break
        deadline.wait(0.01)
    assert first() is None
    assert last() is None
    engine.close()


def test_6_a_stall_is_an_error_that_names_what_was_waited_for() -> None:
    release = threading.Event()
    tasks = [Task(0), Task(7, parts=2, work=lambda part: wait(release) if part else None)]
    engine = Engine(iter(Plan(tasks)), threads=3, ahead=2)  # however long the threads take to get there
    assert next(engine) == 0
    until(lambda: engine._shared.finished_parts == 2)
    engine._timeout = 0.1
    begun = time.monotonic()
    with pytest.raises(
        EngineError, match=r"no progress for 0.1 s: 1 of 2 parts of the next batch are unfinished \(task 7\)"
    ):
        next(engine)
    engine.close()
    assert time.monotonic() - begun < 5, "it waits for no thread that hangs"
    settle(1)  # the others end
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("fastload-"):
            thread.join(PATIENCE)
    assert workers() == []


def test_6_slow_progress_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, now = threading.Semaphore(0), [0.0]
    task = Task(0, parts=8, work=lambda _: turns.acquire(timeout=PATIENCE))
    engine = Engine(iter(Plan([task])), threads=1, ahead=1, timeout_seconds=30.0)

    def look(_: float | None) -> None:
        """20 s pass, and one part is done."""
        before, now[0] = engine._shared.finished_parts, now[0] + 20
        engine._shared.lock.release()
        turns.release()
        until(lambda: engine._shared.finished_parts > before)
        engine._shared.lock.acquire()

    with monkeypatch.context() as patches:
        patches.setattr("fastload.engine.time", SimpleNamespace(monotonic=lambda: now[0]))
        patches.setattr("fastload.engine.LOOK_SECONDS", 100.0)
        patches.setattr(engine._shared.done, "wait", look)
        assert next(engine) == 0
    assert now[0] == 8 * 20
    engine.close()


def test_6_time_in_which_the_process_stands_still_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    release, looks = threading.Event(), itertools.count()

    def stands_still(_: float | None) -> None:
        """As a wait that Ctrl-Z has cut off for an hour."""
        engine._shared.lock.release()
        if next(looks) == 3:
            release.set()
        time.sleep(0.001)
        engine._shared.lock.acquire()

    hours = itertools.count(step=3600)
    engine = Engine(iter(Plan([Task(0, work=lambda _: wait(release))])), threads=1, ahead=1, timeout_seconds=30.0)
    with monkeypatch.context() as patches:
        patches.setattr("fastload.engine.time", SimpleNamespace(monotonic=lambda: float(next(hours))))
        patches.setattr(engine._shared.done, "wait", stands_still)
        assert next(engine) == 0
    engine.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_7_a_forked_child_is_told_and_the_parent_goes_on(threads: int) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_engine import Plan, Task
from fastload.engine import Engine
from fastload.errors import EngineError

engine = Engine(iter(Plan([Task(n) for n in range(6)])), threads={threads}, ahead=2)
assert next(engine) == 0
pid = os.fork()
if pid == 0:
    try:
        next(engine)
    except EngineError as error:
        assert "forked while iterating; make its iterator in the child process" in str(error), error
        engine.close()
        sys.exit(42)
    sys.exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
assert list(engine) == [1, 2, 3, 4, 5]
"""
    run(program)


@pytest.mark.parametrize("where", ["asked", "never asked"])
def test_8_a_program_that_leaves_an_engine_open_exits(where: str) -> None:
    program = f"""
import sys, threading
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_engine import Plan, Task
from fastload.engine import Engine

engine = Engine(iter(Plan([Task(n, work=lambda _: None) for n in range(100)])), threads=3, ahead=4)
if {where!r} == "asked":
    assert next(engine) == 0
print("done")
"""
    assert run(program) == "done\n"


def run(program: str) -> str:
    """Run a program to its end; it fails the test by a non-zero status, and by not ending."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr, done.stderr
    return done.stdout


def test_an_interrupt_while_a_thread_is_being_started_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading.Thread._set_ident  # type: ignore[attr-defined]

    def begin_late(thread: threading.Thread) -> None:
        time.sleep(0.05)
        begin(thread)

    def interrupt(event: threading.Event, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    engine = Engine(iter(Plan([Task(0)])), threads=2, ahead=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "_set_ident", begin_late)
        patch.setattr(threading.Event, "wait", interrupt)  # start() waits so for the thread to run
        with pytest.raises(KeyboardInterrupt):
            next(engine)
    assert workers() == []


def test_threads_wait_without_work_and_take_up_what_comes_later() -> None:
    tasks = [Task(number, parts=2) for number in range(4)]
    with Engine(iter(Plan(tasks)), threads=8, ahead=1) as engine:
        for number in range(4):
            assert next(engine) == number
        with pytest.raises(StopIteration):
            next(engine)


def test_9_more_and_fewer_threads_run_from_one_result_to_the_next_in_the_same_order() -> None:
    sizes = [1, 4, 2, 2, 7, 1, 3]
    tasks = [Task(number, parts=5) for number in range(10 * len(sizes))]
    with Engine(iter(Plan(tasks)), threads=3, ahead=3) as engine:
        results = []
        for number, size in enumerate(sizes):
            engine.resize(size, 1 + number % 4)
            assert engine.threads == size
            results += [next(engine) for _ in range(10)]
            settle(size)
        assert results == list(range(70))
    assert workers() == []


def test_9_a_thread_that_is_too_many_ends_after_its_part_and_one_that_is_needed_again_stays() -> None:
    release, running = threading.Event(), threading.Barrier(4)

    def hold(_: int) -> None:
        running.wait(PATIENCE)
        wait(release)

    tasks = [Task(0), Task(1, parts=3, work=hold), Task(2)]
    with Engine(iter(Plan(tasks)), threads=3, ahead=2) as engine:
        assert next(engine) == 0
        running.wait(PATIENCE)  # all three are at work
        engine.resize(1, 2)
        assert (engine.threads, len(workers())) == (1, 3)
        engine.resize(2, 2)
        assert (engine.threads, len(workers())) == (2, 3), "no thread is started where one has not ended yet"
        release.set()
        assert [next(engine), next(engine)] == [1, 2]
        settle(2)
        engine.resize(5, 2)
        assert len(workers()) == 5
    assert workers() == []


def test_9_more_jobs_are_begun_ahead_and_those_that_are_too_many_stay_begun() -> None:
    plan = Plan([Task(number) for number in range(30)])
    with Engine(iter(plan), threads=1, ahead=2) as engine:
        assert (next(engine), plan.drawn) == (0, 3)
        engine.resize(1, 6)
        assert (next(engine), plan.drawn) == (1, 8)
        engine.resize(1, 1)
        assert [(next(engine), plan.drawn) for _ in range(5)] == [(2, 8), (3, 8), (4, 8), (5, 8), (6, 8)]
        assert (next(engine), plan.drawn) == (7, 9)


def test_9_a_thread_is_wanted_less_while_others_idle_and_parts_still_find_one() -> None:
    for _ in range(50):  # a wake-up that is lost would hang here
        with Engine(
            iter(Plan([Task(number) for number in range(12)])), threads=4, ahead=4, timeout_seconds=10
        ) as engine:
            for number in range(12):
                assert next(engine) == number
                engine.resize(1 + number % 4, 4)


def test_9_after_the_end_nothing_is_started() -> None:
    engine = Engine(iter(Plan([Task(0)])), threads=2, ahead=2)
    assert list(engine) == [0]
    engine.resize(4, 4)
    assert workers() == []


def test_9_what_cannot_be_is_refused() -> None:
    with Engine(iter(Plan([Task(0)])), threads=0, ahead=2) as engine, pytest.raises(ValueError, match="with 0 threads"):
        engine.resize(1, 1)
    with Engine(iter(Plan([Task(0)])), threads=1, ahead=2) as engine:
        for threads, ahead in ((0, 1), (1, 0)):
            with pytest.raises(ValueError, match=rf"resize\({threads}, {ahead}\) of an engine with 1 threads"):
                engine.resize(threads, ahead)
