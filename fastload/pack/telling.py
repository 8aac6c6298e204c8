"""What workers tell of their progress, as a bar or for a function of the caller's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastload.pack.tasks import Tell

OnProgress = Callable[[int, int, int], None]
_REDRAW_SECONDS = 0.1


@contextmanager
def telling(progress: bool | OnProgress, what: str, total: int | None) -> Iterator[Tell]:
    """What the workers tell, added up and shown.

    Args:
        progress: True for a bar on standard error; a function of (samples done, samples in all, bytes done).
        what: the bar's name.
        total: samples in all; None: not known yet, and told to no function.
    """
    samples = written = 0
    if progress is True:
        bar = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,  # no thread, so that workers can be forked
        )
        with bar:
            begun, drawn = time.monotonic(), 0.0
            row = bar.add_task(what, total=total, rate="")

            def draw(more_samples: int, more_bytes: int) -> None:
                nonlocal samples, written, drawn
                samples, written, now = samples + more_samples, written + more_bytes, time.monotonic()
                rate = written / 1e6 / max(now - begun, 1e-3)
                bar.update(row, completed=samples, rate=f"{rate:,.0f} MB/s")
                if now - drawn > _REDRAW_SECONDS or samples == total:
                    drawn = now
                    bar.refresh()

            yield draw
        return

    def call(more_samples: int, more_bytes: int) -> None:
        nonlocal samples, written
        samples, written = samples + more_samples, written + more_bytes
        if callable(progress) and total is not None:
            progress(samples, total, written)

    yield call
