"""The only threads: they run the parts of jobs, ahead of the consumer and within bounds, and hand results over in
order.

A *job* makes one result (a batch) and is cut into parts that any threads may run at the same time. The engine decides
nothing: jobs come from the plan in order, and what a part does is the job's.

Contract
  1. Order      Results come in the order of the plan, whatever order parts finish in.
  2. Ahead      At most `ahead` jobs are begun and not handed over; the plan is asked for no more.
  3. End        When the plan ends, so does the iteration, after every result; threads are joined before StopIteration.
  4. Failure    If a part raises, earlier results still come; then that error is raised at its own job's turn and the
                engine is closed. Of several errors in one job the first in time wins. An error in the plan is raised at
                its turn too.
  5. Cancel     close() (the consumer broke out, raised, was interrupted or dropped the iterator) discards parts not
                begun, waits for those running, and joins the threads. It may be called at any time, by any thread, any
                number of times; again, it finishes what an interrupt has cut off. next() of an engine that was closed
                before its end raises EngineError: it must not look like an end. Threads start at the first next():
                who is interrupted before that, has nothing to close.
  6. Stall      If no part finishes for `timeout` seconds while the consumer waits, EngineError names what was waited
                for, at once: threads that hang are left behind, and end where they get to. Without threads nobody
                waits, and nobody can tell. While the whole process stands still (Ctrl-Z, a debugger), no time passes.
  7. Fork       In a child process made by fork after it was made, next() raises EngineError: threads do not survive a
                fork.
  8. Exit       At interpreter exit every engine that is still open is closed.
  9. Size       resize() between results sets how many threads run and how many jobs are begun ahead; nothing else
                changes. Threads that are too many end after the part they run and are joined by the next resize() or
                close(); jobs that are too many ahead stay begun. After the end, or once closed, it does nothing.

`Readahead` is beside it: threads of their own that fetch what jobs will need, in the order of use. They are not the
engine's: a download waits for seconds, and decode threads that waited with it would leave what is at hand undecoded;
without threads (num_workers=0) there would be none to wait; and how many downloads fill a network has nothing to do
with how many threads fill the processor.

Life of a job:  planned -> queued (its parts wait) -> running -> done (no part left) or failed -> handed over
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from fastload.errors import EngineError, FastloadError
from fastload.meter import ASSEMBLE, IDLE, PLAN, READ, WAITING, Clock, Meter
from fastload.stopping import work_until

Result = TypeVar("Result", covariant=True)
Key = TypeVar("Key", bound=Hashable)

_CLOSED = "the engine was closed before its end; begin a new iteration"
STALLED_JOIN_SECONDS = 0.1  # after a stall: enough for threads that do not hang
LOOK_SECONDS = 1.0  # at most, of a longer wait that counts: the rest is time in which the process stood still
JOIN_SECONDS = 10.0  # close() waits this long for a running part; a thread that hangs longer is left behind as a daemon


class Job(Protocol[Result]):
    """One result in the making."""

    @property
    def parts(self) -> int:
        """How many parts it has; at least 1."""
        ...

    def run(self, part: int, clock: Clock) -> None:
        """Do one part. Parts of one job may run at the same time in several threads.

        Args:
            clock: that the part runs under, reading as long as the job says nothing else.
        """
        ...

    def result(self) -> Result:
        """The result, once every part has run; called in the consumer's thread."""
        ...


class _Ticket(Generic[Result]):
    """A job's place in the line."""

    __slots__ = ("error", "job", "left")

    def __init__(self, job: Job[Result]) -> None:
        self.job = job
        self.left = job.parts
        self.error: BaseException | None = None


class _Shared(Generic[Result]):
    """What threads and consumer share. Threads hold this and not the engine, so that a dropped engine can be
    collected."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a thread that holds it may be the one that collects a dropped engine
        self.work = threading.Condition(self.lock)  # there are parts, or it is closed
        self.done = threading.Condition(self.lock)  # a job has no part left
        self.parts: deque[tuple[_Ticket[Result], int]] = deque()
        self.closed = False
        self.stop = threading.Event()  # the same, for parts that block
        self.finished_parts = 0
        self.finished_jobs = 0
        self.running = 0  # threads that were started and have not decided to end
        self.surplus = 0  # of them, those that are to end when they next look for work


def _work(shared: _Shared[Result], meter: Meter) -> None:
    clock = meter.start(consumer=False)
    try:
        work_until(shared.stop)
        _work_on(shared, clock)
    finally:
        meter.stop(clock)


def _work_on(shared: _Shared[Result], clock: Clock) -> None:
    while True:
        with shared.lock:
            while not shared.parts and not shared.closed and not shared.surplus:
                shared.work.wait()
            if shared.closed:
                return
            if shared.surplus:
                shared.surplus -= 1
                shared.running -= 1
                return
            ticket, part = shared.parts.popleft()
        error: BaseException | None = None
        if ticket.error is None:  # after a failure the rest of the job is skipped
            clock.enter(READ)
            try:
                ticket.job.run(part, clock)
            except BaseException as caught:
                error = caught
            clock.enter(IDLE)
        with shared.lock:
            ticket.error = ticket.error or error
            ticket.left -= 1
            shared.finished_parts += 1
            if ticket.left == 0:
                shared.finished_jobs += 1
                shared.done.notify_all()
        del ticket, error  # a waiting thread must not keep a batch alive, nor an error, by its traceback, this frame


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    """Wait for threads that were told to end, so long at most; not from one of them, which may hold the lock that the
    others wait for."""
    deadline = time.monotonic() + seconds
    if threading.current_thread() not in threads:
        for thread in threads:
            while not thread.is_alive() and thread in threading.enumerate() and time.monotonic() < deadline:
                time.sleep(0.001)  # an interrupt came while it was being started: it cannot be joined yet
            if thread.ident is not None:  # else an interrupt came before its start
                thread.join(max(0.0, deadline - time.monotonic()))


class Engine(Generic[Result]):
    """Runs the jobs of a plan; an iterator of their results, and a context manager.

    Args:
        plan: the jobs in order; drawn from in the consumer's thread.
        threads: how many run parts. 0: parts run in the consumer's thread, when the job's result is asked for.
        ahead: jobs begun before they are asked for, at least 1. Without threads that means drawn from the plan: 1, if
            they do not go on by themselves from then on.
        timeout_seconds: see Stall; None waits for ever.
        meter: measures what threads and consumer spend their time on; who passes one stops `clock` on it at the end.

    Attributes:
        clock: the consumer's: its time from next() until a result is there goes to planning, waiting and assembling;
            what comes then, the consumer says.
    """

    _made = False  # an interrupt may come in the middle of __init__

    def __init__(
        self,
        plan: Iterator[Job[Result]],
        *,
        threads: int,
        ahead: int,
        timeout_seconds: float | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._plan, self._ahead, self._timeout = plan, max(1, ahead), timeout_seconds
        self._shared: _Shared[Result] = _Shared()
        self._line: deque[_Ticket[Result]] = deque()
        self._plan_error: BaseException | None = None
        self._plan_ended = False
        self._over = False  # the end or an error was raised
        self._stalled = False
        self._pid = os.getpid()
        self._meter = meter or Meter()
        self.clock = self._meter.start(consumer=True)
        self._threads: list[threading.Thread] = []
        self._unstarted = threads
        self._started = 0  # threads, those that ended included
        self._taken = 0  # of the jobs that threads finished
        _open_engines.add(self)
        self._made = True

    def _start(self, threads: int) -> None:
        with self._shared.lock:
            self._shared.running += threads
        for _ in range(threads):
            thread = threading.Thread(
                target=_work, args=(self._shared, self._meter), name=f"fastload-{self._started}", daemon=True
            )
            self._threads.append(thread)  # first, so that whatever cuts this off, close() knows it
            self._started += 1
            thread.start()

    def __iter__(self) -> Engine[Result]:
        return self

    def __next__(self) -> Result:
        if os.getpid() != self._pid:
            raise EngineError("the loader was forked while iterating; make its iterator in the child process")
        if self._over:
            raise StopIteration
        line = self._line  # close() in another thread puts another one in its place
        try:
            if self._shared.closed:
                raise EngineError(_CLOSED)
            if self._unstarted:
                threads, self._unstarted = self._unstarted, 0
                self._start(threads)
            if len(line) < self._ahead:
                self.clock.enter(PLAN)
                self._fill(line)
            if not line:
                if self._plan_error is not None:
                    raise self._plan_error
                raise EngineError(_CLOSED) if self._shared.closed else StopIteration
            ticket = line[0]
            if self._threads:
                self.clock.asked(self._shared.finished_jobs - self._taken)
                if ticket.left:
                    self.clock.enter(WAITING)
            self._finish(ticket)
            line.popleft()
            if self._ahead > 1 or self._threads:
                self.clock.enter(PLAN)
                self._fill(line)  # what was begun goes on while the consumer works on this result
            self.clock.enter(ASSEMBLE)
            return ticket.job.result()
        except BaseException:
            self._over = True
            line.clear()  # a traceback that is kept keeps no batch
            self.close()
            raise

    def _fill(self, line: deque[_Ticket[Result]]) -> None:
        """Begin jobs until `ahead` are in the line."""
        while len(line) < self._ahead and not self._plan_ended:
            try:
                job = next(self._plan)
            except StopIteration:
                self._plan_ended = True
                return
            except BaseException as error:
                self._plan_ended, self._plan_error = True, error
                return
            ticket = _Ticket(job)
            line.append(ticket)
            if self._threads:
                with self._shared.lock:
                    self._shared.parts.extend((ticket, part) for part in range(ticket.left))
                    self._shared.work.notify(ticket.left)

    def _finish(self, ticket: _Ticket[Result]) -> None:
        """Return once the job is done; raise its error."""
        if not self._threads:
            for part in range(ticket.left):
                self.clock.enter(READ)
                ticket.job.run(part, self.clock)
            return
        shared = self._shared
        with shared.lock:
            timeout = math.inf if self._timeout is None else self._timeout
            seen, waited = shared.finished_parts, 0.0
            while ticket.left and not shared.closed:
                at_most, since = min(LOOK_SECONDS, timeout - waited), time.monotonic()
                shared.done.wait(at_most)
                waited += min(at_most, time.monotonic() - since)
                if shared.finished_parts != seen:
                    seen, waited = shared.finished_parts, 0.0
                elif ticket.left and not shared.closed and waited >= timeout:
                    self._stalled = True
                    raise EngineError(
                        f"no progress for {timeout:g} s: {ticket.left} of {ticket.job.parts} parts of the "
                        f"next batch are unfinished ({ticket.job!r}); a disk or file system may hang. timeout= sets "
                        "the limit"
                    )
            self._taken += 1
            error = ticket.error
            if error is None and shared.closed:
                error = EngineError(_CLOSED)
        if error is not None:
            raise error

    @property
    def threads(self) -> int:
        """How many run parts, those that are to end left out."""
        with self._shared.lock:
            return self._unstarted + self._shared.running - self._shared.surplus

    def resize(self, threads: int, ahead: int) -> None:
        """Go on with other numbers of threads and of jobs ahead, both at least 1; see Size. For the consumer's thread.

        Raises:
            ValueError: of an engine that was begun without threads, or numbers below 1.
        """
        if not self.threads or threads < 1 or ahead < 1:
            raise ValueError(f"resize({threads}, {ahead}) of an engine with {self.threads} threads")
        shared = self._shared
        if self._unstarted:
            self._unstarted, self._ahead = threads, ahead
            return
        with shared.lock:
            if shared.closed:
                return
            self._ahead = ahead
            more = threads - (shared.running - shared.surplus)
            kept = max(0, min(more, shared.surplus))  # told to end, and needed again
            shared.surplus += max(0, -more) - kept
            shared.work.notify_all()
        self._start(max(0, more - kept))
        ended = [thread for thread in self._threads if not thread.is_alive()]
        self._threads = [thread for thread in self._threads if thread not in ended]
        _join(ended, JOIN_SECONDS)

    def close(self) -> None:
        """Stop the threads and let go of everything; see Cancel."""
        shared = self._shared
        if os.getpid() != self._pid:
            return
        with shared.lock:
            shared.closed = True
            shared.stop.set()
            shared.parts.clear()
            shared.work.notify_all()
            shared.done.notify_all()
        if hasattr(self._plan, "close"):  # what it fetches ahead
            with contextlib.suppress(ValueError):  # it is being drawn from in another thread, which will close it
                self._plan.close()
        _join(self._threads, STALLED_JOIN_SECONDS if self._stalled else JOIN_SECONDS)
        self._line = deque()
        _open_engines.discard(self)

    def __enter__(self) -> Engine[Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._made:
            self.close()


class _Wanted(Generic[Key]):
    """What a readahead and its threads share; as `_Shared` does, it lets a dropped readahead be collected."""

    def __init__(self, fetch: Callable[[Key], object]) -> None:
        self.fetch = fetch
        self.work = threading.Condition(threading.RLock())
        self.stop = threading.Event()
        self.todo: deque[Key] = deque()
        self.keys: set[Key] = set()
        self.begun: set[Key] = set()  # of the keys: fetched, being fetched, or failed
        self.held: dict[Key, object] = {}


def _fetch_on(wanted: _Wanted[Key]) -> None:
    work_until(wanted.stop)
    while True:
        with wanted.work:
            while not wanted.todo and not wanted.stop.is_set():
                wanted.work.wait()
            if wanted.stop.is_set():
                return
            key = wanted.todo.popleft()
            wanted.begun.add(key)
        found: object = None
        with contextlib.suppress(FastloadError):  # who needs it tries too, and raises at its turn
            found = wanted.fetch(key)
        with wanted.work:
            if key in wanted.keys and not wanted.stop.is_set():
                wanted.held[key] = found
        del found


class Readahead(Generic[Key]):
    """Fetches what is needed next in threads of its own, in the order of use, and holds it until it is not needed.

    Nobody waits for it: who needs a thing asks for it where it is kept, and waits there. A context manager; in a
    process made by fork it does nothing.

    Args:
        fetch: gets one thing ready; what it returns is held. It ends early where `stopping.stop_here` says so.
        threads: how many run it.
    """

    _made = False

    def __init__(self, fetch: Callable[[Key], object], threads: int) -> None:
        self._wanted: _Wanted[Key] = _Wanted(fetch)
        self._pid = os.getpid()
        self._threads = [
            threading.Thread(target=_fetch_on, args=(self._wanted,), name=f"fastload-fetch-{i}", daemon=True)
            for i in range(threads)
        ]
        self._unstarted = list(self._threads)  # until something is wanted
        _open_readaheads.add(self)
        self._made = True

    def want(self, keys: Sequence[Key]) -> None:
        """What is needed from now on, in the order of use. The rest is let go, and what was begun of it is finished."""
        while self._unstarted:
            self._unstarted.pop().start()
        wanted = self._wanted
        with wanted.work:
            wanted.keys = set(keys)
            wanted.begun &= wanted.keys
            wanted.held = {key: found for key, found in wanted.held.items() if key in wanted.keys}
            wanted.todo = deque(key for key in keys if key not in wanted.begun)
            wanted.work.notify_all()

    def let_go(self) -> None:
        """Hold nothing any longer; it may be removed, and comes again when it is asked for."""
        with self._wanted.work:
            self._wanted.held.clear()

    def close(self) -> None:
        """End the threads and let go of everything; any number of times. Waits for a thread that hangs in a transfer
        for JOIN_SECONDS."""
        if os.getpid() != self._pid:
            return
        wanted = self._wanted
        wanted.stop.set()
        with wanted.work:
            wanted.todo.clear()
            wanted.held.clear()
            wanted.work.notify_all()
        _join(self._threads, JOIN_SECONDS)
        _open_readaheads.discard(self)

    def __enter__(self) -> Readahead[Key]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._made:
            self.close()


_open_engines: weakref.WeakSet[Engine[object]] = weakref.WeakSet()
_open_readaheads: weakref.WeakSet[Readahead[Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for engine in list(_open_engines):
        engine.close()
    for readahead in list(_open_readaheads):
        readahead.close()
