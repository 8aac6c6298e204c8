"""Writes the seeds of the fuzzer into a folder: small JPEGs of each kind, plain and crop-seekable."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fastload.decode.seekable import make_seekable

KINDS = {
    "444": {"subsampling": 0},
    "422": {"subsampling": 1},
    "420": {"subsampling": 2},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True, "quality": 30},
    "restarts": {"restart_marker_blocks": 3},
}


def pictures() -> dict[str, bytes]:
    y, x = np.mgrid[0:50, 0:70]
    pixels = np.stack([x * 3, y * 5, (x * y) % 256], axis=2).astype(np.uint8)
    found = {}
    for name, options in KINDS.items():
        for mode in ("RGB", "L"):
            exif = Image.Exif()
            exif[0x0112] = 1 + len(found) % 8
            file = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(file, "JPEG", exif=exif, icc_profile=b"profile", **options)
            found[f"{name}-{mode}"] = file.getvalue()
            data = make_seekable(file.getvalue(), min_pixels=0).data
            assert data is not None
            found[f"{name}-{mode}-seekable"] = data
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in pictures().items():
        for what in range(3):
            (folder / f"{name}-{what}").write_bytes(bytes([what, 77 * what % 256]) + raw)
