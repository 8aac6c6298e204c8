"""One rank of test_trainer: trains a model of one number, and notes which samples each step had."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import ranks
import torch
from transformers import Trainer, TrainingArguments

import fastload

FIELDS = {"label": fastload.Scalar(), "text": fastload.Text()}


class Model(torch.nn.Module):
    """Takes `__valid__`, which the Trainer then passes on."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Linear(1, 1)
        self.seen: list[list[int]] = []

    def forward(self, labels: torch.Tensor, __valid__: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        rows = torch.ones(len(labels), dtype=torch.bool) if __valid__ is None else __valid__
        self.seen.append(labels[rows].tolist())
        values = self.number(labels[:, None].float())
        return {"loss": (values[:, 0] * rows).sum(), "logits": values * 0 + labels[:, None]}


def metrics(prediction: Any) -> dict[str, Any]:
    return {"samples": sorted(prediction.label_ids.tolist())}


def train(out: str, data: str, resume: bool | str = False, **options: Any) -> tuple[Model, Trainer]:
    model = Model()
    arguments = TrainingArguments(
        output_dir=out, use_cpu=True, per_device_train_batch_size=3, per_device_eval_batch_size=3, learning_rate=0.0,
        report_to=[], disable_tqdm=True, logging_strategy="no", **{"save_strategy": "no", **options},
    )  # fmt: skip
    dataset = fastload.StreamingDataset(data, fields=FIELDS)
    held_out = fastload.IndexedDataset(data, fields={"label": fastload.Scalar()})
    trainer = Trainer(model, arguments, train_dataset=dataset, eval_dataset=held_out, compute_metrics=metrics)
    trainer.train(resume_from_checkpoint=resume)
    return model, trainer


def main(out: str, data: str) -> None:
    model, trainer = train(f"{out}/whole", data, num_train_epochs=2, save_strategy="steps", save_steps=6)
    found: dict[str, Any] = {"whole": list(model.seen), "steps": trainer.state.max_steps}
    found["evaluated"] = trainer.evaluate()["eval_samples"]
    sharded = {"accelerator_config": {"dispatch_batches": False}, "dataloader_num_workers": 1}
    found["sharded"] = train(f"{out}/sharded", data, num_train_epochs=1, **sharded)[0].seen
    checkpoint = next(Path(out, "whole").glob("checkpoint-6"))
    found["resumed"] = train(f"{out}/resumed", data, str(checkpoint), num_train_epochs=2)[0].seen
    ranks.leave(out, found)


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main(*sys.argv[1:])
    ranks.leave(sys.argv[1] + "/whole", [str(w.message) for w in caught if "rows of padding" in str(w.message)])
    ranks.end()
