"""Processes that carry out tasks. A worker that dies or fails ends the run, and killing the run ends the workers.

    Pool          what carries tasks out; cluster.py has one on several machines
    LocalPool     in this process
    ProcessPool   forked where that is safe, else fresh interpreters; one pipe each, two tasks in it so that none waits

Any worker may do any task, but PlaceRun goes to the one that holds the run. A worker that holds many gets no more to
encode; that cannot last, because runs are handed out in order: the first one that has no place yet is being encoded.

A worker leaves when its pipe closes, which is also what happens when the parent is killed. It never renames a file of a
tar, so a straggler changes nothing that counts.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Protocol, Self

from fastload.errors import FastloadError, PackError
from fastload.pack.tasks import EncodeRun, PlaceRun, Task, Tell

Done = Callable[[Task, Any], Iterable[Task]]
QUEUED_PER_WORKER = 2
RUNS_PER_WORKER = 4  # held or queued; so many wait in memory while one before them takes long
_START = "import sys; from fastload.pack.workers import serve_descriptor; serve_descriptor(int(sys.argv[1]))"


class Carrier(Protocol):
    """What does the work: an `Encoder`, or a `Surveyor`. It is pickled for workers that cannot be forked."""

    def carry_out(self, task: Any, tell: Tell) -> Any:
        """Do one task; `tell` hears of samples and bytes as they are done."""


class Pool(Protocol):
    """Carries out tasks, from entering to leaving the context.

    Attributes:
        whole_shards: whether it takes whole shards (WriteShard) rather than runs of one.
    """

    whole_shards: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, tasks: Iterator[Task], done: Done, tell: Tell) -> None:
        """Carry out all tasks, in any order.

        Args:
            tasks: taken one by one, as workers become free.
            done: called with each task and its result; the tasks that it gives back go first.
            tell: called with the samples and bytes of each step.

        Raises: what a worker raised; PackError if one died.
        """


class LocalPool:
    """Carries tasks out where it is called."""

    whole_shards = False

    def __init__(self, encoder: Carrier) -> None:
        self._encoder = encoder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, tasks: Iterator[Task], done: Done, tell: Tell) -> None:
        """See `Pool.run`."""
        urgent: deque[Task] = deque()
        while (task := urgent.popleft() if urgent else next(tasks, None)) is not None:
            urgent.extend(done(task, self._encoder.carry_out(task, tell)))


class ProcessPool:
    """Worker processes, from entering to leaving the context.

    Args:
        encoder: what each of them uses.
        workers: how many.
        keep_open: descriptors that every worker holds until it ends, such as a lock.
    """

    whole_shards = False

    def __init__(self, encoder: Carrier, workers: int, keep_open: tuple[int, ...] = ()) -> None:
        self._encoder = encoder
        self._count = workers
        self._keep_open = keep_open
        self._workers: dict[Connection, _Worker] = {}
        self._holders: dict[int, Connection] = {}  # of encoded runs, by first sample

    def __enter__(self) -> Self:
        # Other threads of Python might hold a lock that the child then waits for; numpy's and Arrow's own threads are
        # forked safely (both register handlers), and a worker uses neither BLAS nor, for tar, Arrow.
        fork = threading.active_count() == 1
        try:
            for _ in range(self._count):
                self._fork() if fork else self._spawn()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection, worker in self._workers.items():
            connection.close()
            if worker.tasks:
                worker.kill()
        for worker in self._workers.values():
            worker.join()
        self._workers.clear()

    def run(self, tasks: Iterator[Task], done: Done, tell: Tell) -> None:
        """See `Pool.run`."""
        urgent: deque[Task] = deque()
        self._feed(tasks, urgent)
        while busy := [connection for connection, worker in self._workers.items() if worker.tasks]:
            for connection in wait(busy):
                assert isinstance(connection, Connection)
                what, value = self._receive(connection)
                if what == "tell":
                    tell(*value)
                elif what == "error":
                    self._workers[connection].tasks.popleft()
                    raise value
                else:
                    task = self._workers[connection].tasks.popleft()
                    self._note(task, connection)
                    for more in done(task, value):
                        if isinstance(more, PlaceRun):
                            self._send(self._holders.pop(more.start), more)
                        else:
                            urgent.append(more)
            self._feed(tasks, urgent)

    def _note(self, task: Task, connection: Connection) -> None:
        """Keep count of the runs that a worker holds."""
        if isinstance(task, EncodeRun):
            self._holders[task.start] = connection
            self._workers[connection].held += 1
        elif isinstance(task, PlaceRun):
            self._workers[connection].held -= 1

    def _feed(self, tasks: Iterator[Task], urgent: deque[Task]) -> None:
        for depth in range(QUEUED_PER_WORKER):
            for connection, worker in self._workers.items():
                if len(worker.tasks) > depth:
                    continue
                if urgent:
                    self._send(connection, urgent.popleft())
                elif worker.held + len(worker.tasks) < RUNS_PER_WORKER and (task := next(tasks, None)) is not None:
                    self._send(connection, task)

    def _send(self, connection: Connection, task: Task) -> None:
        self._workers[connection].tasks.append(task)
        try:
            connection.send(task)
        except OSError:
            raise self._death(connection) from None

    def _receive(self, connection: Connection) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = connection.recv()
        except (EOFError, OSError):
            raise self._death(connection) from None
        return message

    def _death(self, connection: Connection) -> PackError:
        status = self._workers[connection].join()
        how = f"was killed by signal {-status} (out of memory?)" if status < 0 else f"ended with status {status}"
        return PackError(f"a packing process {how}; run the same command again, and it goes on")

    def _fork(self) -> None:
        ours, theirs = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 counts threads that are safe, see above
            process = os.fork()
        if process == 0:
            status = 1
            try:
                ours.close()
                for connection in self._workers:
                    connection.close()  # else these pipes would stay open when the parent is killed
                serve(theirs, self._encoder)
                status = 0
            finally:
                os._exit(status)  # nothing of the parent's (exit handlers, buffers) may run twice
        theirs.close()
        self._workers[ours] = _Worker(process, None)

    def _spawn(self) -> None:
        ours, theirs = Pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno())],
            pass_fds=(theirs.fileno(), *self._keep_open),
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._workers[ours] = _Worker(process.pid, process)
        try:
            ours.send(self._encoder)
        except OSError:
            raise self._death(ours) from None


class _Worker:
    """One process, the tasks that it has not answered yet, oldest first, and how many encoded runs it holds."""

    def __init__(self, process_id: int, popen: subprocess.Popen[bytes] | None) -> None:
        self.tasks: deque[Task] = deque()
        self.held = 0
        self._process_id = process_id
        self._popen = popen
        self._status: int | None = None

    def kill(self) -> None:
        if self._status is None:
            with suppress(ProcessLookupError):  # the system has seen to its end, see `join`
                os.kill(self._process_id, signal.SIGKILL)

    def join(self) -> int:
        """Wait for the end; the exit status, negative for a signal."""
        if self._status is None:
            if self._popen is not None:
                self._status = self._popen.wait()
            else:
                try:
                    self._status = os.waitstatus_to_exitcode(os.waitpid(self._process_id, 0)[1])
                except ChildProcessError:  # where SIGCHLD is ignored, the system keeps no status
                    self._status = 0
        return self._status


def serve(connection: Connection, encoder: Carrier) -> None:
    """A worker's life: tasks in, results out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides

    def tell(samples: int, written: int) -> None:
        connection.send(("tell", (samples, written)))

    try:
        while True:
            task: Task = connection.recv()
            try:
                answer = ("result", encoder.carry_out(task, tell))
            except Exception as error:
                answer = ("error", portable(error))
            connection.send(answer)
    except (EOFError, ConnectionError):
        return


def serve_descriptor(descriptor: int) -> None:
    """`serve` in a fresh interpreter: the pipe is this descriptor, and the encoder comes first."""
    connection = Connection(descriptor)
    serve(connection, connection.recv())


def portable(error: Exception) -> Exception:
    """The error, or one that says the same and survives the way to the parent."""
    if isinstance(error, FastloadError | OSError):
        try:
            pickle.loads(pickle.dumps(error))
            return error
        except Exception:
            return PackError(str(error))
    return PackError("a packing process failed:\n" + "".join(traceback.format_exception(error)))
