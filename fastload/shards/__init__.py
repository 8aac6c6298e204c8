"""Shards on disk, tar and Parquet side by side, and the index that says what is in them.

files.py     writing so that a crash leaves the old content or the new
index.py     index.json, and the index as a dataset reads it
idx.py       the `.idx` beside each tar
tar.py       writes and scans tar shards
parquet.py   writes and scans Parquet shards; features.py: field kinds as Arrow types and Hugging Face features
foreign.py   shards that fastload did not pack: found, scanned, indexed
behind.py    shards behind URLs: their index.json, or what is learned of them once
open.py      every way to name data -> an index
access.py    the files of an index, wherever they lie: mapped, or through the cache of fastload.remote
read.py      samples by (shard, row)
"""
