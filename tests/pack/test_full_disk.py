"""A disk that fills up at any byte: the error says so and what is kept, and with room the next run ends with the same.

Where a file system can be mounted without touching the machine's own, it is a real one that is full.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMESPACES = (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount"))


def own_mounts() -> tuple[str, ...] | None:
    """The command that runs another with mounts of its own; None where that is not allowed."""
    for command in NAMESPACES:
        try:
            tried = subprocess.run([*command, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
        except FileNotFoundError:
            return None
        if tried.returncode == 0:
            return command
    return None


ALONE = own_mounts()
WAYS = ("limit", "tmpfs") if ALONE else ("limit",)


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_is_full_at_any_size(images: Path, tmp_path: Path, way: str, shard_format: str) -> None:
    for number, path in enumerate(sorted(images.rglob("*.jpg"))):
        if number % 3:  # those that are left fill some shards
            path.unlink()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = [sys.executable, str(HERE / "full_disk_program.py"), way, str(images), str(scratch), shard_format]
    paths = os.pathsep.join((str(HERE), *filter(None, sys.path)))
    command = [*ALONE, *program] if ALONE and way == "tmpfs" else program
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    messages = json.loads(done.stdout)
    assert len(messages) > 2
    for message in messages:
        assert message.startswith(f"no space in {scratch / 'out'} (")
        assert message.endswith("make space and run the same command again, and it goes on")
    if way == "tmpfs":
        assert any("shards are finished and kept" in message for message in messages)
    assert not list(scratch.iterdir()) or way == "limit"
