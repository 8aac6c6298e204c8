"""fastload itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from work import BATCH, CLIP, SEED, TOKENS, WORKERS

import fastload
import fastload.augment
import fastload.loader  # now and not at first use, as the other loaders are imported: the first batch is timed without

pack = fastload.pack  # this imports the sharding tool, as the others' writers are

FIELDS = {
    "images": {"image": fastload.Image(224, crop="random"), "label": fastload.Scalar()},
    "audio": {"audio": fastload.Audio(8000, seconds=CLIP / 8000), "label": fastload.Scalar()},
    "records": {"image": fastload.Bytes(), "label": fastload.Scalar()},
    "tokens": {"tokens": fastload.Tokens(TOKENS)},
}


def prepare(workload: str, raw: Path, out: Path) -> None:
    source = raw / "tokens.npy" if workload == "tokens" else raw
    pack(source, out, shard_size="64MiB")


def _loader(workload: str, out: Path) -> fastload.DataLoader:
    augment = [fastload.augment.RandomHorizontalFlip()] if workload == "images" else None
    return fastload.DataLoader(
        out, batch_size=BATCH[workload], num_workers=WORKERS, seed=SEED, fields=FIELDS[workload], augment=augment
    )


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    loader = _loader(workload, out)
    while True:
        yield (batch.rows for batch in loader)


def resume(workload: str, out: Path) -> float:
    loader = _loader(workload, out)
    for number, _ in enumerate(loader):
        if number + 1 == int(0.9 * len(loader)):
            break
    state = loader.state_dict()
    start = time.perf_counter()
    again = _loader(workload, out)
    again.load_state_dict(state)
    next(iter(again))
    return time.perf_counter() - start
