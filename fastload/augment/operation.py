"""What an augmentation is: parameters drawn for each sample, and a function of data and parameters.

    draw(keys) -> params                int64 [B] keys of (seed, epoch, sample) -> small tensors [B, ...]
    apply(value, params) -> value       no randomness left
    operation(batch) -> batch           both, on the operation's field

Parameters are plain dicts of tensors: look at them, save them with a batch, apply them again. An operation's draws are
named by its class and field, and by its place only where the same one stands several times in a chain.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Real

import torch

from fastload.augment import keyed
from fastload.batch import Batch
from fastload.errors import ConfigError

Params = dict[str, torch.Tensor]
Span = float | tuple[float, float]

_TOPS = {torch.uint8: 255.0, torch.uint16: 65535.0}


@dataclass(frozen=True)
class Operation(ABC):
    """One augmentation of one field.

    Attributes:
        field: name of the field in the batch.
        place: 0, or which one of several of its class on that field this is in its chain; part of what is drawn.
        draws: how many uniform numbers a sample needs.
    """

    field: str = dataclasses.field(kw_only=True)
    place: int = dataclasses.field(default=0, kw_only=True, repr=False)

    @property
    def draws(self) -> int:
        return 0

    @property
    def name(self) -> str:
        """What the draws are named by, e.g. "RandomHorizontalFlip/image"."""
        return f"{type(self).__name__}/{self.field}" + (f"/{self.place}" if self.place else "")

    def draw(self, keys: torch.Tensor) -> Params:
        """Parameters of each sample, tensors [B, ...], from int64 [B] keys alone."""
        return self.params(keyed.uniforms(keys, keyed.operation_number(self.name), self.draws))

    @abstractmethod
    def params(self, u: torch.Tensor) -> Params:
        """Parameters from uniform draws, float32 [B, draws] in [0, 1)."""

    @abstractmethod
    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        """The field's tensor [B, ...], changed; the one that went in is not written to."""

    def __call__(self, batch: Batch) -> Batch:
        value = tensor_of(batch, self)
        with exact(value.device):
            return self.replay(batch, self.draw(keys_of(batch, self, value)))

    def replay(self, batch: Batch, params: Params) -> Batch:
        """The batch with parameters that were drawn before."""
        value = tensor_of(batch, self)
        with exact(value.device):
            return batch.replaced({self.field: self.apply(value, params)})

    def check(self, good: bool, what: str) -> None:
        """Raises ConfigError with the operation's own words unless `good`."""
        if not good:
            raise ConfigError(f"{self!r}: {what}")


def tensor_of(batch: Batch, operation: Operation, field: str | None = None) -> torch.Tensor:
    """The tensor of an operation's field, or of another `field`.

    Raises:
        ConfigError: no such field, or it is a list because no size was declared.
    """
    name, field = type(operation).__name__, field or operation.field
    if field not in batch:
        raise ConfigError(f"{name}: no field {field!r} in the batch, it has {', '.join(map(repr, batch))}; pass field=")
    value = batch[field]
    if not isinstance(value, torch.Tensor):
        raise ConfigError(f"{name}: field {field!r} is not a tensor [B, ...] but a list; declare its size")
    return value


def keys_of(batch: Batch, operation: Operation, value: torch.Tensor) -> torch.Tensor:
    """The keys to draw from, int64 [B], on the device of `value`; zeros for an operation that draws nothing."""
    if batch.sample_keys is not None:
        return batch.sample_keys.to(value.device, non_blocking=True)
    if operation.draws:
        raise ConfigError(
            f"{type(operation).__name__} needs a batch of fastload.DataLoader: this one has no sample_keys"
        )
    return torch.zeros(len(value), dtype=torch.int64, device=value.device)


def exact(device: torch.device) -> AbstractContextManager[None]:
    """Without autocast, which would compute matrix products in half precision: it is meant for the model."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def by_rows(value: torch.Tensor) -> bool:
    """Whether to run a pass on those rows only that need it: on a CPU, where to look at what was drawn costs no wait.
    On a GPU a pass covers the whole batch, and rows take its result or not. The results are the same."""
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


# Pixels.


def top_of(dtype: torch.dtype) -> float:
    """The value of white: 255 for uint8, 65535 for uint16, 1 for floats."""
    return _TOPS.get(dtype, 1.0)


def pixel(operation: Operation, what: str, value: float, dtype: torch.dtype, top: float = 1.0) -> float:
    """The number that stands for `value`, a fraction of the range, in pixels of this dtype; `top` is white of floats.

    Raises:
        ConfigError: integers that have no such number.
    """
    if not value or dtype.is_floating_point:
        return value * top
    operation.check(dtype in _TOPS, f"{what}={value} is a fraction of the range, and {dtype} has none; pass 0")
    operation.check(0 <= value <= 1, f"{what}={value} on {dtype}: pass a fraction of the range, 1.0 is white")
    return float(round(value * _TOPS[dtype]))


def working(images: torch.Tensor) -> torch.Tensor:
    """Images as numbers to compute with, not scaled: float64 stays, all else becomes float32."""
    return images if images.dtype == torch.float64 else images.to(torch.float32)


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Images as float32 (or float64) in [0, 1]."""
    top = top_of(images.dtype)
    return working(images) if top == 1 else images.to(torch.float32).div_(top)


def from_unit(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Images in [0, 1] as `dtype`, rounded to nearest."""
    return (images * _TOPS[dtype]).round_().clamp_(0, _TOPS[dtype]).to(dtype) if dtype in _TOPS else images.to(dtype)


def from_working(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Images on their own scale, as `working` gives them, back in `dtype`."""
    if dtype.is_floating_point or images.dtype == dtype:
        return images.to(dtype)
    rounded = images.round()
    return (rounded.clamp_(0, _TOPS[dtype]) if dtype in _TOPS else rounded).to(dtype)


@dataclass(frozen=True)
class ImageOperation(Operation):
    """An operation on images [B, C, H, W], uint8 or uint16 over their range or floats in [0, 1]; the dtype stays, and
    so does channels-last memory. Arithmetic is in float32 and rounded once at the end."""

    field: str = dataclasses.field(default="image", kw_only=True)

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        check_pixels(self, value)
        return like(value, from_unit(self.change(to_unit(value), params), value.dtype))

    @abstractmethod
    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        """Images float [B, C, H, W] in [0, 1] to the same."""


def check_images(operation: Operation, value: torch.Tensor) -> None:
    if value.ndim == 4:
        return
    remedy = "declare a size, e.g. fastload.Image(224)"
    if value.ndim == 5:
        remedy = (
            f"for frames [B, T, C, H, W] of one draw a clip, make a batch of all frames, "
            f"Batch({{{operation.field!r}: frames.flatten(0, 1)}}, sample_keys=batch.sample_keys.repeat_interleave(T))"
        )
    raise ConfigError(
        f"{type(operation).__name__}: field {operation.field!r} is not a tensor [B, C, H, W] but "
        f"{list(value.shape)}; {remedy}"
    )


def check_pixels(operation: Operation, value: torch.Tensor) -> None:
    """For operations that need to know white: other integers than uint8 and uint16 have none."""
    check_images(operation, value)
    if not value.dtype.is_floating_point and value.dtype not in _TOPS:
        raise ConfigError(
            f"{type(operation).__name__}: field {operation.field!r} is {value.dtype}, whose white is not known; "
            f"convert it to uint8, uint16, or floats in [0, 1]"
        )


def like(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """`after` in the memory format of `before`: channels last or not."""
    if after.ndim == 4 and is_channels_last(before) and not is_channels_last(after):
        return after.contiguous(memory_format=torch.channels_last)
    return after


def is_channels_last(images: torch.Tensor) -> bool:
    """Whether the channels of a pixel lie side by side in memory (and not only because there is but one)."""
    return images.shape[1] > 1 and images.stride(1) == 1 and images.is_contiguous(memory_format=torch.channels_last)


def column(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """[B] values as [B, 1, 1, ...] beside `images`, in their dtype if both are floats."""
    shaped = values.reshape(-1, *[1] * (images.ndim - 1))
    return shaped.to(images.dtype) if values.dtype.is_floating_point and images.dtype.is_floating_point else shaped


def span(
    operation: Operation, what: str, value: Span | Sequence[float], center: float | None, low: float = -float("inf")
) -> Sequence[float]:
    """(lower, upper) of an argument that is a pair, or a number: (center - value, center + value).

    Raises:
        ConfigError: bounds in the wrong order or below `low`.
    """
    if isinstance(value, int | float):
        operation.check(center is not None and value >= 0, f"{what}={value!r}: pass two numbers, lower and upper")
        assert center is not None
        value = (max(low, center - value), center + value)
    check_pair(operation, what, value)
    operation.check(low <= value[0] <= value[1], f"{what}={value!r}: needs {low} <= lower <= upper")
    return value


def check_p(operation: Operation, p: float) -> None:
    operation.check(isinstance(p, Real) and 0 <= p <= 1, f"p={p!r}: must be in [0, 1]")


def check_pair(operation: Operation, what: str, value: object) -> None:
    good = isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, Real) for v in value)
    operation.check(good, f"{what}={value!r}: pass two numbers")


# Of pixels that are filled: normalised ones lie outside of [0, 1], seldom by more than this.
_FARTHEST = 10


def check_fill(operation: Operation, what: str, value: float) -> None:
    good = isinstance(value, Real) and abs(value) <= _FARTHEST
    operation.check(good, f"{what}={value!r}: pass a fraction of the range, 1.0 is white (255 of uint8)")
