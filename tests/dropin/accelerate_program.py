"""One rank of test_accelerate: what it reads through each way of preparing a loader."""

from __future__ import annotations

import gc
import sys
import warnings
from typing import Any

import ranks
import torch
import torch.utils.data

import fastload

if __name__ == "__main__":  # a worker that is spawned imports this file, and needs none of it, which takes seconds
    from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches

ROWS = 3
FIELDS = {"label": fastload.Scalar()}


def ids(batch: Any) -> list[int]:
    valid = getattr(batch, "valid", None)
    valid = batch.get("__valid__", torch.ones(len(batch["label"]), dtype=torch.bool)) if valid is None else valid
    return batch["label"][valid].tolist()  # type: ignore[no-any-return]


def tensors(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return torch.utils.data.default_collate([{k: v for k, v in s.items() if k != "__key__"} for s in samples])


class Wrapper(torch.utils.data.IterableDataset[Any]):
    """What changes samples of something else on their way."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __iter__(self) -> Any:
        return ({"label": sample["label"]} for sample in self.samples)

    def __len__(self) -> int:
        return len(self.samples)


def wrapped(data: str) -> dict[str, Any]:
    """What becomes of loaders over wrappers: the error of this rank, or what it read."""
    found: dict[str, Any] = {}
    for dispatch in (False, True):
        for name in ("plain", "fork", "spawn", "loader", "once"):
            accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch))
            if name == "spawn" and not (dispatch and accelerator.num_processes > 1):
                continue  # takes seconds, and finds what a forked one does
            start = {"num_workers": 1, "multiprocessing_context": name} if name in ("fork", "spawn") else {}
            place = {"rank": 0, "world_size": 1} if name == "once" else {}
            dataset = fastload.StreamingDataset(data, fields=FIELDS, **place)
            inner = fastload.DataLoader(dataset, 1) if name == "loader" else dataset
            prepared = accelerator.prepare(torch.utils.data.DataLoader(Wrapper(inner), ROWS, **start))
            if dispatch and name != "once" and accelerator.num_processes > 1 and not accelerator.is_main_process:
                continue  # it would wait for the first, which reads for all
            try:
                found[f"{dispatch} {name}"] = [i for batch in prepared for i in batch["label"].flatten().tolist()]
            except fastload.FastloadError as error:
                found[f"{dispatch} {name}"] = str(error)
    return found


def gathered(data: str) -> dict[str, list[int]]:
    """The README's recipe: metrics over the samples, without the padding."""
    accelerator, found = Accelerator(cpu=True), {}
    loader = accelerator.prepare(fastload.DataLoader(data, ROWS, fields=FIELDS))
    found["own"] = []
    for batch in loader:
        predicted = batch["label"]  # what a model makes of it
        predicted, valid = accelerator.gather_for_metrics((predicted, batch.valid))
        found["own"] += predicted[valid].tolist()
    found["stock"] = []
    dataset = fastload.StreamingDataset(data, fields=FIELDS)
    for batch in accelerator.prepare(torch.utils.data.DataLoader(dataset, ROWS)):
        every = torch.ones(len(batch["label"]), dtype=torch.bool)
        rows, valid = accelerator.gather_for_metrics((batch["label"], batch.get("__valid__", every)))
        found["stock"] += rows[valid].tolist()
    return found


def accumulated(data: str) -> dict[str, Any]:
    """The batches at which an optimizer stepped, of three that are accumulated, over two epochs; and what Accelerate
    takes to be under way afterwards."""
    found: dict[str, Any] = {}
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    stock = torch.utils.data.DataLoader(fastload.StreamingDataset(data, fields=FIELDS), ROWS)
    own = fastload.DataLoader(data, ROWS, fields=FIELDS, num_workers=1)
    for name, loader in (("stock", stock), ("own", own)):
        model = torch.nn.Linear(1, 1)
        model, loader = accelerator.prepare(model, loader)
        found[name] = []
        for _ in range(2):
            for number, batch in enumerate(loader):
                with accelerator.accumulate(model):
                    accelerator.backward(model(batch["label"][:, None].float()).sum())
                    found[name] += [number] * accelerator.sync_gradients
                for _ in fastload.DataLoader(data, 20, fields=FIELDS) if number == 1 else ():
                    pass  # an evaluation in the middle of an epoch changes nothing
    for number, _ in enumerate(own):
        if number == 1:
            break
    gc.collect()
    found["left"] = accelerator.gradient_state.in_dataloader
    return found


def nested(data: str) -> list[int]:
    """The batches at which an optimizer stepped, of five that are accumulated, over two epochs of a stock loader that
    reads from a loader of fastload. Its last batch is whole, so that it is not asked whether there is more."""
    accelerator, steps = Accelerator(cpu=True, gradient_accumulation_steps=5), []
    inner = fastload.DataLoader(data, 1, fields=FIELDS)
    model, loader = accelerator.prepare(torch.nn.Linear(1, 1), torch.utils.data.DataLoader(Wrapper(inner), 1))
    for _ in range(2):
        for number, batch in enumerate(loader):
            with accelerator.accumulate(model):
                accelerator.backward(model(batch["label"].float()).sum())
                steps += [number] * accelerator.sync_gradients
    return steps


def through(accelerator: Accelerator, loader: Any) -> list[list[list[int]]]:
    """Two epochs of a prepared loader; its length has to be right."""
    prepared = accelerator.prepare(loader)
    epochs = [[ids(batch) for batch in prepared] for _ in range(2)]
    assert [len(epoch) for epoch in epochs] == [len(prepared)] * 2
    return epochs


def checkpoint(data: str, out: str) -> list[list[list[int]]]:
    """The rest of an epoch after a checkpoint, and the rest after going back to it."""
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(fastload.DataLoader(data, ROWS, fields=FIELDS, num_workers=1))
    accelerator.register_for_checkpointing(loader)
    batches = iter(loader)
    next(batches)
    accelerator.save_state(f"{out}/state")  # written by the first rank alone
    accelerator.wait_for_everyone()
    rest = [ids(batch) for batch in batches]
    accelerator.load_state(f"{out}/state")
    return [rest, [ids(batch) for batch in loader]]


def main(out: str, data: str) -> None:
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5  # waits less long for workers after an error; else 5 s
    found: dict[str, Any] = {}
    accelerator = Accelerator(cpu=True)
    loader = fastload.DataLoader(data, ROWS, fields=FIELDS)
    assert accelerator.prepare(loader) is loader
    found["own"] = through(accelerator, loader)
    for dispatch in (None, False, True):
        for split in (False, True):
            options = DataLoaderConfiguration(dispatch_batches=dispatch, split_batches=split)
            accelerator = Accelerator(cpu=True, dataloader_config=options)
            rows = ROWS * accelerator.num_processes if split else ROWS
            for workers, start in ((0, None), (2, "fork")):
                dataset = fastload.StreamingDataset(data, fields=FIELDS)
                collate = tensors if dispatch is False else None
                loader = torch.utils.data.DataLoader(
                    dataset, rows, num_workers=workers, multiprocessing_context=start, collate_fn=collate
                )
                found[f"{dispatch} {split} {workers}"] = through(accelerator, loader)
    accelerator = Accelerator(cpu=True)
    dataset = fastload.StreamingDataset(data, fields=FIELDS)
    spawned = torch.utils.data.DataLoader(dataset, ROWS, num_workers=1, multiprocessing_context="spawn")
    if accelerator.num_processes > 1:  # takes seconds
        found["spawn"] = [[ids(batch) for batch in accelerator.prepare(spawned)]]
    found["drop"] = through(accelerator, torch.utils.data.DataLoader(dataset, ROWS, drop_last=True))
    found["unprepared"] = [[ids(batch) for batch in torch.utils.data.DataLoader(dataset, ROWS)]]
    indexed = fastload.IndexedDataset(data, fields=FIELDS)
    metric = []
    for batch in accelerator.prepare(torch.utils.data.DataLoader(indexed, ROWS)):
        metric += accelerator.gather_for_metrics(batch["label"]).tolist()
    found["metric"] = metric
    found["saved"], found["accumulated"] = checkpoint(data, out), accumulated(data)
    found["wrapped"], found["gathered"] = wrapped(data), gathered(data)
    if accelerator.num_processes == 1:
        found["nested"] = nested(data)
    found["errors"] = []
    for wrong in (
        torch.utils.data.DataLoader(fastload.StreamingDataset(data, rank=0, world_size=8), ROWS),
        torch.utils.data.DataLoader(dataset, 50, drop_last=True),
        torch.utils.data.DataLoader(dataset, None),
    ):
        try:
            next(iter(accelerator.prepare(wrong)))
        except fastload.FastloadError as error:
            found["errors"].append(str(error))
    try:
        skip_first_batches(fastload.DataLoader(data, ROWS, fields=FIELDS), 1)
    except fastload.FastloadError as error:
        found["skipped"] = str(error)
    ranks.leave(out, found)


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main(*sys.argv[1:])
    for message in {str(warning.message) for warning in caught}:
        print(message)
    ranks.end()
