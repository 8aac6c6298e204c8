"""Samples before and after augmentation, each field as a cell.

A sample's draws depend on (seed, epoch, sample) alone, so what is seen here is what training with the same seed gets:
fastload's own operations and random crops do not depend on which samples are looked at. MixUp, CutMix and others'
modules draw for the batch: theirs are only examples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastload.augment.chain import make_chain
from fastload.augment.colour import Normalize
from fastload.augment.fused import Fused
from fastload.augment.layers import NAMES
from fastload.augment.mix import MixUp
from fastload.augment.operation import Operation, Params
from fastload.augment.spans import CorruptSpans
from fastload.augment.text import IGNORE, LABELS, TokenOperation, name_beside
from fastload.batch import KEY, LENGTH_SUFFIX, Batch
from fastload.fields import Audio, Bytes, Field, Image, Json, Scalar, Text, Tokens
from fastload.previews.cells import Bands, Cell, Picture, Plain, Sound, Words
from fastload.previews.changes import Piece, changes, shortened
from fastload.previews.pixels import Scale, picture, with_targets
from fastload.previews.shown import Sample, Variant
from fastload.shards.index import Index

MOST_WORDS = 160  # of a text that are shown
MOST_COMPARED = 2000  # of a text that are compared: the time grows with the square
MOST_NUMBERS = 4  # of one parameter of one sample that are written out
LEAST_WEIGHT = 0.005  # of a soft label that is told
UNTOLD = ("key", "noise", "none", "chosen", "partner")  # parameters that say nothing to a reader

Naming = Callable[[int], str]  # a token's number -> how it reads


class Reader:
    """Turns rows of batches into cells.

    Args:
        index: of the data, for class names and sample rates.
        fields: what they are read as.
        augment: the operations.
        words: how a token's number reads; None shows the number.
        rates: of each row of each sound in Hz, where they are known.
    """

    def __init__(
        self,
        index: Index,
        fields: Mapping[str, Field],
        augment: Sequence[Any],
        words: Naming | None,
        rates: Mapping[str, Sequence[int]],
    ) -> None:
        self.index, self.fields, self.rates = index, fields, rates
        self.chain = make_chain(augment, dict(fields))
        self.operations = [each for stage in self.chain for each in _operations(stage)]
        self.special = _special(self.operations)
        self.labels = {name_beside(each.field, LABELS) for each in self.operations if isinstance(each, TokenOperation)}
        self.words = words
        self.scales = {each.field: each for each in self.operations if isinstance(each, Normalize)}
        alike = [(name, each) for each in self.chain if isinstance(each, Fused) for name in each.targets.images]
        self.scales |= {name: o for name, each in alike for o in each.operations if isinstance(o, Normalize)}
        self.targets = {each.field: each.targets for each in self.chain if isinstance(each, Fused) and each.targets}
        self.over_pictures = {
            name for each in self.targets.values() for name in (*each.masks, *each.boxes, *each.keypoints)
        }
        # of a user's own function nobody knows
        by_sample = (Fused, Operation)
        self.by_batch = [each for each in self.chain if isinstance(each, MixUp) or not isinstance(each, by_sample)]

    def augmented(self, batch: Batch) -> Batch:
        for stage in self.chain:
            batch = stage(batch)
        return batch

    def drawn(self, batch: Batch) -> list[dict[str, Params]]:
        """The parameters of each stage, by operation."""
        keys, found = batch.sample_keys, list[dict[str, Params]]()
        assert keys is not None  # a loader made it
        for stage in self.chain:
            if isinstance(stage, Fused):
                found.append(stage.draw(keys))
            elif isinstance(stage, MixUp):
                found.append({stage.name: stage.draw(keys, batch.valid)})
            elif isinstance(stage, Operation):
                found.append({stage.name: stage.draw(keys)})
        return found

    def samples(self, batches: Sequence[Batch]) -> Iterator[Sample]:
        """The samples of some batches that hold the same ones, an epoch each."""
        after = [self.augmented(batch) for batch in batches]
        drawn = [self.drawn(batch) for batch in batches]
        for row, key in enumerate(batches[0][KEY]):
            where = [_Row(self, batch, row) for batch in batches]
            yield Sample(
                key=key,
                before=where[0].cells(None),
                variants=tuple(
                    Variant(
                        epoch=epoch,
                        cells=_Row(self, result, row).cells(where[epoch]),
                        drawn=tuple(_told(params, row)),
                    )
                    for epoch, (result, params) in enumerate(zip(after, drawn, strict=True))
                ),
            )

    def token(self, number: int) -> str:
        """How a token reads."""
        if number in self.special:
            return self.special[number]
        return str(number) if self.words is None else self.words(number)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a batch."""

    reader: Reader
    batch: Batch
    row: int

    def cells(self, before: _Row | None) -> dict[str, Cell]:
        """All fields as cells; texts are compared with those of `before`. What is drawn over a picture has none of its
        own, but for another picture."""
        return {
            name: self.cell(name, before)
            for name in self.batch
            if name != KEY and not name.endswith(LENGTH_SUFFIX) and self.value(name) is not None
            if not self.is_over_picture(name)
        }

    def is_over_picture(self, name: str) -> bool:
        tensor = isinstance(self.batch.get(name), torch.Tensor)
        return tensor and name in self.reader.over_pictures and not isinstance(self.reader.fields.get(name), Image)

    def value(self, name: str) -> Any:
        return self.batch[name][self.row]

    def length(self, name: str, whole: int) -> int:
        lengths = self.batch.get(name + LENGTH_SUFFIX)
        return whole if lengths is None else min(whole, int(lengths[self.row]))

    def cell(self, name: str, before: _Row | None) -> Cell:
        field, value = self.reader.fields.get(name), self.value(name)
        tensor = value if isinstance(value, torch.Tensor) else None
        if isinstance(field, Image) and tensor is not None and tensor.ndim == 3:
            scale = self.reader.scales.get(name)
            cell = picture(tensor, None if scale is None else Scale(mean=scale.mean, std=scale.std))
            return self.with_targets(name, cell)
        if isinstance(field, Text):
            return _words(value.split(), None if before is None else before.value(name).split(), ())
        if tensor is None:
            return Plain(text=_plain(field, value))
        if tensor.ndim == 2 and isinstance(field, Audio):
            rate = self.reader.rates.get(name)
            return Sound(
                sound=tensor.detach().cpu().to(torch.float32).numpy(),
                sample_rate=None if rate is None else rate[self.row],
                length=self.length(name, tensor.shape[-1]),
            )
        if tensor.ndim == 3 and tensor.is_floating_point() and (field is None or isinstance(field, Audio)):
            frames = tensor[0].detach().cpu().to(torch.float32).numpy()
            return Bands(values=frames, length=self.length(name, tensor.shape[-1]))
        if isinstance(field, Tokens):
            masks = tuple(self.reader.special.values())
            return _words(self.tokens(name), None if before is None else before.tokens(name), masks)
        if name in self.reader.labels and tensor.ndim == 1:
            return self.labels(tensor)
        return Plain(text=self.numbers(name, tensor))

    def with_targets(self, name: str, cell: Picture) -> Picture:
        """The picture with what follows its geometry, where the batch has it as tensors."""
        targets = self.reader.targets.get(name)
        if targets is None:
            return cell
        found = [
            [self.value(each) for each in names if isinstance(self.batch.get(each), torch.Tensor)]
            for names in (targets.masks, targets.boxes, targets.keypoints)
        ]
        return with_targets(cell, *found)

    def tokens(self, name: str) -> list[str]:
        """The tokens of a row, without its padding, as they read."""
        tokens = self.value(name)[: self.length(name, len(self.value(name)))]
        return [self.reader.token(number) for number in tokens.tolist()]

    def labels(self, labels: torch.Tensor) -> Words:
        """Of a language model: the tokens that are to be learned."""
        wanted = [self.reader.token(number) for number in labels[labels != IGNORE].tolist()]
        cell = _words(wanted, None, ())
        return Words(pieces=cell.pieces, note=f"{len(wanted)} of {len(labels)} places are learned")

    def numbers(self, name: str, values: torch.Tensor) -> str:
        """A number, a class, weights of classes, or what kind of tensor it is."""
        info = self.reader.index.fields.get(name)
        classes = info.classes if info is not None else None

        def told(label: int) -> str:
            return classes[label] if classes is not None and 0 <= label < len(classes) else str(label)

        if values.ndim == 0:
            number = values.item()
            return told(number) if isinstance(number, int) else f"{number:.6g}"
        soft = values.ndim == 1 and values.is_floating_point() and isinstance(self.reader.fields.get(name), Scalar)
        if soft:
            weights, labels = values.topk(min(3, len(values)))
            pairs = zip(weights.tolist(), labels.tolist(), strict=True)
            return ", ".join(f"{told(label)} {weight:.0%}" for weight, label in pairs if weight >= LEAST_WEIGHT)
        if values.dtype == torch.bool:
            return f"{int(values.sum()):,} of {values.numel():,} true"
        return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def _words(after: Sequence[str], before: Sequence[str] | None, masks: Sequence[str]) -> Words:
    if before is not None:
        pieces = changes(before[:MOST_COMPARED], after[:MOST_COMPARED], masks)
    else:
        pieces = (Piece(" ".join(after[:MOST_COMPARED])),) if after else ()
    shown, more = shortened(pieces, MOST_WORDS)
    more += max(0, len(after) - MOST_COMPARED)
    return Words(pieces=shown, note=f"and {more:,} more" if more else "")


def _plain(field: Field | None, value: Any) -> str:
    if isinstance(field, Bytes) or isinstance(value, bytes):
        return f"{len(value):,} bytes"
    text = json.dumps(value, ensure_ascii=False) if isinstance(field, Json) else str(value)
    return text if len(text) <= 400 else f"{text[:400]}..."


def _operations(stage: Any) -> Sequence[Operation]:
    if isinstance(stage, Fused):
        return stage.operations
    return [stage] if isinstance(stage, Operation) else []


def _special(operations: Sequence[Operation]) -> dict[int, str]:
    """Tokens that operations put in, and how they are written by custom."""
    found: dict[int, str] = {}
    for each in operations:
        if isinstance(each, CorruptSpans):
            found |= {each.sentinel - k: f"<extra_id_{k}>" for k in range(each.sentinels)}
        mask = getattr(each, "mask", None)
        if isinstance(mask, int):
            found[mask] = "[MASK]"
    return found


def _told(stages: Sequence[Mapping[str, Params]], row: int) -> Iterator[str]:
    """What was drawn for one sample, an operation each: `RandomAffine: angle -7.2, scale 1.03`."""
    for drawn in stages:
        for name, params in drawn.items():
            parts = [
                f"{what} {_number(what, values[row])}"
                for what, values in params.items()
                if what not in UNTOLD and 0 < values[row].numel() <= MOST_NUMBERS
            ]
            if parts:
                operation, _, rest = name.partition("/")
                place = rest.partition("/")[2]
                yield f"{operation}{f' ({int(place) + 1})' if place else ''}: {', '.join(parts)}"


def _number(what: str, values: torch.Tensor) -> str:
    if what == "operation":
        return " + ".join(NAMES[number] for number in values.flatten().tolist())
    return " ".join(
        ("yes" if value else "no") if isinstance(value, bool) else f"{value:.3g}" for value in values.flatten().tolist()
    )
