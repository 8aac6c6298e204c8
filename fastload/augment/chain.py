"""Runs a chain of augmentations over a batch: fastload's own, any callable on a Batch, and modules of Kornia and
torchaudio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fastload.augment import keyed
from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.fields import Audio, Field, Image
from fastload.order.hashing import combine

Operation = Callable[[Batch], Batch]


class On:
    """Runs a module on one field of the batch. Pixels (uint8 and uint16) are scaled to float32 [0, 1] first, as Kornia
    expects.

    Random modules draw from torch's generators: these are seeded from the loader's seed and position for the call and
    put back after it, so that a resumed run draws the same. The draws belong to the batch and not to the sample: at
    another batch size or world size they differ. Modules of different classes or on different fields draw apart, and
    so do several of one class in the same chain.

    Args:
        field: name of the field; its tensor [B, ...] is passed to the module.
        module: any callable from tensor to tensor.
    """

    def __init__(self, field: str, module: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.field, self.module = field, module
        self.name = f"On/{field}/{type(module).__qualname__}"  # what its draws are seeded with

    def __repr__(self) -> str:
        return f"On({self.field!r}, {self.module!r})"

    def __call__(self, batch: Batch) -> Batch:
        if not isinstance(batch.get(self.field), torch.Tensor):
            raise ConfigError(f"{self!r}: the batch has no tensor {self.field!r}; it has {', '.join(map(repr, batch))}")
        value = batch[self.field]
        if value.dtype in (torch.uint8, torch.uint16):
            value = value.to(torch.float32) / torch.iinfo(value.dtype).max
        if isinstance(self.module, torch.nn.Module):  # constants of the module follow the batch to its device
            self.module.to(value.device)
        with _seeded(batch, value.device, keyed.operation_number(self.name)):
            return batch.replaced({self.field: self.module(value)})


@contextmanager
def _seeded(batch: Batch, device: torch.device, operation: int) -> Iterator[None]:
    """The generators of the CPU and of `device` seeded from the batch's place in the run, and put back at the end.

    `torch.manual_seed` would seed those of all other devices too, and for good.
    """
    first = int(batch.sample_keys[0]) if batch.sample_keys is not None and len(batch.sample_keys) else 0
    consumed = int(batch.state["consumed"]) if batch.state is not None else 0
    seed = combine(first, consumed, operation) >> 1
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def make_chain(augment: Sequence[Any] | Callable[..., Any] | None, fields: dict[str, Field]) -> list[Operation]:
    """The operations of `augment=`, each as a function from Batch to Batch.

    A torch.nn.Module is run on the field that it is for: Kornia's on the one Image field, torchaudio's on the one Audio
    field, others on the only field of either kind. Any other callable gets the batch.

    Raises:
        ConfigError: something that cannot be called, or a module whose field is not clear.
    """
    if augment is None:
        return []
    if not callable(augment) and not isinstance(augment, Sequence):
        raise ConfigError(f"augment={augment!r}: pass a list of operations")
    operations = [_operation(item, fields) for item in ([augment] if callable(augment) else augment)]
    met: Counter[str] = Counter()
    for at, operation in enumerate(operations):
        if isinstance(operation, On):
            numbered = On(operation.field, operation.module)
            numbered.name = f"{operation.name}/{met[operation.name]}"
            met[operation.name] += 1
            operations[at] = numbered
    return operations


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
