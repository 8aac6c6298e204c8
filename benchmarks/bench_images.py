"""JPEG crops: decode, RandomResizedCrop 224, flip, batches of 256, against torch's DataLoader with torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
