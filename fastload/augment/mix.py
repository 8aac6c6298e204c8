"""MixUp and CutMix: two samples of a batch in one, with soft labels.

Partners are drawn among the batch's valid rows, so that, unlike all else here, a sample's result depends on which
others are in its batch; how much of it is kept depends on its own key alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import torch

from fastload.augment import keyed
from fastload.augment.operation import (
    Operation,
    Params,
    check_images,
    check_p,
    from_working,
    keys_of,
    tensor_of,
    working,
)
from fastload.augment.resample import paste, rows
from fastload.batch import Batch
from fastload.errors import ConfigError

_TABLE = 1024  # steps of the quantile table of a Beta distribution
_FINE = 40_001  # steps of the integral behind it


@keyed.compiled_as_constant
def beta_roots(alpha: float) -> tuple[float, ...]:
    """What `_beta_roots` gives; computed once, also while torch compiles, which sees through a cache."""
    return _beta_roots(alpha)


@lru_cache(maxsize=16)
def _beta_roots(alpha: float) -> tuple[float, ...]:
    """The quantiles of Beta(alpha, alpha) at u = 0, 1/2048, ..., 1/2, each to the power `alpha`, in which form they are
    nearly straight and can be interpolated.

    With v = x ** alpha the distribution function is the integral of (1 - v ** (1 / alpha)) ** (alpha - 1), which is
    smooth up to the middle for alpha below 1, where the density itself is not; above 1 it is the other way round.
    """
    if alpha < 1:
        v = torch.linspace(0, 0.5**alpha, _FINE, dtype=torch.float64, device="cpu")
        density = (1 - v ** (1 / alpha)) ** (alpha - 1)
    else:
        x = torch.linspace(0, 0.5, _FINE, dtype=torch.float64, device="cpu")
        v, density = x**alpha, (x * (1 - x)) ** (alpha - 1)
    area = torch.cat([density.new_zeros(1), torch.cumsum((density[1:] + density[:-1]) / 2, 0)])
    wanted = torch.linspace(0, 1, _TABLE + 1, dtype=torch.float64, device="cpu") * area[-1]
    above = torch.searchsorted(area, wanted).clamp(1, len(area) - 1)
    share = (wanted - area[above - 1]) / (area[above] - area[above - 1])
    return tuple((v[above - 1] + share * (v[above] - v[above - 1])).tolist())


def beta(u: torch.Tensor, alpha: float) -> torch.Tensor:
    """Beta(alpha, alpha) float32 [B] from uniform draws [B], by the quantile function."""
    table = keyed.constant(beta_roots(alpha), torch.float32, u.device)
    at = torch.minimum(u, 1 - u) * (2 * _TABLE)
    below = at.floor().clamp(max=_TABLE - 1)
    low, high = table[below.long()], table[below.long() + 1]
    x = (low + (high - low) * (at - below)) ** (1 / alpha)
    return torch.where(u < 0.5, x, 1 - x)


def partners(u: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """int64 [B]: a partner for each row, by sorting uniform draws into a ring, so that with two or more valid rows none
    is its own. Rows that are not valid keep themselves."""
    rows = len(u)
    place = torch.arange(rows, device=u.device)
    order = torch.argsort(u if valid is None else torch.where(valid, u, 2.0), stable=True)
    count = torch.full_like(place[:1], rows) if valid is None else valid.sum().clamp(min=1)
    following = torch.where(place < count, (place + 1) % count, place)
    return order[following][order.argsort()]  # the inverse by sorting: a scatter waits where it must be deterministic


@dataclass(frozen=True)
class MixUp(Operation):
    """weight * image + (1 - weight) * partner, and labels likewise (Zhang et al., "mixup", 2017). Each sample has its
    own weight, from Beta(alpha, alpha).

    Labels int64 [B] become float32 [B, classes]; float [B, classes] are mixed as they are.

    Args:
        classes: how many there are.
        alpha: of the Beta distribution; 0.2 is torchvision's for ImageNet.
        p: probability that a sample is mixed at all.
        label: name of the label field.
    """

    classes: int
    alpha: float = 0.2
    p: float = 1.0
    field: str = dataclasses.field(default="image", kw_only=True)
    label: str = dataclasses.field(default="label", kw_only=True)

    def __post_init__(self) -> None:
        check_p(self, self.p)
        self.check(self.classes >= 1, "classes must be at least 1")
        self.check(self.alpha > 0, "alpha must be above 0")
        object.__setattr__(self, "alpha", float(self.alpha))  # its table is found by value

    @property
    def draws(self) -> int:
        return 5

    def draw(self, keys: torch.Tensor, valid: torch.Tensor | None = None) -> Params:
        """`partner`: int64 [B]; `weight`: float32 [B], what is kept of the sample itself; and what `params` adds.

        Args:
            keys: int64 [B] of the whole batch.
            valid: bool [B], rows that may be partners.
        """
        u = keyed.uniforms(keys, keyed.operation_number(self.name), self.draws)
        return {**self.params(u), "partner": partners(u[:, 2], valid)}

    def params(self, u: torch.Tensor) -> Params:
        return {"weight": torch.where(u[:, 0] < self.p, beta(u[:, 1], self.alpha), 1.0)}

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        check_images(self, value)
        images = working(value)
        weight = params["weight"].to(images.dtype)[:, None, None, None]
        return from_working(torch.lerp(images[params["partner"]], images, weight), value.dtype)

    def kept(self, params: Params, value: torch.Tensor) -> torch.Tensor:
        """float32 [B]: how much of each sample is its own."""
        return params["weight"]

    def __call__(self, batch: Batch) -> Batch:
        images = tensor_of(batch, self)
        valid = batch.valid.to(images.device, non_blocking=True) if batch.valid is not None else None
        return self.replay(batch, self.draw(keys_of(batch, self, images), valid))

    def replay(self, batch: Batch, params: Params) -> Batch:
        images, labels = tensor_of(batch, self), self._soft(tensor_of(batch, self, self.label))
        kept = self.kept(params, images)[:, None]
        mixed = torch.lerp(labels[params["partner"]], labels, kept.to(labels.dtype))
        return batch.replaced({self.field: self.apply(images, params), self.label: mixed})

    def _soft(self, labels: torch.Tensor) -> torch.Tensor:
        if labels.is_floating_point() and labels.shape[1:] == (self.classes,):
            return labels
        if labels.is_floating_point() or labels.ndim != 1:
            raise ConfigError(
                f"{self!r}: field {self.label!r} is {labels.dtype} {list(labels.shape)}; pass integers [B], or floats "
                f"[B, {self.classes}]"
            )
        empty = torch.zeros(len(labels), self.classes, dtype=torch.float32, device=labels.device)
        return empty.scatter_(1, labels.to(torch.int64)[:, None], 1.0)  # a label out of range is an error of torch


@dataclass(frozen=True)
class CutMix(MixUp):
    """A box of the partner pasted over the image, labels mixed by area (Yun et al., "CutMix", 2019). The box covers
    1 - weight of the image before it is cut at the edges; arguments as MixUp."""

    alpha: float = 1.0

    def params(self, u: torch.Tensor) -> Params:
        """Adds `x`, `y`: float32 [B] in [0, 1), the box's centre."""
        return {**super().params(u), "x": u[:, 3], "y": u[:, 4]}

    def box(self, params: Params, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x0, y0, x1, y1 of the pasted box in whole pixels, int64 [B]."""
        height, width = value.shape[-2:]
        half = 0.5 * torch.sqrt((1 - params["weight"]).clamp(min=0))
        x, y = keyed.below(params["x"], width), keyed.below(params["y"], height)
        half_x, half_y = (half * width).to(torch.int64), (half * height).to(torch.int64)
        return (
            (x - half_x).clamp(min=0),
            (y - half_y).clamp(min=0),
            (x + half_x).clamp(max=width),
            (y + half_y).clamp(max=height),
        )

    def kept(self, params: Params, value: torch.Tensor) -> torch.Tensor:
        x0, y0, x1, y1 = self.box(params, value)
        return 1 - ((x1 - x0) * (y1 - y0)).to(torch.float32) / (value.shape[-1] * value.shape[-2])

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        check_images(self, value)
        x0, y0, x1, y1 = (edge[:, None] for edge in self.box(params, value))
        x = torch.arange(value.shape[-1], device=value.device)
        y = torch.arange(value.shape[-2], device=value.device)
        inside = ((y >= y0) & (y < y1))[:, None, :, None] & ((x >= x0) & (x < x1))[:, None, None]
        return paste(inside, rows(value, params["partner"]), value)
