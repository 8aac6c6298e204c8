"""Image operations of one field in a row, run in as few passes as they allow.

    geometry ... geometry     one matrix per sample, one resampling (take, resize or warp)
    colour ... colour, Normalize     one 3x4 matrix per sample, one pass
    anything else             on its own, in its place

Pixels become float once, and the result is rounded once. On a GPU with Triton geometry, colour and erasing that follow
each other are one pass altogether (`onepass`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from fastload.augment import keyed
from fastload.augment.colour import ColorJitter, Linear, Normalize, apply_linear, turn_hue
from fastload.augment.filters import RandomErasing
from fastload.augment.geometry import Geometric, move
from fastload.augment.onepass import OnePass, Pixels, passes
from fastload.augment.operation import (
    ImageOperation,
    Operation,
    Params,
    check_images,
    check_pixels,
    exact,
    keys_of,
    like,
    tensor_of,
    top_of,
    working,
)
from fastload.augment.targets import NONE, Targets, follow, path_of
from fastload.batch import Batch
from fastload.errors import ConfigError

Drawn = dict[str, Params]


class Fused:
    """Several image operations of one field as one function of the batch.

    Args:
        operations: ImageOperations and Normalize, all of the same field, numbered apart (`place`).
        targets: fields that follow the geometry.
        fuse: False leaves out the kernel that makes one pass of several groups.
    """

    def __init__(self, operations: Sequence[Operation], targets: Targets = NONE, *, fuse: bool = True) -> None:
        self.operations = tuple(operations)
        self.field = self.operations[0].field
        self.targets = targets
        self.groups = _groups(self.operations)
        self.passes = passes(self.groups) if fuse else self.groups
        self._draws = tuple((keyed.operation_number(o.name), o.draws) for o in self.operations)

    def __repr__(self) -> str:
        return f"Fused({', '.join(map(repr, self.operations))})"

    @property
    def draws(self) -> int:
        return sum(count for _, count in self._draws)

    def draw(self, keys: torch.Tensor) -> Drawn:
        """Parameters of all operations, by their names, from one hash over all draws of the batch."""
        found = keyed.drawn(keys, self._draws)
        return {o.name: o.params(u) for o, u in zip(self.operations, found, strict=True)}

    def apply(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        """The images [B, C, H, W] with parameters as `draw` gives them.

        Returns:
            The dtype that came in, or Normalize's.
        """
        for operation in self.operations:
            if isinstance(operation, Geometric | RandomErasing):
                check_images(operation, images)
            else:
                check_pixels(operation, images)
        if len(self.operations) == 1 and not isinstance(self.passes[0], OnePass):
            return self.operations[0].apply(images, params_of(drawn, self.operations[0]))
        pixels = Pixels(images, images.dtype, top_of(images.dtype))
        for each in self.passes:
            if isinstance(each, OnePass):
                pixels = self._one_pass(each, pixels, drawn)
            else:
                pixels = _run(each, [params_of(drawn, operation) for operation in each], pixels)
        return like(images, pixels.end())

    def _one_pass(self, one: OnePass, pixels: Pixels, drawn: Drawn) -> Pixels:
        groups = [[(operation, params_of(drawn, operation)) for operation in group] for group in one.groups]
        params = [drawn for group in groups for _, drawn in group]
        done = one(pixels, params) if one.fits(pixels, params) else None
        if done is not None:
            return done
        if len(self.operations) == 1:  # which alone has arithmetic of its own
            images = self.operations[0].apply(pixels.images, params[0])
            return Pixels(images, images.dtype, top_of(images.dtype))
        for group in groups:
            pixels = _run([operation for operation, _ in group], [drawn for _, drawn in group], pixels)
        return pixels

    def __call__(self, batch: Batch) -> Batch:
        images = tensor_of(batch, self.operations[0])
        drawn = self.draw(keys_of(batch, self._neediest(), images))
        return self.replay(batch, drawn)

    def replay(self, batch: Batch, drawn: Drawn) -> Batch:
        """The batch with parameters that were drawn before."""
        images = tensor_of(batch, self.operations[0])
        with exact(images.device):
            fields: dict[str, Any] = {self.field: self.apply(images, drawn)}
            for name in self.targets.images:
                fields[name] = self.apply(self._alike(batch, name, images), drawn)
        if self.targets:
            path = path_of(self.groups, lambda o: params_of(drawn, o), (images.shape[2], images.shape[3]))
            fields |= {} if path is None else follow(batch, self.targets, path, self.operations[0])
        return batch.replaced(fields)

    def _alike(self, batch: Batch, name: str, images: torch.Tensor) -> torch.Tensor:
        other = tensor_of(batch, self.operations[0], name)
        if other.ndim != 4 or (len(other), other.shape[2:]) != (len(images), images.shape[2:]):
            raise ConfigError(
                f"images={name!r}: {list(other.shape)} cannot be changed as {self.field!r} is, which is "
                f"{list(images.shape)}; pass images of the same height and width"
            )
        return other

    def _neediest(self) -> Operation:
        neediest = self.operations[0]
        for operation in self.operations:  # max(key=) is nothing that torch compiles
            neediest = operation if operation.draws > neediest.draws else neediest
        return neediest


def params_of(drawn: Drawn, operation: Operation) -> Params:
    """The parameters of an operation.

    Raises:
        ConfigError: there are none.
    """
    if operation.name not in drawn:
        raise ConfigError(
            f"replay: no parameters of {operation.name!r}, only of {', '.join(map(repr, drawn)) or 'nothing'}; "
            f"pass what `draw` of the same chain gave"
        )
    return drawn[operation.name]


def _run(group: Sequence[Operation], params: list[Params], pixels: Pixels) -> Pixels:
    """One group, by torch."""
    first, images, top = group[0], pixels.images, pixels.top
    if isinstance(first, Geometric):
        return replace(pixels, images=move([o for o in group if isinstance(o, Geometric)], images, params, top))
    if isinstance(first, RandomErasing):
        return replace(pixels, images=first.erase(images, params[0], top))
    if isinstance(first, Linear | Normalize):
        images, normalised = _colour(group, params, images, top)
        return Pixels(images, images.dtype if normalised else pixels.dtype, 1.0)
    assert isinstance(first, ImageOperation)
    unit = working(images).div(top) if top != 1 else working(images)
    return replace(pixels, images=first.change(unit, params[0]), top=1.0)


def _colour(
    group: Sequence[Operation], params: list[Params], images: torch.Tensor, top: float
) -> tuple[torch.Tensor, bool]:
    """A colour group of white `top`, and whether it normalised."""
    linear = [o for o in group if isinstance(o, Linear)]
    normalize = group[-1] if isinstance(group[-1], Normalize) else None
    if not linear:
        assert normalize is not None
        return normalize.scaled(images, top), True
    last = linear[-1]
    turned = isinstance(last, ColorJitter) and last.turns_hue
    changed = apply_linear(linear, params[: len(linear)], images, top, None if turned else normalize)
    if turned:
        changed = turn_hue(changed, params[len(linear) - 1]["hue"])
        if normalize is not None:
            changed = normalize.scaled(changed, 1.0)
    return changed, normalize is not None


def check_normalised(operations: Iterable[object]) -> None:
    """Raises ConfigError where pixels that Normalize made, no longer in [0, 1], are given to what needs them there. A
    function or module in between may have brought them back."""
    fields: set[str] = set()
    for each in operations:
        if not isinstance(each, Operation):
            fields.clear()
        if not isinstance(each, ImageOperation | Normalize):
            continue
        if each.field in fields and not isinstance(each, Geometric | RandomErasing):
            raise ConfigError(f"{each!r} after Normalize: pixels are no longer in [0, 1]; put it before")
        if isinstance(each, Normalize):
            fields.add(each.field)


def _groups(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Neighbours that run as one."""
    groups: list[list[Operation]] = []
    for operation in operations:
        if groups and _joins(groups[-1], operation):
            groups[-1].append(operation)
        else:
            groups.append([operation])
    return groups


def _joins(group: list[Operation], operation: Operation) -> bool:
    if isinstance(operation, Geometric):
        moving = [o for o in group if isinstance(o, Geometric)]
        if len(moving) < len(group):
            return False
        kinds = {o.kind for o in (*moving, operation)}
        outside = {o.sampling for o in (*moving, operation) if o.sampling is not None}
        fills: set[float | None] = {o.fill_outside for o in (*moving, operation) if o.fill_outside is not None}
        fills |= {fill if padding == "zeros" else None for _, padding, fill in outside} if fills else set()
        return not {"resize", "warp"} <= kinds and len(outside) <= 1 and len(fills) <= 1
    last = group[-1]
    ends = isinstance(last, Normalize) or (isinstance(last, ColorJitter) and last.turns_hue)
    if isinstance(operation, Normalize):
        return isinstance(last, Linear)
    return isinstance(operation, Linear) and isinstance(last, Linear) and not ends
