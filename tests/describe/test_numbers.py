"""What packed data is in numbers: counted here from the samples, there from the index alone."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from samples import FORMATS
from typer.testing import CliRunner

from fastload.cli import app
from fastload.describe import describe
from fastload.describe.numbers import balance, spread
from fastload.describe.table import sparkline
from fastload.errors import DecodeError, ShardIndexError
from fastload.inspect import summary
from fastload.pack import pack
from fastload.pack.convert import convert
from fastload.shards.index import ShardFormat

SIZES = [(32, 24), (48, 24), (20, 60)]


def picture(width: int, height: int, level: int) -> bytes:
    held = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (level, 0, 255 - level)).save(held, "PNG")
    return held.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """30 pictures of three sizes in classes of 20, 9 and 1, with sounds, captions and scores."""
    rows = []
    for i in range(30):
        (tmp_path / f"p{i}.png").write_bytes(picture(*SIZES[i % 3], level=i))
        (tmp_path / f"s{i}.wav").write_bytes(samples.wav(i))
        label = "ant" if i == 29 else "cat" if i % 3 else "dog"
        row = {"key": f"k{i}", "image": f"p{i}.png", "audio": f"s{i}.wav", "caption": "c" * (i + 1), "score": i / 10}
        rows.append({**row, "label": label, "flag": i % 2 == 0})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "m.jsonl"


@pytest.mark.parametrize("shard_format", FORMATS)
def test_counts_sizes_lengths_and_classes(source: Path, tmp_path: Path, shard_format: ShardFormat) -> None:
    out = tmp_path / "out"
    pack(source, out, format=shard_format, split={"train": 0.8, "val": 0.2}, shard_size="10KiB")
    splits = describe(out)["splits"]
    assert {name: found["samples"] for name, found in splits.items()}.keys() == {"train", "val"}
    assert sum(found["samples"] for found in splits.values()) == 30
    pack(source, tmp_path / "one", format=shard_format, shard_size="10KiB")
    fields = describe(tmp_path / "one")["splits"]["train"]["fields"]
    assert all(about["present"] == 30 for about in fields.values())
    assert fields["label"]["classes"] == {"cat": 19, "dog": 10, "ant": 1}
    assert fields["label"]["balance"] == {
        "classes": 3,
        "least": 1,
        "most": 19,
        "evenness": pytest.approx(0.6998, abs=1e-4),
    }
    assert fields["flag"]["classes"] == {"0": 15, "1": 15}
    score = fields["score"]["numbers"]["value"]
    assert (score["min"], score["max"], score["count"]) == (0, 2.9, 30)
    assert score["median"] == pytest.approx(1.45)
    assert score["std"] == pytest.approx(np.std(np.arange(30) / 10))
    assert sum(score["histogram"]["counts"]) == 30
    frames = fields["audio"]["numbers"]["frames"]
    assert (frames["min"], frames["max"]) == (samples.FRAMES, samples.FRAMES + 29)
    assert fields["audio"]["numbers"]["seconds"]["max"] == pytest.approx((samples.FRAMES + 29) / samples.SAMPLE_RATE)
    width = fields["image"]["numbers"]["width"]
    assert (width["min"], width["median"], width["max"]) == (20, 32, 48)
    size = fields["caption"]["bytes"]
    assert (size["sum"], size["min"], size["max"], size["mean"]) == (465, 1, 30, 15.5)
    assert size["histogram"] == [0, 1, 2, 4, 8, 15]
    assert fields["image"]["bytes"]["sum"] == sum(len(picture(*SIZES[i % 3], level=i)) for i in range(30))
    assert "channels" not in fields["image"]


@pytest.mark.parametrize("shard_format", FORMATS)
def test_pixels(source: Path, tmp_path: Path, shard_format: ShardFormat) -> None:
    pack(source, tmp_path / "out", format=shard_format)
    summed = pack(source, tmp_path / "summed", format=shard_format, statistics=True)
    channels = describe(tmp_path / "out", pixels=True)["splits"]["train"]["fields"]["image"]["channels"]
    pixels = np.concatenate([np.repeat(i, np.prod(SIZES[i % 3])) for i in range(30)]) / 255
    assert channels["mean"] == pytest.approx([pixels.mean(), 0, 1 - pixels.mean()])
    assert channels["std"] == pytest.approx([pixels.std(), 0, pixels.std()])
    known = summed.statistics["fields"]["train"]["image"]["channels"]
    assert channels == {"mean": known["mean"], "std": known["std"]}
    assert describe(tmp_path / "summed")["splits"]["train"]["fields"]["image"]["channels"] == channels


def test_a_picture_that_does_not_decode_is_named(tmp_path: Path) -> None:
    folder = samples.make(tmp_path / "a", "tar", [3], replace={1: {"image": b"\xff\xd8\xff nothing"}})
    assert describe(folder)["splits"]["train"]["fields"]["image"]["present"] == 3
    with pytest.raises(DecodeError, match=r"shard 'train/shard-000000\.tar', sample '000001'"):
        describe(folder, pixels=True)


@pytest.mark.parametrize("shard_format", FORMATS)
def test_samples_that_lack_a_field(tmp_path: Path, shard_format: ShardFormat) -> None:
    """As they were written, and as converted, with facts of the pictures that are there."""
    lacking: dict[int, dict[str, bytes | None]] = {i: {"text": None} for i in (1, 5)}
    lacking[6] = {"text": None, "image": None, "bytes": None}
    folder = samples.make(tmp_path / "a", shard_format, [3, 4], ("image", "text", "bytes", "label"), replace=lacking)
    convert(folder, tmp_path / "tar", format="tar")
    convert(folder, tmp_path / "parquet", format="parquet")
    for data in (folder, tmp_path / "tar", tmp_path / "parquet"):
        fields = describe(data)["splits"]["train"]["fields"]
        present = {name: about["present"] for name, about in fields.items()}
        assert present == {"image": 6, "text": 4, "bytes": 6, "label": 7}
    size = describe(tmp_path / "tar")["splits"]["train"]["fields"]["text"]["bytes"]
    assert size["sum"] == 4 * len("text of sample 0")
    for name in ("tar", "parquet"):
        ranges = summary(tmp_path / name)["splits"]["train"]["ranges"]
        assert ranges["image.width"] == [samples.WIDTH, samples.WIDTH], "none of the zeros of those without"


def test_lists_without_items_are_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"ids": [[1], [], [2, 3]], "x": [1, 2, 3]}), tmp_path / "a.parquet")
    assert describe(tmp_path / "a.parquet")["splits"]["all"]["fields"]["ids"]["present"] == 3


@pytest.mark.parametrize("shard_format", FORMATS)
def test_one_split_has_what_was_counted_in_it(source: Path, tmp_path: Path, shard_format: ShardFormat) -> None:
    out = tmp_path / "out"
    pack(source, out, format=shard_format, split={"train": 0.8, "val": 0.2}, statistics=True)
    splits = describe(out)["splits"]
    for name in splits:
        assert describe(out, name)["splits"] == {name: splits[name]}
    assert splits["val"]["fields"]["image"]["channels"] is not None
    assert summary(out, "val")["packed"] == summary(out)["packed"]


def test_parquet_files_of_others(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", None, "bcd"], "x": [1, 2, 2], "y": pa.array([0.5, None, 1.0])})
    pq.write_table(table, tmp_path / "a.parquet")
    about = describe(tmp_path / "a.parquet")
    fields = about["splits"]["all"]["fields"]
    assert fields["text"]["present"] == 2
    assert fields["text"]["bytes"].keys() == {"sum"}
    assert fields["x"]["classes"] == {"2": 2, "1": 1}
    assert fields["y"]["present"] == 2


@pytest.mark.parametrize("shard_format", FORMATS)
def test_what_is_not_a_number_is_there_and_in_no_histogram(tmp_path: Path, shard_format: ShardFormat) -> None:
    scores = "".join(f"k{i},{'nan' if i == 3 else i / 2}\n" for i in range(8))
    (tmp_path / "a.csv").write_text("key,score\n" + scores)
    pack(tmp_path / "a.csv", tmp_path / "out", format=shard_format)
    score = describe(tmp_path / "out")["splits"]["train"]["fields"]["score"]
    assert score["present"] == 8
    value = score["numbers"]["value"]
    assert (value["count"], value["min"], value["median"], value["max"]) == (7, 0, 2, 3.5)
    assert sum(value["histogram"]["counts"]) == 7


def test_columns_without_finite_numbers_have_none(tmp_path: Path) -> None:
    numbers = {"some": [math.inf, 1.0, math.nan], "none": [math.nan] * 3}
    pq.write_table(pa.table(numbers), tmp_path / "a.parquet")
    fields = describe(tmp_path / "a.parquet")["splits"]["all"]["fields"]
    assert fields["some"]["numbers"]["value"]["max"] == 1
    assert "numbers" not in fields["none"]
    assert CliRunner().invoke(app, ["stats", str(tmp_path / "a.parquet")]).exit_code == 0


def test_a_class_without_samples_is_counted(tmp_path: Path) -> None:
    rows = "".join(f"{i},{'cat' if i else 'dog'},{i}\n" for i in range(20))
    (tmp_path / "a.csv").write_text("key,label,number\n" + rows)
    pack(tmp_path / "a.csv", tmp_path / "out", split={"train": 0.5, "val": 0.5})
    splits = describe(tmp_path / "out")["splits"].values()
    assert sorted(found["fields"]["label"]["classes"]["dog"] for found in splits) == [0, 1]
    assert sorted(found["fields"]["label"]["balance"]["classes"] for found in splits) == [2, 2]


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=200))
def test_spread_of_whole_numbers(values: list[int]) -> None:
    found = spread(np.array(values))
    counts, edges = found["histogram"]["counts"], found["histogram"]["edges"]
    assert sum(counts) == found["count"] == len(values)
    assert len(edges) == len(counts) + 1 <= 21
    assert edges[0] <= min(values) <= max(values) <= edges[-1]
    assert found["min"] <= found["p5"] <= found["median"] <= found["p95"] <= found["max"]
    if max(values) - min(values) < 20:
        assert counts == [values.count(number) for number in range(min(values), max(values) + 1)]


def test_balance() -> None:
    assert balance([5, 5, 5, 5])["evenness"] == pytest.approx(1)
    assert balance([7])["evenness"] == 1
    assert balance([10, 0]) == {"classes": 2, "least": 0, "most": 10, "evenness": 0}


def test_sparkline() -> None:
    assert sparkline([0, 1, 4, 8]) == " ▁▄█"
    assert sparkline([]) == ""


def run(*arguments: Any) -> str:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out")
    assert json.loads(run("stats", tmp_path / "out", "--json")) == describe(str(tmp_path / "out"))
    text = run("stats", tmp_path / "out", "--pixels")
    for part in (
        "train: 30 samples in 1 files",
        "3 classes of 1 to 19 samples, evenness 0.70",
        "image.width",
        "caption",
    ):
        assert part in text
    assert "image, red" in text
    with pytest.raises(ShardIndexError, match="no split 'val'"):
        describe(tmp_path / "out", "val")
