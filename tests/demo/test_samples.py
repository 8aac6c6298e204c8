from __future__ import annotations

import csv
import hashlib
import wave
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastload.demo import samples

MAKERS = {"image": samples.make_images, "audio": samples.make_sounds, "text": samples.make_sentences}


def digest(folder: Path) -> str:
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        state.update(path.relative_to(folder).as_posix().encode())
        state.update(path.read_bytes() if path.is_file() else b"")
    return state.hexdigest()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_seed_decides_every_byte(make: Callable[..., object], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert list(make(tmp_path / name, samples=24, seed=seed)) == list(range(1, 25))  # type: ignore[call-overload]
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_images_are_jpegs_of_every_class_alike(tmp_path: Path) -> None:
    list(samples.make_images(tmp_path, samples=32, seed=0))
    files = sorted(tmp_path.glob("*/*.jpg"))
    assert Counter(file.parent.name for file in files) == dict.fromkeys(samples.SHAPES, 4)
    for file in files:
        with Image.open(file) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            assert all(64 <= side <= 96 for side in picture.size)


@pytest.mark.parametrize("name", samples.SHAPES)
def test_every_shape_can_be_told_from_its_ground(name: str) -> None:
    for seed in range(20):
        pixels = np.asarray(samples.draw_shape(name, np.random.default_rng(seed)), np.float64)
        ground = np.median(pixels.reshape(-1, 3), axis=0)
        drawn = np.abs(pixels - ground).sum(axis=2) > 110  # colours differ by 220 at least, noise by less
        assert 0.02 < drawn.mean() < 0.7


def test_sounds_are_short_wav_files_of_every_class_alike(tmp_path: Path) -> None:
    list(samples.make_sounds(tmp_path, samples=32, seed=0))
    files = sorted(tmp_path.glob("*/*.wav"))
    assert Counter(file.parent.name for file in files) == dict.fromkeys(samples.SOUNDS, 4)
    for file in files:
        with wave.open(str(file)) as sound:
            assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (8000, 1, 2)
            assert 0.35 * 8000 <= sound.getnframes() <= 0.5 * 8000


def loudest_frequency(sound: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.fft.rfftfreq(len(sound), 1 / samples.SAMPLE_RATE)[spectrum.argmax()])


@pytest.mark.parametrize(
    ("name", "start_to_end", "start_to_middle"),
    [("rise", 1.75, 1.4), ("fall", 0.57, 0.78), ("steady", 1.0, 1.0), ("hump", 1.0, 1.7)],
)
def test_pitch_moves_as_the_class_says(name: str, start_to_end: float, start_to_middle: float) -> None:
    for seed in range(10):
        sound = samples.make_sound(name, np.random.default_rng(seed))
        first, middle, last = (loudest_frequency(part) for part in np.array_split(sound, 7)[::3])
        assert last / first == pytest.approx(start_to_end, rel=0.15)
        assert middle / first == pytest.approx(start_to_middle, rel=0.15)


def test_sentences_name_their_topic_and_at_most_one_thing_of_another(tmp_path: Path) -> None:
    list(samples.make_sentences(tmp_path, samples=120, seed=0))
    with (tmp_path / "sentences.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["label"] for row in rows) == dict.fromkeys(samples.TOPICS, 20)
    for row in rows:
        text = row["text"].lower()
        named = {topic for topic, (who, does, _) in samples.TOPICS.items() for one in who.split("|") if one in text}
        assert named == {row["label"]}
        things = [topic for topic, parts in samples.TOPICS.items() for one in parts[2].split("|") if one in text]
        assert sum(topic != row["label"] for topic in things) <= 1
