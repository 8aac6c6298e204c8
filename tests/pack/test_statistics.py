"""Statistics in the index: counted in the same pass, the same for any number of workers, and used to normalise."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pack_sources import tree, wav
from PIL import Image
from typer.testing import CliRunner

import fastload
from fastload.augment import Normalize
from fastload.cli import app
from fastload.errors import ConfigError
from fastload.pack import pack
from fastload.pack.jpeg import JpegMode
from fastload.statistics import Measure, field_statistics


def decoded(out: Path) -> np.ndarray:
    """All pixels of the train split as a loader gives them, float64 [3, n] in [0, 1]."""
    data = fastload.IndexedDataset(out / "train", fields={"image": fastload.Image()})
    pictures = (np.asarray(data[i]["image"]).reshape(3, -1) for i in range(len(data)))
    return np.concatenate(list(pictures), 1) / 255


@pytest.mark.parametrize("mode", ["seekable", "keep"])
@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_pixels_are_those_of_the_split(photos: Path, tmp_path: Path, mode: JpegMode, form: Any) -> None:
    index = pack(photos, tmp_path / "out", statistics=True, jpeg=mode, format=form, split="train=0.7,val=0.3")
    found = field_statistics(index.statistics, "train", "image")
    assert found is not None
    assert found.pixels is not None
    pixels = decoded(tmp_path / "out")
    assert found.pixels.pixels == pixels.shape[1]
    np.testing.assert_allclose(found.pixels.mean, pixels.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.pixels.std, pixels.std(1), rtol=1e-12)


@pytest.mark.parametrize("mode", ["seekable", "keep"])
def test_any_number_of_workers_counts_the_same(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: JpegMode
) -> None:
    monkeypatch.setattr("fastload.pack.plan.RUN_BYTES", 30_000)
    for workers in (1, 2, 7):
        pack(photos, tmp_path / str(workers), statistics=True, jpeg=mode, workers=workers, shard_size="120KiB")
    assert tree(tmp_path / "2") == tree(tmp_path / "7") == tree(tmp_path / "1")


def test_sizes_and_facts_are_always_there(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for frames in (100, 300, 300):
        (tmp_path / "s" / f"{len(list((tmp_path / 's').iterdir()))}.wav").write_bytes(wav(frames))
    for form in ("tar", "parquet"):
        index = pack(tmp_path / "s", tmp_path / form, format=form)  # type: ignore[arg-type]
        found = field_statistics(index.statistics, "train", "audio")
        assert found is not None
        assert found.measures == {
            "bytes": Measure.of([244, 644, 644]),
            "frames": Measure.of([100, 300, 300]),
            "sample_rate": Measure.of([8000] * 3),
        }
        assert found.pixels is None


def test_damage_that_decoding_finds_is_an_error_with_its_file(photos: Path, tmp_path: Path) -> None:
    path = photos / "cat/420-0.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    with pytest.raises(fastload.FastloadError, match=r"cat/420-0.jpg: JPEG .*; remove or mend the file"):
        pack(photos, tmp_path / "out", statistics=True, workers=1)
    assert not (tmp_path / "out").exists()


def test_normalize_from_the_index(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    index = pack(photos, out, statistics=True, split="train=0.7,val=0.3")
    pixels = field_statistics(index.statistics, "train", "image").pixels  # type: ignore[union-attr]
    dataset = fastload.StreamingDataset(out / "train", fields={"image": fastload.Image(32)})
    for given in (out, str(out), out / "train", out / "val", out / "index.json", dataset, index):
        normalize = Normalize.from_index(given)
        assert (normalize.mean, normalize.std) == (pixels.mean, pixels.std)  # type: ignore[union-attr]
    assert Normalize.from_index(out, split="val").mean != normalize.mean
    with pytest.raises(ConfigError, match="a list has no index: pass the packed folder, or the data set"):
        Normalize.from_index([])  # type: ignore[arg-type]
    half = Normalize.from_index(out, dtype=torch.float16)
    loader = fastload.DataLoader(dataset, batch_size=4, augment=[half])
    (image, *_) = (batch["image"] for batch in loader)
    assert image.dtype == torch.float16


def test_normalize_says_what_to_do_without_statistics(photos: Path, images: Path, tmp_path: Path) -> None:
    pack(photos, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"no pixel statistics of field 'image' in split 'train'.*statistics=True"):
        Normalize.from_index(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"no field 'picture'; it has 'image', 'label'"):
        Normalize.from_index(tmp_path / "a", field="picture")
    with pytest.raises(ConfigError, match=r"no split 'test'; it has 'train'"):
        Normalize.from_index(tmp_path / "a", split="test")
    foreign = tmp_path / "tars"
    foreign.mkdir()
    (tmp_path / "a/train/shard-000000.tar").rename(foreign / "shard-000000.tar")
    with pytest.raises(ConfigError, match=r"tars has no index.json"):
        Normalize.from_index(foreign)


def test_grey_pictures_are_normalised_as_one_channel(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for i in range(3):
        file = io.BytesIO()
        Image.new("L", (20, 10), 40 * i).save(file, "PNG")
        (tmp_path / "s" / f"{i}.png").write_bytes(file.getvalue())
    pack(tmp_path / "s", tmp_path / "out", statistics=True)
    normalize = Normalize.from_index(tmp_path / "out", channels=1)
    np.testing.assert_allclose(normalize.mean, [40 / 255])
    np.testing.assert_allclose(normalize.std, [np.std([0, 40, 80]) / 255])


def test_coloured_pictures_have_no_single_channel(photos: Path, tmp_path: Path) -> None:
    pack(photos, tmp_path / "out", statistics=True)
    with pytest.raises(ConfigError, match="channels=1: the pictures are coloured"):
        Normalize.from_index(tmp_path / "out", channels=1)
    with pytest.raises(ConfigError, match="channels=2: pass 3, or 1"):
        Normalize.from_index(tmp_path / "out", channels=2)


def test_pixels_of_what_has_none(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a line\n")
    with pytest.raises(
        ConfigError, match=r"statistics=True sums up pixels; the source has 'text' \(text\); leave it out"
    ):
        pack(tmp_path / "t.txt", tmp_path / "out", statistics=True)
    with pytest.raises(ConfigError, match="statistics='yes': pass True or False"):
        pack(tmp_path / "t.txt", tmp_path / "out", statistics="yes")  # type: ignore[arg-type]


def test_the_command_line(photos: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["pack", str(photos), str(tmp_path / "out"), "--statistics", "--workers", "1"])
    assert done.exit_code == 0
    about = json.loads((tmp_path / "out/index.json").read_text())["statistics"]["fields"]["train"]["image"]
    assert about["channels"]["pictures"] == 15
    assert about["bytes"]["count"] == 15
