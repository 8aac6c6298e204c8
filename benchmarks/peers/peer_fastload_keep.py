"""fastload on JPEGs as they are: what packing costs without making them crop-seekable, and what reading then gives."""

from __future__ import annotations

from pathlib import Path

import peer_fastload
from peer_fastload import epochs, resume

import fastload


def prepare(workload: str, raw: Path, out: Path) -> None:
    if workload == "tokens":
        peer_fastload.prepare(workload, raw, out)
    else:
        fastload.pack(raw, out, shard_size="64MiB", jpeg="keep")


__all__ = ["epochs", "prepare", "resume"]
