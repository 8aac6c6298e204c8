"""What this machine lends to this process."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of cgroup v2; "max" where there is none


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of the machine, or what its container may use of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        return min(whole, int(_CONTAINER_LIMIT.read_text()))
    return whole


def free_bytes() -> int:
    """Memory that is free or that the page cache would give up, as far as the system says it; else all of it."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(memory_bytes(), int(line.split()[1]) << 10)
    return memory_bytes()


def queued_seconds() -> float:
    """How long the threads of this process that run now have been ready to run and had no processor, summed; 0 where
    the system does not say, which only Linux does.

    The kernel's count (Documentation/scheduler/sched-stats.rst): the second number of each thread's schedstat, in ns.
    """
    total = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread may end in between
            total += int(task.read_text().split()[1])
    return total / 1e9


def processor() -> str:
    """The processor's name, as far as the system says it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe() -> dict[str, str | int]:
    """What results of measuring depend on, as JSON values."""
    return {"cpu": processor(), "cores": cores(), "python": platform.python_version()}
