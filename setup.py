"""Builds the optional JPEG kernel; everything else about the package is in pyproject.toml.

Needs a C compiler and the headers of libjpeg-turbo (Debian: libjpeg62-turbo-dev). Without them the package is built
all the same, and pictures are decoded through simplejpeg and torch.
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


class BuildKernel(build_ext):
    """Says what is missing, where the kernel cannot be built."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            print(
                f"fastload: the native JPEG kernel is not built ({error}); it needs a C compiler and libjpeg-turbo's "
                "headers (Debian: apt-get install gcc libjpeg62-turbo-dev). Decoding falls back to simplejpeg and "
                "torch, at about half the speed.",
                file=sys.stderr,
            )
            raise


setup(ext_modules=[KERNEL], cmdclass={"build_ext": BuildKernel})
