"""Automatic augmentation, each sample its own operations: RandAugment, TrivialAugmentWide, AutoAugment, AugMix.

A policy draws layers of operations (`fastload.augment.layers`). The spaces of operations and magnitudes are
torchvision's (transforms v2). Pixels stay float between layers, where torchvision rounds to 8 bits after each.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from numbers import Real

import torch

from fastload.augment import keyed, operation
from fastload.augment.layers import NAMES, NUMBER, SIGNED, layer, movement
from fastload.augment.matrices import Size
from fastload.augment.operation import ImageOperation, Params, check_pixels

# AutoAugment's 25 policies for ImageNet: two of (operation, probability, magnitude of 10). Cubuk et al.,
# "AutoAugment: Learning Augmentation Policies from Data" (2018), as in torchvision.
IMAGENET_POLICIES = (
    ("Posterize", 0.4, 8, "Rotate", 0.6, 9),
    ("Solarize", 0.6, 5, "AutoContrast", 0.6, 0),
    ("Equalize", 0.8, 0, "Equalize", 0.6, 0),
    ("Posterize", 0.6, 7, "Posterize", 0.6, 6),
    ("Equalize", 0.4, 0, "Solarize", 0.2, 4),
    ("Equalize", 0.4, 0, "Rotate", 0.8, 8),
    ("Solarize", 0.6, 3, "Equalize", 0.6, 0),
    ("Posterize", 0.8, 5, "Equalize", 1.0, 0),
    ("Rotate", 0.2, 3, "Solarize", 0.6, 8),
    ("Equalize", 0.6, 0, "Posterize", 0.4, 6),
    ("Rotate", 0.8, 8, "Color", 0.4, 0),
    ("Rotate", 0.4, 9, "Equalize", 0.6, 0),
    ("Equalize", 0.0, 0, "Equalize", 0.8, 0),
    ("Invert", 0.6, 0, "Equalize", 1.0, 0),
    ("Color", 0.6, 4, "Contrast", 1.0, 8),
    ("Rotate", 0.8, 8, "Color", 1.0, 2),
    ("Color", 0.8, 8, "Solarize", 0.8, 7),
    ("Sharpness", 0.4, 7, "Invert", 0.6, 0),
    ("ShearX", 0.6, 5, "Equalize", 1.0, 0),
    ("Color", 0.4, 0, "Equalize", 0.6, 0),
    ("Equalize", 0.4, 0, "Solarize", 0.2, 4),
    ("Solarize", 0.6, 5, "AutoContrast", 0.6, 0),
    ("Invert", 0.6, 0, "Equalize", 1.0, 0),
    ("Color", 0.6, 4, "Contrast", 1.0, 8),
    ("Equalize", 0.8, 0, "Equalize", 0.6, 0),
)


# Strengths.


def strengths(
    bins: int, *, shear: float, shift: float, degrees: float, factor: float, bits: tuple[int, int]
) -> tuple[float, ...]:
    """The strength of each operation at each of `bins` magnitudes, as [15 * bins] numbers.

    Args:
        shear, shift, degrees, factor: greatest slope, fraction of the side, angle, and distance of a factor from 1.
        bits: posterize's at the least magnitude, and how many fewer at the greatest.
    """
    steps = [i / max(1, bins - 1) for i in range(bins)]
    none = [0.0] * bins
    keep = [float(bits[0] - round(step * bits[1])) for step in steps]
    threshold = [1 - step for step in steps]
    table = [none]
    table += [[step * top for step in steps] for top in (shear, shear, shift, shift, degrees, *[factor] * 4)]
    table += [keep, threshold, none, none, none]
    return tuple(value for row in table for value in row)


@dataclass(frozen=True)
class Policy(ImageOperation):
    """Layers of operations drawn for each sample."""

    @property
    @abstractmethod
    def layers(self) -> int:
        """How many operations one after another."""

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        for step in range(self.layers):
            images = layer(images, params["operation"][:, step], params["strength"][:, step])
        return images

    def matrices(self, params: Params, size: Size) -> list[torch.Tensor]:
        """Where each layer takes its pixels from, float32 [B, 3, 3]: for what follows the images."""
        steps = zip(params["operation"].unbind(1), params["strength"].unbind(1), strict=True)
        return [movement(number, strength, size) for number, strength in steps]

    def drawn(self, number: torch.Tensor, magnitude: torch.Tensor, u_sign: torch.Tensor, bins: int,
              table: tuple[float, ...]) -> Params:  # fmt: skip
        """Parameters from numbers of operations and magnitudes, int64 [B, layers]."""
        device = number.device
        strength = keyed.constant(table, torch.float32, device)[number * bins + magnitude]
        signed = keyed.constant(SIGNED, torch.float32, device)[number] > 0
        return {"operation": number, "strength": torch.where(signed & (u_sign < 0.5), -strength, strength)}


@dataclass(frozen=True)
class RandAugment(Policy):
    """`count` of 14 operations in a row, all at one magnitude (Cubuk et al., "RandAugment", 2019).

    Args:
        count: operations per sample.
        magnitude: of 31, from 0.
    """

    count: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        self.check(self.count >= 0, "count must be at least 0")
        self.check(0 <= self.magnitude < 31, "magnitude must be in [0, 30]")

    @property
    def layers(self) -> int:
        return self.count

    @property
    def draws(self) -> int:
        return 2 * self.count

    def params(self, u: torch.Tensor) -> Params:
        """`operation`: int64 [B, count], which of `layers.NAMES`; `strength`: float32 [B, count], see `layer`."""
        number = keyed.below(u[:, : self.count], len(NAMES) - 1)  # all but Invert
        table = strengths(31, shear=0.3, shift=150 / 331, degrees=30, factor=0.9, bits=(8, 4))
        return self.drawn(number, torch.full_like(number, self.magnitude), u[:, self.count :], 31, table)


@dataclass(frozen=True)
class TrivialAugmentWide(Policy):
    """One of 14 operations at any of 31 magnitudes, from a wide space (Müller and Hutter, "TrivialAugment", 2021).

    Args:
        side: height and width in pixels that a translation of 32 pixels is meant for; it grows with the image.
    """

    side: int = 224

    def __post_init__(self) -> None:
        good = isinstance(self.side, Real) and self.side > 0
        self.check(good, f"side={self.side!r}: pass a number of pixels above 0")

    @property
    def layers(self) -> int:
        return 1

    @property
    def draws(self) -> int:
        return 3

    def params(self, u: torch.Tensor) -> Params:
        """`operation`: int64 [B, 1]; `strength`: float32 [B, 1]; see RandAugment."""
        table = strengths(31, shear=0.99, shift=32 / self.side, degrees=135, factor=0.99, bits=(8, 6))
        number, magnitude = keyed.below(u[:, :1], len(NAMES) - 1), keyed.below(u[:, 1:2], 31)
        return self.drawn(number, magnitude, u[:, 2:], 31, table)

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        if value.dtype == torch.uint8 and operation.by_rows(value):
            check_pixels(self, value)  # a sample that is changed once is rounded once, and others need not be touched
            return layer(value, params["operation"][:, 0], params["strength"][:, 0])
        return super().apply(value, params)


@dataclass(frozen=True)
class AutoAugment(Policy):
    """One of 25 pairs of operations that were learned on ImageNet, each with its probability (IMAGENET_POLICIES)."""

    @property
    def layers(self) -> int:
        return 2

    @property
    def draws(self) -> int:
        return 5

    def params(self, u: torch.Tensor) -> Params:
        """`operation`: int64 [B, 2], 0 (Identity) where it is left out; `strength`: float32 [B, 2]."""
        policies, device = IMAGENET_POLICIES, u.device
        numbers = tuple(float(NUMBER[name]) for policy in policies for name in (policy[0], policy[3]))
        chances = tuple(p for policy in policies for p in (policy[1], policy[4]))
        sizes = tuple(float(m) for policy in policies for m in (policy[2], policy[5]))
        chosen = keyed.below(u[:, 0], len(policies))
        number, magnitude = (
            keyed.constant(values, torch.int64, device).reshape(-1, 2)[chosen] for values in (numbers, sizes)
        )
        chance = keyed.constant(chances, torch.float32, device).reshape(-1, 2)[chosen]
        number = torch.where(u[:, 1:3] < chance, number, 0)
        table = strengths(10, shear=0.3, shift=150 / 331, degrees=30, factor=0.9, bits=(8, 4))
        return self.drawn(number, magnitude, u[:, 3:], 10, table)


@dataclass(frozen=True)
class AugMix(Policy):
    """The image mixed with several chains of operations on it (Hendrycks et al., "AugMix", 2019), alpha = 1.

    Args:
        severity: greatest magnitude, of 10, from 1.
        width: chains.
        depth: operations of a chain; None draws 1, 2 or 3 for each.
    """

    severity: int = 3
    width: int = 3
    depth: int | None = None

    def __post_init__(self) -> None:
        self.check(1 <= self.severity <= 10, "severity must be in [1, 10]")
        self.check(self.width >= 1 and (self.depth is None or self.depth >= 1), "width and depth must be at least 1")

    @property
    def layers(self) -> int:
        return self.depth or 3

    @property
    def draws(self) -> int:
        return self.width * (3 * self.layers + 2) + 1

    def params(self, u: torch.Tensor) -> Params:
        """`operation`, `strength`: [B, width, depth]; `weight`: float32 [B, width + 1], of the image and each chain,
        summing up to 1."""
        each = self.width * self.layers
        number = keyed.below(u[:, :each], len(NAMES) - 2) + 1  # neither Identity nor Invert
        magnitude = keyed.below(u[:, each : 2 * each], self.severity)
        table = strengths(10, shear=0.3, shift=1 / 3, degrees=30, factor=0.9, bits=(4, 4))
        params = self.drawn(number, magnitude, u[:, 2 * each : 3 * each], 10, table)
        shaped = {name: value.unflatten(1, (self.width, self.layers)) for name, value in params.items()}
        rest = u[:, 3 * each :]
        if self.depth is None:
            length = keyed.below(rest[:, : self.width], 3) + 1
            step = torch.arange(self.layers, device=u.device)
            shaped["operation"] = torch.where(step < length[:, :, None], shaped["operation"], 0)
        parts = -torch.log1p(-rest[:, self.width : 2 * self.width])  # Dirichlet(1, ..., 1): exponentials by their sum
        own = rest[:, 2 * self.width :]  # Beta(1, 1)
        chains = (1 - own) * parts / parts.sum(1, keepdim=True).clamp(min=1e-12)
        return {**shaped, "weight": torch.cat([own, chains], 1)}

    def change(self, images: torch.Tensor, params: Params) -> torch.Tensor:
        mixed = images.repeat_interleave(self.width, 0)  # chains side by side: depth layers, not width * depth
        for step in range(self.layers):
            number, value = params["operation"][:, :, step], params["strength"][:, :, step]
            mixed = layer(mixed, number.flatten(), value.flatten())
        chains: torch.Tensor = mixed.unflatten(0, (len(images), self.width))
        weight = params["weight"].to(images.dtype)[:, :, None, None, None]
        return images * weight[:, 0] + (chains * weight[:, 1:]).sum(1)
