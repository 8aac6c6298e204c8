"""What would help, and what came of it when it was tried: as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fastload.profile.model import Model

WORTH_SAYING = 0.05  # gains below this are noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A change, and what it would bring.

    Attributes:
        change: what to do.
        why: what it rests on.
        gain: predicted throughput over that of now, e.g. 1.8; 1.0 where it only saves.
        samples_per_second: what was measured, times the gain.
        stage: the stage that it changes.
        setting: arguments of the loader that make the change, by name; empty where it is none of these.
        bound: the gain is what it would be at most: how much less the stage would take, nobody knows; or other programs
            take the processors, and a change brings out waits for them that something slower hides now.
    """

    change: str
    why: str
    gain: float
    samples_per_second: float
    stage: str
    setting: Mapping[str, int | str] = field(default_factory=dict)
    bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """An advice, and what it brought.

    Attributes:
        came: samples/s with the change; None where trying it would take more than other arguments of the loader.
        now: samples/s without it, measured in turn with it.
    """

    advice: Advice
    now: float | None
    came: float | None

    @property
    def alone(self) -> bool:
        """Both without your step, which may have no memory for larger batches."""
        return "batch_size" in self.advice.setting

    @property
    def off(self) -> float | None:
        """What came over what was predicted, less 1; with the machine's speed of the moment taken out. None where the
        prediction was a bound."""
        if self.came is None or self.now is None or self.advice.bound:
            return None
        return self.came / self.now / self.advice.gain - 1


def advise(change: str, why: str, model: Model, after: Model, stage: str, threads: int | None = None) -> Advice:
    """A change with the gain that a model has after it, with so many threads; None: as many as there are."""
    gain = after.rate(threads) / model.rate()
    return Advice(
        change=change,
        why=why,
        gain=gain,
        samples_per_second=gain * model.measured_rate,
        stage=stage,
        setting={} if threads is None else {"num_workers": threads},
    )


def bound(change: str, why: str, model: Model, after: Model, stage: str, **setting: int | str) -> Advice:
    """A change whose gain is at most that."""
    return replace(advise(change, why, model, after, stage), setting=setting, bound=True)
