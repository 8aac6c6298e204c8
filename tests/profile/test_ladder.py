"""Batches that a step is given again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import samples
import torch

import fastload
import fastload.device
from fastload.batch import Batch
from fastload.profile import ladder, profile
from fastload.profile.ladder import keep


def batch() -> Batch:
    views = Batch({"image": torch.zeros(2, 8, 8, 3).permute(0, 3, 1, 2)})
    rows = [torch.arange(2), None, torch.arange(3)]
    fields = {"label": torch.arange(2), "views": views, "tokens": rows, "__key__": ["a", "b"]}
    return Batch(fields, valid=torch.ones(2, dtype=torch.bool), sample_keys=torch.arange(2), state={"consumed": 2})


def test_what_a_step_writes_takes_out_or_puts_in_is_not_there_the_next_time() -> None:
    again = keep(batch())
    for _ in range(3):
        given, fresh = again(), batch()
        assert list(given) == list(fresh)
        assert given["label"].tolist() == [0, 1]
        assert given["views"]["image"].max() == 0
        assert given["views"]["image"].stride() == fresh["views"]["image"].stride(), "channels last"
        assert [None if row is None else row.tolist() for row in given["tokens"]] == [[0, 1], None, [0, 1, 2]]
        assert given["__key__"] == ["a", "b"]
        assert given.valid is not None
        assert given.valid.all()
        assert given.state == {"consumed": 2}
        given["label"] -= 1000
        given["views"]["image"].add_(1)
        given["tokens"][2].zero_()
        given["tokens"].pop()
        given["__key__"].pop()
        given.valid[0] = False
        del given["views"]


def test_what_is_not_written_to_is_not_copied() -> None:
    again = keep(batch())
    assert again()["label"] is again()["label"]


def test_a_step_may_be_one_of_inference_mode() -> None:
    with torch.inference_mode():
        again = keep(Batch({"image": torch.zeros(2)}))
        for _ in range(3):
            image = again()["image"]
            assert image.tolist() == [0, 0]
            image += 1
    assert again()["image"].tolist() == [0, 0]


def test_a_tensor_that_a_step_makes_part_of_its_graph_comes_as_a_leaf() -> None:
    again, weight = keep(Batch({"x": torch.ones(2)})), torch.ones(2, requires_grad=True)
    for _ in range(2):
        x = again()["x"]
        assert x.grad_fn is None
        x.mul_(weight).sum().backward()  # a second pass through the graph of the first would raise


def test_decoded_batches_are_moved_as_the_loader_moves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ahead and on a stream of their own: a plain copy to a GPU waits for all steps that are queued."""
    moved = []

    def noted(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
        for batch in fastload.device.move(batches, device):
            moved.append(batch["label"].tolist())
            yield batch

    monkeypatch.setattr(ladder, "move", noted)
    loader = fastload.DataLoader(samples.make(tmp_path / "data", "tar", [8]), 4, fields={"label": fastload.Scalar()})
    profile(loader, seconds=0.3)
    assert moved
