"""One rank of a run in which the first reads for all, as Accelerate dispatches batches, and meets a damaged sample:
what it is told, and what the others are."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

import ranks
import torch.utils.data
from accelerate import Accelerator, DataLoaderConfiguration, InitProcessGroupKwargs

import fastload


def main(out: str, data: str) -> None:
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=ranks.PATIENCE_SECONDS / 2))
    configured = DataLoaderConfiguration(dispatch_batches=True)
    accelerator = Accelerator(cpu=True, dataloader_config=configured, kwargs_handlers=[timeout])
    dataset = fastload.StreamingDataset(data, fields={"image": fastload.Image(8)}, shuffle=False)
    batches, error, since = 0, "", time.monotonic()
    try:
        for _ in accelerator.prepare(torch.utils.data.DataLoader(dataset, 3, num_workers=1)):
            batches, since = batches + 1, time.monotonic()
    except (fastload.FastloadError, RuntimeError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    ranks.leave(out, {"batches": batches, "error": error, "seconds": time.monotonic() - since})
    sys.stdout.flush()
    os._exit(1)  # as an error that nobody catches ends it; ranks.end() would wait for those that are gone


if __name__ == "__main__":
    main(*sys.argv[1:])
