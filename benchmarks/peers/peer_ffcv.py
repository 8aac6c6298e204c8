"""FFCV: a .beton file of its own copies of the images, encoded again at its default quality of 90."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv.fields import BytesField, IntField, NDArrayField, RGBImageField
from ffcv.fields.decoders import BytesDecoder, IntDecoder, NDArrayDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import Convert, RandomHorizontalFlip, ToTensor
from ffcv.writer import DatasetWriter
from PIL import Image
from work import BATCH, SEED, TOKENS, WORKERS, files_of, tokens_of


class _Files:
    def __init__(self, workload: str, raw: Path) -> None:
        self.workload, self.files = workload, files_of(raw)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        path, label = self.files[i]
        content = Path(path).read_bytes()
        if self.workload == "records":
            return np.frombuffer(content, np.uint8), label
        return Image.open(io.BytesIO(content)).convert("RGB"), label


class _Rows:
    def __init__(self, raw: Path) -> None:
        self.rows = tokens_of(raw)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return np.array(self.rows[i]), 0


_FIELDS = {
    "images": lambda: RGBImageField(write_mode="jpg"),
    "records": BytesField,
    "tokens": lambda: NDArrayField(np.dtype("int32"), (TOKENS,)),
}
_PIPELINES = {
    "images": lambda: [RandomResizedCropRGBImageDecoder((224, 224)), RandomHorizontalFlip(), ToTensor()],
    "records": lambda: [BytesDecoder()],
    "tokens": lambda: [NDArrayDecoder(), ToTensor(), Convert(torch.int64)],
}


def prepare(workload: str, raw: Path, out: Path) -> None:
    if workload not in _FIELDS:
        raise SystemExit("FFCV has no decoder for this workload")
    out.mkdir(parents=True)
    source = _Rows(raw) if workload == "tokens" else _Files(workload, raw)
    fields = {"content": _FIELDS[workload](), "label": IntField()}
    DatasetWriter(str(out / "all.beton"), fields, num_workers=WORKERS).from_indexed_dataset(source)


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    loader = Loader(
        str(out / "all.beton"),
        batch_size=BATCH[workload],
        num_workers=WORKERS,
        order=OrderOption.RANDOM,
        seed=SEED,
        drop_last=False,
        os_cache=True,
        pipelines={"content": _PIPELINES[workload](), "label": [IntDecoder(), ToTensor()]},
    )
    while True:
        yield (len(labels) for _, labels in loader)
