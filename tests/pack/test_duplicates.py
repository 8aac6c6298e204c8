"""Near duplicates: none is missed that is near enough, none is found that is not, and what is kept is what says so."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_likeness import encoded, similarity, smooth

from fastload.pack.duplicates import Equal, NearPictures, NearTexts, _ones, band_rows, near_repeats, repeats
from fastload.pack.likeness import picture_likeness, text_signature

WORDS = [
    f"{a}{b}" for a in ("ri", "mo", "ta", "ne", "lu", "sha", "pe", "ko") for b in ("ver", "ment", "lin", "do", "sty")
]


def near_pictures(pictures: list[bytes], bits: int) -> dict[int, tuple[int, str]]:
    hashes, thumbnails = zip(*(picture_likeness(memoryview(raw)) for raw in pictures), strict=True)
    finder = NearPictures(np.array(hashes, np.uint64), np.array(thumbnails, np.uint8), bits)
    return near_repeats(range(len(pictures)), finder, [])


def near_texts(texts: list[str], share: float) -> dict[int, tuple[int, str]]:
    return near_repeats(range(len(texts)), NearTexts(np.array([text_signature(text) for text in texts]), share), [])


def sentence(seed: int, length: int = 40) -> list[str]:
    return [WORDS[at] for at in np.random.default_rng(seed).integers(0, len(WORDS), length)]


# Pictures


def copies(picture: Image.Image) -> dict[str, bytes]:
    """What becomes of a picture on its way through the web."""
    width, height = picture.size
    return {
        "recompressed": encoded(picture, quality=40),
        "half": encoded(picture.resize((width // 2, height // 2)), quality=85),
        "larger": encoded(picture.resize((width * 2, height * 2)), quality=85),
        "png": encoded(picture, "PNG"),
        "webp": encoded(picture, "WEBP", quality=60),
        "brighter": encoded(picture.point(lambda value: min(255, int(value * 1.08)))),
        "trimmed": encoded(picture.crop((2, 2, width - 2, height - 2))),
    }


def test_made_copies_are_found_and_nothing_else() -> None:
    originals = [smooth(seed, 240, 180) for seed in range(40)]
    pictures = [encoded(picture, quality=92) for picture in originals]
    made = [(origin, raw) for origin, picture in enumerate(originals) for raw in copies(picture).values()]
    found = near_pictures([*pictures, *(raw for _, raw in made)], 6)
    expected = {len(pictures) + at: origin for at, (origin, _) in enumerate(made)}
    right = sum(found.get(copy, (-1, ""))[0] == origin for copy, origin in expected.items())
    assert right / len(expected) > 0.95  # recall
    assert right == len(found)  # precision


def test_other_colours_are_another_picture() -> None:
    picture = smooth(1)
    red, blue, _ = picture.split()
    swapped = Image.merge("RGB", (blue, red, Image.new("L", picture.size, 255)))
    flat = [encoded(Image.new("RGB", (64, 64), colour)) for colour in ("white", "black", "red", "#fcfcfc")]
    assert not near_pictures([encoded(picture), encoded(swapped)], 11)
    assert near_pictures(flat, 6) == {3: (0, "perceptual hashes differ in 0 of 64 bits")}


hashes = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12)


@given(base=hashes, flips=st.lists(st.sets(st.integers(0, 63), max_size=14), max_size=40), bits=st.integers(0, 11))
def test_no_hash_within_the_bits_is_missed(base: list[int], flips: list[set[int]], bits: int) -> None:
    values = base + [base[at % len(base)] ^ sum(1 << bit for bit in flip) for at, flip in enumerate(flips)]
    finder = NearPictures(np.array(values, np.uint64), np.zeros((len(values), 48), np.uint8), bits)
    kept: list[int] = []
    expected: dict[int, int] = {}
    for row, value in enumerate(values):
        near = [other for other in kept if (values[other] ^ value).bit_count() <= bits]
        if near:
            expected[row] = near[0]
        else:
            kept.append(row)
    found = near_repeats(range(len(values)), finder, [])
    assert {row: first for row, (first, _) in found.items()} == expected


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_bits_are_counted(words: list[int]) -> None:
    assert _ones(np.array(words, np.uint64)).tolist() == [word.bit_count() for word in words]


# Texts


def test_one_changed_word_is_found_and_nothing_else() -> None:
    originals = [sentence(seed) for seed in range(150)]
    changed = []
    for seed, original in enumerate(originals):
        copy = list(original)
        copy[seed % len(copy)] = "xylophone"
        changed.append(copy)
    texts = [" ".join(text) for text in (*originals, *changed)]
    found = near_texts(texts, 0.8)
    assert sum(found.get(150 + at, (-1, ""))[0] == at for at in range(150)) >= 0.97 * 150  # recall
    assert all(row == first + 150 for row, (first, _) in found.items())  # precision


@pytest.mark.parametrize("share", [0.6, 0.8, 0.9])
def test_texts_are_found_as_their_similarity_says(share: float) -> None:
    """Against the similarity of the sets themselves: what is 0.12 above the threshold is found, 0.12 below is not."""
    rng, above, below = np.random.default_rng(7), [], []
    for seed in range(250):
        original = sentence(1000 + seed)
        copy = list(original)
        for at in rng.integers(0, len(copy), rng.integers(0, 25)):
            copy[at] = f"{WORDS[rng.integers(0, len(WORDS))]}{at}"
        pair = " ".join(original), " ".join(copy)
        true, found = similarity(*pair), bool(near_texts(list(pair), share))
        if true >= min(share + 0.12, 1):
            above.append(found)
        elif true <= share - 0.12:
            below.append(found)
    assert len(above) > 10
    assert len(below) > 10
    assert np.mean(above) >= 0.98
    assert np.mean(below) <= 0.02


@pytest.mark.parametrize("share", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_let_pairs_at_the_threshold_through(share: float) -> None:
    rows = band_rows(share)
    assert 1 - (1 - share**rows) ** (128 // rows) >= 0.95
    assert rows == 128 or 1 - (1 - share ** (rows + 1)) ** (128 // (rows + 1)) < 0.95


# Both


def test_what_is_left_out_is_near_something_that_stays() -> None:
    """A chain, each near the next: the first is kept, and the one that has drifted from it is kept too."""
    text = sentence(1, 60)
    chain = []
    for step in range(30):
        chain.append(" ".join(text))
        text[2 * step] = f"changed{step}"
    found = near_texts(chain, 0.8)
    assert 5 < len(found) < 29
    assert all(first not in found for first, _ in found.values())
    assert all(similarity(chain[row], chain[first]) > 0.65 for row, (first, _) in found.items())


def test_every_judge_has_to_agree() -> None:
    signatures = np.array([text_signature("the same words " * 5)] * 3)
    digests = np.array([[1] * 16, [2] * 16, [1] * 16], np.uint8)
    found = near_repeats([0, 1, 2], NearTexts(signatures, 0.8), [Equal(digests)])
    assert found == {2: (0, "texts are 100% similar")}


def test_the_first_in_the_order_given_is_kept() -> None:
    signatures = np.array([text_signature("the same words " * 5)] * 4)
    assert {row: first for row, (first, _) in near_repeats([2, 0, 3, 1], NearTexts(signatures, 0.8), []).items()} == {
        0: 2,
        3: 2,
        1: 2,
    }


@given(st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=30))
def test_repeats_name_the_first(digests: list[bytes]) -> None:
    expected = {at: digests.index(digest) for at, digest in enumerate(digests) if digest in digests[:at]}
    assert repeats(digests) == expected


def test_encoded_pictures_differ() -> None:
    """The copies above are no copies of bytes."""
    made = copies(smooth(0))
    assert len(set(made.values())) == len(made)
    assert all(Image.open(io.BytesIO(raw)).size for raw in made.values())
