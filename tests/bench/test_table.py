"""The README's comparison is that of the JSON which is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TABLE = Path(__file__).parents[2] / "benchmarks/peers/table.py"


def test_the_readme_has_the_table_of_the_kept_results() -> None:
    done = subprocess.run([sys.executable, str(TABLE), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run benchmarks/peers/table.py: {done.stderr}"
