"""fastload on JPEGs as they are: what packing costs without making them crop-seekable, and what reading then gives."""

from __future__ import annotations

from pathlib import Path

from peer_fastload import epochs, pack, resume


def prepare(workload: str, raw: Path, out: Path) -> None:
    pack(raw, out, shard_size="64MiB", jpeg="keep")


__all__ = ["epochs", "prepare", "resume"]
