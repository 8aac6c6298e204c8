"""Know the bottleneck: what limits a loader, and what a change would bring. `fastload.profile(loader, step)`.

    loader -> Rig, its stages taken apart -> live run, stages alone, ladder -> Model -> Verdict -> report

rig.py        runs parts of a loader's path, from files, memory or nothing
capacity.py   each stage alone, at several numbers of threads
ladder.py     the step, fed from further and further up the path
network.py    of shards behind URLs: what an epoch needs of a server, and what measurements do
asking.py     a server asked for objects: how fast it gives them
timeline.py   a few batches as they went, thread by thread
gpu.py        what the GPU's own clock says
trials.py     pictures stored differently, tried
groups.py     row groups of Parquet that are decoded for few of their rows
suspects.py   shards that take longer than others, threads that do less than fewer would
model.py      what a batch takes, and would take if something were otherwise
advice.py     a change and its gain, and what came of it
fetching.py   what would have shards come faster
verdict.py    what limits and why, and what would help
subject.py    data set, machine and time
findings.py   what was found, as values
table.py, page.py, charts.py, words.py   the report as text and as a page
run.py        `profile`, which is also what calling this module does
script.py     a training script, profiled as it is
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from fastload.profile.run import Profile, profile

__all__ = ["Profile", "profile"]


class _CallablePackage(ModuleType):
    """`fastload.profile` is this package once anything in it has been imported, before that the function; both
    profile."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return profile(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
