"""Masks, boxes and keypoints, which follow the geometry of their images.

A pixel of a mask is taken once, from where all matrices of a chain together lead. The image may need several passes,
and what one of them loses, those after it have not: there they show what lies outside, and a mask its fill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from fastload.augment import geometry, matrices, resample
from fastload.augment.geometry import Geometric
from fastload.augment.matrices import Size
from fastload.augment.operation import Operation, Params, tensor_of
from fastload.augment.policies import Policy
from fastload.batch import Batch
from fastload.errors import ConfigError


@dataclass(frozen=True)
class Targets:
    """Fields that follow an image field.

    Attributes:
        images: fields of images of the same size, to which all is done alike, with the same draws: the other picture of
            a stereo pair.
        masks: [B, H, W] or [B, C, H, W], any dtype; resampled to the nearest pixel, `mask_fill` outside.
        boxes: [B, N, 4] (x0, y0, x1, y1) in pixels, or a list of B [n, 4]; the upright box around the moved one, cut to
            the image, and to what earlier passes over the image kept. One of which nothing is left has no area.
        keypoints: [B, N, 2] (x, y) in pixels, pixel i covering [i, i + 1); or a list of B [n, 2]. They move as the
            picture does, and none is left out: one that lies outside is at a place outside of the image, unless a later
            pass turned that in, as a rotation does what a resized crop before it cut off.
        mask_fill: what masks hold where the image shows what lay outside of it, e.g. the number of no class.
    """

    masks: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()
    mask_fill: float = 0
    images: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.masks, *self.boxes, *self.keypoints, *self.images)

    def __bool__(self) -> bool:
        return bool(self.names)


NONE = Targets()


@dataclass(frozen=True)
class Path:
    """Where the pixels of a chain's result come from.

    Attributes:
        steps: matrices float32 [B, 3, 3] or [1, 3, 3], one after another.
        passes: of each pass over the image after the first that may show what lies outside of what it is given: how
            many steps stand before it, and the size of what it is given.
        before, after: size of the images that come in, and of the result.
        projective: whether a matrix has a last row other than (0, 0, 1).
    """

    steps: list[torch.Tensor]
    passes: list[tuple[int, Size]]
    before: Size
    after: Size
    projective: bool


def path_of(groups: Sequence[Sequence[Operation]], drawn: Callable[[Operation], Params], size: Size) -> Path | None:
    """The path of operations that run in these groups; None where nothing moves.

    Args:
        drawn: the parameters of an operation.
        size: of the images that come in.
    """
    steps: list[torch.Tensor] = []
    passes: list[tuple[int, Size]] = []
    now, projective = size, False
    for group in groups:
        policy, moving = group[0], [o for o in group if isinstance(o, Geometric)]
        if isinstance(policy, Policy):
            for step in policy.matrices(drawn(policy), now):
                passes.append((len(steps), now))
                steps.append(step)
        elif moving:
            if any(o.kind == "warp" or o.fill_outside is not None for o in moving):
                passes.append((len(steps), now))
            found, sizes = geometry.steps(moving, [drawn(o) for o in moving], now)
            steps, now = steps + found, sizes[-1]
            projective = projective or any(o.projective for o in moving)
    later = [(start, given) for start, given in passes if start]  # the first is given all that there is
    return Path(steps, later, size, now, projective) if steps else None


def follow(batch: Batch, targets: Targets, path: Path, operation: Operation) -> dict[str, Any]:
    """The fields that follow, moved.

    Args:
        operation: the first, which errors speak of.
    """
    matrix = matrices.product(path.steps)
    lost = _lost(path) if targets.masks else None
    fields: dict[str, Any] = {}
    for name in targets.masks:
        mask = _planes(batch, name, targets, path, operation)
        moved = resample.nearest(mask, matrix, path.after, fill=targets.mask_fill, projective=path.projective)
        if lost is not None:
            moved = resample.paste(lost, targets.mask_fill, moved)
        fields[name] = moved if batch[name].ndim == 4 else moved[:, 0]
    for name in targets.boxes:
        fields[name] = _numbers(batch, name, 4, lambda boxes: _move_boxes(boxes, path))
    for name in targets.keypoints:
        fields[name] = _numbers(batch, name, 2, lambda points: matrices.move_points(points, matrix))
    return fields


def _lost(path: Path) -> torch.Tensor | None:
    """bool [B or 1, 1, H, W]: where passes after the first show what lies outside of what they are given; None if no
    pass can. A step that does nothing to a sample takes all its pixels from inside."""
    lost: torch.Tensor | None = None
    for start, size in path.passes:
        matrix = matrices.product(path.steps[start:])
        at = resample.grid(matrix.to(torch.float32), size, path.after, projective=path.projective)
        outside = ~((at >= -1) & (at < 1)).all(-1)
        lost = outside if lost is None else lost | outside
    return None if lost is None else lost[:, None]


def _planes(batch: Batch, name: str, targets: Targets, path: Path, operation: Operation) -> torch.Tensor:
    """A mask as [B, C, H, W].

    Raises:
        ConfigError: there is none of that name, it is not of the images' size, or cannot hold the fill.
    """
    if name not in batch:
        raise ConfigError(f"masks={name!r}: no such field in the batch, it has {', '.join(map(repr, batch))}")
    mask = tensor_of(batch, operation, name)
    planes = mask if mask.ndim == 4 else mask[:, None]
    if planes.ndim != 4 or planes.shape[-2:] != path.before:
        raise ConfigError(
            f"mask {name!r} has shape {list(mask.shape)}, its images are {path.before[0]}x{path.before[1]}; "
            f"pass [B, H, W] or [B, C, H, W] of that size"
        )
    _check_fill(name, mask.dtype, targets.mask_fill)
    return planes


def _check_fill(name: str, dtype: torch.dtype, fill: float) -> None:
    """Raises ConfigError for a fill that would be another number in a mask of this dtype."""
    real = dtype.is_floating_point or dtype.is_complex
    whole = math.isfinite(fill) and fill == int(fill)
    low: float = 0
    high: float = 1
    if real:
        low, high = torch.finfo(dtype).min, torch.finfo(dtype).max
    elif dtype != torch.bool:
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    good = low <= fill <= high and (real or whole) if math.isfinite(fill) else real
    if not good:
        kind, wider = "numbers" if real else "whole numbers", "torch.int64" if whole else "torch.float32"
        raise ConfigError(
            f"mask_fill={fill!r}: mask {name!r} is {dtype}, which holds {kind} from {low} to {high}; pass one of "
            f"those, or masks of a dtype that holds it, e.g. {wider}"
        )


def _move_boxes(boxes: torch.Tensor, path: Path) -> torch.Tensor:
    """Boxes [B, N, 4] as the result shows them. Each bounds what is seen of it; so does the box around what a pass was
    given of it, moved on from there."""
    moved = matrices.move_boxes(boxes, matrices.product(path.steps), path.after)
    for start, size in path.passes:
        given = matrices.move_boxes(boxes, matrices.product(path.steps[:start]), size)
        rest = matrices.move_boxes(given, matrices.product(path.steps[start:]), path.after)
        low = torch.maximum(moved[..., :2], rest[..., :2])
        high = torch.maximum(low, torch.minimum(moved[..., 2:], rest[..., 2:]))
        gone = (given[..., 2:] <= given[..., :2]).any(-1, keepdim=True)
        moved = torch.cat([low, torch.where(gone, low, high)], -1)
    return moved


def _numbers(batch: Batch, name: str, width: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A field of [B, N, width], or a list of B tensors [n, width], changed as [B, N, width]; rows without value stay.

    Raises:
        ConfigError: there is no such field, or it has another shape.
    """
    value = batch.get(name)
    if isinstance(value, torch.Tensor) and value.ndim == 3 and value.shape[2] == width:
        return change(value)
    rows = [_flat_none(row, width) for row in value] if isinstance(value, list) else []
    wrong = [row for row in rows if not _fits(row, width)] if rows else [value]
    if wrong:
        shape = list(wrong[0].shape) if isinstance(wrong[0], torch.Tensor) else repr(wrong[0])
        raise ConfigError(
            f"field {name!r}: {shape} where [B, N, {width}] is needed, or a list of B tensors [n, {width}]; "
            f"the batch has {', '.join(map(repr, batch))}"
        )
    known = [row for row in rows if row is not None]
    if not known:
        return value
    empty = known[0].new_zeros(0, width)
    padded = pad_sequence([empty if row is None else row for row in rows], batch_first=True)
    moved = change(padded)
    return [None if row is None else moved[i, : len(row)] for i, row in enumerate(rows)]


def _fits(row: Any, width: int) -> bool:
    return row is None or (isinstance(row, torch.Tensor) and row.ndim == 2 and row.shape[1] == width)


def _flat_none(row: Any, width: int) -> Any:
    """An empty list, which becomes a tensor [0], as the [0, width] that it stands for."""
    return row.new_zeros(0, width) if isinstance(row, torch.Tensor) and row.shape == (0,) else row
