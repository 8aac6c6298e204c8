"""What a preview shows, and what it writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from typer.testing import CliRunner, Result

import fastload
from fastload import augment
from fastload.batch import Batch
from fastload.cli import app
from fastload.dataset import StreamingDataset
from fastload.errors import ConfigError
from fastload.fields import Audio, Image, Scalar, Text, Tokens
from fastload.previews.cells import Bands, Picture, Plain, Sound, Words
from fastload.previews.pixels import picture
from fastload.previews.samples import Reader

Packed = Callable[..., Path]
KINDS = ("image", "audio", "text", "tokens", "tensor", "json", "bytes", "label", "weight")


def test_the_variants_are_what_training_gets(packed: Packed) -> None:
    """The same seed and epoch: the pixels of a shuffled, augmented loader, found again by key."""
    data = packed("tar", [5, 3], ("image", "label"))
    fields: dict[str, Any] = {"image": Image(16, crop="random"), "label": Scalar()}
    chain = [augment.RandomHorizontalFlip(), augment.RandomRotation(30), augment.RandomErasing(1.0)]
    found = fastload.preview(data, fields=fields, augment=chain, samples=5, epochs=2, seed=3)
    assert len(found.samples) == 5
    loader = fastload.DataLoader(data, 4, shuffle=True, seed=3, fields=fields, augment=chain)
    for epoch in range(2):
        pixels = {key: image for batch in loader for key, image in zip(batch["__key__"], batch["image"], strict=True)}
        for sample in found.samples:
            cell = sample.variants[epoch].cells["image"]
            assert isinstance(cell, Picture)
            np.testing.assert_array_equal(cell.pixels, picture(pixels[sample.key], None).pixels)


def test_samples_are_spread_evenly(packed: Packed) -> None:
    found = fastload.preview(packed("tar", [5, 3]), samples=3, epochs=1)
    labels = [sample.before["label"] for sample in found.samples]
    assert labels == [Plain(text="0"), Plain(text="4"), Plain(text="7")]
    assert found.total == 8
    assert len(fastload.preview(packed("tar", [5, 3]), samples=100, epochs=1).samples) == 8


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_every_kind_of_field_is_shown_as_it_is_stored(packed: Packed, shard_format: str, tmp_path: Path) -> None:
    found = fastload.preview(packed(shard_format, [3], KINDS), samples=2, epochs=1)
    cells = found.samples[0].before
    assert {name: type(cell) for name, cell in cells.items()} == {
        "image": Picture, "audio": Sound, "text": Words, "tokens": Words,
        **dict.fromkeys(("tensor", "json", "bytes", "label", "weight"), Plain),
    }  # fmt: skip
    written = found.save(tmp_path / "a" / "b")
    assert [path.name for path in written] == ["index.html", "image.png", "audio.png", "text.png", "tokens.png"]
    for path in written[1:]:
        with PillowImage.open(path) as sheet:
            assert min(sheet.size) > 100
    page = written[0].read_text()
    assert "2 of 3 samples" in page
    assert "No augmentation" in page
    assert page.count("<section>") == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page


def test_changes_of_text_are_marked(packed: Packed, tmp_path: Path) -> None:
    chain = [augment.EachText("text", lambda text, key: f"{text} <more>")]
    found = fastload.preview(packed("tar", [2], ("text",)), fields={"text": Text()}, augment=chain, epochs=1)
    page = found.save(tmp_path)[0].read_text()
    assert page.count("<ins>&lt;more&gt;</ins>") == 2
    assert "<del>" not in page


def test_masked_tokens_and_their_labels(packed: Packed, tmp_path: Path) -> None:
    data = packed("tar", [2], ("tokens",))
    chain = [augment.MaskTokens(60_000, 70_000, p=0.5, split=(1.0, 0.0))]
    found = fastload.preview(data, fields={"tokens": Tokens(40)}, augment=chain, epochs=1, words=lambda n: f"w{n}")
    before, after = (found.samples[0].before["tokens"], found.samples[0].variants[0].cells["tokens"])
    labels = found.samples[0].variants[0].cells["labels"]
    assert isinstance(before, Words)
    assert isinstance(after, Words)
    assert isinstance(labels, Words)
    masked = [word for piece in after.pieces if piece.mark == "masked" for word in piece.text.split()]
    gone = [word for piece in after.pieces if piece.mark == "deleted" for word in piece.text.split()]
    wanted = [word for piece in labels.pieces for word in piece.text.split()]
    assert set(masked) == {"[MASK]"}
    assert len(masked) == len(gone) == len(wanted) > 0
    assert gone == wanted
    assert all(word.startswith("w") for word in wanted)
    assert labels.note == f"{len(wanted)} of 40 places are learned"
    assert f"{len(wanted)} of 40 places are learned" in found.save(tmp_path)[0].read_text()


def test_soft_labels_are_told_in_shares(packed: Packed) -> None:
    fields: dict[str, Any] = {"image": Image(8), "label": Scalar()}
    chain = [augment.MixUp(8, alpha=1.0)]
    found = fastload.preview(packed("tar", [5, 3]), fields=fields, augment=chain, epochs=1)
    texts = [sample.variants[0].cells["label"] for sample in found.samples]
    assert all(isinstance(cell, Plain) and re.fullmatch(r"\d \d+%(, \d \d+%)?", cell.text) for cell in texts)
    assert found.by_batch == (repr(chain[0]),)


def test_sounds_keep_their_length_and_rate_and_spectrograms_are_drawn(packed: Packed, tmp_path: Path) -> None:
    data = packed("tar", [3], ("audio",))
    chain = [augment.SpeedPerturbation((0.5,)), augment.MelSpectrogram(8000, n_fft=64, hop=16, n_mels=8, out="mel")]
    found = fastload.preview(data, fields={"audio": Audio(8000, 0.05)}, augment=chain, epochs=1)
    sample = found.samples[0]
    before, after, mel = sample.before["audio"], sample.variants[0].cells["audio"], sample.variants[0].cells["mel"]
    assert isinstance(before, Sound)
    assert isinstance(after, Sound)
    assert isinstance(mel, Bands)
    assert (before.length, after.length, before.sample_rate) == (160, 320, 8000)
    assert mel.values.shape == (8, 51)
    assert mel.length == 21
    page = found.save(tmp_path)[0].read_text()
    assert "before: 0.02 s at 8,000 Hz" in page
    assert "epoch 0: 0.04 s at 8,000 Hz" in page
    assert "epoch 0: 8 bands, 21 of 51 frames" in page
    assert page.count('<audio controls preload="none" src="data:audio/wav;base64,') == 6
    assert (tmp_path / "mel.png").is_file()


def test_what_follows_the_geometry_is_drawn_where_it_goes(packed: Packed) -> None:
    """A mask of the left half, added on the way; flipped, it tints the right half."""

    def left_half(batch: Batch) -> Batch:
        mask = torch.zeros(len(batch["image"]), 16, 16)
        mask[:, :, :8] = 1
        return batch.replaced({"mask": mask})

    chain = [left_half, augment.Compose([augment.RandomHorizontalFlip(1.0)], masks="mask")]
    found = fastload.preview(packed("tar", [2]), fields={"image": Image(16)}, augment=chain, epochs=1)
    before, after = found.samples[0].before["image"], found.samples[0].variants[0].cells["image"]
    assert isinstance(before, Picture)
    assert isinstance(after, Picture)
    tinted = (after.pixels != before.pixels[:, ::-1]).any(2)
    assert tinted[:, 8:].all()
    assert not tinted[:, :8].any()
    assert "mask" not in found.samples[0].variants[0].cells, "it is on the picture"
    assert found.augment == (left_half.__qualname__, "RandomHorizontalFlip(field='image', p=1.0)")


def test_what_stays_is_shown_once(packed: Packed, tmp_path: Path) -> None:
    data = packed("tar", [2], ("image", "text"))
    fields: dict[str, Any] = {"image": Image(16), "text": Text()}
    found = fastload.preview(data, fields=fields, augment=[augment.RandomInvert(1.0)])
    assert [what for what, _ in found.samples[0].steps("text")] == ["before"]
    assert [what for what, _ in found.samples[0].steps("image")] == ["before", "epoch 0", "epoch 1"]
    chain = [lambda batch: batch.replaced({"size": batch["image"].flatten(1).float().mean(1) * 0 + 2})]
    added = fastload.preview(data, fields=fields, augment=chain)
    assert added.samples[0].steps("size") == [("after", Plain(text="2"))]
    assert found.save(tmp_path)[0].read_text().count("before and after</figcaption>") == 2


def test_what_was_drawn_is_told(packed: Packed, tmp_path: Path) -> None:
    chain = [augment.RandomHorizontalFlip(1.0), augment.RandomRotation((10, 10)), augment.RandomRotation((5, 5)),
             augment.TrivialAugmentWide()]  # fmt: skip
    found = fastload.preview(packed("tar", [5, 3]), fields={"image": Image(16)}, augment=chain, epochs=1)
    flip, first, second, policy = found.samples[0].variants[0].drawn
    assert flip == "RandomHorizontalFlip: flip yes"
    assert (first, second) == ("RandomRotation: angle 10", "RandomRotation (2): angle 5")
    assert re.fullmatch(r"TrivialAugmentWide: operation [A-Z]\w+, strength \S+", policy)
    assert policy in found.save(tmp_path)[0].read_text()


def test_others_modules_and_functions_are_told_apart(packed: Packed, tmp_path: Path) -> None:
    blur = augment.On("image", torch.nn.AvgPool2d(3, 1, 1))
    found = fastload.preview(packed("tar", [2]), fields={"image": Image(16)}, augment=[blur], epochs=1)
    assert len(found.by_batch) == 1
    assert "may depend on the rest of the batch" in found.save(tmp_path)[0].read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples=0: must be at least 1"),
        ({"epochs": 1.5}, "epochs=1.5: must be an integer"),
        ({"fields": {"nope": Image()}}, "no field 'nope' in the data"),
        ({"augment": [augment.Normalize()]}, "'image' is not a tensor [B, ...] but a list; declare its size"),
    ],
)
def test_what_cannot_be_shown_is_said(packed: Packed, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        fastload.preview(packed("tar", [5, 3]), **options)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["preview", *(str(argument) for argument in arguments)])


def test_the_command(packed: Packed, tmp_path: Path) -> None:
    data, out = packed("tar", [5, 3]), tmp_path / "out"
    done = run(data, "--fields", "image:16:random,label", "--augment", "RandomHorizontalFlip, Normalize", "--out", out,
               "--samples", 4, "--epochs", 3)  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.split() == [str(out / "index.html"), str(out / "image.png")]
    page = (out / "index.html").read_text()
    assert "4 of 8 samples" in page
    assert "the first 3 epochs" in page
    assert "(16 x 16; after: 16 x 16, normalisation undone)" in page
    assert "Reading crops image at random" in page


def test_the_command_names_tokens(packed: Packed, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    vocabulary = {f"word{number}": number for number in range(3000)}
    tokenizer = tmp_path / "tokenizer.json"
    Tokenizer(models.WordLevel(vocabulary, "word0")).save(str(tokenizer))
    done = run(packed("tar", [2], ("tokens",)), "--out", tmp_path / "out", "--tokenizer", tokenizer)
    assert done.exit_code == 0
    assert "word1" in (tmp_path / "out" / "index.html").read_text()
    done = run(packed("tar", [2], ("tokens",)), "--out", tmp_path / "out", "--tokenizer", tmp_path / "none.json")
    assert done.exit_code == 2
    assert "none.json' cannot be read" in done.stderr


def test_wrong_arguments_are_one_line(packed: Packed, tmp_path: Path) -> None:
    done = run(packed("tar", [5, 3]), "--out", tmp_path / "out", "--augment", "RandomCrop(8, 9, 10, 11)")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --augment 'RandomCrop(8, 9, 10, 11)'")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_other_picture_of_a_pair_is_shown_as_it_was_before_normalize(packed: Callable[..., Path]) -> None:
    pair = augment.Compose([augment.Normalize()], images="right")
    reader = Reader(StreamingDataset(packed("tar", [3])).index, {}, [pair], None, {})
    assert reader.scales["right"] == reader.scales["image"] == augment.Normalize()
