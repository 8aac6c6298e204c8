"""Neighbouring groups of a chain as one pass over the pixels: geometry, then colour, then an erased box.

On a GPU each of torch's passes reads and writes the whole batch, most of it in float32. The kernel (`kernels.one_pass`)
reads the pixels that came in, writes those that the chain gives, and nothing in between; where contrast needs the mean
colour of what the geometry makes, it runs once more before, for the sums. Results are those of torch's passes up to the
rounding of float32, and as deterministic.

It runs where `gpu` says that kernels do. Torch's passes do what it was not written for: images of 2, 4 or more
channels, float64, antialiased resizing, hue, and what gradients flow through. `Compose(..., fuse=False)` never comes
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from fastload.augment import gpu, keyed
from fastload.augment.colour import ColorJitter, Linear, Normalize, mixing_of
from fastload.augment.filters import RandomErasing
from fastload.augment.geometry import Geometric, Sampling, sampling_of
from fastload.augment.matrices import Size
from fastload.augment.operation import (
    Operation,
    Params,
    from_unit,
    from_working,
    is_channels_last,
    pixel,
    top_of,
)

_FLOATS = {torch.float16, torch.bfloat16, torch.float32}
_READ = {torch.uint8, torch.uint16, *_FLOATS}


@dataclass(frozen=True, slots=True)
class Pixels:
    """Images on their way through a chain.

    Attributes:
        images: [B, C, H, W], on the scale of `top`.
        dtype: what they become at the end.
        top: white; 1 of normalised ones, which become float.
    """

    images: torch.Tensor
    dtype: torch.dtype
    top: float

    def end(self) -> torch.Tensor:
        """The images in their dtype, rounded."""
        if self.top == top_of(self.dtype):
            return from_working(self.images, self.dtype)
        return from_unit(self.images, self.dtype)


@dataclass(frozen=True, slots=True)
class OnePass:
    """Groups of a chain, at most one of each kind.

    Attributes:
        geometry: operations that pick pixels or warp.
        colour: linear operations, and Normalize after them or alone.
        erasing: RandomErasing, or none.
        last: whether nothing of the chain comes after.
    """

    geometry: tuple[Geometric, ...]
    colour: tuple[Linear | Normalize, ...]
    erasing: tuple[RandomErasing, ...]
    last: bool

    @property
    def groups(self) -> list[list[Operation]]:
        return [list(group) for group in (self.geometry, self.colour, self.erasing) if group]

    def fits(self, pixels: Pixels, params: Iterable[Params]) -> bool:
        """Whether the kernel can do it, and may."""
        images = pixels.images
        if not gpu.usable(images):
            return False
        if not {images.dtype, pixels.dtype} <= _READ or images.shape[1] not in (1, 3):
            return False
        if not images.numel() or _reach(images) >= 2**31:  # the kernel finds pixels of an image by 32 bits
            return False
        tensors = [images, *(value for each in params for value in each.values())]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return False
        return all(tensor.device == images.device for tensor in tensors)

    def __call__(self, pixels: Pixels, params: Sequence[Params]) -> Pixels | None:
        """The images after all groups; None where the kernel turns out not to run.

        Args:
            params: of the operations, in their order.
        """
        images, top, dtype = pixels.images, pixels.top, pixels.dtype
        of_geometry, rest = params[: len(self.geometry)], params[len(self.geometry) :]
        of_colour, of_erasing = rest[: len(self.colour)], rest[len(self.colour) :]
        size: Size = (images.shape[2], images.shape[3])
        task = _Task(images, size)
        if self.geometry:
            task.sampling = sampling_of(self.geometry, of_geometry, size, images.dtype, top)
            task.size = task.sampling.size
        # As what torch's passes would hold the images by now: as they came, as long as they are only copied.
        held = images.dtype if task.sampling is None or task.sampling.mode == "index" else torch.float32
        if self.colour:
            last = self.colour[-1]
            if not self._mix(task, of_colour, top):
                return None
            held, top = torch.float32, 1.0
            if isinstance(last, Normalize):
                held = dtype = last.dtype
        if self.erasing:
            (erasing,), (drawn,) = self.erasing, of_erasing
            boxes = erasing.box(drawn, task.size)
            task.boxes = torch.stack([each.to(torch.float32).expand(len(images)) for each in boxes])
            task.erased = pixel(erasing, "value", erasing.value, held, top)
        if not self.last:
            made = task.run(held)
            return None if made is None else Pixels(made, dtype, top)
        white = top_of(dtype)
        if not dtype.is_floating_point and held != dtype:
            task.scale, task.rounded = white / top, white
        made = task.run(dtype)
        return None if made is None else Pixels(made, dtype, white)

    def _mix(self, task: _Task, params: Sequence[Params], top: float) -> bool:
        """What becomes of colours; False where the kernel that sums them does not run."""
        images, channels = task.images, task.images.shape[1]
        linear = [each for each in self.colour if isinstance(each, Linear)]
        normalize = self.colour[-1] if isinstance(self.colour[-1], Normalize) else None
        if not linear:
            assert normalize is not None
            task.colour, task.colours = "scale", torch.stack(normalize.scale_and_shift(images, top))
            return True
        mean = None
        if any(each.needs_mean for each in linear):
            sums = task.sum()
            if sums is None:
                return False
            mean = (sums / (task.size[0] * task.size[1] * top)).expand(-1, 3)
        found = mixing_of(linear, params[: len(linear)], mean, images, top, normalize)
        task.colour, task.colours = "matrix", found.matrix.expand(len(images), 3, 4).contiguous()
        if found.low is None or found.high is None:
            limits = (0.0,) * channels + (1.0,) * channels
            task.limits = keyed.constant(limits, torch.float32, images.device)
        else:
            task.limits = torch.stack([found.low, found.high])
        return True


def passes(groups: Sequence[Sequence[Operation]]) -> list[OnePass | list[Operation]]:
    """The groups of a chain in their order: those that one kernel can do together, and others as they are. To a group
    that only copies, alone, it would bring nothing."""
    found: list[OnePass | list[Operation]] = []
    start = 0
    while start < len(groups):
        stop, stage = start, 0
        while stop < len(groups) and (kind := _kind(groups[stop])) > stage:
            stop, stage = stop + 1, kind
        some = groups[start:stop]
        if len(some) > 1 or (some and _computes(some[0])):
            every = [operation for group in some for operation in group]
            found.append(
                OnePass(
                    tuple(o for o in every if isinstance(o, Geometric)),
                    tuple(o for o in every if isinstance(o, Linear | Normalize)),
                    tuple(o for o in every if isinstance(o, RandomErasing)),
                    stop == len(groups),
                )
            )
        else:
            stop = start + 1
            found.append(list(groups[start]))
        start = stop
    return found


def _kind(group: Sequence[Operation]) -> int:
    """Where a group may stand in a pass: geometry before colour before erasing; 0 for what is none of them, or what the
    kernel cannot do."""
    first, last = group[0], group[-1]
    if isinstance(first, Geometric):
        return 0 if any(isinstance(each, Geometric) and each.kind == "resize" for each in group) else 1
    if isinstance(first, Linear | Normalize):
        hue = any(isinstance(each, ColorJitter) and each.turns_hue for each in group)
        return 0 if hue or (isinstance(last, Normalize) and last.dtype not in _FLOATS) else 2
    return 3 if isinstance(first, RandomErasing) else 0


def _computes(group: Sequence[Operation]) -> bool:
    first = group[0]
    if isinstance(first, Geometric):
        return any(isinstance(each, Geometric) and each.kind == "warp" for each in group)
    return isinstance(first, Linear | Normalize)


@dataclass(slots=True)
class _Task:
    """What the kernel is to do with images [B, C, H, W]: `kernels.one_pass` says what the values are."""

    images: torch.Tensor
    size: Size
    sampling: Sampling | None = None
    colour: str = ""
    colours: torch.Tensor | None = None
    limits: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    erased: float = 0.0
    scale: float = 1.0
    rounded: float = 0.0  # the most there may be; 0 where nothing is rounded

    @property
    def blocks(self) -> int:
        """Of an image."""
        return int(-(-self.size[0] * self.size[1] // gpu.kernels().BLOCK))

    def run(self, dtype: torch.dtype) -> torch.Tensor | None:
        """The images, in the same memory format; None where it does not run."""
        batch, channels = self.images.shape[:2]
        memory = torch.channels_last if is_channels_last(self.images) else torch.contiguous_format
        out = torch.empty((batch, channels, *self.size), dtype=dtype, device=self.images.device, memory_format=memory)
        return out if self._launch(out, None) else None

    def sum(self) -> torch.Tensor | None:
        """Float32 [B, C]: the sums of the images' pixels after the geometry, always added up in the same order."""
        batch, channels = self.images.shape[:2]
        sums = torch.empty((batch, self.blocks, channels), dtype=torch.float32, device=self.images.device)
        return sums.sum(1) if self._launch(self.images, sums) else None

    def _launch(self, out: torch.Tensor, sums: torch.Tensor | None) -> bool:
        images, sampling, unused = self.images, self.sampling, self.images
        matrix = unused
        if sampling is not None:
            matrix = sampling.matrix.to(torch.float32).contiguous().expand(len(images), 3, 3)
        means = sums is not None
        return gpu.launch(
            "one_pass",
            (len(images) * self.blocks,),
            images,
            images,
            out,
            unused if sums is None else sums,
            matrix,
            unused if self.colours is None else self.colours,
            unused if self.limits is None else self.limits,
            unused if self.boxes is None else self.boxes,
            images.shape[2],
            images.shape[3],
            self.size[1],
            self.size[0] * self.size[1],
            self.blocks,
            *images.stride(),
            *out.stride(),
            0 if sampling is None else matrix.stride(0),
            len(images),
            float(sampling.fill or 0.0) if sampling is not None else 0.0,
            float(self.erased),
            float(self.scale),
            float(self.rounded),
            CHANNELS=images.shape[1],
            MOVE="" if sampling is None else sampling.mode,
            PADDING="zeros" if sampling is None else sampling.padding,
            PROJECTIVE=sampling is not None and sampling.projective,
            COLOUR="" if means else self.colour,
            ERASE=self.boxes is not None and not means,
            ROUND=self.rounded > 0 and not means,
            MEANS=means,
            BLOCK=gpu.kernels().BLOCK,
        )


def _reach(images: torch.Tensor) -> int:
    """How far in memory an image's last pixel lies from its first, in numbers; a view may leave out most of them."""
    return sum((size - 1) * stride for size, stride in zip(images.shape[1:], images.stride()[1:], strict=True))
