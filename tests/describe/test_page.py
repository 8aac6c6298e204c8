"""The page of packed data: one file, with what was counted in it and samples to look at."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import samples
from samples import FORMATS
from typer.testing import CliRunner

from fastload.cli import app
from fastload.describe.charts import histogram, of_edges, of_powers
from fastload.describe.mix import TOP_CLASSES
from fastload.describe.page import SAMPLES, to_html
from fastload.describe.sheet import sheet
from fastload.pack import pack
from fastload.shards.index import ShardFormat
from fastload.shards.open import open_index


def text_of(page: str) -> str:
    """What a reader sees, with single spaces."""
    body = re.sub(r"<style>.*?</style>|<title>.*?</title>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = []
    for i in range(60):
        (tmp_path / f"p{i}.jpg").write_bytes(samples.jpeg(i % 20))
        (tmp_path / f"s{i}.wav").write_bytes(samples.wav(i))
        caption = f"<b>no & bold</b> {i} " + "long " * 60
        label = "dog & <cat>" if i % 3 else f"class {i % 40}"
        row = {"key": f"k{i}", "image": f"p{i}.jpg", "audio": f"s{i}.wav", "caption": caption, "score": i / 7}
        rows.append({**row, "about": {"i": i}, "label": label})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "m.jsonl"


@pytest.mark.parametrize("shard_format", FORMATS)
def test_what_is_on_the_page(source: Path, tmp_path: Path, shard_format: ShardFormat) -> None:
    index = pack(source, tmp_path / "pets", format=shard_format, split={"train": 0.7, "val": 0.3})
    page = to_html(tmp_path / "pets")
    text = text_of(page)
    assert text.startswith(f"pets 60 samples 2 {shard_format} files")
    for split in ("train", "val"):
        assert f"{split}: {index.samples(split)} samples" in text
    shown = min(SAMPLES, index.samples("train")) + min(SAMPLES, index.samples("val"))
    assert page.count("<figcaption><b") == shown
    assert page.count('<img src="data:image/jpeg') + page.count('<img class=tiny src="data:image/png') == 2 * shown
    assert "dog & <cat>" in text
    assert "<b>no & bold</b>" in text, "what samples hold is text, never markup"
    assert '{"i": ' in text
    assert "audio: seconds" in text
    assert "audio: frames" not in text
    assert "image: width 28 in all samples" in text
    assert f"label: {len(index.fields['label'].classes or ())} classes of" in text
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|<link", page), "nothing is fetched, nothing runs"


def test_many_classes_and_lacking_fields(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,label\n" + "".join(f"k{i},c{i % 50}\n" for i in range(100)))
    pack(tmp_path / "a.csv", tmp_path / "out")
    page = to_html(tmp_path / "out")
    assert page.count('class="bar"') == TOP_CLASSES
    assert f"and {50 - TOP_CLASSES} classes more with {2 * (50 - TOP_CLASSES)} samples" in text_of(page)
    assert "lacking" not in text_of(page)
    lacking: dict[int, dict[str, bytes | None]] = {1: {"text": None}}
    folder = samples.make(tmp_path / "b", "tar", [3], ("text",), replace=lacking)
    assert "field kind samples lacking bytes text text 2 1" in text_of(to_html(folder))


def test_what_does_not_decode_is_said(tmp_path: Path) -> None:
    folder = samples.make(tmp_path / "a", "tar", [3], samples.FIELDS, replace={1: {"image": b"\xff\xd8 nothing"}})
    page = to_html(folder)
    assert page.count("class=faulty") == 1
    assert "does not decode: " in text_of(page)
    assert "float32[3]: 2, 1, -2" in text_of(page)
    assert "int32[3]: 2, 3, 4" in text_of(page)


def test_a_png_that_is_cut_off(tmp_path: Path) -> None:
    file = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 50).save(file, "png")
    folder = samples.make(tmp_path / "a", "tar", [2], ("image",), replace={1: {"image": file.getvalue()[:-2000]}})
    assert to_html(folder).count("class=faulty") == 1


def test_the_sheet_is_spread_evenly(tmp_path: Path) -> None:
    folder = samples.make(tmp_path / "a", "tar", [5, 1, 9], ("text", "label"))
    assert [one.key for one in sheet(open_index(folder), 3)] == [samples.key(i) for i in (0, 7, 14)]
    assert [one.caption for one in sheet(open_index(folder), 100)] == [f"label {i}" for i in range(15)]


def test_masks_of_class_numbers_have_colours(tmp_path: Path) -> None:
    """Grey pictures and masks of black and white stay as they are."""
    rows = []
    for name, levels in (("classes", (0, 1, 2, 255)), ("binary", (0, 255, 0, 255)), ("photo", (0, 30, 90, 200))):
        pixels = np.repeat(np.array(levels, np.uint8), 20).reshape(8, 10)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        rows.append({"key": name, "image": f"{name}.png"})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(tmp_path / "m.jsonl", tmp_path / "out", shuffle=False)
    drawn = {}
    for one in sheet(open_index(tmp_path / "out"), 3):
        content = base64.b64decode(one.cells[0].uri.partition(",")[2])
        drawn[one.key] = np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))[::2, 0].tolist()
    assert drawn["classes"] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]]
    assert drawn["binary"] == [[level] * 3 for level in (0, 255, 0, 255)]
    assert drawn["photo"] == [[level] * 3 for level in (0, 30, 90, 200)]


def test_sizes_of_few_powers_are_drawn_in_equal_steps(tmp_path: Path) -> None:
    for name, texts in (("near", [f"{'x' * (600 + i)}" for i in range(100)]), ("far", ["x" * 2**i for i in range(12)])):
        pack([{"text": text} for text in texts], tmp_path / name)
    assert to_html(tmp_path / "near").count("<rect") == 20
    assert to_html(tmp_path / "far").count("<rect") == 12


def test_histograms() -> None:
    drawn = histogram([0, 2, 1], ["a<", "b"], "x")
    assert drawn.count("<rect") == 2
    assert "a&lt;" in drawn
    assert "most in one column: 2" in drawn
    ticks = re.findall(r">([^<]+)</text>", of_powers([0, 0, 0, 4, 1], str, "x"))
    assert ticks == ["most in one column: 4", "4", "16"]
    ticks = re.findall(r">([^<]+)</text>", of_edges([0.5, 1.5, 2.5, 3.5], [1, 0, 2], str, "x"))
    assert ticks == ["most in one column: 2", "1.0", "2.0", "3.0"]


def test_the_command(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "out"), "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert f"wrote {tmp_path / 'page.html'}" in done.output
    assert (tmp_path / "page.html").read_text() == to_html(str(tmp_path / "out"))
