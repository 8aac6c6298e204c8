"""From the engine to the consumer: batches on their device, augmented, and the consumer's clock in step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from fastload.batch import Batch, rows_of, tensors_in
from fastload.device import move
from fastload.engine import Engine
from fastload.meter import AUGMENT, COPY


def flow(engine: Engine[Batch], device: torch.device, chain: Sequence[Callable[[Batch], Batch]]) -> Iterator[Batch]:
    """The engine's batches on `device`, after every operation of the chain."""
    clock, moves = engine.clock, device.type != "cpu"
    for batch in move(_about_to_move(engine) if moves else engine, device):
        rows = rows_of(batch)
        if moves:
            clock.copied_bytes += tensor_bytes(batch)
        if chain:
            state = batch.state
            clock.enter(AUGMENT)
            for operation in chain:
                batch = operation(batch)
            batch.state = state  # the place in the run does not depend on what functions make of a batch
        clock.handed_over(rows)
        yield batch


def _about_to_move(engine: Engine[Batch]) -> Iterator[Batch]:
    """Its batches, whose copying begins now."""
    for batch in engine:
        engine.clock.enter(COPY)
        yield batch


def tensor_bytes(batch: Batch) -> int:
    """Bytes of the batch's tensors, those inside of its fields included."""
    return sum(tensor.nbytes for tensor in tensors_in(batch))
