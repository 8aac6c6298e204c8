"""What the tests of several ranks rest on: a rank that prints a lot does not wait, and one that hangs says where."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import ranks

PROGRAM = """
import subprocess, sys, time

def stuck():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("x" * 200_000, child.pid, flush=True)
    time.sleep(600)

stuck()
"""


def test_a_rank_that_hangs_is_ended_with_its_children_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(PROGRAM)
    (process,) = ranks.start(str(tmp_path / "stuck.py"), 1, tmp_path)
    with pytest.raises(AssertionError, match=r"a hang: x{200000} \d+\n[^$]*in stuck\n") as caught:
        ranks.finish(process, 1.5)
    child = int(str(caught.value).splitlines()[0].split()[-1])
    assert process.returncode is not None
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
