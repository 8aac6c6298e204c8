"""Write tests/long.txt, which tests take longest, from what a whole run took:

pytest --all --junitxml=run.xml && python tools/longest.py run.xml
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

QUICK_SECONDS = 100.0  # what all others take together, where two processes run side by side: alone, some 70
HEAD = """\
# Tests that take long, and the seconds that all cases of one take: the quick loop (pytest without --all) leaves them
# out, and --claim takes their files first. Made by tools/longest.py.
"""


def main(run: Path) -> None:
    root = Path(__file__).parent.parent / "tests"
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(run).iter("testcase"):
        file = Path(*case.attrib["classname"].split(".")[1:]).with_suffix(".py")
        seconds[f"{file}::{case.attrib['name'].partition('[')[0]}"] += float(case.attrib["time"])
    left = sum(seconds.values())
    long = {}
    for name, took in seconds.most_common():
        if left <= QUICK_SECONDS:
            break
        long[name] = took
        left -= took
    lines = [f"{took:6.1f} {name}\n" for name, took in sorted(long.items())]
    (root / "long.txt").write_text(HEAD + "".join(lines))
    print(f"{len(long)} of {len(seconds)} take {sum(long.values()):.0f} s, the others {left:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
