"""One rank of test_accelerate: what it reads through each way of preparing a loader."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import ranks
import torch
import torch.utils.data
from accelerate import Accelerator, DataLoaderConfiguration

import fastload

ROWS = 3
FIELDS = {"label": fastload.Scalar()}


def ids(batch: Any) -> list[int]:
    valid = getattr(batch, "valid", None)
    valid = batch.get("__valid__", torch.ones(len(batch["label"]), dtype=torch.bool)) if valid is None else valid
    return batch["label"][valid].tolist()  # type: ignore[no-any-return]


def tensors(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return torch.utils.data.default_collate([{k: v for k, v in s.items() if k != "__key__"} for s in samples])


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
    found["spawn"] = [[ids(batch) for batch in accelerator.prepare(spawned)]]
    found["drop"] = through(accelerator, torch.utils.data.DataLoader(dataset, ROWS, drop_last=True))
    found["unprepared"] = [[ids(batch) for batch in torch.utils.data.DataLoader(dataset, ROWS)]]
    indexed = fastload.IndexedDataset(data, fields=FIELDS)
    metric = []
    for batch in accelerator.prepare(torch.utils.data.DataLoader(indexed, ROWS)):
        metric += accelerator.gather_for_metrics(batch["label"]).tolist()
    found["metric"] = metric
    found["saved"] = checkpoint(data, out)
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
    ranks.leave(out, found)


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main(*sys.argv[1:])
    for message in {str(warning.message) for warning in caught}:
        print(message)
    ranks.end()
