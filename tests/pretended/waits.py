"""Where CUDA makes the host wait for the GPU, which it can be told to refuse."""

from __future__ import annotations

from pretended import graphs
from pretended.streams import current_stream

_refused = False


def host_waits(why: object) -> None:
    """The host waits for the current stream, unless it must not."""
    if graphs.captured is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({why})")
    if _refused:
        raise RuntimeError(f"called a synchronizing CUDA operation ({why})")
    current_stream().synchronize()


def set_sync_debug_mode(debug_mode: str) -> None:
    global _refused
    _refused = {"default": False, "error": True}[debug_mode]
