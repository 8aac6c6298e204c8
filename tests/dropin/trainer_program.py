"""One rank of test_trainer: trains a model of one number, and notes which samples each step had."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import ranks
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

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


class Plain(Model):
    """Does not take it."""

    def forward(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return super().forward(labels)


class Whole(Model):
    """Takes batches as they are."""

    def forward(self, labels: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return super().forward(labels)


class Own(Trainer):
    """Trains with a loader of fastload."""

    def __init__(self, data: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.data = data

    def get_train_dataloader(self) -> Any:
        return fastload.DataLoader(self.data, 3, fields={"label": fastload.Scalar()}, augment=[moved])


def moved(batch: fastload.Batch) -> fastload.Batch:
    return batch.replaced({"labels": batch["label"] + 100})


class Place(TrainerCallback):
    """The README's recipe: the loader's state beside each checkpoint."""

    def on_save(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            torch.save(train_dataloader.state_dict(), f"{args.output_dir}/checkpoint-{state.global_step}/loader.pt")

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        if state.global_step:
            saved = torch.load(f"{args.output_dir}/checkpoint-{state.global_step}/loader.pt")
            train_dataloader.load_state_dict(saved)


def metrics(prediction: Any) -> dict[str, Any]:
    return {"samples": sorted(prediction.label_ids.tolist())}


def arguments(out: str, **options: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=out, use_cpu=True, per_device_train_batch_size=3, per_device_eval_batch_size=3, learning_rate=0.0,
        report_to=[], disable_tqdm=True, logging_strategy="no", **{"save_strategy": "no", **options},
    )  # fmt: skip


def train(out: str, data: str, resume: bool | str = False, **options: Any) -> tuple[Model, Trainer]:
    model = Model()
    dataset = fastload.StreamingDataset(data, fields=FIELDS)
    held_out = fastload.IndexedDataset(data, fields={"label": fastload.Scalar()})
    trainer = Trainer(
        model, arguments(out, **options), train_dataset=dataset, eval_dataset=held_out, compute_metrics=metrics
    )
    trainer.train(resume_from_checkpoint=resume)
    return model, trainer


def evaluate(out: str, data: str, model: Model, **options: Any) -> Any:
    """The samples that an evaluation of a StreamingDataset counted, or why it was refused."""
    held_out = fastload.StreamingDataset(data, fields={"label": fastload.Scalar()})
    trainer = Trainer(model, arguments(out, **options), eval_dataset=held_out, compute_metrics=metrics)
    try:
        return trainer.evaluate()["eval_samples"]
    except fastload.FastloadError as error:
        return str(error)


def train_own(out: str, data: str, resume: str | None = None, **options: Any) -> Any:
    """The samples of each step with a loader of fastload, or why they were refused."""
    model = Whole()
    every = arguments(out, num_train_epochs=2, remove_unused_columns=False, **options)
    try:
        Own(data, model, every, callbacks=[Place()]).train(resume_from_checkpoint=resume)
    except fastload.FastloadError as error:
        return str(error)
    return model.seen


def main(out: str, data: str) -> None:
    model, trainer = train(f"{out}/whole", data, num_train_epochs=2, save_strategy="steps", save_steps=6)
    found: dict[str, Any] = {"whole": list(model.seen), "steps": trainer.state.max_steps}
    found["evaluated"] = trainer.evaluate()["eval_samples"]
    sharded = {"accelerator_config": {"dispatch_batches": False}, "dataloader_num_workers": 1}
    found["sharded"] = train(f"{out}/sharded", data, num_train_epochs=1, **sharded)[0].seen
    checkpoint = next(Path(out, "whole").glob("checkpoint-6"))
    found["resumed"] = train(f"{out}/resumed", data, str(checkpoint), num_train_epochs=2)[0].seen
    found["streamed"] = [evaluate(f"{out}/plain", data, Plain())]
    found["streamed"] += [evaluate(f"{out}/plain", data, Plain(), accelerator_config={"dispatch_batches": False})]
    found["aware"] = evaluate(f"{out}/aware", data, Model())
    own = f"{out}/own"
    found["own"] = train_own(own, data, save_strategy="steps", save_steps=3)
    found["own skipping"] = train_own(own, data, f"{own}/checkpoint-3")
    found["own resumed"] = train_own(own, data, f"{own}/checkpoint-3", ignore_data_skip=True)
    ranks.leave(out, found)


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main(*sys.argv[1:])
    ranks.leave(sys.argv[1] + "/whole", [str(w.message) for w in caught if "rows of padding" in str(w.message)])
    ranks.end()
