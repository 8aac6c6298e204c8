"""Augmentation as a line of text."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastload.augment import (
    ColorJitter,
    Compose,
    EachText,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    aeda,
)
from fastload.errors import ConfigError
from fastload.previews.spec import parse_augment


def test_names_calls_and_literals() -> None:
    found = parse_augment("RandomHorizontalFlip, RandomCrop(32, padding=4), ColorJitter((0.8, 1.2), hue=-0.0)")
    assert found == [RandomHorizontalFlip(), RandomCrop(32, padding=4), ColorJitter((0.8, 1.2), hue=0.0)]


def test_operations_inside_operations() -> None:
    compose, text = parse_augment('Compose([RandomHorizontalFlip, Normalize], masks="mask"), EachText("text", aeda)')
    assert isinstance(compose, Compose)
    assert compose.operations == (RandomHorizontalFlip(), Normalize())
    assert compose.targets.masks == ("mask",)
    assert isinstance(text, EachText)
    assert text.function is aeda


def test_a_preset_is_called() -> None:
    assert all(isinstance(found, Compose) for found in parse_augment("train_classification(64), eval_classification"))


def test_a_name_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("from fastload.augment import Normalize\nops = [Normalize()]\none = ops[0]\n")
    assert parse_augment(f"{file}:ops") == [Normalize()]
    assert parse_augment(f"{file}:one") == [Normalize()]
    with pytest.raises(ConfigError, match=r"train.py:op: the file defines no 'op'; did you mean 'ops'\?"):
        parse_augment(f"{file}:op")
    file.write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"train.py raised ZeroDivisionError: division by zero"):
        parse_augment(f"{file}:ops")
    with pytest.raises(ConfigError, match=r"no file '.*none.py'"):
        parse_augment(f"{tmp_path}/none.py:ops")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RandomFlip", r"has no 'RandomFlip'; did you mean RandomPerspective\?|has no 'RandomFlip'; did you mean"),
        ("RandomCrop(33, pad=4)", r"RandomCrop\(33, pad=4\): .*unexpected keyword argument 'pad'"),
        ("RandomCrop(size=0)", "size must be at least 1 pixel"),
        ("RandomCrop(1 + x)", "'1 [+] x' is neither a literal nor a name of fastload.augment"),
        ("RandomCrop(", "write it as RandomHorizontalFlip, Normalize"),
        ("__import__('os')", "has no '__import__'"),
        ("eda", "eda: .*missing 2 required positional arguments"),
    ],
)
def test_what_does_not_fit_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_augment(text)
