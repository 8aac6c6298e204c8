"""Small models that learn the demo's samples on two slow cores, and real data of the same kind fairly.

Each takes a batch, a mapping of field names as the loader gives it, and returns logits, float32 [B, classes].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

LOG_FLOOR = 1e-4  # added to spectrogram power before the logarithm: about the power of the quietest noise
WORD = re.compile(r"\w+")


def _block(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class ImageModel(nn.Module):
    """Four convolutions, the last reduced to its maximum per channel. 81,000 parameters at 8 classes.

    Reads `image`, float32 [B, 3, H, W], normalised.
    """

    def __init__(self, classes: int, width: int = 24) -> None:
        super().__init__()
        layers = (
            _block(3, width, stride=2),
            _block(width, 2 * width),
            nn.MaxPool2d(2),
            _block(2 * width, 4 * width),
            nn.MaxPool2d(2),
            _block(4 * width, 4 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, classes),
        )
        # The loader's images are channels-last: with weights of the same layout, nothing is copied.
        self.layers = nn.Sequential(*layers)
        for weight in self.layers.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        logits: Tensor = self.layers(batch["image"])
        return logits


class AudioModel(nn.Module):
    """Three convolutions over a log-mel spectrogram; padding after a clip's end takes no part.

    Reads `audio`, float32 [B, 1, mels, frames] of mel power, and `audio_length`, int64 [B], in frames.
    """

    STRIDE = 8  # frames per position after three convolutions of stride 2

    def __init__(self, classes: int, width: int = 24) -> None:
        super().__init__()
        self.scale = nn.BatchNorm2d(1)
        self.layers = nn.Sequential(
            _block(1, width, stride=2), _block(width, 2 * width, stride=2), _block(2 * width, 4 * width, stride=2)
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        mel: Tensor = batch["audio"]
        positions = self.layers(self.scale((mel + LOG_FLOOR).log())).mean(dim=2)  # [B, channels, frames / 8]
        used = (batch["audio_length"] + self.STRIDE - 1) // self.STRIDE  # [B]
        beyond = torch.arange(positions.shape[2], device=mel.device) >= used[:, None]  # [B, frames / 8]
        # After ReLU nothing is below zero, so that a zero never wins the maximum.
        logits: Tensor = self.head(positions.masked_fill(beyond[:, None], 0).amax(dim=2))
        return logits


class TextModel(nn.Module):
    """The mean of the embeddings of hashed words and word pairs, and one linear layer.

    Reads `text`, a list of B str; needs no vocabulary and no tokenizer.
    """

    def __init__(self, classes: int, buckets: int = 1 << 14, width: int = 48) -> None:
        super().__init__()
        self.buckets = buckets
        self.embedding = nn.EmbeddingBag(buckets, width, mode="mean")
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(width, classes))

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        ids, starts = hash_words(batch["text"], self.buckets)
        device = self.embedding.weight.device
        logits: Tensor = self.head(self.embedding(ids.to(device), starts.to(device)))
        return logits


def hash_words(texts: Sequence[str | None], buckets: int) -> tuple[Tensor, Tensor]:
    """What nn.EmbeddingBag takes: each text's words and pairs of neighbouring words, as numbers below `buckets`.

    Numbers are CRC-32 modulo `buckets`: the same in every process, unlike Python's hash. None, a padding row, is an
    empty bag.

    Returns: int64 [total], all texts' numbers one after the other, and int64 [B], where each text's begin.
    """
    ids: list[int] = []
    starts: list[int] = []
    for text in texts:
        starts.append(len(ids))
        words = WORD.findall((text or "").lower())
        pairs = [f"{first} {second}" for first, second in pairwise(words)]
        ids += [crc32(token.encode()) % buckets for token in words + pairs]
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(starts, dtype=torch.int64)
