"""Operations that warp: rotation, affine maps, perspective; each a matrix per sample (`fastload.augment.geometry`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fastload.augment import keyed, matrices
from fastload.augment.geometry import Geometric
from fastload.augment.matrices import Size
from fastload.augment.operation import Params, Span, check_fill, check_p, check_pair, span
from fastload.augment.resample import Mode, Padding


@dataclass(frozen=True)
class RandomAffine(Geometric):
    """Rotation, translation, scale and shear about the centre, with probability `p`.

    Args:
        degrees: clockwise rotation; a number stands for (-degrees, degrees).
        translate: greatest shift as a fraction of width and height, either way.
        scale: factor.
        shear: degrees along x; a number stands for (-shear, shear). `shear_y` likewise along y.
        mode: "bilinear" or "nearest".
        padding: what lies outside: "zeros" (then `fill` in [0, 1]), "border" or "reflection".
    """

    degrees: Span = 0.0
    translate: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shear: Span = 0.0
    shear_y: Span = 0.0
    p: float = 1.0
    mode: Mode = "bilinear"
    padding: Padding = "zeros"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_p(self, self.p)
        for name in ("degrees", "shear", "shear_y"):
            span(self, name, getattr(self, name), 0.0)
        span(self, "scale", self.scale, None, 1e-6)
        check_pair(self, "translate", self.translate)
        self.check(all(0 <= t <= 1 for t in self.translate), "translate must be two fractions in [0, 1]")
        _check_sampling(self, self.mode, self.padding, self.fill)

    @property
    def draws(self) -> int:
        return 7

    @property
    def sampling(self) -> tuple[Mode, Padding, float] | None:
        return self.mode, self.padding, self.fill

    def params(self, u: torch.Tensor) -> Params:
        """`angle`, `shear_x`, `shear_y` in degrees, `x`, `y` as fractions, `scale`: float32 [B], neutral where
        `p` left a sample out."""
        chosen = u[:, 0] < self.p
        spans = [span(self, "", value, 0.0) for value in (self.degrees, self.shear, self.shear_y)]
        spans += [(-t, t) for t in self.translate] + [self.scale]
        names, neutral = ("angle", "shear_x", "shear_y", "x", "y", "scale"), (0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        return dict(zip(names, keyed.spread(u[:, 1:], spans, chosen, neutral), strict=True))

    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        shift = (params["x"] * size[1]).round(), (params["y"] * size[0]).round()
        shear = params["shear_x"], params["shear_y"]
        return matrices.affine(params["angle"], shift, params["scale"], shear, size)


@dataclass(frozen=True)
class RandomRotation(Geometric):
    """Rotation about the centre, counter-clockwise as torchvision's, with probability `p`. Arguments: RandomAffine."""

    degrees: Span = 30.0
    p: float = 1.0
    mode: Mode = "bilinear"
    padding: Padding = "zeros"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_p(self, self.p)
        span(self, "degrees", self.degrees, 0.0)
        _check_sampling(self, self.mode, self.padding, self.fill)

    @property
    def draws(self) -> int:
        return 2

    @property
    def sampling(self) -> tuple[Mode, Padding, float] | None:
        return self.mode, self.padding, self.fill

    def params(self, u: torch.Tensor) -> Params:
        """`angle`: float32 [B], degrees counter-clockwise."""
        low, high = span(self, "degrees", self.degrees, 0.0)
        return {"angle": torch.where(u[:, 0] < self.p, keyed.between(u[:, 1], low, high), 0.0)}

    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        none = torch.zeros_like(params["angle"])
        return matrices.affine(-params["angle"], (none, none), none + 1, (none, none), size)


@dataclass(frozen=True)
class RandomPerspective(Geometric):
    """Each corner is drawn inwards by up to `distortion / 2` of width and height, with probability `p`."""

    projective: ClassVar[bool] = True

    distortion: float = 0.5
    p: float = 0.5
    mode: Mode = "bilinear"
    padding: Padding = "zeros"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_p(self, self.p)
        self.check(0 <= self.distortion <= 1, "distortion must be in [0, 1]")
        _check_sampling(self, self.mode, self.padding, self.fill)

    @property
    def draws(self) -> int:
        return 9

    @property
    def sampling(self) -> tuple[Mode, Padding, float] | None:
        return self.mode, self.padding, self.fill

    def params(self, u: torch.Tensor) -> Params:
        """`corners`: float32 [B, 4, 2], how far (0, 0), (1, 0), (1, 1) and (0, 1) move inwards, x and y, as
        fractions."""
        inwards = u[:, 1:].unflatten(1, (4, 2)) * (self.distortion / 2)
        return {"corners": torch.where((u[:, 0] < self.p)[:, None, None], inwards, 0.0)}

    def matrix(self, params: Params, size: Size) -> torch.Tensor:
        device = params["corners"].device
        corners = keyed.constant((0, 0, 1, 0, 1, 1, 0, 1), torch.float32, device).reshape(4, 2)
        far = (
            max(1, size[1] - 1),
            max(1, size[0] - 1),
        )  # as torchvision counts corners; a side of 1 pixel has an end too
        pixels = keyed.constant(far, torch.float32, device)
        ends = (corners + (1 - 2 * corners) * params["corners"]) * pixels
        square = matrices.inverse(matrices.quadrangle(ends))  # ends -> unit square
        found = matrices.product([matrices.diagonal(far[0], 0, far[1], 0, like=ends[:1, 0, 0]), square])
        return found / found[:, 2:, 2:]


def _check_sampling(operation: Geometric, mode: str, padding: str, fill: float) -> None:
    check_fill(operation, "fill", fill)
    operation.check(mode in ("bilinear", "nearest"), "mode must be 'bilinear' or 'nearest'")
    operation.check(padding in ("zeros", "border", "reflection"), "padding must be 'zeros', 'border' or 'reflection'")
