"""`preview`: the samples, and where they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.augment.chain import Compose
from fastload.batch import Batch
from fastload.dataset import StreamingDataset
from fastload.errors import ConfigError
from fastload.fields import Audio, Field
from fastload.loader import DataLoader
from fastload.order.arguments import integer
from fastload.previews.page import to_html
from fastload.previews.samples import Naming, Reader
from fastload.previews.sheet import save_sheets
from fastload.previews.shown import Shown
from fastload.samplers import Subset
from fastload.shards.columns import read_columns
from fastload.shards.open import Data

PAGE_NAME = "index.html"

# A page of 12 samples in 2 epochs is about 1 MB at 224 x 224, and shows that epochs differ.
DEFAULT_SAMPLES, DEFAULT_EPOCHS = 12, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(Shown):
    """Samples before and after augmentation."""

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write index.html, a page without other files, and a contact sheet <field>.png of each field of pictures,
        sounds or text. Files of the same names are replaced.

        Returns:
            What was written, the page first.

        Raises:
            MissingExtraError: jinja2 or matplotlib is not installed.
        """
        folder = Path(folder)
        page = to_html(self)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PAGE_NAME).write_text(page, encoding="utf-8")
        return [folder / PAGE_NAME, *save_sheets(self, folder)]


def preview(
    data: Data | Sequence[Data],
    *,
    fields: Mapping[str, Field] | None = None,
    augment: Sequence[Any] | Callable[..., Any] | None = None,
    samples: int = DEFAULT_SAMPLES,
    epochs: int = DEFAULT_EPOCHS,
    seed: int = 0,
    split: str | None = None,
    words: Naming | None = None,
) -> Preview:
    """What the model will see: some samples as they are read, and augmented in the first epochs.

    Args:
        data, split, fields, augment: as for fastload.DataLoader. Operations need fields of a declared size.
        samples: how many, spread evenly over the data.
        epochs: how many variants of each.
        seed: the training's, so that its draws are these.
        words: from a token's number to how it reads, e.g. `tokenizer.id_to_token`; None shows numbers.

    Raises:
        ConfigError: an argument out of range, no samples, or what DataLoader and the operations raise.
    """
    samples, epochs = integer("samples", samples, least=1), integer("epochs", epochs, least=1)
    whole = StreamingDataset(data, split=split, fields=fields, shuffle=False, seed=seed, rank=0, world_size=1)
    if not whole.samples:
        raise ConfigError(f"preview: {data!r} has no samples")
    operations = [] if augment is None else [augment] if callable(augment) else list(augment)
    rows = np.linspace(0, whole.samples - 1, min(samples, whole.samples)).round().astype(np.int64)
    reader = Reader(whole.index, whole.fields, operations, words, _rates(whole, rows))
    loader = DataLoader(
        data,
        len(rows),
        split=split,
        fields=fields,
        shuffle=False,
        seed=seed,
        rank=0,
        world_size=1,
        sampler=Subset(rows),
    )
    return Preview(
        data=str(data),
        total=whole.samples,
        augment=tuple(map(_name, _flat(operations))),
        samples=tuple(reader.samples([_epoch(loader, epoch) for epoch in range(epochs)])),
        by_batch=tuple(dict.fromkeys(map(_name, reader.by_batch))),
        cropped=tuple(name for name, field in whole.fields.items() if getattr(field, "crop", None) == "random"),
    )


def _flat(operations: Sequence[Any]) -> Iterator[Any]:
    """One by one, those inside of Composes too."""
    for each in operations:
        if isinstance(each, Compose):
            yield from _flat(each.operations)
        else:
            yield each


def _name(operation: Any) -> str:
    """As it prints; a function by its name, without its address."""
    return getattr(operation, "__qualname__", None) or repr(operation)


def _epoch(loader: DataLoader, epoch: int) -> Batch:
    loader.set_epoch(epoch)
    batch: Batch = next(iter(loader))
    return batch


def _rates(dataset: StreamingDataset, rows: npt.NDArray[np.int64]) -> dict[str, list[int]]:
    """Sample rates of sounds: as declared, else as the index notes them; of others nothing is known."""
    found: dict[str, list[int]] = {}
    for name, field in dataset.fields.items():
        if not isinstance(field, Audio):
            continue
        if field.sample_rate is not None:
            found[name] = [field.sample_rate] * len(rows)
            continue
        noted = f"{name}.sample_rate"
        with contextlib.suppress(ConfigError):  # data that `fastload pack` did not write
            found[name] = read_columns(dataset.index, [noted])[noted][rows].tolist()
    return found
