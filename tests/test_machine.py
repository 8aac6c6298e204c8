"""What the machine says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from fastload.machine import cores, describe, memory_bytes, queued_seconds

PINNED = """
import os, threading, time
from fastload.machine import cores, queued_seconds
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])

def spin(until):
    while time.monotonic() < until:
        pass

before, until = queued_seconds(), time.monotonic() + 0.5
children = [os.fork() for _ in range(2)] if hasattr(os, "fork") else []
spin(until)
if 0 in children:
    os._exit(0)
print(cores(), queued_seconds() - before)
"""


def test_what_there_is() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert 1 << 26 < memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert set(describe()) == {"cpu", "cores", "python"}
    assert describe()["cpu"]


def test_programs_that_share_a_processor_wait_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", PINNED], capture_output=True, text=True, check=True)
    found, queued = done.stdout.split()
    assert int(found) == 1
    assert float(queued) > 0.1, "four of them shared it for half a second"


def test_threads_that_sleep_wait_for_no_processor() -> None:
    threads = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(3)]
    before = queued_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queued_seconds() - before < 0.5
