"""Runs a chain of augmentations over a batch: fastload's own, any callable on a Batch, and modules of Kornia and
torchaudio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.fields import Audio, Field, Image
from fastload.order.hashing import combine

Operation = Callable[[Batch], Batch]


class On:
    """Runs a module on one field of the batch. Images that are integers are scaled to float32 [0, 1] first, as Kornia
    expects.

    Random modules draw from torch's generators: these are seeded from the loader's seed and position for the call and
    put back after it, so that a resumed run draws the same. The draws belong to the batch and not to the sample: at
    another batch size or world size they differ.

    Args:
        field: name of the field; its tensor [B, ...] is passed to the module.
        module: any callable from tensor to tensor.
    """

    def __init__(self, field: str, module: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.field, self.module = field, module

    def __repr__(self) -> str:
        return f"On({self.field!r}, {self.module!r})"

    def __call__(self, batch: Batch) -> Batch:
        if not isinstance(batch.get(self.field), torch.Tensor):
            raise ConfigError(f"{self!r}: the batch has no tensor {self.field!r}; it has {', '.join(map(repr, batch))}")
        value = batch[self.field]
        if not value.is_floating_point():
            value = value.to(torch.float32) / torch.iinfo(value.dtype).max
        if isinstance(self.module, torch.nn.Module):  # constants of the module follow the batch to its device
            self.module.to(value.device)
        with _seeded(batch, value.device):
            return batch.replaced({self.field: self.module(value)})


class _seeded:
    """torch's generators seeded from the batch's place in the run, put back at the end."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        first = int(batch.sample_keys[0]) if batch.sample_keys is not None and len(batch.sample_keys) else 0
        consumed = int(batch.state["consumed"]) if batch.state is not None else 0
        self._seed = combine(first, consumed) >> 1
        self._devices = [device] if device.type == "cuda" else []

    def __enter__(self) -> None:
        self._fork: Any = torch.random.fork_rng(self._devices)
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


def make_chain(augment: Sequence[Any] | Callable[..., Any] | None, fields: dict[str, Field]) -> list[Operation]:
    """The operations of `augment=`, each as a function from Batch to Batch.

    A torch.nn.Module is run on the field that it is for: Kornia's on the one Image field, torchaudio's on the one Audio
    field, others on the only field of either kind. Any other callable gets the batch.

    Raises:
        ConfigError: something that cannot be called, or a module whose field is not clear.
    """
    if augment is None:
        return []
    operations = [augment] if callable(augment) else list(augment)
    return [_operation(item, fields) for item in operations]


def _operation(item: Any, fields: dict[str, Field]) -> Operation:
    if isinstance(item, torch.nn.Module):
        return On(_field_for(item, fields), item)
    if not callable(item):
        raise ConfigError(f"augment: {item!r} cannot be called; pass functions of the batch, or torch modules")
    return item  # type: ignore[no-any-return]


def _field_for(module: torch.nn.Module, fields: dict[str, Field]) -> str:
    library = type(module).__module__.split(".")[0]
    kinds = {"kornia": (Image,), "torchaudio": (Audio,)}.get(library, (Image, Audio))
    names = [name for name, kind in fields.items() if isinstance(kind, kinds)]
    if len(names) == 1:
        return names[0]
    found = (
        f"several fields could be meant ({', '.join(map(repr, names))})"
        if names
        else "no field of that kind is declared"
    )
    raise ConfigError(
        f"augment: {type(module).__name__}: {found}; "
        f"say which: fastload.augment.On('name', {type(module).__name__}(...))"
    )
