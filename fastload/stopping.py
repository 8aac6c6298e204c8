"""Whether what a thread works for has been given up: what blocks (a download, a wait for another process) asks, and
lets go at once instead of at its own deadline."""

from __future__ import annotations

import threading

from fastload.errors import EngineError

_here = threading.local()
_NEVER = threading.Event()


def stop_here() -> threading.Event:
    """The event that this thread's work ends with; one that is never set if there is none."""
    return getattr(_here, "stop", _NEVER)


def work_until(stop: threading.Event) -> None:
    """From now on this thread works until `stop` is set."""
    _here.stop = stop


def pause(seconds: float) -> None:
    """Sleep.

    Raises:
        EngineError: the thread's work was given up, before or meanwhile.
    """
    if stop_here().wait(seconds):
        raise EngineError("what this was read for was closed; begin a new iteration")
