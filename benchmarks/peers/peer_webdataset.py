"""WebDataset: tar shards, a shuffle buffer, torch workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset as wds
from decoding import clip, crop_and_flip
from work import BATCH, WORKERS, files_of, tokens_of


def prepare(workload: str, raw: Path, out: Path) -> None:
    out.mkdir(parents=True)
    with wds.ShardWriter(str(out / "%06d.tar"), maxsize=64 << 20, verbose=0) as writer:
        if workload == "tokens":
            for number, row in enumerate(tokens_of(raw)):
                writer.write({"__key__": f"{number:09d}", "npy": row})
            return
        for number, (path, label) in enumerate(files_of(raw)):
            writer.write({"__key__": f"{number:09d}", "jpg": Path(path).read_bytes(), "cls": label})


def _decode(sample: dict[str, Any]) -> tuple[Any, int]:
    return crop_and_flip(sample["jpg"]), int(sample["cls"])


def _clip(sample: dict[str, Any]) -> tuple[Any, int]:
    return clip(sample["jpg"]), int(sample["cls"])


def _records(sample: dict[str, Any]) -> tuple[bytes, int]:
    return sample["jpg"], int(sample["cls"])


def _rows(sample: dict[str, Any]) -> tuple[Any, int]:
    from webdataset.autodecode import basichandlers

    return basichandlers("npy", sample["npy"]).astype("int64"), 0


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    urls = sorted(map(str, out.glob("*.tar")))
    convert = {"images": _decode, "audio": _clip, "records": _records, "tokens": _rows}[workload]
    workers = min(WORKERS, len(urls))
    dataset = wds.WebDataset(urls, shardshuffle=len(urls), workersplitter=wds.split_by_worker).shuffle(1000)
    batched = dataset.map(convert).batched(BATCH[workload])
    loader = wds.WebLoader(batched, batch_size=None, num_workers=workers, persistent_workers=True)
    while True:
        yield (len(labels) for _, labels in loader)
