r"""The sharding tool: raw samples in, shards and their index out, the same bytes however often it was interrupted.

source --inputs--> table --plan--> shards to write --writing--> tasks --workers--> encode --> files --> index.json
          \-----> stream --spool--^

inputs.py     what a source is
folders.py    files as columns (table.py), nothing read yet: listing.py, classes.py, joined.py; lines.py: pieces of one
manifest.py   files that a table names, and its own values; described.py
streams.py    sources that have to be read first, as values (values.py): stored.py, arrow.py, huggingface.py,
              foreign.py, objects.py, documents.py, arrays.py, medical.py
spool.py      a stream goes through one file into a table
missing.py    values that a manifest lacks
survey.py     contents looked at before planning, if cleaning or splits ask (surveyor.py, findings.py, likeness.py)
rules.py      which samples are left out (cleaning.py, measures.py, sameness.py, duplicates.py); lists.py: the list
splitting.py  which split a sample goes to: by hashes (splits.py), by ranges (ranges.py) or by a field (columns.py)
plan.py       which shard, and where in it, before anything is read
tasks.py      what workers are asked to do
encode.py     how: read (contents.py), check (checks.py), change (steps.py), count (tally.py), hash, write
prepare.py    which steps change which field: resizing.py, sounds.py, tokenizing.py; jpeg.py: JPEGs made crop-seekable
forecast.py   how large what is changed will be
sequences.py  documents joined into rows of tokens (rows.py), before the plan; vocabulary.py: tokenizers
workers.py    processes; cluster.py: the same on several machines, through Ray
journal.py    what an interrupted run left, and who is at work
writing.py    tasks out, results in, shards published
target.py     shards go to an object store, one by one
telling.py, indexing.py   progress while it runs, index.json at its end
job.py        `pack`, which is also what calling this module does: `fastload.pack(source, out)`
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from fastload.pack.job import pack
from fastload.pack.prepare import Prepare

__all__ = ["Prepare", "pack"]


class _CallablePackage(ModuleType):
    """`fastload.pack` is this package once anything in it has been imported, and the function before; both pack."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return pack(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
