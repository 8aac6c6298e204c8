"""Whether threads hold the interpreter, which only one thread has at a time, while the consumer waits for it.

The consumer's stages then look slow, though they are not: they take much longer beside the threads than alone, and the
process keeps no more than one processor busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastload.profile.advice import Advice
from fastload.profile.ladder import AFTER_THREADS, LEAST, Rung
from fastload.profile.model import IN_THREADS, Model

_ONE = 1.25  # processors: who keeps more than these busy waits for something else
_SEEN = 0.05  # of a batch: what threads cost the few batches that were measured with them and without


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Threads that hold it.

    Attributes:
        stage: read or decode, whichever takes more of their time.
        beside_ms, alone_ms: copying, augmenting and your step, a batch of a few, beside the threads and without them.
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
        rungs: of the ladder, with that of decoded batches in memory, which was measured beside the threads too.
    """
    rung = next((rung for rung in rungs if rung.adds == "copy and augment"), None)
    calm = model.cpu_ms <= _ONE * model.batch_ms and model.taken_ms < LEAST * model.batch_ms
    if rung is None or rung.beside_ms is None or not model.threads or model.cores < 2 or not calm:
        return None
    if rung.beside_ms - rung.batch_ms < _SEEN * model.batch_ms:
        return None
    consumer = sum(model.stage_ms[name] for name in AFTER_THREADS)
    alone = consumer * rung.batch_ms / rung.beside_ms  # of all batches, if these are slowed down as much
    more = consumer - alone
    if more < LEAST * model.batch_ms or model.threads_ms() < model.consumer_ms() - more:
        return None
    busy = sum(model.stage_ms[name] for name in IN_THREADS)
    return Held(
        stage=max(IN_THREADS, key=lambda name: model.stage_ms[name]),
        beside_ms=rung.beside_ms,
        alone_ms=rung.batch_ms,
        free_ms=max(alone, (busy + alone) / model.cores),
    )


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
