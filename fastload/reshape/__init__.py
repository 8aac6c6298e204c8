"""Packed data sets made into others: the other format, other shard sizes, several into one, more samples in one.

packed shards --sources--> splits --records--> samples, checked --parts, shaping--> shards, and their index last

sources.py    what a packed data set is, and whether its keys are unique
records.py    one sample at a time out of tar and Parquet
parts.py      files of data sets as parts to be written; facts that some lack
shaping.py    parts into shards, by a journal, so that an interrupted run goes on
unite.py      several data sets seen as one: fields, classes, counts
recast.py     the other format, or other shard sizes: `fastload convert`
merge.py      several data sets into one: `fastload merge`
append.py     more samples as further shards: `fastload append`; grow.py: how a folder gets its next version
repair.py     a damaged folder made whole: `fastload repair`
salvage.py    what can be kept of one shard; rescan.py: the index of a tar, made again; trust.py: which are believed
"""

from __future__ import annotations

from fastload.reshape.append import append
from fastload.reshape.merge import merge
from fastload.reshape.repair import repair

__all__ = ["append", "merge", "repair"]
