"""How loaders that leave decoding to the user decode. A module of its own, so that torchvision's memory and import are
not counted where it is not needed."""

from __future__ import annotations

import io

import numpy as np
import soundfile
import torch
import torchvision
from torchvision.transforms import v2
from work import CLIP

_TRANSFORM = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()])


def crop_and_flip(content: bytes | np.ndarray) -> torch.Tensor:
    """A JPEG's bytes to uint8 [3, 224, 224], as torchvision recommends: decoded to a tensor, antialiased."""
    raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return _TRANSFORM(torchvision.io.decode_image(raw, torchvision.io.ImageReadMode.RGB))


def clip(content: bytes | np.ndarray) -> torch.Tensor:
    """A WAV's bytes to float32 [1, CLIP]: cut at its end, or padded with zeros."""
    samples, _ = soundfile.read(io.BytesIO(bytes(content)), dtype="float32", always_2d=True)
    out = torch.zeros(1, CLIP)
    out[0, : min(len(samples), CLIP)] = torch.from_numpy(samples[:CLIP].mean(1))
    return out


CONVERT = {"images": crop_and_flip, "audio": clip}  # of the workloads that decode
