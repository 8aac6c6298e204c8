"""JPEG crops: decode, RandomResizedCrop 224, flip, batches of 256, against torch's DataLoader with torchvision; and
what of the decoding kernel's own rate the loader keeps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from samples import image_folder
from torchvision.transforms import v2

import fastload

COUNT, BATCH, WORKERS = 2048, 256, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return image_folder(tmp_path_factory.mktemp("images") / "raw", request.config.getoption("--images"), COUNT)


def torch_loader(folder: Path) -> Callable[[], None]:
    """torchvision's own recommendation: decode_image to uint8, transforms v2 on tensors, antialiased."""
    transform = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()])

    def load(path: str) -> torch.Tensor:
        return torchvision.io.decode_image(path, torchvision.io.ImageReadMode.RGB)

    dataset = torchvision.datasets.ImageFolder(folder, transform=transform, loader=load)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )

    def epoch() -> None:
        assert sum(len(labels) for _, labels in loader) == COUNT

    return epoch


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_random_crop(folder: Path, tmp_path: Path, paired: Callable[..., float], format: str) -> None:
    fastload.pack(folder, tmp_path / "packed", format=format, shard_size="32MiB")
    loader = fastload.DataLoader(
        tmp_path / "packed",
        batch_size=BATCH,
        num_workers=WORKERS,
        fields={"image": fastload.Image(224, crop="random"), "label": fastload.Scalar()},
        augment=[fastload.augment.RandomHorizontalFlip()],
    )

    def epoch() -> None:
        assert sum(len(batch["label"]) for batch in loader) == COUNT

    paired(epoch, torch_loader(folder), items=COUNT, unit="images", reference_name="torch DataLoader, torchvision")


def bare_loop(data: Path) -> Callable[[], None]:
    """Two threads that call the kernel on contents at hand, 32 rows a call, into the same two buffers: no order, no
    reading, no checksum, no batches."""
    dataset = fastload.IndexedDataset(data, fields={"image": fastload.Image(224, crop="random")})
    reader, decoder = dataset.recipe.reader, dataset.recipe.decoders["image"]
    shards = np.repeat(np.arange(len(dataset.index.sizes)), dataset.index.sizes)
    raws = reader.read(shards, np.arange(COUNT) - dataset.index.offsets[shards]).raw["image"]
    keys = np.random.default_rng(0).integers(0, 1 << 63, COUNT).tolist()
    buffers = [np.zeros((BATCH, 224, 224, 3), np.uint8) for _ in range(WORKERS)]

    def decode(start: int) -> None:
        row = start % BATCH
        rows = slice(start, start + 32)
        assert not any(decoder.decode_rows(raws[rows], buffers[start // BATCH % 2][row : row + 32], keys[rows]))

    def epoch() -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(decode, range(0, COUNT, 32)))

    return epoch


def test_share_of_the_kernel(folder: Path, tmp_path: Path, paired: Callable[..., float]) -> None:
    fastload.pack(folder, tmp_path / "packed", shard_size="32MiB")
    loader = fastload.DataLoader(
        tmp_path / "packed",
        batch_size=BATCH,
        num_workers=WORKERS,
        fields={"image": fastload.Image(224, crop="random"), "label": fastload.Scalar()},
    )

    def epoch() -> None:
        assert sum(len(batch["label"]) for batch in loader) == COUNT

    paired(
        epoch, bare_loop(tmp_path / "packed"), items=COUNT, unit="images", reference_name="the kernel in a bare loop"
    )
