"""One rank of test_lightning: fits a model of one number, and notes which samples each step had."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import ranks
import torch
import torch.utils.data
from lightning.pytorch.utilities.combined_loader import CombinedLoader

import fastload

ROWS = 3
FIELDS = {"label": fastload.Scalar()}


class Model(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Linear(1, 1)
        self.seen: list[list[int]] = []
        self.keys: list[list[int]] = []
        self.validated: list[int] = []

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        valid = getattr(batch, "valid", None)
        valid = batch.get("__valid__", torch.ones(len(batch["label"]), dtype=torch.bool)) if valid is None else valid
        self.seen.append(batch["label"][valid].tolist())
        self.keys += [batch.sample_keys.tolist()] if isinstance(batch, fastload.Batch) else []
        return self.number(batch["label"][:, None].float()).mean()

    def validation_step(self, batch: Any, number: int) -> None:
        self.validated += batch["label"][batch.valid].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


class SaveAt(lightning.Callback):
    """Saves a checkpoint after some steps."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"step{trainer.global_step}.ckpt")


def fit(
    loader: Any, epochs: int, *callbacks: lightning.Callback, checkpoint: Path | None = None, val: Any = None
) -> Model:
    model = Model()
    world_size = fastload.dataset.detect_rank(None, None)[1]
    trainer = lightning.Trainer(
        accelerator="cpu", devices=world_size, strategy="ddp" if world_size > 1 else "auto", max_epochs=epochs,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(model, loader, val, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    return model


def train(data: str, **options: Any) -> fastload.DataLoader:
    return fastload.DataLoader(data, ROWS, fields=FIELDS, num_workers=1, **options)


def restart(data: str, checkpoints: Path) -> list[Any]:
    """What a stock loader does that resumes after 2 of 4 batches, with workers and without, and after all 4."""
    found: list[Any] = []
    for step, workers in ((2, 0), (2, 1), (4, 0)):
        dataset = fastload.StreamingDataset(data, fields=FIELDS)
        stock = torch.utils.data.DataLoader(dataset, ROWS, num_workers=workers)
        try:
            found.append(fit(stock, 2, checkpoint=checkpoints / f"step{step}.ckpt").seen)
        except fastload.FastloadError as error:
            found.append(str(error))
    return found


def grow(data: str) -> str:
    """What is said when a state of one rank is loaded on two, where Lightning would stop too early."""
    one, two = (
        fastload.DataLoader(fastload.StreamingDataset(data, fields=FIELDS, rank=0, world_size=size), ROWS)
        for size in (1, 2)
    )
    batches = iter(one)
    for _ in range(3):
        next(batches)
    states = CombinedLoader(one)._state_dicts()
    try:
        CombinedLoader(two)._load_state_dicts(states)
    except fastload.FastloadError as error:
        return str(error)
    return ""


class Pipeline(torch.utils.data.IterableDataset[dict[str, int]]):
    """Gives one sample after the other, and no length."""

    def __iter__(self) -> Iterator[dict[str, int]]:
        return ({"label": i} for i in range(8))


def pipe(folder: Path) -> dict[str, Any]:
    """Two epochs of 4 batches of a pipeline, what resumes after 2 and after 4, and what is said outside of a fit."""

    def loader() -> fastload.DataLoader:
        return fastload.DataLoader(Pipeline(), 2, num_workers=1)

    def saw(model: Model) -> dict[str, Any]:
        return {"labels": model.seen, "keys": model.keys}

    found: dict[str, Any] = {"whole": saw(fit(loader(), 2, SaveAt(folder, (2, 4))))}
    found["states"] = CombinedLoader(loader())._state_dicts()
    for name, go_on in (
        ("inside", lambda: saw(fit(loader(), 2, checkpoint=folder / "step2.ckpt"))),
        ("between", lambda: saw(fit(loader(), 2, checkpoint=folder / "step4.ckpt"))),
        ("loaded", lambda: CombinedLoader(loader())._load_state_dicts(found["states"])),
    ):
        try:
            found[name] = go_on()
        except fastload.FastloadError as error:
            found[name] = str(error)
    return found


def main(out: str, data: str, checkpoints: str, *steps: str) -> None:
    found: dict[str, Any] = {}
    if not steps:
        val = fastload.DataLoader(data, ROWS, fields=FIELDS, shuffle=False)
        whole = fit(train(data), 2, SaveAt(Path(checkpoints), (2, 4, 6)), val=val)
        stock = torch.utils.data.DataLoader(fastload.StreamingDataset(data, fields=FIELDS), ROWS, num_workers=1)
        found |= {"whole": whole.seen, "validated": whole.validated}
        found["stock"] = fit(stock, 1, SaveAt(Path(checkpoints, "stock"), (2, 4))).seen
        found["restarted"] = restart(data, Path(checkpoints, "stock"))
    for step in steps or ("2", "4", "6"):
        try:
            found[step] = fit(train(data), 2, checkpoint=Path(checkpoints, f"step{step}.ckpt")).seen
        except fastload.FastloadError as error:
            found[step] = str(error)
    found["grown"] = grow(data)
    if steps:
        found["pipeline"] = pipe(Path(out))
    ranks.leave(out, found)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Lightning's advice
    main(*sys.argv[1:])
    ranks.end()
