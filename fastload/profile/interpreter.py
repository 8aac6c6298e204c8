"""Whether threads hold the interpreter, which only one thread has at a time, while the consumer waits for it.

The consumer's stages then look slow, though they are not: they take much longer beside the threads than alone, and the
process keeps no more than one processor busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastload.profile.advice import Advice
from fastload.profile.ladder import Rung
from fastload.profile.model import IN_THREADS, Model

_ONE = 1.25  # processors: who keeps more than these busy waits for something else
_LEAST = 0.15  # of a batch: below, the difference may be noise, and would change little


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Threads that hold it.

    Attributes:
        stage: read or decode, whichever takes more of their time.
        beside_ms, alone_ms: copying, augmenting and your step, a batch, beside the threads and without them.
        free_ms: what a batch would take if the threads ran on all processors, at best.
    """

    stage: str
    beside_ms: float
    alone_ms: float
    free_ms: float

    @property
    def why(self) -> str:
        """In words, after the name of the stage."""
        return (
            f"it holds Python's interpreter: copying, augmenting and your step take {self.beside_ms:.1f} ms a batch "
            f"beside it, and {self.alone_ms:.1f} alone"
        )

    @property
    def change(self) -> str:
        """What would help."""
        return (
            f"{self.stage} with what lets go of the interpreter (numpy, torch, Pillow, fastload's own decoders); a "
            "torch dataset of Python code: in worker processes, by torch's own DataLoader"
        )


def held(model: Model, rungs: Sequence[Rung]) -> Held | None:
    """Whether the threads of a loader hold the interpreter, and would be the slower side if the consumer had it too.

    Args:
        model: of the loader.
        rungs: of the ladder, with that of decoded batches in memory.
    """
    alone = next((rung.batch_ms for rung in rungs if rung.adds == "copy and augment"), None)
    calm = model.cpu_ms <= _ONE * model.batch_ms and model.taken_ms < _LEAST * model.batch_ms
    if alone is None or not model.threads or model.cores < 2 or not calm:
        return None
    beside = sum(model.stage_ms[name] for name in ("copy", "augment", "step"))
    busy = sum(model.stage_ms[name] for name in IN_THREADS)
    if beside - alone < _LEAST * model.batch_ms or model.threads_ms() < model.consumer_ms() - (beside - alone):
        return None
    stage = max(IN_THREADS, key=lambda name: model.stage_ms[name])
    return Held(stage=stage, beside_ms=beside, alone_ms=alone, free_ms=max(alone, (busy + alone) / model.cores))


def letting_go(model: Model, holder: Held) -> list[Advice]:
    """Threads that run at the same time, at best on all processors."""
    gain = model.batch_ms / max(holder.free_ms, 1e-6)
    return [
        Advice(
            change=holder.change,
            why=f"one thread at a time has the interpreter; {model.cores} processors need {holder.free_ms:.1f} ms",
            gain=gain,
            samples_per_second=gain * model.measured_rate,
            stage=holder.stage,
            bound=True,
        )
    ]
