"""What a profile found, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastload.meter import Stats
from fastload.profile.advice import Tried
from fastload.profile.capacity import Capacity, Ceilings
from fastload.profile.ladder import Rung
from fastload.profile.model import Model
from fastload.profile.network import Network
from fastload.profile.timeline import Timeline
from fastload.profile.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Where a loader's time goes and what limits it.

    Attributes:
        verdict: what limits, and what would help.
        model: what predictions rest on: milliseconds of a batch by stage.
        stats: of the loader as it ran.
        capacities: of each stage alone.
        ceilings: of the machine.
        rungs: of the ladder.
        setting: batch_size, num_workers, prefetch_factor, device and cores; downloads, where a server was measured.
        tried: each advice that was tried, and what came of it.
        about: data set, machine and time (`fastload.profile.subject`).
        stored: by folder, or by source of a mixture: classes, sizes and lengths of what is packed, as
            `fastload.describe.describe` has them of a split.
        notes: what could not be measured, and why.
        between_share: of the GPU's time, what lies between steps, 0 to 1; None without one.
        timeline: of a few batches.
        stepped: there was a step; without one, batches were dropped as they came.
        network: what a server gives of shards behind URLs; None where nothing has to be fetched.
    """

    verdict: Verdict
    model: Model
    stats: Stats
    capacities: tuple[Capacity, ...]
    ceilings: Ceilings
    rungs: tuple[Rung, ...]
    setting: dict[str, Any]
    tried: tuple[Tried, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    between_share: float | None = None
    timeline: Timeline | None = None
    stepped: bool = True
    network: Network | None = None
