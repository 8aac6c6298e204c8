"""How each kind of data is read, augmented, learned and shown. A recipe fits real data of its kind just as well:

recipe = image_recipe(size=32, epochs=20)
batches = recipe.train_batches("cifar/train", workers=2, device="cpu")
held_out = recipe.val_batches("cifar/test", workers=2, device="cpu")
for epoch in train(recipe.model(10), batches, held_out, epochs=recipe.epochs, learning_rate=recipe.learning_rate):
    print(epoch)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastload.augment import Normalize, On, RandomHorizontalFlip
from fastload.batch import Batch
from fastload.demo import pictures
from fastload.demo.models import AudioModel, ImageModel, TextModel
from fastload.errors import MissingExtraError
from fastload.fields import Audio, Field, Image, Scalar, Text
from fastload.loader import DataLoader

Operation = Callable[[Batch], Batch]
Sheet = Callable[[Mapping[str, Any], Sequence[str], Path], None]

# Of a spectrogram: windows of 32 ms every 10 ms, the usual choice for speech.
WINDOW_SECONDS, HOP_SECONDS, MELS = 0.032, 0.010, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train on one kind of data.

    Attributes:
        fields, val_fields: how samples are read for training and for validation.
        augment, val_augment: what is done to their batches.
        model: from the number of classes to a module that takes a batch and returns logits [B, classes].
        sheet: draws a batch into a PNG file, given the names of the classes.
    """

    fields: Mapping[str, Field]
    val_fields: Mapping[str, Field]
    augment: Sequence[Operation]
    val_augment: Sequence[Operation]
    model: Callable[[int], nn.Module]
    sheet: Sheet
    epochs: int
    batch_size: int
    learning_rate: float

    def train_batches(self, data: Path | str, *, workers: int, device: torch.device | str, seed: int = 0) -> DataLoader:
        """Shuffled and augmented batches, all of the same size."""
        return DataLoader(
            data,
            batch_size=self.batch_size,
            num_workers=workers,
            device=device,
            augment=self.augment,
            last_batch="drop",
            fields=self.fields,
            shuffle=True,
            seed=seed,
        )

    def val_batches(self, data: Path | str, *, workers: int, device: torch.device | str) -> DataLoader:
        """Every sample once, in the order of packing."""
        return DataLoader(
            data,
            batch_size=4 * self.batch_size,
            num_workers=workers,
            device=device,
            augment=self.val_augment,
            fields=self.val_fields,
            shuffle=False,
        )


def image_recipe(*, size: int = 48, epochs: int = 10) -> Recipe:
    """Pictures in `image`, classes in `label`; cropped at random to at least 60% of their area, and mirrored."""
    return Recipe(
        fields={"image": Image(size, crop="random", scale=(0.6, 1.0)), "label": Scalar()},
        val_fields={"image": Image(size), "label": Scalar()},
        augment=[RandomHorizontalFlip(), Normalize()],
        val_augment=[Normalize()],
        model=ImageModel,
        sheet=pictures.image_sheet,
        epochs=epochs,
        batch_size=64,
        learning_rate=5e-3,
    )


def audio_recipe(*, sample_rate: int = 8_000, seconds: float = 0.5, epochs: int = 8) -> Recipe:
    """Clips in `audio`, classes in `label`; as mel spectrograms, `audio_length` counted in their frames."""
    fields: dict[str, Field] = {"audio": Audio(sample_rate, seconds=seconds), "label": Scalar()}
    hop = round(HOP_SECONDS * sample_rate)
    spectrogram = On("audio", mel_spectrogram(sample_rate, hop))

    def count_frames(batch: Batch) -> Batch:
        # torchaudio centres its windows: frame f is around sample f * hop
        return batch.replaced({"audio_length": batch["audio_length"] // hop + 1})

    return Recipe(
        fields=fields,
        val_fields=fields,
        augment=[spectrogram, count_frames],
        val_augment=[spectrogram, count_frames],
        model=AudioModel,
        sheet=pictures.audio_sheet,
        epochs=epochs,
        batch_size=64,
        learning_rate=4e-3,
    )


def text_recipe(*, epochs: int = 6) -> Recipe:
    """Texts in `text`, classes in `label`."""
    fields: dict[str, Field] = {"text": Text(), "label": Scalar()}
    return Recipe(
        fields=fields,
        val_fields=fields,
        augment=[],
        val_augment=[],
        model=TextModel,
        sheet=pictures.text_sheet,
        epochs=epochs,
        batch_size=64,
        learning_rate=6e-3,
    )


def mel_spectrogram(sample_rate: int, hop: int) -> nn.Module:
    """torchaudio's module from float32 [B, 1, T] to mel power, float32 [B, 1, mels, T // hop + 1].

    Raises:
        MissingExtraError: torchaudio does not load; it has to fit torch.
    """
    try:
        from torchaudio.transforms import MelSpectrogram
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            f"spectrograms need torchaudio, which does not load: {error}; install the one made for torch "
            f"{torch.__version__}"
        ) from error
    module: nn.Module = MelSpectrogram(
        sample_rate, n_fft=round(WINDOW_SECONDS * sample_rate), hop_length=hop, n_mels=MELS
    )
    return module
