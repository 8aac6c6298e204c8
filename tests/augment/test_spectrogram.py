from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchaudio.functional as reference
from conformance import chi_squared_z
from made import DEVICES, assert_no_loop_and_no_wait, assert_samples_stand_alone, keys

from fastload.augment import SpecAugment
from fastload.batch import Batch
from fastload.errors import ConfigError

COUNT, BANDS, FRAMES = 16, 40, 3000  # more frames than bfloat16 and float16 can tell apart


def grams(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(COUNT, 1, BANDS, FRAMES, generator=torch.Generator().manual_seed(0)).add(0.5).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("axis", [2, 3])
def test_one_mask_is_torchaudios_in_every_precision(axis: int, dtype: torch.dtype, device: str) -> None:
    width = 15 if axis == 2 else 500
    for share in (1.0, 0.1):
        torch.manual_seed(3)
        expected = reference.mask_along_axis_iid(grams(), width, 0.25, axis, share if axis == 3 else 1.0)
        torch.manual_seed(3)
        drawn = torch.cat([torch.rand(COUNT, 1), torch.rand(COUNT, 1)], 1)[:, None]
        none = torch.zeros(COUNT, 0, 2)
        params = {"chosen": torch.ones(COUNT, dtype=torch.bool), "freq": none, "time": none}
        params["freq" if axis == 2 else "time"] = drawn
        params = {name: value.to(device) for name, value in params.items()}
        operation = SpecAugment(1, width, 1, width, share, value=0.25)
        found = operation.apply(grams(dtype).to(device), params).cpu()
        assert found.dtype == dtype
        assert (found == 0.25).equal(expected == 0.25)
        assert found[found != 0.25].equal(grams(dtype)[expected != 0.25])


def test_masks_respect_lengths_and_counts() -> None:
    lengths = torch.arange(COUNT) * 7
    operation = SpecAugment(0, 0, 3, 50, value=9.0)
    given = Batch({"audio": grams()[..., :120], "audio_length": lengths}, sample_keys=keys(COUNT))
    found = operation(given)["audio"]
    masked = (found == 9).all(2)[:, 0]  # [B, frames]
    assert not bool((masked & (torch.arange(120) >= lengths[:, None])).any())
    assert int(masked[0].sum()) == 0
    edges = masked.int().diff(dim=1, prepend=torch.zeros(COUNT, 1, dtype=torch.int32)).eq(1).sum(1)
    assert int(edges.max()) <= 3
    assert int(edges.max()) >= 2
    full = SpecAugment(2, 27, 0, 0, value=9.0)(given)["audio"]
    rows = (full == 9).all(3)[:, 0]
    assert 0 < int(rows.sum(1).max()) <= 2 * 26
    assert len({tuple(row.tolist()) for row in rows}) > COUNT - 3, "each sample its own masks"


def test_widths_and_places_are_uniform() -> None:
    many, frames = keys(20_000), 100
    operation = SpecAugment(0, 0, 1, 20, value=-1.0)
    found = operation.apply(torch.ones(20_000, 1, frames), operation.draw(many))[:, 0] == -1
    widths = found.sum(1)
    assert abs(chi_squared_z(torch.bincount(widths, minlength=20)[:20], 1000.0)) < 4
    wide = found[widths == 10]
    starts = wide.int().argmax(1)
    assert abs(chi_squared_z(torch.bincount(starts // 10, minlength=9)[:9], len(wide) / 9.0)) < 5


def test_mean_value_and_p() -> None:
    lengths = torch.full((COUNT,), 1000)
    operation = SpecAugment(1, 20, 1, 100, value="mean", p=0.5)
    params = operation.draw(keys(COUNT))
    assert 3 < int(params["chosen"].sum()) < 13
    found = operation.apply(grams(), params, lengths)
    for i in range(COUNT):
        changed = found[i] != grams()[i]
        assert bool(changed.any()) == bool(params["chosen"][i])
        if changed.any():
            assert torch.allclose(found[i][changed], grams()[i, :, :, :1000].mean(), atol=1e-4)


def test_samples_stand_alone_and_nothing_loops_or_waits() -> None:
    assert_samples_stand_alone(SpecAugment(), grams()[:6])
    for operation in (SpecAugment(), SpecAugment(value="mean")):
        assert_no_loop_and_no_wait(
            operation,
            lambda size: Batch(
                {"audio": torch.rand(size, 8, 50), "audio_length": torch.full((size,), 40)}, sample_keys=keys(size)
            ),
        )


def test_masks_do_not_depend_on_how_many_there_are_elsewhere() -> None:
    one, more = SpecAugment(2, 10, 1, 20).draw(keys(5)), SpecAugment(2, 10, 4, 20).draw(keys(5))
    assert one["freq"].equal(more["freq"])
    assert one["time"].equal(more["time"][:, :1])


@pytest.mark.parametrize("value", [0.5, "mean"])
def test_it_is_one_graph_when_compiled(value: float | str) -> None:
    operation = SpecAugment(2, 10, 2, 200, 0.5, value)
    sound, lengths, given = grams(), FRAMES - 50 * torch.arange(COUNT), keys(COUNT)

    def call(fields: dict[str, Any], drawn_from: torch.Tensor) -> torch.Tensor:
        return operation(Batch(fields, sample_keys=drawn_from))["audio"]

    torch.compiler.reset()
    fields = {"audio": sound, "audio_length": lengths}
    found = torch.compile(call, backend="eager", fullgraph=True)(fields, given)
    assert found.equal(call(fields, given))
    assert not found.equal(sound)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpecAugment(-1), "numbers and widths of masks must be at least 0"),
        (lambda: SpecAugment(time_share=2), r"time_share must be in \[0, 1\]"),
        (lambda: SpecAugment(value="median"), "value must be a number or 'mean'"),
        (lambda: SpecAugment().apply(torch.zeros(2, 5), {}), r"needs floats \[B, ..., bands, frames\], not"),
    ],
)
def test_what_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
