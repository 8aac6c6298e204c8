"""Pack into a place that is too small, for every size from nothing to enough; then with room, and compare.

    python full_disk_program.py tmpfs|limit SOURCE SCRATCH FORMAT

tmpfs   SCRATCH is a file system of its own, made larger page by page (in a mount namespace that ends with this program)
limit   no file may be larger than so many bytes (RLIMIT_FSIZE)

Prints, as JSON, how many sizes were too small and which messages came.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from pack_sources import tree

from fastload.errors import PackError
from fastload.pack import pack
from fastload.shards.index import ShardFormat

PAGE = 4096
STEPS = {"tmpfs": PAGE, "limit": PAGE // 2}
OPTIONS = {"shard_size": 12_000, "workers": 1}


def bound(way: str, scratch: Path, size: int | None) -> None:
    """Leave `size` bytes of room; None: plenty."""
    if way == "tmpfs":
        subprocess.run(["mount", "-o", f"remount,size={size or 64 << 20}", str(scratch)], check=True)
    else:
        limit = resource.RLIM_INFINITY if size is None else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def main(way: str, source: Path, scratch: Path, shard_format: ShardFormat) -> None:
    if way == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={PAGE}", "none", str(scratch)], check=True)
    bound(way, scratch, None)
    out = scratch / "out"
    pack(source, out, format=shard_format, **OPTIONS)  # type: ignore[arg-type]
    clean = tree(out)
    shutil.rmtree(out)
    messages = []
    for size in range(PAGE, 100 * PAGE, STEPS[way]):
        bound(way, scratch, size)
        try:
            pack(source, out, format=shard_format, **OPTIONS)  # type: ignore[arg-type]
            break
        except PackError as error:
            messages.append(str(error))
        assert not (out / "index.json").exists()
        assert not list(out.rglob("*.partial"))
        bound(way, scratch, None)
        kept = {path: path.stat().st_ino for path in out.rglob("*") if path.suffix in (".tar", ".parquet")}
        pack(source, out, format=shard_format, **OPTIONS)  # type: ignore[arg-type]
        assert {path: path.stat().st_ino for path in kept} == kept
        assert tree(out) == clean
        shutil.rmtree(out)
    bound(way, scratch, None)
    assert tree(out) == clean
    print(json.dumps(messages))


main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])  # type: ignore[arg-type]
