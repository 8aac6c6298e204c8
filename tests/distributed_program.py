"""One rank of test_distributed: what it reads with each kind of workers, what it saves, what it reads on resuming.

Every batch is followed by an all_reduce, as a training step is: ranks with unequal numbers of batches would hang.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import ranks
import torch
import torch.distributed
import torch.utils.data

import fastload
from fastload.samplers import Stratified, Subset

GLOBAL_BATCH = 12
FIELDS = {"label": fastload.Scalar(), "image": fastload.Image(8, crop="random")}


def step(batch: Any, valid: torch.Tensor) -> list[int]:
    """A training step; gives the ids of its valid rows."""
    torch.distributed.all_reduce(torch.ones(1))
    return batch["label"][valid].tolist()  # type: ignore[no-any-return]


def own(loader: fastload.DataLoader, batches: int | None = None) -> list[list[int]]:
    return [step(batch, batch.valid) for batch in islice(loader, batches)]


def stock(loader: torch.utils.data.DataLoader[Any]) -> list[list[int]]:
    every = torch.ones(10**3, dtype=torch.bool)
    return [step(batch, batch.get("__valid__", every[: len(batch["label"])])) for batch in loader]


def mixed(data: str, rows: int) -> fastload.DataLoader:
    """All samples and the first 30 again, by a sampler, two of the former to one of the latter."""
    sources = {
        "all": fastload.StreamingDataset(data, fields=FIELDS, seed=1),
        "some": fastload.StreamingDataset(data, fields=FIELDS, sampler=Subset(range(30), then=Stratified("label"))),
    }
    return fastload.DataLoader(fastload.Mix(sources, weights=[2, 1], stop=90), rows, num_workers=1)


def own_of_mixed(loader: fastload.DataLoader, batches: int | None = None) -> list[list[int]]:
    """As `own`; an id tells the source too."""
    found = []
    for batch in islice(loader, batches):
        batch["label"] += 100 * batch["source"]
        found.append(step(batch, batch.valid))
    return found


def mean_loss(data: str, rows: int) -> float:
    """The README's recipe: the mean over the samples, whatever the number of ranks."""
    totals = torch.zeros(2, dtype=torch.float64)
    for batch in fastload.DataLoader(data, rows, shuffle=False, fields=FIELDS, last_batch="pad", num_workers=1):
        losses = torch.sqrt(batch["label"].double() + 3)
        totals += torch.stack([(losses * batch.valid).sum(), batch.valid.sum()])
    torch.distributed.all_reduce(totals)
    return float(totals[0] / totals[1])


def main(out: str, data: str, *before: str) -> None:
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    rows = GLOBAL_BATCH // torch.distributed.get_world_size()
    found: dict[str, Any] = {"threads": {}, "processes": {}, "saved": [], "resumed": []}
    for workers in range(4):
        loader = fastload.DataLoader(data, rows, fields=FIELDS, num_workers=workers)
        expected = len(loader)
        found["threads"][workers] = [own(loader), own(loader)]
        assert [len(batches) for batches in found["threads"][workers]] == [expected] * 2
        dataset = fastload.StreamingDataset(data, fields=FIELDS, batch_size=rows)
        found["processes"][workers] = stock(torch.utils.data.DataLoader(dataset, rows, num_workers=workers))
    for batches in range(expected + 1):
        loader = fastload.DataLoader(data, rows, fields=FIELDS, num_workers=1)
        seen = own(loader, batches)
        found["saved"].append({"seen": seen, "state": loader.state_dict()})
    for saved in json.loads(Path(*before).read_text())["saved"] if before else []:
        loader = fastload.DataLoader(data, rows, fields=FIELDS, num_workers=1)
        loader.load_state_dict(saved["state"])
        found["resumed"].append(own(loader))
    loader = mixed(data, rows)
    found["mixed"] = {"seen": own_of_mixed(loader, 3), "state": loader.state_dict(), "rest": []}
    for saved in [found["mixed"]] + ([json.loads(Path(*before).read_text())["mixed"]] if before else []):
        loader = mixed(data, rows)
        loader.load_state_dict(saved["state"])
        found["mixed"]["rest"].append(own_of_mixed(loader))
    found["mean_loss"] = mean_loss(data, rows)
    ranks.leave(out, found)


if __name__ == "__main__":
    main(*sys.argv[1:])
    ranks.end()
