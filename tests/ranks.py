"""Runs a program on several ranks, as real processes on this machine; each leaves what it found as JSON.

A program is called as `python program OUT ARGS...`; it calls `leave(OUT, value)` when it is through, and `end()` as its
last step if it has a process group.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import psutil
import warm

TESTS = Path(__file__).parent
TORCHRUN = "from torch.distributed.run import main; main()"  # what the program of that name does
PATIENCE_SECONDS = 120  # a run that takes longer hangs
GROUP_SECONDS = 3  # the timeout of a process group in which a rank dies
STACKS_SECONDS = 5  # to print its stacks, one that hangs has so long


def leave(out: str, value: Any) -> None:
    """What this rank has to say."""
    Path(out, f"rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(value))


def end() -> NoReturn:
    """End this process without taking its process groups apart: ProcessGroupGloo's destructor holds the GIL while it
    joins a thread that may be waiting for the GIL, to let go of the tensors of the last collective (torch 2.11). On a
    busy machine one run of DDP in four hung there."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()  # the first rank holds the store that the others still ask
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def torchrun(program: str, world_size: int, out: Path, *args: object) -> list[Any]:
    """Run under torchrun; gives what each rank left."""
    out.mkdir()
    arguments = ["--standalone", "--nproc-per-node", world_size, TESTS / program, out, *args]
    with (out / "torchrun.txt").open("w") as file:
        started = warm.Program(TORCHRUN, *arguments, env=_environment(), output=file)
    launcher = Process(started, out / "torchrun.txt")
    said = finish(launcher)
    assert launcher.returncode == 0, said
    return _left(out, world_size)


def start(
    program: str, world_size: int, out: Path, *args: object, imports: tuple[str, ...] = (), plain: bool = True
) -> list[Process]:
    """Start the ranks without torchrun, which would end all when one ends, with the environment that it gives them;
    one rank is a plain program, or `plain` is false."""
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world_size):
        place: dict[str, object] = {}
        if world_size > 1 or not plain:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        output = out / f"rank{rank}.txt"
        env = _environment() | {name: str(place[name]) for name in place}
        with output.open("w") as file:
            started = warm.Program(TESTS / program, out, *args, env=env, output=file, imports=imports)
        processes.append(Process(started, output))
    return processes


def run(program: str, world_size: int, out: Path, *args: object, **options: Any) -> list[Any]:
    """`start`, and wait for the end; gives what each rank left."""
    processes = start(program, world_size, out, *args, **options)
    try:
        said = [finish(process) for process in processes]
    finally:  # of one that hangs, the others do too
        for process in processes:
            abort(process)
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(said)
    return _left(out, world_size)


class Process:
    """A process whose output goes to a file: one that nobody reads yet would fill a pipe, and wait."""

    def __init__(self, started: warm.Program, output: Path) -> None:
        self.output, self.pid = output, started.pid
        self.wait, self.poll, self.kill = started.wait, started.poll, started.kill

    @property
    def returncode(self) -> int | None:
        return self.poll()


def finish(process: Process, patience_seconds: float = PATIENCE_SECONDS) -> str:
    """Wait for the end of a process; what it printed. One that hangs is ended, and all that it started."""
    try:
        process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        abort(process)
        raise AssertionError(f"a hang: {process.output.read_text(errors='replace')}") from None
    return process.output.read_text(errors="replace")


def abort(process: Process) -> None:
    """End a process that still runs and all that it started, with their stacks in its output; torchrun puts each rank
    in a session of its own, so that its process group is not all."""
    if process.poll() is not None:
        return
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for end, seconds in ((signal.SIGABRT, STACKS_SECONDS), (signal.SIGKILL, None)):
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(end)
        _, family = psutil.wait_procs(family, seconds)
    process.wait()


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    stacks = {"PYTHONFAULTHANDLER": "1"}
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **quiet, **stacks}


def _left(out: Path, world_size: int) -> list[Any]:
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(world_size)]
