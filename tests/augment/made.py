"""Keys, pictures and batches to augment, and what all operations are held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastload.augment import operation
from fastload.augment.operation import Operation, Params
from fastload.batch import Batch
from fastload.order.hashing import sample_keys

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Against a reference in float32: float32 itself, half precision rounded once, and one level of 255.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.uint8: 1.01 / 255}
DTYPES = list(TOLERANCES)


def keys(count: int, epoch: int = 0) -> torch.Tensor:
    return torch.from_numpy(sample_keys(0, epoch, np.arange(count)).view(np.int64))


def pictures(
    count: int, height: int = 20, width: int = 24, channels: int = 3, low: float = 0, high: float = 1
) -> torch.Tensor:
    """float32 [count, channels, height, width] in [low, high]: smooth, with some noise, all levels of 255 exact."""
    generator = torch.Generator().manual_seed(height * width + channels)
    coarse = torch.rand(count, channels, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noisy = smooth + 0.1 * torch.rand(count, channels, height, width, generator=generator) - 0.05
    return (noisy.clamp(0, 1) * (high - low) + low).mul(255).round() / 255


def as_dtype(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Pictures in [0, 1] as this dtype."""
    return (images * 255).round().to(torch.uint8) if dtype == torch.uint8 else images.to(dtype)


def as_unit(images: torch.Tensor) -> torch.Tensor:
    """Pictures of any dtype as float32 in [0, 1], on the CPU."""
    top = 255 if images.dtype == torch.uint8 else 1
    return images.cpu().to(torch.float32) / top


def batch(images: torch.Tensor, **fields: Any) -> Batch:
    count = len(images)
    valid = torch.ones(count, dtype=torch.bool)
    return Batch({"image": images, **fields}, valid=valid, sample_keys=keys(count))


def rows(params: Params, chosen: slice | torch.Tensor) -> Params:
    """The parameters of some samples."""
    return {name: value[chosen] for name, value in params.items()}


def scalars(params: Params, row: int) -> dict[str, Any]:
    """The parameters of one sample as Python numbers or lists."""
    return {name: value[row].tolist() for name, value in params.items()}


def assert_close(
    found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, *, outliers: float = 0.0, loose: float = 0.0
) -> None:
    """`found` of this dtype equals the float32 `expected` in [0, 1] within the dtype's tolerance and `loose`, but for a
    fraction of pixels at most."""
    assert found.dtype == dtype
    assert found.shape == expected.shape
    off = (as_unit(found) - expected).abs() > TOLERANCES[dtype] + loose
    assert off.float().mean() <= outliers, (
        f"{off.float().mean():.4f} of all pixels are off, max {(as_unit(found) - expected).abs().max()}"
    )


def assert_samples_stand_alone(of: Operation, images: torch.Tensor, tolerance: float = 1e-6) -> None:
    """A sample's draws and result are the same alone, among others, and in another order."""
    all_keys = keys(len(images))
    whole, params = of.apply(images, of.draw(all_keys)), of.draw(all_keys)
    for chosen in (slice(1, 2), slice(2, 5), torch.arange(len(images) - 1, -1, -1)):
        drawn = of.draw(all_keys[chosen])
        for name, value in drawn.items():
            if len(value) == len(images[chosen]):
                assert torch.equal(value, params[name][chosen]), name
        some = of.apply(images[chosen], drawn)
        assert torch.allclose(some.double(), whole[chosen].double(), rtol=0, atol=tolerance)


class Counted(TorchDispatchMode):
    """Counts the operators that run inside, by name, and rows that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.rows: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.ndim:
            self.rows.append(len(found))
        return found


HOST_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "item", "lift_fresh")


def assert_no_loop_and_no_wait(run: Callable[[Any], Any], make: Callable[[int], Any] | None = None) -> None:
    """`run(make(batch size))` calls as many operators for 64 samples as for 4, and none that makes the host wait for a
    device: as on a GPU. As on a CPU, where rows are taken by what they drew, it calls as many for 128 as for 64."""

    def operators(size: int) -> list[str]:
        given = make(size) if make is not None else batch(pictures(size))
        run(given)  # what is made once
        with Counted() as counted:
            run(given)
        return counted.names

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operation, "by_rows", lambda value: False)
        few, many = operators(4), operators(64)
    waits = [name for name in (*few, *many) if any(wait in name for wait in HOST_WAITS)]
    assert not waits, f"the host waits for {waits}"
    assert len(few) == len(many) > 0, f"{len(few)} operators for 4 samples, {len(many)} for 64"
    if not operation.by_rows(torch.zeros(1)):  # the test has it run as on a GPU only: the same again
        return
    few, many = operators(64), operators(128)
    assert len(few) == len(many), f"on a CPU {len(few)} operators for 64 samples, {len(many)} for 128"
