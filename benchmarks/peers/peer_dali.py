"""NVIDIA DALI on the CPU: fused decoding of random crops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nvidia.dali import fn, pipeline_def, types
from work import BATCH, SEED, WORKERS


def prepare(workload: str, raw: Path, out: Path) -> None:
    if workload != "images":
        raise SystemExit("DALI has no reader for this workload")
    out.mkdir(parents=True)
    (out / "raw").symlink_to(raw.resolve())


@pipeline_def(batch_size=BATCH["images"], num_threads=WORKERS, device_id=None, seed=SEED)
def _pipeline(root: str):  # type: ignore[no-untyped-def]
    encoded, labels = fn.readers.file(file_root=root, random_shuffle=True, name="files", initial_fill=1024)
    images = fn.decoders.image_random_crop(
        encoded, device="cpu", output_type=types.RGB, random_area=[0.08, 1.0], random_aspect_ratio=[0.75, 4 / 3]
    )
    images = fn.resize(images, size=[224, 224], interp_type=types.INTERP_LINEAR, antialias=True)
    return fn.flip(images, horizontal=fn.random.coin_flip()), labels


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    pipeline = _pipeline(str(out / "raw"))
    pipeline.build()
    count = pipeline.epoch_size("files")

    def batches() -> Iterator[int]:
        left = count
        while left > 0:
            images, _ = pipeline.run()
            images.as_tensor()
            size = min(left, BATCH["images"])
            left -= size
            yield size

    while True:
        yield batches()
