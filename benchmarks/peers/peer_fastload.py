"""fastload itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from work import BATCH, SEED, TOKENS, WORKERS, tokens_of

import fastload

FIELDS = {
    "images": {"image": fastload.Image(224, crop="random"), "label": fastload.Scalar()},
    "records": {"image": fastload.Bytes(), "label": fastload.Scalar()},
    "tokens": {"tokens": fastload.Tokens(TOKENS)},
}


def prepare(workload: str, raw: Path, out: Path) -> None:
    if workload == "tokens":
        import io

        import numpy as np

        from fastload.shards.index import FieldInfo, IndexFile, ShardFile
        from fastload.shards.tar import TarShardWriter

        (out / "train").mkdir(parents=True)
        fields = {"tokens": FieldInfo(kind="tokens", dtype="int32")}
        writer = TarShardWriter(out / "train/shard-000000.tar", fields)
        for number, row in enumerate(tokens_of(raw)):
            buffer = io.BytesIO()
            np.save(buffer, row)
            writer.add(f"{number:09d}", {"tokens": ("npy", buffer.getvalue())}, {}, {})
        file = writer.finish()
        shard = ShardFile.from_json(file.to_json() | {"name": f"train/{file.name}"})
        IndexFile(shard_format="tar", fields=writer.fields, shards=(shard,), splits={"train": (0, 1)}).save(out)
        return
    fastload.pack(raw, out, shard_size="64MiB")


def epochs(workload: str, out: Path) -> Iterator[Iterator[int]]:
    augment = [fastload.augment.RandomHorizontalFlip()] if workload == "images" else None
    loader = fastload.DataLoader(
        out, batch_size=BATCH[workload], num_workers=WORKERS, seed=SEED, fields=FIELDS[workload], augment=augment
    )
    while True:
        yield (batch.rows for batch in loader)
