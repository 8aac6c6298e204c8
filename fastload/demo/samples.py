"""Samples made on the spot: a few thousand drawings, sounds or sentences of known classes, the same for the same seed.

image    out/<class>/00001.jpg    a shape of random colour, size, place and turn on noise
audio    out/<class>/00001.wav    a sound pattern of random pitch in noise, 8 kHz mono, 0.35 to 0.5 s
text     out/sentences.csv        columns text, label: two or three sentences, at least one about the class's topic
"""

from __future__ import annotations

import csv
import wave
from collections.abc import Callable, Iterator
from math import cos, pi, sin
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw

Points = list[tuple[float, float]]
Wave = npt.NDArray[np.floating]

# ---- image ----

OVERSAMPLING = 3  # drawn this much larger, then reduced: smooth edges
JPEG_QUALITY = 90


def _regular(corners: int, radius: float = 1.0, *, start: float = 0.0) -> Points:
    angles = [start + 2 * pi * corner / corners for corner in range(corners)]
    return [(radius * cos(angle), radius * sin(angle)) for angle in angles]


def _star(points: int) -> Points:
    rays = zip(_regular(points), _regular(points, 0.42, start=pi / points), strict=True)
    return [corner for ray in rays for corner in ray]


def _cross(half_width: float) -> Points:
    w = half_width
    return [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]


# Outlines in [-1, 1] x [-1, 1]: the first polygon is filled with the shape's colour, the second cut out of it.
SHAPES: dict[str, tuple[Points, ...]] = {
    "arrow": ([(1, 0), (0, 0.9), (0, 0.35), (-1, 0.35), (-1, -0.35), (0, -0.35), (0, -0.9)],),
    "circle": (_regular(48),),
    "crescent": (_regular(48), [(x * 0.85 + 0.5, y * 0.85) for x, y in _regular(48)]),
    "cross": (_cross(0.33),),
    "ring": (_regular(48), _regular(48, 0.6)),
    "square": (_regular(4),),
    "star": (_star(5),),
    "triangle": (_regular(3),),
}


def draw_shape(name: str, rng: np.random.Generator) -> PillowImage.Image:
    """One RGB picture, 64 to 96 pixels a side, of the shape `name` in a random colour, size, place and turn."""
    width, height = rng.integers(64, 97, size=2)
    ground, ink = _two_colours(rng)
    picture = PillowImage.new("RGB", (int(width) * OVERSAMPLING, int(height) * OVERSAMPLING), ground)
    radius = rng.uniform(0.25, 0.42) * min(picture.size)
    centre = [rng.uniform(0.9 * radius, side - 0.9 * radius) for side in picture.size]
    turn = rng.uniform(0, 2 * pi)
    pen = ImageDraw.Draw(picture)
    for polygon, colour in zip(SHAPES[name], (ink, ground), strict=False):
        pen.polygon(
            [
                (
                    centre[0] + radius * (x * cos(turn) - y * sin(turn)),
                    centre[1] + radius * (x * sin(turn) + y * cos(turn)),
                )
                for x, y in polygon
            ],
            fill=colour,
        )
    pixels = np.asarray(picture.reduce(OVERSAMPLING), np.float64)  # [H, W, 3]
    pixels += rng.normal(0, rng.uniform(4, 24), pixels.shape)
    return PillowImage.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _two_colours(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Ground and ink, far enough from each other that the shape can be seen."""
    ground = rng.integers(0, 256, 3)
    ink = rng.integers(0, 256, 3)
    while np.abs(ground - ink).sum() < 220:
        ink = rng.integers(0, 256, 3)
    return (int(ground[0]), int(ground[1]), int(ground[2])), (int(ink[0]), int(ink[1]), int(ink[2]))


def make_images(out: Path, *, samples: int, seed: int) -> Iterator[int]:
    """Write `samples` JPEGs into class folders below `out`; yields the number written so far."""
    for number, name, path, rng in _labelled(out, tuple(SHAPES), ".jpg", samples=samples, seed=seed):
        draw_shape(name, rng).save(path, quality=JPEG_QUALITY)
        yield number


# ---- audio ----

SAMPLE_RATE = 8_000  # Hz
SECONDS = (0.35, 0.5)  # shortest and longest clip


def _sine(frequency: Wave) -> Wave:
    """A tone of the given frequency in Hz at each sample."""
    return np.sin(2 * pi * np.cumsum(frequency) / SAMPLE_RATE)


def _hiss(t: Wave, f: float, rng: np.random.Generator) -> Wave:
    """Noise in a band of one octave, the lower edge at `f`."""
    spectrum = np.fft.rfft(rng.normal(0, 1, t.size))
    frequencies = np.fft.rfftfreq(t.size, 1 / SAMPLE_RATE)
    spectrum[(frequencies < f) | (frequencies > 2 * f)] = 0
    noise = np.fft.irfft(spectrum, t.size)
    return np.asarray(noise / np.abs(noise).max())


# From time in [0, 1] (float64 [T]), base frequency in Hz and a generator to float64 [T] in [-1, 1].
SOUNDS: dict[str, Callable[[Wave, float, np.random.Generator], Wave]] = {
    "beeps": lambda t, f, rng: _sine(np.full_like(t, f)) * (t * rng.integers(4, 7) % 1 < 0.5),
    "fall": lambda t, f, rng: _sine(f * (2 - t)),
    "hiss": _hiss,
    "hump": lambda t, f, rng: _sine(f * (1 + np.sin(pi * t))),
    "rise": lambda t, f, rng: _sine(f * (1 + t)),
    "steady": lambda t, f, rng: _sine(np.full_like(t, f)),
    "trill": lambda t, f, rng: _sine(f * (1 + 0.6 * (t * rng.integers(4, 7) % 1 < 0.5))),
    "two": lambda t, f, rng: (_sine(np.full_like(t, f)) + _sine(np.full_like(t, 1.6 * f))) / 2,
}


def make_sound(name: str, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """One clip of the pattern `name`, int16 [T], its pitch, loudness, length and noise drawn."""
    length = round(rng.uniform(*SECONDS) * SAMPLE_RATE)
    sound = SOUNDS[name](np.linspace(0, 1, length), rng.uniform(300, 1200), rng)
    fade = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.01 * SAMPLE_RATE))
    mixed = rng.uniform(0.2, 0.6) * fade * sound + rng.normal(0, rng.uniform(0.01, 0.08), length)
    return (mixed.clip(-1, 1) * 32767).astype(np.int16)


def make_sounds(out: Path, *, samples: int, seed: int) -> Iterator[int]:
    """Write `samples` WAV files, 16 bit mono, into class folders below `out`; yields the number written so far."""
    for number, name, path, rng in _labelled(out, tuple(SOUNDS), ".wav", samples=samples, seed=seed):
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(make_sound(name, rng).astype("<i2").tobytes())
        yield number


# ---- text ----

TOPICS: dict[str, tuple[str, str, str]] = {  # who, does, what
    "cooking": (
        "the chef|my grandmother|the baker|a hungry student",
        "stirs|tastes|slices|roasts|burns|serves",
        "the soup|an onion|fresh bread|the pepper sauce|a pan of rice|the last potato",
    ),
    "money": (
        "the bank|an investor|the accountant|the tax office",
        "lends|audits|invests|transfers|refuses|counts",
        "the loan|a share of the profit|the savings|last year's debt|the pension|a bundle of bonds",
    ),
    "music": (
        "the violinist|a choir|the drummer|our piano teacher",
        "rehearses|tunes|hums|performs|records|conducts",
        "a slow waltz|the second movement|an old ballad|the chorus|the guitar|a sonata",
    ),
    "sport": (
        "the goalkeeper|a cyclist|the coach|the home team",
        "wins|loses|trains for|celebrates|misses|enters",
        "the final|a penalty|the marathon|the second half|the relay|the tournament",
    ),
    "travel": (
        "a tourist|the pilot|the ferry|our guide",
        "reaches|leaves|explores|crosses|photographs|maps",
        "the harbour|the border|an island|the old town|the airport|a mountain pass",
    ),
    "weather": (
        "a storm|the morning fog|heavy rain|the first snow",
        "covers|soaks|cools|darkens|clears|freezes",
        "the valley|the coast|every roof|the sky|the northern fields|the lake",
    ),
}
OPENINGS = ("today", "once again", "as expected", "to everyone's surprise", "before noon", "at last", "they say that")
FILLERS = (
    "nobody knew why",
    "it took a long time",
    "we talked about it later",
    "the neighbours were watching",
    "that was the end of the story",
    "somebody wrote it down",
)
DECOYS = ("nobody mentioned {}", "this was not about {}", "forget {}")  # what such a sentence names is of another topic


def make_sentence(topic: str, rng: np.random.Generator) -> str:
    """Two or three sentences in any order: one is on `topic`, one may name a thing of another topic."""
    who, does, what = (str(rng.choice(part.split("|"))) for part in TOPICS[topic])
    sentences = [
        f"{rng.choice(OPENINGS)} {who} {does} {what if rng.random() < 0.6 else 'it again'}",
        rng.choice(FILLERS),
    ]
    if rng.random() < 0.7:
        other = rng.choice([name for name in TOPICS if name != topic])
        sentences.append(str(rng.choice(DECOYS)).format(rng.choice(TOPICS[other][2].split("|"))))
    rng.shuffle(sentences)
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)


def make_sentences(out: Path, *, samples: int, seed: int) -> Iterator[int]:
    """Write `out/sentences.csv`: columns text and label, the topic's name; yields the number written so far."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "sentences.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("text", "label"))
        for number in range(samples):
            topic = tuple(TOPICS)[number % len(TOPICS)]
            rows.writerow((make_sentence(topic, np.random.default_rng((seed, number))), topic))
            yield number + 1


def _labelled(
    out: Path, classes: tuple[str, ...], suffix: str, *, samples: int, seed: int
) -> Iterator[tuple[int, str, Path, np.random.Generator]]:
    """(number from 1, class, path, generator) of each sample; classes take turns, each sample has its own generator."""
    for name in classes:
        (out / name).mkdir(parents=True, exist_ok=True)
    for number in range(samples):
        name = classes[number % len(classes)]
        yield number + 1, name, out / name / f"{number:05d}{suffix}", np.random.default_rng((seed, number))
