"""Shards of prepared samples have about the size that was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from pack_sources import photo

from fastload.errors import PackError
from fastload.pack import Prepare, pack


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """40 photos of 400 to 439 pixels, some of them already small."""
    (tmp_path / "photos").mkdir()
    for number in range(40):
        width = 100 if number % 8 == 0 else 400 + number
        (tmp_path / "photos" / f"{number:02d}.jpg").write_bytes(photo(number, width=width, height=300))
    return tmp_path / "photos"


def check(out: Path, source: Path, prepare: Prepare, size: int, form: Any) -> None:
    """Several shards, most of them nearly full, none much larger than asked for."""
    index = pack(source, out, prepare=prepare, shard_size=size, format=form, workers=1)
    sizes = [shard.bytes for shard in index.shards]
    assert len(sizes) > 2
    assert max(sizes) < 1.25 * size
    assert np.median(sizes) > 0.7 * size


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_smaller_pictures(photos: Path, tmp_path: Path, form: Any) -> None:
    check(tmp_path / "out", photos, Prepare(resize_longer=200), 60_000, form)


def test_sounds_of_twice_the_rate(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        samples = rng.uniform(-0.5, 0.5, 4000 + 10 * number)
        soundfile.write(tmp_path / "s" / f"{number:02d}.wav", samples, 8000, subtype="PCM_16")
    check(tmp_path / "out", tmp_path / "s", Prepare(sample_rate=16000, audio_format="wav"), 100_000, "tar")


@pytest.mark.parametrize("length", [None, 200])
@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_texts_as_tokens(tmp_path: Path, form: Any, length: int | None) -> None:
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": "word " * int(n)}) for n in rng.integers(500, 1500, 60)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    check(tmp_path / "out", tmp_path / "t.jsonl", Prepare(tokenizer="bytes", sequence_length=length), 120_000, form)


def test_a_fault_in_what_is_tried_is_the_same_error(photos: Path, tmp_path: Path) -> None:
    (photos / "00.jpg").write_bytes(photo(1)[:-500])
    with pytest.raises(PackError, match=r"00.jpg: JPEG of \d+ bytes has no end: it was cut off; remove or mend"):
        pack(photos, tmp_path / "out", prepare=Prepare(resize_longer=200))
    assert not (tmp_path / "out").exists()
