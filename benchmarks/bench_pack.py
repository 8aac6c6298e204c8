"""Packing, checksums and fsync on, against MosaicML Streaming's MDSWriter reading the same files.

pytest benchmarks/bench_pack.py --peers PYTHON     PYTHON: an interpreter whose environment has mosaicml-streaming
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import image_folder, record_folder

MDS = """
import json, os, sys, time
from streaming import MDSWriter
root, out = sys.argv[1:]
start = time.perf_counter()
labels = {name: i for i, name in enumerate(sorted(os.listdir(root)))}
with MDSWriter(out=out, columns={"image": "bytes", "label": "int"}, hashes=["xxh3_64"], size_limit=256 << 20) as writer:
    for name, label in labels.items():
        for entry in sorted(os.scandir(os.path.join(root, name)), key=lambda e: e.name):
            with open(entry.path, "rb") as file:
                writer.write({"image": file.read(), "label": label})
print(time.perf_counter() - start)
"""

FASTLOAD = """
import sys, time
import fastload.pack
start = time.perf_counter()
fastload.pack.pack(sys.argv[1], sys.argv[2], jpeg=sys.argv[3])
print(time.perf_counter() - start)
"""


@pytest.mark.parametrize(("name", "count"), [("110 kB", 4_000), ("900 bytes", 50_000)])
def test_pack(
    name: str, count: int, tmp_path: Path, paired: Callable[..., float], request: pytest.FixtureRequest
) -> None:
    peers = request.config.getoption("--peers")
    if peers is None:
        pytest.fail("pass --peers PYTHON, an interpreter whose environment has mosaicml-streaming")
    if count == 50_000:
        folder = record_folder(tmp_path / "raw", count)
    else:
        folder = image_folder(tmp_path / "raw", request.config.getoption("--images"), count)

    def once(program: str, out: Path, *options: str) -> float:
        shutil.rmtree(out, ignore_errors=True)
        command = [str(peers), "-c", program, str(folder), str(out), *options]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    paired(
        lambda: once(FASTLOAD, tmp_path / "ours", "keep"),  # copying, as MDSWriter does
        lambda: once(MDS, tmp_path / "mds"),
        items=count,
        unit="files",
        rounds=5,
        reference_name="MosaicML MDSWriter",
    )
