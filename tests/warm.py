"""Programs as processes of their own, forked from one that has imported torch: it takes 10 ms, where to import torch
takes seconds of a processor. They begin as a program does, with arguments, an environment, a main module and an
interpreter of their own, and end as one does: at the interpreter's end, by an error or by a signal.

Who tests what comes with importing, or measures memory, which these share, starts an interpreter.

As a program (`python warm.py SOCKET`) this is the one that they are forked from.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
_servers: dict[tuple[int, tuple[str, ...]], tuple[socket.socket, subprocess.Popen[bytes] | None]] = {}  # by who uses it


class Program:
    """`python -c CODE ARGUMENTS...`, or `python FILE ARGUMENTS...`, as subprocess.Popen would start it.

    Args:
        code: what it runs, or the Path of a file.
        env: the whole environment; None for that of this process.
        output: where it writes to, errors too; without it `stdout` is a pipe.
        imports: modules that it finds imported, besides torch and fastload.
    """

    def __init__(
        self,
        code: str | Path,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        output: IO[str] | None = None,
        imports: tuple[str, ...] = (),
    ) -> None:
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self._errors = tempfile.TemporaryFile("w+") if output is None else None  # noqa: SIM115 - read after its end
        out = output.fileno() if output is not None else self._pipe()
        status, theirs = os.pipe()
        request = {"code": str(code), "file": isinstance(code, Path), "arguments": list(map(str, arguments))}
        request |= {"env": dict(os.environ if env is None else env), "folder": os.getcwd()}
        errors = out if self._errors is None else self._errors.fileno()
        _send(_server(imports), request, [out, errors, theirs])
        os.close(theirs)
        if output is None:
            os.close(out)
        self._status = status
        self.pid = int(os.read(status, 8))

    def _pipe(self) -> int:
        ours, theirs = os.pipe()
        self.stdout = os.fdopen(ours)
        return theirs

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(int(os.read(self._status, 8)))
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout, which has to fit into a pipe, and to stderr, once it has ended."""
        assert self.stdout is not None
        assert self._errors is not None
        self.wait(timeout)
        with self.stdout, self._errors:
            self._errors.seek(0)
            return self.stdout.read(), self._errors.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(code: str | Path, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """A program from its beginning to its end, as subprocess.run(capture_output=True)."""
    program = Program(code, *arguments)
    try:
        out, errors = program.communicate(timeout)
    except subprocess.TimeoutExpired:
        program.kill()
        raise AssertionError(f"a hang: {program.communicate()}") from None
    return subprocess.CompletedProcess([str(code), *map(str, arguments)], program.wait(), out, errors)


def end() -> None:
    """Let the processes end that programs are forked from."""
    for connection, process in _servers.values():
        connection.close()
        if process is not None:
            process.wait()
    _servers.clear()


def _server(imports: tuple[str, ...]) -> socket.socket:
    """The connection to the process that has imported these; it ends with this one. Those with imports of their own are
    forked from the one without."""
    if (os.getpid(), imports) not in _servers:
        ours, theirs = socket.socketpair()
        if imports:
            process = None
            _send(_server(()), {"imports": imports}, [theirs.fileno()])
        else:
            process = _first_server(theirs)
        theirs.close()
        _servers[os.getpid(), imports] = ours, process
    return _servers[os.getpid(), imports][0]


def _first_server(connection: socket.socket) -> subprocess.Popen[bytes]:
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, __file__, str(connection.fileno())], pass_fds=[connection.fileno()],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **quiet, "PYTHONPATH": path},
    )  # fmt: skip


def _send(to: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
    content = json.dumps(request).encode()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    to.sendmsg([len(content).to_bytes(8, "big")], [rights])
    to.sendall(content)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    size, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    if not size:
        return None
    return json.loads(connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)), list(descriptors)


def _serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Import, and fork for each program a process that waits for it, which forks the program: returns in that."""
    prctl = ctypes.CDLL(None).prctl
    end_with_parent = partial(prctl, 1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no program outlives the tests
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who waits for a program needs no one to wait for it
    _import("fastload.loader", "fastload.mixture", "torch.utils.data", "torch.distributed")
    while (received := _receive(connection)) is not None:
        request, descriptors = received
        if "imports" in request:
            if os.fork() == 0:  # another one, which goes on from here
                end_with_parent()
                connection.close()
                connection = socket.socket(fileno=descriptors[0])
                _import(*request["imports"])
            else:
                os.close(descriptors[0])
            continue
        if os.fork() == 0:
            end_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.close()
            program = os.fork()
            if program == 0:
                end_with_parent()
                return request, descriptors
            *others, status = descriptors
            for descriptor in others:
                os.close(descriptor)
            os.write(status, b"%8d" % program)
            os.write(status, b"%8d" % os.waitpid(program, 0)[1])
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
    os._exit(0)


def _import(*names: str) -> None:
    for name in names:
        importlib.import_module(name)
    gc.freeze()


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """This process is that program from here on."""
    out, errors, status = descriptors
    os.setsid()
    os.dup2(out, 1)
    os.dup2(errors, 2)
    for descriptor in (out, errors, status):
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None
    if "OMP_NUM_THREADS" in os.environ:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if "PYTHONFAULTHANDLER" in os.environ:
        faulthandler.enable()
    path, is_file = request["code"], request["file"]
    sys.argv = [path if is_file else "-c", *request["arguments"]]
    sys.path[:1] = [str(Path(path).parent) if is_file else "", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    code = compile(Path(path).read_text() if is_file else path, path if is_file else "<string>", "exec")
    main = sys.modules["__main__"].__dict__
    for name in [name for name in main if not name.startswith("__")]:
        del main[name]
    del main["__file__"]
    if is_file:
        main["__file__"] = path
    exec(code, main)


if __name__ == "__main__":
    _become(*_serve(socket.socket(fileno=int(sys.argv[1]))))
