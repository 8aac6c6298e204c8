"""A plain training loop: nothing in it is special to fastload but `batch.valid`.

Random numbers (weights, dropout) come from torch's global generator: the caller seeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastload.batch import Batch


class Batches(Iterable[Batch], Sized, Protocol):
    """A loader: iterated once per epoch, with a length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: from 1.
        loss: mean training loss.
        accuracy: share of the validation samples that are classified rightly, in [0, 1].
        samples_per_second: training samples over the wall time of the epoch's training steps, loading included.
    """

    number: int
    loss: float
    accuracy: float
    samples_per_second: float


def train(
    model: nn.Module,
    train_batches: Batches,
    val_batches: Batches,
    *,
    epochs: int,
    learning_rate: float,
    after_step: Callable[[], None] = lambda: None,
) -> Iterator[Epoch]:
    """Train `model` with AdamW and a one-cycle learning rate; yields after every epoch.

    Args:
        model: takes a batch, returns logits [B, classes].
        train_batches, val_batches: batches with `label`, int64 [B], on the model's device.
        learning_rate: the highest of the cycle.
        after_step: called after every training step, to show progress.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * len(train_batches))
    for number in range(1, epochs + 1):
        model.train()
        losses, samples, started = [], 0, perf_counter()
        for batch in train_batches:
            loss = cross_entropy(model(batch), batch["label"], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())  # read at the epoch's end: .item() here would wait for the GPU every step
            samples += batch.rows
            after_step()
        mean_loss = torch.stack(losses).mean().item()
        rate = samples / (perf_counter() - started)
        yield Epoch(number=number, loss=mean_loss, accuracy=evaluate(model, val_batches), samples_per_second=rate)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Accuracy over all samples, each counted once: rows that are padding or masked are left out by `batch.valid`."""
    model.eval()
    right, counted = 0, 0
    for batch in batches:
        valid = torch.ones(batch.rows, dtype=torch.bool) if batch.valid is None else batch.valid
        hits = model(batch).argmax(dim=1) == batch["label"]
        right += int((hits & valid.to(hits.device)).sum())
        counted += int(valid.sum())
    return right / counted
