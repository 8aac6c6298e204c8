"""Geometry as matrices: 3x3 homographies that say where each pixel of the result comes from.

A matrix [B, 3, 3] (or [1, 3, 3] for all samples alike) maps coordinates of the *output* to coordinates of the *input*,
both in pixels with x to the right, y down and pixel i covering [i, i + 1), so its centre at i + 0.5. Operations after
one another are one matrix: first @ second @ ... (the last one is applied to the output's coordinates first).
"""

from __future__ import annotations

import torch

from fastload.augment.keyed import constant

Size = tuple[int, int]  # height, width


def rows(*values: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    """A matrix [B, 3, 3] of nine entries in reading order, each a number or [B]; `like` [B] gives dtype and device."""
    filled = [v if isinstance(v, torch.Tensor) else _filled(v, like) for v in values]
    return torch.stack(torch.broadcast_tensors(*filled), -1).reshape(-1, 3, 3)


def _filled(value: float, like: torch.Tensor) -> torch.Tensor:
    if value in (0, 1):  # most are, and to fill a tensor is a kernel of its own on a GPU
        return constant((float(value),), like.dtype, like.device).expand_as(like)
    return torch.full_like(like, value)


def diagonal(
    scale_x: torch.Tensor | float,
    shift_x: torch.Tensor | float,
    scale_y: torch.Tensor | float,
    shift_y: torch.Tensor | float,
    like: torch.Tensor,
) -> torch.Tensor:
    """x -> scale_x * x + shift_x, and y likewise."""
    return rows(scale_x, 0, shift_x, 0, scale_y, shift_y, 0, 0, 1, like=like)


def affine(
    angle: torch.Tensor,
    translate: tuple[torch.Tensor, torch.Tensor],
    scale: torch.Tensor,
    shear: tuple[torch.Tensor, torch.Tensor],
    size: Size,
) -> torch.Tensor:
    """Rotation by `angle` degrees clockwise, translation in pixels, scale, and shear in degrees, about the centre.

    The inverse of torchvision's `affine` in its own order (rotation, shear, scale, translation), as it computes it:
    torchvision.transforms.functional._get_inverse_affine_matrix.
    """
    turn, shear_x, shear_y = torch.deg2rad(angle), torch.deg2rad(shear[0]), torch.deg2rad(shear[1])
    rest, narrow, slope = turn - shear_y, torch.cos(shear_y), torch.tan(shear_x)
    cos, sin = torch.cos(rest) / narrow, torch.sin(rest) / narrow
    a, b = cos, -cos * slope - torch.sin(turn)
    c, d = sin, -sin * slope + torch.cos(turn)
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale
    center_x, center_y = size[1] / 2, size[0] / 2
    from_x, from_y = -center_x - translate[0], -center_y - translate[1]
    return rows(a, b, a * from_x + b * from_y + center_x, c, d, c * from_x + d * from_y + center_y, 0, 0, 1, like=scale)


def quadrangle(corners: torch.Tensor) -> torch.Tensor:
    """The homography of the unit square onto a quadrangle.

    Paul Heckbert, "Fundamentals of Texture Mapping and Image Warping" (1989), section 2.2.3.

    Args:
        corners: [B, 4, 2], the images of (0, 0), (1, 0), (1, 1) and (0, 1).
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (point.unbind(-1) for point in corners.unbind(1))
    dx1, dx2, dx3 = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, dy3 = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    det = dx1 * dy2 - dx2 * dy1
    g, h = (dx3 * dy2 - dx2 * dy3) / det, (dx1 * dy3 - dx3 * dy1) / det
    return rows(x1 - x0 + g * x1, x3 - x0 + h * x3, x0, y1 - y0 + g * y1, y3 - y0 + h * y3, y0, g, h, 1, like=x0)


def inverse(matrix: torch.Tensor) -> torch.Tensor:
    """The inverse up to a factor, which a homography does not see: the adjugate. Needs no check on the host, as
    `torch.linalg.inv` does."""
    first, second, third = matrix.unbind(-2)
    cross = torch.linalg.cross
    return torch.stack([cross(second, third), cross(third, first), cross(first, second)], -1)


def product(matrices: list[torch.Tensor]) -> torch.Tensor:
    """first @ second @ ..., written out, so that reduced-precision matrix units (TF32) do not move pixels."""
    total = matrices[0]
    for matrix in matrices[1:]:
        total = (total[:, :, :, None] * matrix[:, None]).sum(2)
    return total


def identity_unless(chosen: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`matrix` where bool [B] `chosen`, else the identity."""
    return torch.where(chosen[:, None, None], matrix, torch.eye(3, dtype=matrix.dtype, device=matrix.device))


def move_points(points: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Keypoints of the input where the output shows them: [B, N, 2] (x, y) and the matrix from output to input."""
    forward = inverse(matrix.to(torch.float32))
    x, y = points.to(torch.float32).unbind(-1)  # [B, N]
    moved = [forward[:, i, :1] * x + forward[:, i, 1:2] * y + forward[:, i, 2:3] for i in range(3)]
    return torch.stack([moved[0] / moved[2], moved[1] / moved[2]], -1)


def move_boxes(boxes: torch.Tensor, matrix: torch.Tensor, size: Size) -> torch.Tensor:
    """Boxes [B, N, 4] (x0, y0, x1, y1): the upright box around the moved corners, cut to the output's `size`.

    A box that lies outside has no area left.
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    corners = torch.stack([torch.stack(pair, -1) for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 2)
    moved = move_points(corners.flatten(1, 2), matrix).unflatten(1, (-1, 4))  # [B, N, 4, 2]
    low, high = moved.amin(2), moved.amax(2)
    x = torch.stack([low[..., 0], high[..., 0]], -1).clamp(0, size[1])
    y = torch.stack([low[..., 1], high[..., 1]], -1).clamp(0, size[0])
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
