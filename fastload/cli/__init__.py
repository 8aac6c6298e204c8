"""The command line: `fastload COMMAND`, the commands by file below.

Exit codes: 0 done; 1 it failed, or verify found faults, check an error, bench a loss; 2 the arguments are wrong.
Results go to standard output, progress and errors to standard error.

app.py        the program, its errors, what commands share
packing.py    pack, index, convert
reshaping.py  merge, append, repair
looking.py    inspect, stats, verify
previewing.py preview
measuring.py  check, profile, bench
trying.py     demo

What commands run is imported inside them, because it loads numpy, pyarrow and mostly torch (seconds), for which
`fastload --help` should not wait.
"""

from __future__ import annotations

from fastload.cli import looking, measuring, packing, previewing, reshaping, trying
from fastload.cli.app import app

__all__ = ["app", "looking", "main", "measuring", "packing", "previewing", "reshaping", "trying"]


def main() -> None:
    """Entry point of the `fastload` program."""
    app()
