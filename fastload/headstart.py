"""What of `augment=` is done while decoding, by the decode threads: the same results, without the consumer's time.

flips      a RandomHorizontalFlip at the head of the chain, written as the pixels are: a pass over a batch of 256 costs
           the consumer 35 ms and more. On a CPU only: a GPU has time for it
strings    EachText operations, which are Python code and as slow as it is; they wait for no other operation but for
           functions of a batch and modules, which may read or write any field
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fastload.augment.chain import Compose, Function, make_chain
from fastload.augment.fused import Fused
from fastload.augment.geometry import RandomHorizontalFlip
from fastload.augment.keyed import operation_number
from fastload.augment.operation import Operation
from fastload.augment.strings import EachText, Turns
from fastload.decode import Decoder
from fastload.decode.image import ImageDecoder
from fastload.decode.text import TextDecoder
from fastload.fields import Image
from fastload.stream import Streamed


@dataclass(frozen=True, slots=True)
class HeadStart:
    """What decoders do besides decoding.

    Attributes:
        flips: field -> (number of the operation, p).
        strings: field -> its operations, in order.
    """

    flips: dict[str, tuple[int, float]] = field(default_factory=dict)
    strings: dict[str, list[EachText]] = field(default_factory=dict)

    def decoders(self, dataset: Streamed) -> dict[str, Decoder]:
        """Decoders in place of the data set's own."""
        found: dict[str, Decoder] = {}
        for name, (operation, p) in self.flips.items():
            image = dataset.recipe.decoders[name]
            assert isinstance(image, ImageDecoder)
            found[name] = image.mirroring(operation, p)
        for name, operations in self.strings.items():
            text = dataset.recipe.decoders[name]
            assert isinstance(text, TextDecoder)
            found[name] = text.changing(Turns(operations))
        return found


def head_start(
    augment: Sequence[Any] | Callable[..., Any] | None, dataset: Streamed, device: torch.device
) -> tuple[list[Function], HeadStart]:
    """The chain of `augment=` without what decoders do, and what they do."""
    augment, flips = _without_flip(augment, dataset, device)
    chain, strings = _without_strings(make_chain(augment, dataset.fields), dataset)
    return chain, HeadStart(flips, strings)


def _without_flip(
    augment: Sequence[Any] | Callable[..., Any] | None, dataset: Streamed, device: torch.device
) -> tuple[Any, dict[str, tuple[int, float]]]:
    """Not if the chain flips that field again, for operations that stand twice draw by their place."""
    if device.type != "cpu" or not isinstance(augment, Sequence) or not augment:
        return augment, {}
    first, name = augment[0], getattr(augment[0], "field", None)
    if type(first) is not RandomHorizontalFlip or any(isinstance(each, Compose) for each in augment):
        return augment, {}
    again = any(type(each) is RandomHorizontalFlip and each.field == name for each in augment[1:])
    kind = dataset.fields.get(first.field)
    if again or not isinstance(kind, Image) or kind.size is None:
        return augment, {}
    if not isinstance(dataset.recipe.decoders.get(first.field), ImageDecoder):
        return augment, {}
    return augment[1:], {first.field: (operation_number(first.name), first.p)}


def _without_strings(chain: list[Function], dataset: Streamed) -> tuple[list[Function], dict[str, list[EachText]]]:
    """Of a chain, whose operations are numbered already: each draws here as it would in its place there."""
    kept: list[Function] = []
    strings: dict[str, list[EachText]] = {}
    changed: set[str] = set()  # fields that an operation stays for
    for number, stage in enumerate(chain):
        if not isinstance(stage, Operation | Fused):
            return kept + chain[number:], strings
        if type(stage) is EachText and stage.field not in changed and _is_decoded_text(stage.field, dataset):
            strings.setdefault(stage.field, []).append(stage)
            continue
        kept.append(stage)
        if isinstance(stage, Operation):
            changed.add(stage.field)
    return kept, strings


def _is_decoded_text(name: str, dataset: Streamed) -> bool:
    return name in dataset.fields and isinstance(dataset.recipe.decoders.get(name), TextDecoder)
