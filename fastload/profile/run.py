"""`profile`: runs a loader in parts and as a whole, and says what limits it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fastload.errors import ConfigError
from fastload.loader import DataLoader
from fastload.meter import Stats
from fastload.profile.capacity import Capacity, Scaling, capacities, ceilings
from fastload.profile.findings import Findings
from fastload.profile.ladder import climb
from fastload.profile.page import to_html
from fastload.profile.rig import Rig, Train, record
from fastload.profile.table import to_text
from fastload.profile.trials import try_changes
from fastload.profile.verdict import judge, model_of

# Shares of the time: the loader as it is, stages alone, the ladder, recording, ceilings.
_LIVE, _ALONE, _LADDER, _RECORD, _CEILINGS = 0.35, 0.2, 0.3, 0.1, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Findings):
    """What a profile found; `str` of it is the report as text."""

    def __str__(self) -> str:
        return to_text(self)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {"sentence": self.verdict.sentence, **asdict(self)}

    def save_json(self, path: str | Path) -> None:
        """Write all numbers."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    def save_html(self, path: str | Path) -> None:
        """Write one page that needs no other file.

        Raises:
            MissingExtraError: jinja2 is not installed.
        """
        Path(path).write_text(to_html(self), encoding="utf-8")


def profile(loader: DataLoader, step: Train | None = None, seconds: float = 20.0) -> Profile:
    """Find out what limits a loader, and what a change would bring.

    The loader's place in the run stays. Your step is run on real batches: a step that trains, trains.

    Args:
        loader: a fastload.DataLoader.
        step: what you do with a batch, as the loader hands it out; None: nothing.
        seconds: to spend, about; slow batches take longer, for each measurement needs some.

    Raises:
        ConfigError: another kind of loader, no samples, or seconds that are not positive.
    """
    if not isinstance(loader, DataLoader):
        raise ConfigError(f"profile: {type(loader).__name__} is not a fastload.DataLoader")
    if not seconds > 0:
        raise ConfigError(f"profile: seconds={seconds!r}: must be positive")
    rig = Rig(loader, step)
    live = rig.run(rig.jobs(rig.endless()), _LIVE * seconds)
    recording = record(rig, _RECORD * seconds)
    alone = capacities(rig, recording, _ALONE * seconds)
    best = ceilings(getattr(getattr(loader.dataset, "index", None), "paths", ()), _CEILINGS * seconds)
    rungs = climb(rig, recording, _LADDER * seconds)
    model = model_of(live, rig.threads, _scaling(live.stats, alone))
    verdict = judge(
        model,
        rungs=rungs,
        trials=try_changes(rig.recipe.decoders, recording.reader),
        prefetch=loader.prefetch_factor,
        device=loader.device.type,
        gpu=torch.cuda.is_available(),
        parallel=rig.recipe.parallel,
    )
    return Profile(
        verdict=verdict,
        model=model,
        stats=live.stats,
        capacities=tuple(alone),
        ceilings=best,
        rungs=tuple(rungs),
        setting={
            "batch_size": rig.share.rows_at(0),
            "num_workers": loader.num_workers,
            "prefetch_factor": loader.prefetch_factor,
            "device": str(loader.device),
            "cores": model.cores,
        },
    )


def _scaling(stats: Stats, alone: Sequence[Capacity]) -> Scaling:
    """Of the stage that takes more of the threads' time."""
    greater = "read" if stats.read.busy_seconds > stats.decode.busy_seconds else "decode"
    found = {each.stage: each.scaling for each in alone}
    return found.get(greater) or Scaling()
