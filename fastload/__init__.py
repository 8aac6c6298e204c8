"""fastload: pack raw samples once, stream them shuffled and shared out exactly, augment whole batches on the device.

    source -> shards -> order -> read -> decode -> batch -> device -> augment -> your training step
              pack      plan     |-- engine: threads --|    pinned   Batch -> Batch

    pack        folders, manifests, text     -> tar or Parquet shards and their index
    remote      URLs                         -> files in a cache on the disk, checked; ahead of their use
    order       (epoch, position)            -> (shard, row), as arithmetic
    shards      (shard, row)                 -> bytes, checked
    decode      bytes                        -> one row of a batch buffer
    engine      the plan's batches, in order, by threads
    device      host buffers                 -> tensors on the GPU, one batch ahead
    augment     Batch                        -> Batch
    outlook     a run's arguments            -> what it will be like
    previews    samples and a chain          -> what the model will see, as pictures and a page
    profile     a loader                     -> what limits it, and what would help
    DataLoader  wires the path and keeps its place in the run

Names are imported when first used: `import fastload` loads neither torch nor any decoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastload import augment as augment
    from fastload import samplers as samplers
    from fastload.batch import Batch as Batch
    from fastload.dataset import IndexedDataset as IndexedDataset
    from fastload.dataset import StreamingDataset as StreamingDataset
    from fastload.errors import FastloadError as FastloadError
    from fastload.fields import Audio as Audio
    from fastload.fields import Bytes as Bytes
    from fastload.fields import Image as Image
    from fastload.fields import Json as Json
    from fastload.fields import Scalar as Scalar
    from fastload.fields import Tensor as Tensor
    from fastload.fields import Text as Text
    from fastload.fields import Tokens as Tokens
    from fastload.loader import DataLoader as DataLoader
    from fastload.mixture import Mix as Mix
    from fastload.outlook import check as check
    from fastload.pack import pack as pack
    from fastload.pack.cleaning import Cleaning as Cleaning
    from fastload.pack.convert import convert as convert
    from fastload.pack.prepare import Prepare as Prepare
    from fastload.pack.splitting import Splitting as Splitting
    from fastload.previews import preview as preview
    from fastload.profile import profile as profile
    from fastload.remote.settings import Remote as Remote
    from fastload.reshape import append as append
    from fastload.reshape import merge as merge
    from fastload.reshape import repair as repair

_HOME = {
    "Batch": "fastload.batch",
    "Cleaning": "fastload.pack.cleaning",
    "DataLoader": "fastload.loader",
    "FastloadError": "fastload.errors",
    "IndexedDataset": "fastload.dataset",
    "Mix": "fastload.mixture",
    "Prepare": "fastload.pack.prepare",
    "Remote": "fastload.remote.settings",
    "Splitting": "fastload.pack.splitting",
    "StreamingDataset": "fastload.dataset",
    "check": "fastload.outlook",
    "convert": "fastload.pack.convert",
    "preview": "fastload.previews",
    **dict.fromkeys(("append", "merge", "repair"), "fastload.reshape"),
    **dict.fromkeys(("Audio", "Bytes", "Image", "Json", "Scalar", "Tensor", "Text", "Tokens"), "fastload.fields"),
}

__all__ = ["__version__", "augment", "pack", "profile", "samplers", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in ("augment", "samplers"):
        value = importlib.import_module(f"fastload.{name}")
    elif name in ("pack", "profile"):
        value = getattr(importlib.import_module(f"fastload.{name}"), name)
    else:
        raise AttributeError(f"module 'fastload' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
