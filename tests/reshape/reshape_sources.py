"""Sources with every kind of field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import samples
import tokenizers
from pack_sources import jpeg, png
from tokenizers import models, pre_tokenizers

from fastload.shards.idx import Idx
from fastload.shards.index import IndexFile

LABELS = ("cat", "dog", "owl")


def make_everything(folder: Path, numbers: range, labels: tuple[str, ...] = LABELS) -> Path:
    """A manifest whose samples have every kind of field; pictures are JPEG and PNG in turn."""
    folder.mkdir(parents=True)
    rows = []
    for i in numbers:
        ending = "png" if i % 3 == 0 else "jpg"
        (folder / f"p{i}.{ending}").write_bytes(png(i) if ending == "png" else jpeg(i, width=20 + i))
        (folder / f"s{i}.wav").write_bytes(samples.wav(i))
        (folder / f"t{i}.npy").write_bytes(samples.STORED["tensor"](i)[1])
        rows.append(
            {
                "key": f"some/{i:04d}", "image": f"p{i}.{ending}", "audio": f"s{i}.wav", "tensor": f"t{i}.npy",
                "caption": f"größe {i}", "about": {"i": [i, None]}, "score": i / 7,
                "flag": i % 2 == 0, "count": i - 3, "label": labels[i % len(labels)],
            }
        )  # fmt: skip
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "m.jsonl"


def make_tokens(folder: Path) -> Path:
    """Three tars of tokens, bytes and more, as a packer that notes everything would leave them."""
    samples.make(folder, "tar", [4, 1, 3], samples.FIELDS)
    index = IndexFile.load(folder / "index.json")
    fields = Idx(str(folder / "train/shard-000000.idx")).fields
    replace(index, fields=fields, packed={"fastload": "0"}).save(folder)
    return folder


def word_tokenizer(path: Path, *vocabulary: str) -> Path:
    """A tokenizer of whole words."""
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(path))
    return path


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """By name, which file it is and when it was written: what was written again differs, even with the same bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
