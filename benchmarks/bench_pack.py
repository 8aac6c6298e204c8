"""Packing, checksums and fsync on, against other packers of the same files, and against reading and appending them.

pytest benchmarks/bench_pack.py --peers=PYTHON     an interpreter that has mosaicml-streaming, webdataset and litdata
pytest benchmarks/bench_pack.py -k floor           no peers needed
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import image_folder, record_folder

FILES = """
import os, sys, time
root, out = sys.argv[1:3]
def files():
    for label, name in enumerate(sorted(os.listdir(root))):
        for entry in sorted(os.scandir(os.path.join(root, name)), key=lambda e: e.name):
            yield entry.path, label
"""

MDS = """
from streaming import MDSWriter
start = time.perf_counter()
with MDSWriter(out=out, columns={"image": "bytes", "label": "int"}, hashes=["xxh3_64"], size_limit=256 << 20) as writer:
    for path, label in files():
        with open(path, "rb") as file:
            writer.write({"image": file.read(), "label": label})
print(time.perf_counter() - start)
"""

WEBDATASET = """
import webdataset
os.makedirs(out)
start = time.perf_counter()
with webdataset.ShardWriter(os.path.join(out, "%06d.tar"), maxsize=256 << 20, maxcount=10**9, verbose=0) as writer:
    for number, (path, label) in enumerate(files()):
        with open(path, "rb") as file:
            writer.write({"__key__": f"{number:09d}", "jpg": file.read(), "cls": label})
print(time.perf_counter() - start)
"""

LITDATA = """
import contextlib, litdata
def sample(item):
    with open(item[0], "rb") as file:
        return {"image": file.read(), "label": item[1]}
if __name__ == "__main__":
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        options = {"chunk_bytes": "256MB", "num_workers": os.cpu_count(), "verbose": False}
        litdata.optimize(fn=sample, inputs=list(files()), output_dir=out, **options)
    print(time.perf_counter() - start)
"""

FLOOR = """
start = time.perf_counter()
with open(out, "wb", buffering=0) as whole:
    for path, _ in files():
        with open(path, "rb", buffering=0) as file:
            whole.write(file.read())
    if sys.argv[3:] == ["fsync"]:
        os.fsync(whole.fileno())
print(time.perf_counter() - start)
"""

FASTLOAD = """
import sys, time
import fastload.pack
start = time.perf_counter()
fastload.pack.pack(sys.argv[1], sys.argv[2], jpeg="keep")  # copying, as the others do
print(time.perf_counter() - start)
"""

PEERS = {"MosaicML MDSWriter": MDS, "webdataset ShardWriter": WEBDATASET, "LitData optimize": LITDATA}
SIZES = {"110 kB": 4_000, "900 bytes": 50_000}


def seconds(python: str | Path, program: str, folder: Path, out: Path, *options: str) -> float:
    """What a program measured of itself, packing `folder` into `out`; a file, so that its functions can be sent."""
    shutil.rmtree(out, ignore_errors=True)
    out.unlink(missing_ok=True)
    script = out.with_name(f"{out.name}.py")
    script.write_text(program)
    command = [str(python), str(script), str(folder), str(out), *options]
    os.sync()  # what the one before left unwritten is not this one's to wait for
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The files of one of SIZES, made once."""
    made: dict[str, Path] = {}

    def get(size: str) -> Path:
        if size not in made:
            root, count = tmp_path_factory.mktemp("raw") / "files", SIZES[size]
            images = request.config.getoption("--images")
            made[size] = record_folder(root, count) if size == "900 bytes" else image_folder(root, images, count)
        return made[size]

    return get


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("peer", PEERS)
def test_pack(
    peer: str,
    size: str,
    raw: Callable[[str], Path],
    tmp_path: Path,
    paired: Callable[..., float],
    request: pytest.FixtureRequest,
) -> None:
    peers = request.config.getoption("--peers")
    if peers is None:
        pytest.fail("pass --peers=PYTHON, an interpreter that has mosaicml-streaming, webdataset and litdata")
    folder = raw(size)
    paired(
        lambda: seconds(sys.executable, FASTLOAD, folder, tmp_path / "ours"),
        lambda: seconds(peers, FILES + PEERS[peer], folder, tmp_path / "theirs"),
        items=SIZES[size],
        unit="files",
        rounds=5 if peer == "MosaicML MDSWriter" else 4,  # the others' ratios are large
        reference_name=peer,
    )


@pytest.mark.parametrize("durable", [True, False], ids=["fsync", "no fsync"])
@pytest.mark.parametrize("size", SIZES)
def test_floor(
    size: str, durable: bool, raw: Callable[[str], Path], tmp_path: Path, paired: Callable[..., float]
) -> None:
    """One thread that reads the files and appends them to one, without checksums and index; the goal is 0.6. Without
    fsync it need not wait for the disk, which fastload does."""
    folder, options = raw(size), ["fsync"] if durable else []
    paired(
        lambda: seconds(sys.executable, FASTLOAD, folder, tmp_path / "ours"),
        lambda: seconds(sys.executable, FILES + FLOOR, folder, tmp_path / "theirs", *options),
        items=SIZES[size],
        unit="files",
        rounds=5,
        reference_name="read and append, one thread" + (", and fsync" if durable else ""),
    )
