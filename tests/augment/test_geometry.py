from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import kornia.augmentation
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from conformance import chi_squared_z
from made import (
    DEVICES,
    DTYPES,
    as_dtype,
    as_unit,
    assert_close,
    assert_no_loop_and_no_wait,
    assert_samples_stand_alone,
    batch,
    keys,
    pictures,
    scalars,
)
from torchvision.transforms import InterpolationMode as Mode
from torchvision.transforms import v2

from fastload.augment import (
    CenterCrop,
    Compose,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
)
from fastload.augment import operation as operations
from fastload.augment.geometry import Geometric
from fastload.batch import Batch
from fastload.errors import ConfigError

Reference = Callable[[Geometric, torch.Tensor, dict[str, Any]], torch.Tensor]
COUNT = 12


# torchvision weighs what lies across the edge twice where a fill is given; the image less the fill, and the fill added
# afterwards, is what `fill` says.


def affine(o: Any, x: torch.Tensor, p: dict[str, Any]) -> torch.Tensor:
    height, width = x.shape[-2:]
    shift = [round(p["x"] * width), round(p["y"] * height)]
    mode = Mode.BILINEAR if o.mode == "bilinear" else Mode.NEAREST
    return reference.affine(x, p["angle"], shift, p["scale"], [p["shear_x"], p["shear_y"]], mode)


def perspective(o: Any, x: torch.Tensor, p: dict[str, Any]) -> torch.Tensor:
    height, width = x.shape[-2:]
    start = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    inward = [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    end = [
        [s + i * c * (n - 1) for s, i, c, n in zip(*point, (width, height), strict=True)]
        for point in zip(start, inward, p["corners"], strict=True)
    ]
    return reference.perspective(x, start, end, Mode.BILINEAR)  # type: ignore[arg-type]


def resized_crop(o: Any, x: torch.Tensor, p: dict[str, Any]) -> torch.Tensor:
    drawn = {name: torch.tensor([value]) for name, value in p.items()}
    top, left, high, wide = (int(v) for v in o.box(drawn, tuple(x.shape[-2:])))
    return reference.resized_crop(x, top, left, high, wide, list(o.out_size((0, 0))), antialias=True)


def crop(o: Any, x: torch.Tensor, p: dict[str, Any]) -> torch.Tensor:
    height, width = o.out_size((0, 0))
    free_y, free_x = x.shape[-2] + 2 * o.padding - height, x.shape[-1] + 2 * o.padding - width
    padded = reference.pad(x, [o.padding] * 4, fill=o.fill)
    return reference.crop(padded, int(p["top"] * (free_y + 1)), int(p["left"] * (free_x + 1)), height, width)


CASES: dict[str, tuple[Geometric, Reference]] = {
    "horizontal": (RandomHorizontalFlip(), lambda o, x, p: x.flip(-1) if p["flip"] else x),
    "vertical": (RandomVerticalFlip(), lambda o, x, p: x.flip(-2) if p["flip"] else x),
    "rotation": (
        RandomRotation(70, fill=0.2),
        lambda o, x, p: reference.rotate(x - 0.2, p["angle"], Mode.BILINEAR) + 0.2,
    ),
    "affine": (RandomAffine(30, (0.2, 0.1), (0.7, 1.4), 20, 10, p=0.8), affine),
    "nearest": (RandomAffine(30, (0.2, 0.1), (0.7, 1.4), mode="nearest"), affine),
    "perspective": (RandomPerspective(0.6, p=0.8), perspective),
    "crop": (RandomCrop((11, 13)), crop),
    "padded crop": (RandomCrop(20, padding=4, fill=0.4), crop),
    "center crop": (CenterCrop((11, 12)), lambda o, x, p: reference.center_crop(x, [11, 12])),
    "center crop of a smaller one": (CenterCrop((25, 30)), lambda o, x, p: reference.center_crop(x, [25, 30])),
    "smaller": (Resize((7, 9)), lambda o, x, p: reference.resize(x, [7, 9], antialias=True)),
    "larger": (Resize((31, 40)), lambda o, x, p: reference.resize(x, [31, 40], antialias=True)),
    "shorter side": (Resize(12), lambda o, x, p: reference.resize(x, [12], antialias=True)),
    "plain": (Resize((31, 40), antialias=False), lambda o, x, p: reference.resize(x, [31, 40], antialias=False)),
    "resized crop": (RandomResizedCrop((9, 8)), resized_crop),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_each_equals_torchvision_on_the_same_parameters(case: str, dtype: torch.dtype, device: str) -> None:
    operation, expect = CASES[case]
    images = as_dtype(pictures(COUNT), dtype)
    params = operation.draw(keys(COUNT).to(device))
    found = operation.apply(images.to(device), params)
    one = [scalars(params, i) if next(iter(params.values())).shape[-1:] != (0,) else {} for i in range(COUNT)]
    expected = torch.cat([expect(operation, as_unit(images[i : i + 1]), one[i]) for i in range(COUNT)])
    # to the nearest: where a centre falls between two pixels, either may be taken
    assert_close(found, expected, dtype, outliers=0.02 if case == "nearest" else 0.0)


CUT = ("horizontal", "vertical", "crop", "padded crop", "center crop", "center crop of a smaller one")


@pytest.mark.parametrize("layout", ["planes", "channels last", "neither"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint16], ids=str)
@pytest.mark.parametrize("case", [*CUT, "all"])
def test_rows_of_memory_give_what_pixels_by_number_give(case: str, dtype: torch.dtype, layout: str) -> None:
    """As on a CPU and as on a GPU, to the bit; and what went in is not written to."""
    images = pictures(COUNT).to(dtype) if dtype.is_floating_point else as_dtype(pictures(COUNT), torch.uint8).to(dtype)
    if layout == "channels last":
        images = images.contiguous(memory_format=torch.channels_last)
    elif layout == "neither":
        images = images.transpose(2, 3).contiguous().transpose(2, 3)
    chosen = [CASES[name][0] for name in (("horizontal", "padded crop", "vertical") if case == "all" else (case,))]
    chain, given = Compose(chosen), batch(images.clone(memory_format=torch.preserve_format))
    by_rows = chain(given)["image"]
    assert given["image"].equal(images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "by_rows", lambda value: False)
        by_number = chain(given)["image"]
    assert by_rows.equal(by_number)
    assert by_rows.dtype == dtype
    if layout == "channels last":
        assert by_rows.is_contiguous(memory_format=torch.channels_last)
    assert by_rows.untyped_storage().data_ptr() != given["image"].untyped_storage().data_ptr()


@pytest.mark.parametrize("case", CASES)
def test_a_samples_result_does_not_depend_on_its_batch(case: str) -> None:
    assert_samples_stand_alone(CASES[case][0], pictures(COUNT))


@pytest.mark.parametrize("case", CASES)
def test_no_loop_over_samples_and_no_wait_for_the_device(case: str) -> None:
    assert_no_loop_and_no_wait(CASES[case][0])


@pytest.mark.parametrize("case", CASES)
def test_memory_format_and_input_stay(case: str) -> None:
    images = pictures(4)
    last = images.contiguous(memory_format=torch.channels_last)
    plain, found = (CASES[case][0](batch(x))["image"] for x in (images, last))
    assert plain.is_contiguous()
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain, found, atol=1e-6)
    assert images.equal(pictures(4))
    assert last.equal(pictures(4))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.float16], ids=str)
def test_flips_and_crops_are_exact_in_any_dtype(dtype: torch.dtype) -> None:
    images = (torch.rand(COUNT, 3, 8, 9) * 200).to(dtype)
    for operation in (RandomHorizontalFlip(1.0), RandomVerticalFlip(1.0), CenterCrop(4)):
        found = operation.apply(images, operation.draw(keys(COUNT)))
        assert found.dtype == dtype
        if isinstance(operation, CenterCrop):
            assert found.float().equal(images.float()[:, :, 2:6, 2:6])
        else:
            axis = -2 if isinstance(operation, RandomVerticalFlip) else -1
            assert found.float().equal(images.float().flip(axis))


def test_kornia_turns_the_same_way() -> None:
    rotation = kornia.augmentation.RandomRotation((25.0, 25.0), p=1.0, align_corners=False)
    images = pictures(2, 21, 21)
    found = RandomRotation((25.0, 25.0)).apply(images, {"angle": torch.full((2,), 25.0)})
    inner = (slice(None), slice(None), slice(6, 15), slice(6, 15))
    assert (found[inner] - rotation(images)[inner]).abs().max() < 0.1  # its centre lies half a pixel off


def test_golden_draws() -> None:
    assert RandomAffine(10).draw(keys(3))["angle"].tolist() == pytest.approx(GOLDEN_ANGLES, abs=1e-6)
    assert RandomHorizontalFlip().draw(keys(12))["flip"].int().tolist() == GOLDEN_FLIPS


GOLDEN_ANGLES = [-7.588554, 5.01171, -2.774029]
GOLDEN_FLIPS = [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0]


def test_draws_are_distributed_as_asked() -> None:
    many = keys(20_000)
    drawn = RandomAffine((-10, 30), (0.1, 0.3), (0.5, 2), 5, (2, 3)).draw(many)
    spans = {
        "angle": (-10, 30),
        "x": (-0.1, 0.1),
        "y": (-0.3, 0.3),
        "scale": (0.5, 2),
        "shear_x": (-5, 5),
        "shear_y": (2, 3),
    }
    for name, (low, high) in spans.items():
        counts = torch.histc(drawn[name], 20, low, high)
        assert counts.sum() == 20_000
        assert abs(chi_squared_z(counts, 1000.0)) < 4, name
    flips = int(RandomVerticalFlip(0.3).draw(many)["flip"].sum())
    assert abs(chi_squared_z([flips, 20_000 - flips], [6000.0, 14_000])) < 4
    left_out = RandomAffine(10, p=0.25).draw(many)["angle"] == 0
    assert abs(chi_squared_z([int(left_out.sum()), int((~left_out).sum())], [15_000.0, 5000])) < 4
    places = RandomCrop(4).matrix(RandomCrop(4).draw(many), (8, 4))[:, 1, 2]
    assert abs(chi_squared_z(torch.bincount(places.long(), minlength=5), 4000.0)) < 4


def test_boxes_of_resized_crops_are_distributed_as_torchvisions() -> None:
    operation, size = RandomResizedCrop(8, scale=(0.2, 1.0)), (60, 100)
    boxes = torch.stack(operation.box(operation.draw(keys(3000)), size), 1)
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(8, scale=(0.2, 1.0))
    image = [torch.empty(3, *size)]
    drawn = [theirs.make_params(image) for _ in range(3000)]
    expected = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn], dtype=torch.float32)
    assert ((boxes[:, :2] >= 0) & (boxes[:, :2] + boxes[:, 2:] <= torch.tensor(size))).all()
    for column in range(4):
        ours, other = boxes[:, column].sort()[0], expected[:, column].sort()[0]
        every = torch.cat([ours, other]).unique()
        distance = (
            (torch.searchsorted(ours, every, right=True) - torch.searchsorted(other, every, right=True)).abs().max()
        )
        assert distance / 3000 < 1.95 * math.sqrt(2 / 3000), "Kolmogorov and Smirnov, p = 0.001"


@pytest.mark.parametrize(("size", "box"), [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10))])
def test_a_box_that_never_fits_is_the_centre(size: tuple[int, int], box: tuple[int, ...]) -> None:
    operation = RandomResizedCrop(8, scale=(1.0, 1.0))
    assert [float(v[0]) for v in operation.box(operation.draw(keys(1)), size)] == list(box)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomHorizontalFlip(1.5), r"RandomHorizontalFlip\(.*\): p=1.5: must be in \[0, 1\]"),
        (lambda: RandomAffine(p=-1), r"RandomAffine\(.*\): p=-1: must be in \[0, 1\]"),
        (lambda: RandomAffine(scale=(2, 1)), r"scale=\(2, 1\): needs 1e-06 <= lower <= upper"),
        (lambda: RandomAffine(translate=(0, 2)), "translate must be two fractions"),
        (lambda: RandomRotation(-5), "degrees=-5: pass two numbers"),
        (lambda: RandomRotation(mode="cubic"), "mode must be 'bilinear' or 'nearest'"),  # type: ignore[arg-type]
        (lambda: RandomPerspective(padding="x"), "padding must be 'zeros'"),  # type: ignore[arg-type]
        (lambda: RandomPerspective(2), r"distortion must be in \[0, 1\]"),
        (lambda: Resize(0), "size must be at least 1 pixel"),
        (lambda: RandomCrop(0), "size must be at least 1 pixel"),
        (lambda: RandomCrop(3.5), r"size=3.5: size must be at least 1 pixel; pass \(height, width\)"),  # type: ignore[arg-type]
        (lambda: Resize((3, 4, 5)), r"size=\(3, 4, 5\): size must be"),  # type: ignore[arg-type]
        (lambda: RandomCrop(3, padding=-1), "padding must be an integer, at least 0"),
        (lambda: RandomCrop(3, fill=255), r"fill=255: pass a fraction of the range, 1.0 is white"),
        (lambda: RandomRotation(fill=255), r"fill=255: pass a fraction of the range"),
        (lambda: RandomAffine(translate=0.1), "translate=0.1: pass two numbers"),  # type: ignore[arg-type]
        (lambda: RandomAffine(scale=(1, None)), r"scale=\(1, None\): pass two numbers"),  # type: ignore[arg-type]
        (lambda: RandomHorizontalFlip(None), r"p=None: must be in \[0, 1\]"),  # type: ignore[arg-type]
        (
            lambda: CenterCrop(30, fill=0.5)(batch(pictures(1).int())),
            "fill=0.5 is a fraction of the range, and torch.int32 has none; pass 0",
        ),
        (
            lambda: CenterCrop(30, fill=2)(batch(as_dtype(pictures(1), torch.uint8))),
            "fill=2 on torch.uint8: pass a fraction of the range, 1.0 is white",
        ),
        (lambda: RandomResizedCrop(8, ratio=(0, 1)), r"ratio=\(0, 1\): needs"),
        (lambda: RandomCrop(21)(batch(pictures(1))), "images of 20x24 pixels are smaller; add padding"),
    ],
)
def test_what_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("operation", [RandomHorizontalFlip(), RandomAffine(5)], ids=repr)
def test_fields_that_are_no_pictures_are_refused(operation: Geometric) -> None:
    name = type(operation).__name__
    with pytest.raises(ConfigError, match=f"{name}: no field 'image' in the batch, it has 'x'; pass field="):
        operation(Batch({"x": pictures(2)}, sample_keys=keys(2)))
    with pytest.raises(
        ConfigError, match=rf"{name}: field 'image' is not a tensor \[B, C, H, W\] but \[2, 3\]; declare"
    ):
        operation(Batch({"image": torch.zeros(2, 3)}, sample_keys=keys(2)))
    with pytest.raises(ConfigError, match=f"{name}: field 'image' is not a tensor"):
        operation(Batch({"image": [pictures(1)[0]]}, sample_keys=keys(1)))
    with pytest.raises(ConfigError, match=r"needs a batch of fastload.DataLoader: this one has no sample_keys"):
        operation(Batch({"image": pictures(2)}))


def test_frames_of_a_clip_are_told_how_to_come() -> None:
    clips, drawn_from = torch.rand(2, 4, 3, 20, 24), keys(2)
    with pytest.raises(
        ConfigError,
        match=r"but \[2, 4, 3, 20, 24\]; for frames \[B, T, C, H, W\] of one draw a clip, make a batch of all frames, "
        r"Batch\({'image': frames.flatten\(0, 1\)}, sample_keys=batch.sample_keys.repeat_interleave\(T\)\)",
    ):
        RandomAffine(20)(Batch({"image": clips}, sample_keys=drawn_from))
    frames = Batch({"image": clips.flatten(0, 1)}, sample_keys=drawn_from.repeat_interleave(4))
    moved = RandomAffine(20)(frames)["image"].unflatten(0, (2, 4))
    first = RandomAffine(20)(Batch({"image": clips[:, 0]}, sample_keys=drawn_from))["image"]
    assert torch.allclose(moved[:, 0], first, atol=1e-6)


def test_a_centre_of_an_odd_rest_is_torchvisions() -> None:
    for height, width in ((7, 8), (8, 7), (5, 5)):
        images = pictures(1, height, width)
        for size in ((4, 5), (10, 11), (4, 11), (11, 4), (8, 8)):
            expected = reference.center_crop(images, list(size))
            assert CenterCrop(size)(batch(images))["image"].equal(expected), (height, width, size)


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1)])
def test_a_perspective_of_a_side_of_one_pixel_is_finite(size: tuple[int, int]) -> None:
    given = batch(pictures(4, *size))
    found = Compose([RandomPerspective(p=1.0)], keypoints="points")(given.replaced({"points": torch.ones(4, 1, 2)}))
    assert bool(found["image"].isfinite().all())
    assert bool(found["points"].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
@pytest.mark.parametrize("by_rows", [True, False])
def test_integers_are_filled_with_the_nearest_level(
    dtype: torch.dtype, by_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "by_rows", lambda images: by_rows)
    top = torch.iinfo(dtype).max
    for fill in (0.5, 1.0):
        images = torch.zeros(2, 3, 4, 4, dtype=dtype)
        assert int(CenterCrop(8, fill=fill)(batch(images))["image"][0, 0, 0, 0]) == round(fill * top)
        resized = Compose([Resize(4), CenterCrop(8, fill=fill)])(batch(images))["image"]
        assert int(resized[0, 0, 0, 0]) == round(fill * top)
