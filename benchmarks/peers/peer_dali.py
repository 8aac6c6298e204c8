"""NVIDIA DALI on the CPU: fused decoding of random crops, and its own iterator of torch tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy
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
    loader = DALIClassificationIterator(
        [_pipeline(str(out / "raw"))], reader_name="files", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
    )
    while True:
        yield (len(batch["label"]) for (batch,) in loader)
