"""Builds the optional native parts; everything else about the package is in pyproject.toml.

Needs a C compiler, and the headers of libjpeg-turbo for the JPEG kernel and of xxHash for reading rows (Debian:
libjpeg62-turbo-dev, libxxhash-dev). Without them the package is built all the same: pictures are decoded through
simplejpeg and torch, and rows are read in Python.
"""

from __future__ import annotations

import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PARTS = ("errors", "header", "seek", "transcode", "box", "entropy", "resize", "decode")
SOURCES = ["fastload/decode/_jpeg.c", *(f"fastload/decode/_jpeg_{part}.c" for part in PARTS)]

KERNEL = Extension(
    "fastload.decode._jpeg",
    sources=SOURCES,
    depends=["fastload/decode/_jpeg.h"],
    libraries=["jpeg", "m"],
    # A fused multiply-add would draw other crop boxes than Python does.
    extra_compile_args=["-O3", "-std=c11", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"],
    optional=True,
)


ROWS = Extension(
    "fastload.shards._rows",
    sources=[
        "fastload/shards/_rows.c",
        *(f"fastload/shards/_rows_{part}.c" for part in ("crew", "base", "avx2", "avx512")),
    ],
    depends=["fastload/shards/_rows.h", "fastload/shards/_rows_loops.h"],
    extra_compile_args=["-O3", "-std=gnu11", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"],
    optional=True,
)

ORDER = Extension(
    "fastload.order._order",
    sources=["fastload/order/_order.c"],
    extra_compile_args=["-O3", "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra"],
    optional=True,
)

POLYPHASE = Extension(
    "fastload.decode._polyphase",
    sources=["fastload/decode/_polyphase.c"],
    # A fused multiply-add would give other bits on other processors.
    extra_compile_args=["-O3", "-std=gnu11", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"],
    optional=True,
)

CLOCK = Extension(
    "fastload._clock",
    sources=["fastload/_clock.c"],
    extra_compile_args=["-O2", "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra"],
    optional=True,
)

FILES = Extension(
    "fastload.pack._files",
    sources=["fastload/pack/_files.c"],
    extra_compile_args=["-O2", "-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra"],
    optional=True,
)

WITHOUT = {
    KERNEL.name: (
        "libjpeg-turbo's headers (Debian: libjpeg62-turbo-dev)",
        "Decoding falls back to simplejpeg and torch, at about half the speed.",
    ),
    FILES.name: ("nothing else", "Many small files are packed at three quarters of the speed."),
    POLYPHASE.name: ("nothing else", "Sounds are brought to another rate at a fifth of the speed."),
    CLOCK.name: ("nothing else", "Measuring where time goes costs a microsecond a batch more."),
    ORDER.name: ("nothing else", "Batches of small records are planned in ten times the time."),
    ROWS.name: ("xxHash's header (Debian: libxxhash-dev)", "Small records are read at about half the speed."),
}


class BuildNative(build_ext):
    """Says what is missing, where a part cannot be built."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            needs, consequence = WITHOUT[ext.name]
            print(
                f"fastload: {ext.name} is not built ({error}); it needs a C compiler and {needs}. {consequence}",
                file=sys.stderr,
            )
            raise


setup(ext_modules=[KERNEL, POLYPHASE, ROWS, ORDER, FILES, CLOCK], cmdclass={"build_ext": BuildNative})
