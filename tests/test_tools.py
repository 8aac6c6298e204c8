"""What the scripts in tools/ name."""

from __future__ import annotations

import re
from pathlib import Path

TOOLS = Path(__file__).parents[1] / "tools"


def test_every_package_that_is_fetched_for_a_gpu_is_pinned() -> None:
    script, pins = (TOOLS / "gpu.sh").read_text(), (TOOLS / "constraints.txt").read_text()
    pinned = {name.lower().replace("_", "-") for name in re.findall(r"^([\w-]+)==", pins, re.MULTILINE)}
    wanted = " ".join(re.findall(r"^(?:needed|for_benchmarks)=\(([^)]*)\)", script, re.MULTILINE)).split()
    assert "pytest_benchmark:pytest-benchmark" in wanted
    assert {name.rpartition(":")[2] for name in wanted} <= pinned
