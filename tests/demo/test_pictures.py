from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from fastload.augment import Normalize
from fastload.batch import Batch
from fastload.demo import pictures
from fastload.demo.train import Epoch


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def share(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    """Share of the pixels that have this colour, give or take rounding."""
    return float((np.abs(picture.astype(int) - colour).max(axis=2) <= 1).mean())


def test_images_are_shown_in_the_colours_they_had_before_normalisation(tmp_path: Path) -> None:
    colours = [(250, 10, 10), (10, 200, 40), (0, 0, 255)]
    images = torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(3, 3, 8, 8)
    batch = Normalize()(Batch({"image": images, "label": torch.tensor([0, 1, 0])}))
    pictures.image_sheet(batch, ("a", "b"), tmp_path / "sheet.png")
    assert all(share(pixels(tmp_path / "sheet.png"), colour) > 0.03 for colour in colours)


def test_a_sheet_has_at_most_four_rows_of_eight(tmp_path: Path) -> None:
    heights = []
    for count in (8, 32, 64):
        batch = {"image": torch.zeros(count, 3, 8, 8), "label": torch.zeros(count, dtype=torch.int64)}
        pictures.image_sheet(batch, ("a",), tmp_path / "sheet.png")
        heights.append(len(pixels(tmp_path / "sheet.png")))
    assert heights[0] < heights[1] == heights[2]


@pytest.mark.parametrize(("length", "lines"), [(20, True), (40, False)])
def test_a_line_marks_where_a_clip_ends(length: int, lines: bool, tmp_path: Path) -> None:
    mel = torch.full((8, 1, 40, 40), 1e-3)
    mel[:, :, 0] = 1  # the loudest, at the bottom: all else is drawn darker
    batch = {"audio": mel, "audio_length": torch.full((8,), length), "label": torch.zeros(8, dtype=torch.int64)}
    pictures.audio_sheet(batch, ("a",), tmp_path / "sheet.png")
    # a column through the middle of a spectrogram that is white from top to bottom, between columns that are not
    sheet = pixels(tmp_path / "sheet.png")
    rows = sheet[len(sheet) // 2 :][:20].astype(int).sum(axis=2)  # [20, W]
    coloured = np.flatnonzero(rows.mean(axis=0) < 600)
    gaps = np.diff(coloured)
    assert (np.count_nonzero((gaps > 1) & (gaps < 5)) >= 8) == lines


def test_texts_are_cut_to_two_lines_and_the_table_to_fourteen_rows(tmp_path: Path) -> None:
    heights = []
    for count in (3, 14, 64):
        batch = {"text": ["word " * 200] * count, "label": torch.zeros(count, dtype=torch.int64)}
        pictures.text_sheet(batch, ("topic",), tmp_path / "table.png")
        heights.append(len(pixels(tmp_path / "table.png")))
    assert heights[0] < heights[1] == heights[2]
    assert pictures.shortened("word " * 200).count("\n") == 1
    assert pictures.shortened("word " * 200).endswith(" ...")
    assert pictures.shortened("two  words") == "two words"


def test_the_curve_is_drawn_for_any_number_of_epochs(tmp_path: Path) -> None:
    for count in (1, 35):
        epochs = [Epoch(number=n + 1, loss=1 / (n + 1), accuracy=0.9, samples_per_second=1.0) for n in range(count)]
        pictures.training_curve(epochs, tmp_path / "curve.png")
        assert share(pixels(tmp_path / "curve.png"), (47, 111, 222)) > 1e-4  # the line of accuracy
