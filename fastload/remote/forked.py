"""Requests for a process that was forked from one that had sent some: made by a new Python, and handed over by a pipe.

obstore's threads (and fsspec's) do not survive a fork, and what waits for them would hang: workers of a stock
DataLoader are such processes. A new Python costs 0.1 s for each shard.

stdin   a pickle, for options may be objects: url, offset, settings
stdout  a line of JSON, the head; then the bytes
stderr  where it failed, a line of JSON: the kind of error and what it says
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from fastload.errors import ConfigError, FastloadError, MissingExtraError
from fastload.remote import transfer
from fastload.remote.answers import Head, Missing, NoRange, Opened, Refused, Transient
from fastload.remote.settings import Remote

_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        Transient, Missing, Refused, NoRange, ConfigError, MissingExtraError
    )
}  # fmt: skip


def request(url: str, offset: int | None, remote: Remote) -> Opened:
    """As `transfer.request`."""
    stream = _read(url, offset, remote)
    return next(stream), stream


def _read(url: str, offset: int | None, remote: Remote) -> Iterator[Any]:
    asked = _pickled(url, offset, remote)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-m", __name__]
    try:
        started = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError as error:  # no process, memory or descriptor left at the moment
        raise Transient(f"no process can be started to fetch it: {error.strerror or error}") from error
    with started as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended; why, it says below
                process.stdin.write(asked)
            process.stdin.close()
            first = process.stdout.readline()
            if first.endswith(b"\n"):
                yield Head(**json.loads(first))
                while chunk := os.read(process.stdout.fileno(), transfer.CHUNK):
                    yield chunk
            said = process.stderr.read()
            if process.wait() != 0:
                raise _error(said)
        finally:
            process.kill()


def _pickled(url: str, offset: int | None, remote: Remote) -> bytes:
    for name, value in remote.options.items():
        try:
            pickle.dumps(value)
        except Exception as error:  # whatever an object makes of it
            raise ConfigError(
                f"the option {name!r}, a {type(value).__name__}, cannot be handed to the process that fetches for "
                f"forked workers ({error}); pass what can be pickled"
            ) from error
    settings = Remote(stall_seconds=remote.stall_seconds, options=dict(remote.options))
    return pickle.dumps((url, offset, settings))


def _error(said: bytes) -> Exception:
    lines = said.decode(errors="replace").strip().splitlines()
    try:
        about = json.loads(lines[-1])
        return _KINDS[about["kind"]](about["text"])
    except (IndexError, ValueError, KeyError, TypeError):
        return Transient(f"the process that fetches ended early ({lines[-1] if lines else 'killed'})")


def _asked() -> tuple[str, int | None, Remote]:
    try:
        asked: tuple[str, int | None, Remote] = pickle.load(sys.stdin.buffer)
    except Exception as error:  # of a class that only the program's main module has
        raise ConfigError(
            f"options= of remote= cannot be had in the process that fetches for forked workers ({error}); define their "
            "classes in a module that can be imported"
        ) from error
    return asked


def main() -> None:
    """Answer one request."""
    try:
        head, chunks = transfer.request(*_asked())
        out = sys.stdout.buffer
        out.write(json.dumps({"size": head.size, "version": head.version}).encode() + b"\n")
        for chunk in chunks:
            out.write(chunk)
            out.flush()
    except tuple(_KINDS.values()) as error:
        text = error.message if isinstance(error, FastloadError) else str(error)
        sys.stderr.write(json.dumps({"kind": type(error).__name__, "text": text}) + "\n")
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
