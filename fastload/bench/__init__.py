"""How fast a data set loads on this machine, and whether a change of that is real. `fastload bench`.

    data -> suites, round by round in turn -> Results -> JSON, table, page
    Results before, Results after          -> Comparison: what changed, and by how much at least

rounds.py    what was measured, as values and as JSON (pytest-benchmark's, as far as it goes)
suites.py    `run`: loader rate by threads, first batch, resume
compare.py   `compare`: medians of rounds and their intervals
report.py    tables and page
"""

from __future__ import annotations

from fastload.bench.compare import Change, Comparison, compare
from fastload.bench.rounds import Results, Rounds
from fastload.bench.suites import run

__all__ = ["Change", "Comparison", "Results", "Rounds", "compare", "run"]
