"""What nearly equal contents share: a perceptual hash of a picture, a MinHash signature of a text. Integers throughout,
so that every machine finds the same.
"""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastload.decode.boxes import orient
from fastload.decode.headers import read_header
from fastload.decode.pixels import decode_pixels
from fastload.order.hashing import combine, combine_array

U64s = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
HASH_BITS, THUMB_SIDE = 64, 4
THUMB_BYTES = THUMB_SIDE * THUMB_SIDE * 3
SIGNATURE = 128  # hashes of a signature: similarity is estimated to 0.044 (one standard deviation, at most)
SHINGLE = 5  # letters; "Mining of Massive Datasets", 3.2.2, takes 5 for e-mails
_SIDE, _LOW = 32, 8
_COSINE_BITS = 14
_BLOCK = 4096  # shingles at a time: 4 MiB of products
_NOT_LETTERS = re.compile(r"\W+")
_PURPOSE = 4


def picture_likeness(raw: memoryview) -> tuple[int, Bytes]:
    """The perceptual hash of a picture, 64 bits, and its thumbnail, uint8 [48], both of the picture as shown.

    The hash is pHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010) as the
    package imagehash computes it: 32 x 32 grey pixels, the 8 x 8 lowest frequencies of their cosine transform, each
    compared with the median of all. Here the transform is in fixed point. The thumbnail is 4 x 4 RGB averages: it tells
    apart pictures without structure, whose hashes say little.

    Raises: DecodeError for a picture that does not decode whole.
    """
    header = read_header(raw)
    pixels = orient(decode_pixels(raw, header, "RGB"), header.orientation)
    picture = Image.fromarray(pixels)
    grey = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    thumbnail = picture.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
    return perceptual_hash(np.asarray(grey)), np.asarray(thumbnail, np.uint8).reshape(-1)


def perceptual_hash(grey: Bytes) -> int:
    """pHash of uint8 [32, 32] as an integer, the lowest frequency's bit first."""
    cosines = _cosines()  # [8, 32]
    low = (cosines @ grey.astype(np.int64) @ cosines.T).reshape(-1)  # [64]
    ordered = np.sort(low)
    bits = 2 * low > ordered[HASH_BITS // 2 - 1] + ordered[HASH_BITS // 2]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@cache
def _cosines() -> npt.NDArray[np.int64]:
    """The 8 lowest rows of the DCT-II of 32 points, in fixed point, int64 [8, 32]."""
    angles = math.pi / (2 * _SIDE) * np.outer(np.arange(_LOW), 2 * np.arange(_SIDE) + 1)
    rounded: npt.NDArray[np.int64] = np.rint(np.cos(angles) * (1 << _COSINE_BITS)).astype(np.int64)
    return rounded


def text_signature(text: str) -> npt.NDArray[np.uint32]:
    """The MinHash signature of a text, uint32 [128]: two texts agree in the share of places that their shingles have
    in common (Jaccard similarity; Broder, "On the resemblance and containment of documents", 1997).

    Shingles are 5 letters in a row, in lower case, with one space for whatever stands between words. So they need no
    words, as in Chinese, and a changed word of six letters changes ten of them. Hash functions: multiply-shift
    (Dietzfelbinger, 1996).
    """
    shingles = _shingles(text)
    factors, summands = _functions()
    smallest = np.full(SIGNATURE, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(shingles), _BLOCK):
        products = factors * shingles[start : start + _BLOCK]  # [128, block], modulo 2**64
        smallest = np.minimum(smallest, ((products + summands) >> np.uint64(32)).min(1).astype(np.uint32))
    return smallest


def _shingles(text: str) -> U64s:
    """A hash of each different shingle, uint64 [k], k >= 1."""
    letters = _NOT_LETTERS.sub(" ", text.casefold()).strip() or text
    points = np.frombuffer(letters.ljust(SHINGLE).encode("utf-32-le"), np.uint32)
    count = len(points) - SHINGLE + 1
    hashes = np.full(count, combine(_PURPOSE), np.uint64)
    for at in range(SHINGLE):
        hashes = combine_array(hashes, points[at : at + count])
    return np.unique(hashes)


@cache
def _functions() -> tuple[U64s, U64s]:
    """Factors and summands of the hash functions, uint64 [128, 1]."""
    numbers = np.arange(SIGNATURE)
    factors, summands = (combine_array(combine(_PURPOSE, which), numbers)[:, None] for which in (1, 2))
    return factors | np.uint64(1), summands
