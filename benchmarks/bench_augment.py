"""Augmentation of batches that lie on the device: fastload against Kornia, torchvision and torchaudio.

On a machine with an NVIDIA GPU each benchmark runs there too (`-k cuda`). The chain of six and SpecAugment run with 64
and 256 samples, all contenders in turn within each round:

    pytest benchmarks/bench_augment.py -k "six or spec" --benchmark-json=benchmarks/results/augment.json

Of each benchmark, `extra_info["times"]["fastload"]["Kornia"]["median"]` is how many times as fast as Kornia.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kornia.augmentation as kornia
import numpy as np
import pytest
import torch
import torchaudio
from torchvision.transforms import v2

from fastload.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColorJitter,
    Compose,
    Normalize,
    RandomAffine,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    SpecAugment,
    SpeedPerturbation,
    TrivialAugmentWide,
)
from fastload.augment.fused import Fused
from fastload.augment.operation import Operation
from fastload.batch import Batch
from fastload.order.hashing import sample_keys

Paired = Callable[..., float]
Race = Callable[..., dict[str, dict[str, float]]]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SIZE = 224
ROUNDS = {"cpu": 5, "cuda": 20}


def images(device: str, count: int | None = None) -> Batch:
    """uint8 [64 on a CPU or else 256, 3, 224, 224], channels last, as the loader gives them."""
    count = count or (64 if device == "cpu" else 256)
    pixels = torch.randint(
        0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    keys = torch.from_numpy(sample_keys(0, 0, np.arange(count)).view(np.int64))
    return Batch({"image": pixels.permute(0, 3, 1, 2)}, sample_keys=keys).to(device)


def timed(device: str, function: Callable[[], Any], repeat: int = 1) -> Callable[[], None]:
    """The function, run to its end on the device."""

    def run() -> None:
        with torch.no_grad():
            for _ in range(repeat):
                function()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def compare(paired: Paired, device: str, ours: Callable[[], Any], theirs: Callable[[], Any], **what: Any) -> None:
    repeat = what.pop("repeat", 1 if device == "cpu" else 5)
    what["items"] *= repeat
    paired(timed(device, ours, repeat), timed(device, theirs, repeat), rounds=ROUNDS[device], **what)


def all_in_turn(
    race: Race, device: str, contenders: dict[str, Callable[[], Any]], ours: list[str], count: int, unit: str
) -> None:
    repeat = 1 if device == "cpu" else 5
    runs = {name: timed(device, function, repeat) for name, function in contenders.items()}
    race(runs, ours=ours, items=count * repeat, unit=unit, rounds=ROUNDS[device])


# Single operations that others loop over, or draw once a batch.


@pytest.mark.parametrize("device", DEVICES)
def test_resized_crop(device: str, paired: Paired) -> None:
    batch, crop = images(device), Compose([RandomResizedCrop(SIZE), Normalize()])
    module = kornia.AugmentationSequential(
        kornia.RandomResizedCrop((SIZE, SIZE)),
        kornia.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
    ).to(device)
    compare(
        paired, device, lambda: crop(batch), lambda: module(batch["image"].to(torch.float32) / 255),
        items=len(batch["image"]), unit="images", reference_name="Kornia (not antialiased)",
    )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_flip(device: str, paired: Paired) -> None:
    batch, flip = images(device), RandomHorizontalFlip()
    theirs = v2.RandomHorizontalFlip()
    compare(
        paired, device, lambda: flip(batch), lambda: torch.stack([theirs(image) for image in batch["image"]]),
        items=len(batch["image"]), unit="images", reference_name="torchvision v2, image by image", repeat=1,
    )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_trivial_augment(device: str, paired: Paired) -> None:
    batch, policy = images(device), TrivialAugmentWide()
    theirs = v2.TrivialAugmentWide()
    compare(
        paired, device, lambda: policy(batch), lambda: torch.stack([theirs(image) for image in batch["image"]]),
        items=len(batch["image"]), unit="images", reference_name="torchvision v2, image by image", repeat=1,
    )  # fmt: skip


@pytest.mark.parametrize("count", [64, 256])
@pytest.mark.parametrize("device", DEVICES)
def test_specaugment(device: str, count: int, race: Race) -> None:
    """[B, 1, 80, 1000]: two masks of each kind, by sample."""
    keys = images("cpu", count).sample_keys
    batch = Batch({"audio": torch.randn(count, 1, 80, 1000)}, sample_keys=keys).to(device)
    ours = SpecAugment(2, 27, 2, 100)
    theirs = torch.nn.Sequential(
        *(torchaudio.transforms.FrequencyMasking(27, iid_masks=True) for _ in range(2)),
        *(torchaudio.transforms.TimeMasking(100, iid_masks=True) for _ in range(2)),
    )
    contenders: dict[str, Callable[[], Any]] = {
        "fastload": lambda: ours(batch),
        "torchaudio, iid_masks=True": lambda: theirs(batch["audio"]),
    }
    if device == "cuda":
        fast = torch.compile(theirs)
        contenders["torchaudio, iid_masks=True, compiled"] = lambda: fast(batch["audio"])
    all_in_turn(race, device, contenders, ["fastload"], count, "spectrograms")


@pytest.mark.parametrize("device", DEVICES)
def test_speed_perturbation(device: str, paired: Paired) -> None:
    count = 64 if device == "cpu" else 256
    keys = images(device).sample_keys
    batch = Batch({"audio": torch.randn(count, 1, 32_000, device=device)}, sample_keys=keys)
    ours = SpeedPerturbation()
    slow, fast = (torchaudio.transforms.Speed(16000, factor).to(device) for factor in (0.9, 1.1))
    third = count // 3

    def theirs() -> torch.Tensor:
        sound = batch["audio"]
        parts = [slow(sound[:third])[0], fast(sound[third : 2 * third])[0], sound[2 * third :]]
        return torch.nn.utils.rnn.pad_sequence([row.T for part in parts for row in part[:, 0, None]], batch_first=True)

    compare(
        paired, device, lambda: ours(batch), theirs,
        items=count, unit="clips of 2 s", reference_name="torchaudio, a third by each factor, padded",
    )  # fmt: skip


# Flip, affine, jitter, grayscale, normalise, erase. Last: compilers take minutes, and tools/gpu.sh has not many.


def chain() -> Compose:
    return Compose(
        [
            RandomHorizontalFlip(),
            RandomAffine(15, (0.1, 0.1), (0.9, 1.1)),
            ColorJitter(0.4, 0.4, 0.4),
            RandomGrayscale(0.2),
            Normalize(),
            RandomErasing(0.25),
        ]
    )


def kornia_chain(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    module = kornia.AugmentationSequential(
        kornia.RandomHorizontalFlip(p=0.5),
        kornia.RandomAffine(15.0, (0.1, 0.1), (0.9, 1.1), p=1.0),
        kornia.ColorJitter(0.4, 0.4, 0.4, p=1.0),
        kornia.RandomGrayscale(p=0.2),
        kornia.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
        kornia.RandomErasing(p=0.25),
    ).to(device)
    return lambda pixels: module(pixels.to(torch.float32) / 255)


def torchvision_chain() -> Callable[[torch.Tensor], torch.Tensor]:
    """Draws once for the whole batch, which is less work than each sample's own parameters."""
    return v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(15, (0.1, 0.1), (0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.RandomGrayscale(0.2),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            v2.RandomErasing(0.25),
        ]
    )


def later(make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
    """What `make` makes, made when it is first called: where that fails, the contender alone is left out."""
    made: list[Callable[[], Any]] = []

    def run() -> Any:
        if not made:
            made.append(make())
        return made[0]()

    return run


def graphed(batch: Batch, fused: Compose) -> Callable[[], Any]:
    """The chain recorded as a CUDA graph, and replayed over the pixels and keys of the batch, which are copied to where
    it reads them."""
    (stage,) = fused.stages
    assert isinstance(stage, Fused)
    keys = batch.sample_keys
    assert keys is not None
    pixels, read = batch["image"].clone(), keys.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(aside):
        for _ in range(3):
            stage.apply(pixels, stage.draw(read))
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        result = stage.apply(pixels, stage.draw(read))

    def run() -> torch.Tensor:
        pixels.copy_(batch["image"])
        read.copy_(keys)
        graph.replay()
        return result

    return run


def compiled_chain(batch: Batch, fused: Compose) -> Callable[[], Any]:
    (stage,) = fused.stages
    assert isinstance(stage, Fused)
    compiled = torch.compile(lambda pixels, keys: stage.apply(pixels, stage.draw(keys)))
    return lambda: compiled(batch["image"], batch.sample_keys)


@pytest.mark.parametrize("count", [64, 256])
@pytest.mark.parametrize("device", DEVICES)
def test_chain_of_six(device: str, count: int, race: Race) -> None:
    batch, fused = images(device, count), chain()
    operations = [part.function for part in fused.parts if isinstance(part.function, Operation)]
    passes_of_torch = Fused(operations, fuse=False)
    pixels, theirs, v2s = batch["image"], kornia_chain(device), torchvision_chain()
    contenders: dict[str, Callable[[], Any]] = {
        "fastload": lambda: fused(batch),
        "Kornia": lambda: theirs(pixels),
        "torchvision v2 (one draw a batch)": lambda: v2s(pixels),
    }
    ours = ["fastload"]
    if device == "cuda":
        torch.compiler.reset()  # else what was compiled for another batch size makes this one's dynamic
        fast_kornia, fast_v2s = torch.compile(theirs), torch.compile(v2s)
        contenders |= {
            "Kornia, compiled": lambda: fast_kornia(pixels),
            "torchvision v2 (one draw a batch), compiled": lambda: fast_v2s(pixels),
            "fastload, compiled": compiled_chain(batch, fused),
            "fastload in a CUDA graph": later(lambda: graphed(batch, fused)),
            "fastload, torch's passes": lambda: passes_of_torch(batch),
        }
        ours += ["fastload, compiled", "fastload in a CUDA graph"]
    all_in_turn(race, device, contenders, ours, count, "images")
