"""Loaders as scalars of TensorBoard: how fast, how much waiting, and each stage's time a batch, over steps."""

from __future__ import annotations

from typing import Protocol

from fastload.export.summary import rates
from fastload.meter import Stats


class Writer(Protocol):
    """torch.utils.tensorboard.SummaryWriter, or what has its methods."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object: ...

    def add_scalars(self, main_tag: str, tag_scalar_dict: dict[str, float], global_step: int) -> object: ...


class Measured(Protocol):
    """What is exported: a fastload.DataLoader."""

    def stats(self) -> Stats: ...


class Scalars:
    """Writes what a loader did since the last time: `name`/samples_per_second, `name`/waiting (share of the time, 0 to
    1), and `name`/stage_ms with a curve for each stage.

    Args:
        writer: a SummaryWriter; it needs the extra `tensorboard`.
        loader: a fastload.DataLoader.
        name: what the tags begin with.
    """

    def __init__(self, writer: Writer, loader: Measured, name: str = "loader") -> None:
        self._writer, self._loader, self._name = writer, loader, name
        self._before = loader.stats()

    def write(self, step: int) -> None:
        """Write what lies between now and the last time, under this step; nothing if no batch was handed out."""
        now = self._loader.stats()
        took = now - self._before
        if not took.batches:
            return
        self._before = now
        found = rates(took)
        for tag in ("samples_per_second", "waiting"):
            self._writer.add_scalar(f"{self._name}/{tag}", found[tag], step)
        stages = {name: found[f"{name}_ms"] for name in took.stages}
        self._writer.add_scalars(f"{self._name}/stage_ms", stages, step)
