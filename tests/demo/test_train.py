from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastload.batch import Batch
from fastload.demo.train import evaluate, train


class ByPoint(nn.Module):
    """Logits from a point in the plane, the field `x`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        logits: Tensor = self.linear(batch["x"])
        return logits


def points(rows: int, seed: int, **extra: Any) -> Batch:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))
    return Batch({"x": x, "label": (x.sum(dim=1) > 0).long()}, **extra)


def test_a_model_learns_and_each_epoch_is_told() -> None:
    torch.manual_seed(0)
    steps: list[None] = []
    batches = [points(64, seed) for seed in range(10)]
    model = ByPoint()
    epochs = list(
        train(model, batches, [points(500, 99)], epochs=4, learning_rate=0.1, after_step=lambda: steps.append(None))
    )
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert len(steps) == 40
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].accuracy > 0.97
    assert all(epoch.samples_per_second > 0 for epoch in epochs)


def test_accuracy_leaves_out_rows_that_are_not_valid() -> None:
    model = ByPoint()
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
        model.linear.bias.zero_()
    batch = points(10, 0, valid=torch.arange(10) < 7)
    batch["label"][7:] = 1 - batch["label"][7:]  # all wrong, and padding
    batch["label"][0] = 1 - batch["label"][0]
    assert evaluate(model, [batch]) == pytest.approx(6 / 7)
    batch.valid = None
    assert evaluate(model, [batch, points(5, 1)]) == pytest.approx(11 / 15)
    assert not model.training
