"""What a preview found, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastload.previews.cells import Cell, Plain, same

MOST_TITLE = 40  # characters of a field that stand in a sample's title


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A sample in one epoch: each field augmented, and what was drawn for it, by operation."""

    epoch: int
    cells: Mapping[str, Cell]
    drawn: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample: its fields as they are read in the first epoch, and augmented in each."""

    key: str
    before: Mapping[str, Cell]
    variants: tuple[Variant, ...]

    def title(self, between: str = ", ") -> str:
        """Its key, and what it is by numbers and classes."""
        told = [
            f"{name} {cell.text}" if cell.text.replace(".", "").isdigit() else cell.text
            for name, cell in self.before.items()
            if isinstance(cell, Plain) and len(cell.text) <= MOST_TITLE
        ]
        told = [text for text in told if text not in self.key]
        return between.join([self.key, ", ".join(told)]) if told else self.key

    def steps(self, field: str) -> list[tuple[str, Cell]]:
        """A field before and in each epoch, under what it is called; once, if nothing changes it, and once for all
        epochs that say the same in words."""
        before = self.before.get(field)
        after = [(f"epoch {v.epoch}", v.cells[field]) for v in self.variants if field in v.cells]
        if len(after) > 1 and isinstance(after[0][1], Plain) and all(same(after[0][1], cell) for _, cell in after):
            after = [("after", after[0][1])]
        if before is None:
            return after
        return [("before", before), *(after if any(not same(before, cell) for _, cell in after) else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Samples before and after augmentation.

    Attributes:
        data: what was looked at.
        total: samples in it.
        augment: the operations, as they print.
        samples: those looked at, spread evenly over the data in the order of packing.
        by_batch: operations whose draws depend on the rest of the batch, so that training draws others.
        cropped: fields that are cropped at random as they are read.
    """

    data: str
    total: int
    augment: tuple[str, ...]
    samples: tuple[Sample, ...]
    by_batch: tuple[str, ...]
    cropped: tuple[str, ...]

    @property
    def fields(self) -> list[str]:
        """Names of the fields, those that augmentation adds last."""
        found: dict[str, None] = {}
        for sample in self.samples:
            found |= dict.fromkeys(sample.before)
        for sample in self.samples:
            for variant in sample.variants:
                found |= dict.fromkeys(variant.cells)
        return list(found)
