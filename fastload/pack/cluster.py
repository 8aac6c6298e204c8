"""Packing on several machines: whole shards as Ray tasks, over a folder that all machines share.

    parent: plan --one shard of it--> Ray task: read, check, hash, write a file of its own --its name--> parent: publish

A task carries all that it needs, is done by any machine, and leaves nothing behind that another attempt would need: Ray
hands it out again when it is lost with its machine, up to RETRIES times. Each attempt writes under a name of its own,
so one that was taken for lost and still runs disturbs nobody; only the parent gives a shard its final name, and it
removes what is left of attempts that did not end.

Against actors that encode runs and place them later, as the processes of workers.py do: those keep more processors busy
in the last shards, but runs that a lost machine held would have to be found and made again, at offsets that the rest of
the tar already follows. A data set for several machines has more shards than they have processors.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from fastload.decode import native
from fastload.errors import FastloadError, PackError, missing_extra
from fastload.pack.encode import Encoder, is_whole
from fastload.pack.locking import LOCK_NAME
from fastload.pack.prepare import Prepare
from fastload.pack.tasks import Task, Tell, Verify, WholeShard
from fastload.pack.workers import Done, portable
from fastload.shards.foreign import JOURNAL_NAME
from fastload.shards.index import ShardFile, ShardFormat

RETRIES = 3  # of a task that is lost with its process or machine: Ray's own default
TASKS_PER_PROCESSOR = 2  # handed out at a time: the next one is there when one ends
SHARED_SECONDS = 5.0  # a network file system shows a new file on other machines within its cache's time, 3 s for NFS
STOP_SECONDS = 20.0  # until all tasks have seen that the run ends; one run of samples takes a fraction of a second
CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.1
_STOPPED = b" stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentNode:
    """What a task holds its own machine against.

    Attributes:
        host: name of the machine that the parent runs on.
        versions: there, of all that the bytes depend on.
        prepare: what is done to contents on the way; knows which libraries that depends on.
        out: the output folder.
        owner: what its lock says.
    """

    host: str
    versions: Mapping[str, str]
    prepare: Prepare
    out: Path
    owner: bytes

    @classmethod
    def here(cls, out: Path, owner: bytes, prepare: Prepare, shard_format: ShardFormat) -> Self:
        versions = _versions(prepare, parquet=shard_format == "parquet")
        return cls(host=socket.gethostname(), versions=versions, prepare=prepare, out=out, owner=owner)

    def check(self) -> None:
        """Raise PackError unless this machine writes the same bytes, into the same folder."""
        for name, here in _versions(self.prepare, parquet="pyarrow" in self.versions).items():
            if here != self.versions[name]:
                raise PackError(
                    f"{name} is {here}, and {self.versions[name]} on {self.host}, so that shards could differ;"
                    " install the same on all machines"
                )
        deadline = time.monotonic() + SHARED_SECONDS
        while (seen := self._seen_owner()) != self.owner:
            self._refuse_stopped(seen)
            if time.monotonic() > deadline:
                raise PackError(
                    f"{self.out} is not the folder that {self.host} packs into; with engine='ray', source and output"
                    " must be in a folder that all machines share, such as a network file system"
                )
            time.sleep(_POLL_SECONDS)

    def tell(self, samples: int, written: int) -> None:
        """Called by a task with each run of samples: raise PackError once the run is to end."""
        self._refuse_stopped(self._seen_owner())

    def stop(self) -> None:
        """Let all tasks end soon, wherever they are.

        Through the folder: `ray.cancel` aborts the whole process where a task completes at that moment (Ray 2.60).
        """
        (self.out / JOURNAL_NAME / LOCK_NAME).write_bytes(self.owner + _STOPPED)

    def _refuse_stopped(self, seen: bytes | None) -> None:
        if seen == self.owner + _STOPPED:
            raise PackError("the run was stopped")

    def _seen_owner(self) -> bytes | None:
        try:
            return (self.out / JOURNAL_NAME / LOCK_NAME).read_bytes()
        except OSError:
            return None


class RayPool:
    """The processors of a Ray cluster, from entering to leaving the context.

    Connects where this process is not connected yet, and then disconnects on leaving; a cluster that it had to start
    ends with it.

    Args:
        encoder: of the whole plan.
        prepare: what its recipes were made from.
        owner: what the lock of the output folder says.
        workers: most tasks at a time; None: TASKS_PER_PROCESSOR for each processor of the cluster.
        address: of the cluster, as for `ray.init`.

    Raises:
        MissingExtraError: Ray is not installed.
        PackError: there is no cluster at the address.
    """

    whole_shards = True

    def __init__(
        self, encoder: Encoder, prepare: Prepare, *, owner: bytes, workers: int | None, address: str | None
    ) -> None:
        self._encoder = encoder
        self._parent = ParentNode.here(Path(os.path.abspath(encoder.out)), owner, prepare, encoder.plan.shard_format)
        self._workers = workers
        self._address = address
        self._ray = _import_ray()
        self._connected = False
        self._tasks: dict[Any, Task] = {}  # by the reference to what will come back

    def __enter__(self) -> Self:
        ray = self._ray
        if not ray.is_initialized():
            where = self._address or os.environ.get("RAY_ADDRESS") or "on this machine"
            _knock(where)
            with _nothing_changed():
                try:
                    ray.init(address=self._address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
                except (OSError, RuntimeError, ValueError) as error:
                    raise PackError(f"the Ray cluster {where} cannot be joined: {error}") from error
            self._connected = True
        self._carry_out = ray.remote(num_cpus=1, max_retries=RETRIES)(carry_out)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._tasks:
                with suppress(OSError):  # a full disk: they then end when their shards do
                    self._parent.stop()
                self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=STOP_SECONDS)
            self._tasks.clear()
        finally:
            if self._connected:
                self._ray.shutdown()

    def run(self, tasks: Iterator[Task], done: Done, tell: Tell) -> None:
        """See `Pool.run`; `tell` hears of a shard when it is whole."""
        urgent: deque[Task] = deque()
        while True:
            self._feed(tasks, urgent)
            if not self._tasks:
                return
            for reference in self._ray.wait(list(self._tasks), num_returns=1)[0]:
                result = self._result(reference)
                task = self._tasks.pop(reference)
                urgent.extend(done(task, result))
                if isinstance(result, WholeShard):
                    tell(result.file.samples, result.file.bytes)

    def _feed(self, tasks: Iterator[Task], urgent: deque[Task]) -> None:
        most = self._workers or TASKS_PER_PROCESSOR * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        while len(self._tasks) < most:
            task = urgent.popleft() if urgent else next(tasks, None)
            if task is None:
                return
            self._tasks[self._carry_out.remote(self._parent, work_of(self._encoder, task))] = task

    def _result(self, reference: Any) -> Any:
        try:
            what, value = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # before the task began: `carry_out` raises nothing
            raise PackError(
                f"a Ray task failed; is fastload installed on every machine of the cluster?\n{error}"
            ) from None
        except self._ray.exceptions.RayError as error:
            why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise PackError(
                f"a Ray task was lost {RETRIES + 1} times ({why}); run the same command again, and it goes on"
            ) from None
        if what == "error":
            raise value
        return value


def work_of(encoder: Encoder, task: Task) -> Callable[[Tell], Any]:
    """A task with all that it needs, wherever the same files are: of the plan its own shard alone."""
    out = Path(os.path.abspath(encoder.out))
    if isinstance(task, Verify):
        return partial(_verify, out / task.file.name, task.file)
    alone = Encoder(encoder.plan.alone(task.shard), out, encoder.recipes)
    return partial(alone.carry_out, replace(task, shard=0))


def carry_out(parent: ParentNode, work: Callable[[Tell], Any]) -> tuple[str, Any]:
    """What a Ray task does: ("result", what `work` gave) or ("error", what it raised, with the machine's name)."""
    try:
        parent.check()
        return "result", work(parent.tell)
    except Exception as error:
        error = portable(error)
        if isinstance(error, FastloadError) and socket.gethostname() != parent.host:
            error.message += f" (on {socket.gethostname()})"
        return "error", error


def _versions(prepare: Prepare, *, parquet: bool) -> dict[str, str]:
    """What the bytes of shards depend on, as it is on this machine."""
    kernel = {"fastload": own_version(), "the native JPEG kernel": "built" if native.available() else "not built"}
    return kernel | prepare.libraries() | ({"pyarrow": pa.__version__} if parquet else {})


def own_version() -> str:
    """The version of fastload, from the package above, which this layer does not import."""
    version: str = sys.modules[__name__.partition(".")[0]].__version__
    return version


def _verify(path: Path, file: ShardFile, tell: Tell) -> bool:
    return is_whole(path, file)


def _knock(address: str) -> None:
    """Raise PackError if nobody listens at a "host:port", which Ray itself finds out in minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise PackError(
            f"no Ray cluster answers at {address} ({error.strerror or error}); start one (`ray start --head`), or pass"
            " another address"
        ) from error


def _import_ray() -> Any:
    try:
        with _nothing_changed():
            import ray
            import ray.exceptions
    except ImportError as error:
        raise missing_extra("ray", "ray", "engine='ray'") from error
    return ray


@contextmanager
def _nothing_changed() -> Iterator[None]:
    """Undo what Ray's import and its connecting change in this process: environment, exception hook, SIGTERM's handler.

    A cluster that is started here sends no usage statistics.
    """
    handled = threading.current_thread() is threading.main_thread()
    before, hook, handler = dict(os.environ), sys.excepthook, signal.getsignal(signal.SIGTERM)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        yield
    finally:
        if handled and handler is not None:
            signal.signal(signal.SIGTERM, handler)
        sys.excepthook = hook
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
