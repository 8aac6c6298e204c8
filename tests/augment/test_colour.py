from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kornia.color
import kornia.enhance
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

from fastload.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColorJitter,
    Compose,
    GaussianBlur,
    GaussianNoise,
    Normalize,
    RandomAutocontrast,
    RandomEqualize,
    RandomErasing,
    RandomGamma,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPosterize,
    RandomSharpness,
    RandomSolarize,
    RandomVerticalFlip,
    TrivialAugmentWide,
    keyed,
)
from fastload.augment.operation import ImageOperation
from fastload.errors import ConfigError

COUNT = 10


def erased(o: Any, x: torch.Tensor, p: dict[str, Any]) -> torch.Tensor:
    drawn = {name: torch.tensor([value]) for name, value in p.items()}
    top, left, high, wide = (int(v) for v in o.box(drawn, tuple(x.shape[-2:])))
    return reference.erase(x, top, left, high, wide, torch.full((3, 1, 1), o.value))


def through_8_bits(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return function((x * 255).round().to(torch.uint8)).float() / 255


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return reference.gaussian_blur(x, [7, 7], [sigma, sigma]) if sigma > 0 else x


# operation, reference in float32, and what 255 levels may lose on the way (in levels)
CASES: dict[str, tuple[ImageOperation, Callable[[Any, torch.Tensor, dict[str, Any]], torch.Tensor]]] = {
    "brightness": (
        ColorJitter(0.6),
        lambda o, x, p: reference.adjust_brightness(x, p["brightness"]),
    ),
    "contrast": (ColorJitter(contrast=0.6, p=0.7), lambda o, x, p: reference.adjust_contrast(x, p["contrast"])),
    "saturation": (
        ColorJitter(saturation=(0.0, 2.0)),
        lambda o, x, p: reference.adjust_saturation(x, p["saturation"]),
    ),
    "hue": (ColorJitter(hue=0.5), lambda o, x, p: reference.adjust_hue(x, p["hue"])),
    "grayscale": (
        RandomGrayscale(0.5),
        lambda o, x, p: reference.rgb_to_grayscale(x, 3) if p["grey"] else x,
    ),
    "invert": (RandomInvert(), lambda o, x, p: reference.invert(x) if p["invert"] else x),
    "gamma": (
        RandomGamma((0.5, 2.0), (0.8, 1.2)),
        lambda o, x, p: reference.adjust_gamma(x, p["gamma"], p["gain"]),
    ),
    "solarize": (
        RandomSolarize((0.2, 0.8)),
        lambda o, x, p: reference.solarize(x, p["threshold"]) if p["threshold"] <= 1 else x,
    ),
    "posterize": (
        RandomPosterize((1, 7)),
        lambda o, x, p: through_8_bits(lambda y: reference.posterize(y, p["bits"]), x),
    ),
    "autocontrast": (
        RandomAutocontrast(),
        lambda o, x, p: reference.autocontrast(x) if p["chosen"] else x,
    ),
    "equalize": (
        RandomEqualize(),
        lambda o, x, p: through_8_bits(reference.equalize, x) if p["chosen"] else x,
    ),
    "sharpness": (RandomSharpness((0, 3)), lambda o, x, p: reference.adjust_sharpness(x, p["factor"])),
    "blur": (GaussianBlur(7, (0.3, 3.0)), lambda o, x, p: blurred(x, p["sigma"])),
    "erasing": (RandomErasing(0.7, value=0.4), erased),
}
# Grey weighs red 0.299 here and 0.2989 there; half precision also rounds what comes in, before it is stretched.
LOOSE = {"contrast": 1e-4, "saturation": 2e-4, "grayscale": 1e-4}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_each_equals_torchvision_on_the_same_parameters(case: str, dtype: torch.dtype, device: str) -> None:
    operation, expect = CASES[case]
    images = as_dtype(pictures(COUNT), dtype)
    params = operation.draw(keys(COUNT).to(device))
    found = operation.apply(images.to(device), params)
    expected = torch.cat([expect(operation, as_unit(images[i : i + 1]), scalars(params, i)) for i in range(COUNT)])
    assert found.dtype == dtype
    assert_close(found, expected, dtype, loose=LOOSE.get(case, 0.0))


@pytest.mark.parametrize("case", CASES)
def test_a_samples_result_does_not_depend_on_its_batch(case: str) -> None:
    assert_samples_stand_alone(CASES[case][0], pictures(COUNT))


@pytest.mark.parametrize("case", [*CASES, "noise", "normalize"])
def test_no_loop_over_samples_and_no_wait_for_the_device(case: str) -> None:
    others = {"noise": GaussianNoise(), "normalize": Normalize()}
    assert_no_loop_and_no_wait(others[case] if case in others else CASES[case][0])


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


@pytest.mark.parametrize("case", CASES)
def test_one_channel(case: str) -> None:
    grey = pictures(COUNT, channels=1)
    operation = CASES[case][0]
    params = operation.draw(keys(COUNT))
    found, three = operation.apply(grey, params), operation.apply(grey.expand(-1, 3, -1, -1), params)
    assert found.shape == grey.shape
    assert torch.allclose(found.expand(-1, 3, -1, -1), three, atol=2e-6)


def test_jitter_is_torchvisions_in_any_order_where_nothing_is_cut() -> None:
    images = pictures(COUNT, low=0.35, high=0.65)
    operation = ColorJitter(0.3, 0.3, 0.3)
    params = operation.draw(keys(COUNT))
    found = operation.apply(images, params)
    adjust = {
        "brightness": reference.adjust_brightness,
        "contrast": reference.adjust_contrast,
        "saturation": reference.adjust_saturation,
    }
    for order in (list(adjust), ["saturation", "contrast", "brightness"], ["contrast", "brightness", "saturation"]):
        expected = []
        for i in range(COUNT):
            one = images[i : i + 1]
            for name in order:
                one = adjust[name](one, float(params[name][i]))  # type: ignore[operator]
            expected.append(one)
        assert (found - torch.cat(expected)).abs().max() < 2e-4


def test_kornia_agrees() -> None:
    images, factor = pictures(4), torch.tensor([0.3, 0.8, 1.0, 1.7])
    one, none = torch.ones(4), torch.zeros(4)
    neutral = {"brightness": one, "contrast": one, "saturation": one, "hue": none}
    found = ColorJitter(0.5).apply(images, neutral | {"brightness": factor})
    assert torch.allclose(found, kornia.enhance.adjust_brightness_accumulative(images, factor), atol=1e-6)
    turned = ColorJitter(hue=0.5).apply(images, neutral | {"hue": factor / 4})
    assert torch.allclose(turned, kornia.enhance.adjust_hue(images, factor * torch.pi / 2), atol=2e-5)
    grey = RandomGrayscale(1.0).apply(images, {"grey": one.bool()})
    assert torch.allclose(grey[:, :1], kornia.color.rgb_to_grayscale(images), atol=1e-6)


# Noise.


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_normal_and_apart_from_pixel_to_pixel_and_sample_to_sample(device: str) -> None:
    grey = torch.full((32, 3, 32, 32), 0.5, device=device)
    noise = GaussianNoise((0.1, 0.1), p=1.0).apply(grey, GaussianNoise((0.1, 0.1), p=1.0).draw(keys(32).to(device)))
    z = ((noise - 0.5) * 10).cpu().flatten()
    assert abs(float(z.mean())) < 4 / len(z) ** 0.5
    assert abs(float(z.var()) - 1) < 4 * (2 / len(z)) ** 0.5
    edges = torch.special.ndtri(torch.linspace(0, 1, 21)[1:-1])
    counts = torch.bincount(torch.bucketize(z, edges), minlength=20)
    assert abs(chi_squared_z(counts, len(z) / 20)) < 4
    planes = z.reshape(32, -1)
    correlation = torch.corrcoef(planes) - torch.eye(32)
    assert correlation.abs().max() < 5 / planes.shape[1] ** 0.5
    assert abs(float((planes[:, 1:] * planes[:, :-1]).mean())) < 4 / len(z) ** 0.5


def test_noise_is_cut_shifted_and_left_out() -> None:
    images = pictures(40)
    operation = GaussianNoise((0.5, 1.0), mean=0.1, p=0.5)
    params = operation.draw(keys(40))
    found = operation.apply(images, params)
    same = (found == images).flatten(1).all(1)
    assert same.equal(~params["chosen"])
    assert 10 < int(same.sum()) < 30
    assert float(found.min()) == 0
    assert float(found.max()) == 1
    mean = GaussianNoise((0.0, 0.0), mean=0.1, p=1.0)
    assert torch.allclose(mean(batch(images * 0.5))["image"], images * 0.5 + 0.1)
    assert_samples_stand_alone(operation, images)


def test_noise_of_bytes_is_rounded_and_ends_at_black_and_white() -> None:
    operation = GaussianNoise((0.1, 0.1), p=1.0)
    for level in (0, 255):
        found = operation(batch(torch.full((16, 3, 32, 32), level, dtype=torch.uint8)))["image"]
        off = (found.double() - level).abs() / 255
        assert found.dtype == torch.uint8
        assert abs(float((off == 0).double().mean()) - 0.508) < 0.01, "half, and what is less than half a level away"
        assert abs(float(off.mean()) - 0.1 / (2 * torch.pi) ** 0.5) < 0.001, "half of a normal distribution"
        assert float(off.max()) < 0.6, "what is below black does not come back as white"


# What is drawn.


def test_draws_are_distributed_as_asked() -> None:
    many = keys(20_000)
    drawn = ColorJitter((0.5, 2), 0.4, (0, 3), 0.25).draw(many)
    spans = {"brightness": (0.5, 2), "contrast": (0.6, 1.4), "saturation": (0, 3), "hue": (-0.25, 0.25)}
    for name, (low, high) in spans.items():
        assert abs(chi_squared_z(torch.histc(drawn[name], 20, low, high), 1000.0)) < 4, name
    table = torch.stack([drawn[name] for name in spans])
    assert (torch.corrcoef(table) - torch.eye(4)).abs().max() < 4 / 20_000**0.5
    bits = RandomPosterize((2, 6), p=1.0).draw(many)["bits"]
    assert abs(chi_squared_z(torch.bincount(bits)[2:], 4000.0)) < 4
    erased_ = RandomErasing(0.3).draw(many)["chosen"]
    assert abs(chi_squared_z([int(erased_.sum()), int((~erased_).sum())], [6000.0, 14_000])) < 4


def test_an_erased_box_is_in_the_picture_and_has_its_share() -> None:
    operation = RandomErasing(1.0, scale=(0.1, 0.3), value=0.0)
    images = torch.ones(500, 3, 40, 50, dtype=torch.uint8)
    gone = (operation(batch(images))["image"] == 0).all(1).float().mean((1, 2))
    assert float(gone.min()) > 0.08
    assert float(gone.max()) < 0.33
    assert abs(float(gone.mean()) - 0.2) < 0.02
    assert RandomErasing(1.0, value=0.5)(batch(images))["image"].max() == 128


# Normalize.


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32], ids=str)
def test_normalize_equals_torchvision(device: str, dtype: torch.dtype) -> None:
    images = (pictures(4) * {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)).to(dtype)
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    expected = reference.normalize(images.float() / top, list(IMAGENET_MEAN), list(IMAGENET_STD))
    found = Normalize()(batch(images).to(device))["image"]
    assert found.dtype == torch.float32
    assert torch.allclose(found.cpu(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("out", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_normalize_rounds_once_to_its_dtype(out: torch.dtype) -> None:
    images = as_dtype(pictures(4), torch.uint8)
    found = Normalize((0.25,) * 3, (0.5,) * 3, dtype=out)(batch(images))["image"]
    assert found.dtype == out
    bits = {torch.float16: 11, torch.bfloat16: 8}.get(out, 21)
    assert torch.allclose(found.double(), (images.double() / 255 - 0.25) / 0.5, rtol=2.0**-bits, atol=1e-6)


def test_normalize_keeps_the_memory_layout() -> None:
    images = pictures(2).contiguous(memory_format=torch.channels_last)
    assert Normalize()(batch(images))["image"].is_contiguous(memory_format=torch.channels_last)


def test_normalize_any_number_of_channels() -> None:
    for channels in (1, 5):
        images = pictures(2, channels=channels)
        found = Normalize([0.5] * channels, [0.25] * channels)(batch(images))["image"]
        assert torch.allclose(found, (images - 0.5) / 0.25, atol=1e-6)
    with pytest.raises(ConfigError, match="Normalize: 5 channels in field 'image', and 3 in mean and std"):
        Normalize()(batch(images))


def test_normalize_by_tensors_keeps_no_more_constants_at_each_batch() -> None:
    given, (mean, std) = batch(pictures(2)), (torch.tensor(each) for each in (IMAGENET_MEAN, IMAGENET_STD))
    operation = Normalize(mean, std)  # type: ignore[arg-type]
    found = operation(given)["image"]
    assert torch.allclose(found, Normalize()(given)["image"], atol=1e-5)
    kept = len(keyed._constants)
    for _ in range(3):
        assert operation(given)["image"].equal(found)
    assert len(keyed._constants) == kept
    assert operation == Normalize(mean.tolist(), std.numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normalize((0.5,), (0.5, 0.5)), "as many of both"),
        (lambda: Normalize((), ()), "as many of both"),
        (lambda: Normalize(0.5, 0.5), "pass mean and std as lists, a number a channel"),  # type: ignore[arg-type]
        (lambda: Normalize(torch.ones(3, 1), torch.ones(3, 1)), "pass mean and std as lists, a number a channel"),  # type: ignore[arg-type]
        (lambda: Normalize(torch.tensor(0.5), torch.tensor(0.5)), "pass mean and std as lists"),  # type: ignore[arg-type]
        (lambda: Normalize((0.5,), (0.0,)), "each std above 0"),
        (lambda: Normalize(dtype=torch.uint8), "pass a floating-point dtype"),
        (lambda: ColorJitter(-0.1), "brightness=-0.1: pass two numbers, lower and upper"),
        (lambda: ColorJitter((-0.5, 1)), r"brightness=\(-0.5, 1\): needs 0.0 <= lower <= upper"),
        (lambda: ColorJitter(hue=0.6), r"hue must lie in \[-0.5, 0.5\]"),
        (lambda: RandomPosterize(9), r"bits must lie in \[0, 8\]"),
        (lambda: RandomPosterize((2.0, 4.0)), r"bits must lie in \[0, 8\]; pass a whole number, or the least and"),  # type: ignore[arg-type]
        (lambda: RandomPosterize((1, 2, 3)), "bits must lie in"),
        (lambda: GaussianBlur(4), "kernel_size must be odd"),
        (lambda: GaussianBlur((3, 3)), r"kernel_size=\(3, 3\): kernel_size must be odd, one whole number"),  # type: ignore[arg-type]
        (lambda: GaussianNoise((5, 10)), "pass fractions of the range"),
        (lambda: RandomErasing(value=255), "value=255: pass a fraction of the range, 1.0 is white"),
        (lambda: RandomSolarize(128), "threshold=128: pass a fraction of the range, 1.0 is white"),
        (lambda: ColorJitter(0, 0.5)(batch(pictures(1, channels=4))), "3 channels, or 1; these have 4; decode them as"),
        (lambda: ColorJitter(hue=0.1)(batch(pictures(1, channels=4))), "3 channels, or 1; these have 4"),
        (lambda: GaussianBlur(49)(batch(pictures(1))), "kernel_size must be below twice"),
        (lambda: RandomErasing(2.0), r"p=2.0: must be in \[0, 1\]"),
        (lambda: RandomGamma((2, 1)), "needs 0.0 <= lower <= upper"),
        (lambda: ColorJitter(0.5)(batch(pictures(1, channels=5))), "images of 3 channels, or 1; these have 5"),
    ],
)
def test_what_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_spans_are_lists_or_tuples() -> None:
    given = batch(pictures(4))
    for one, other in (
        (RandomPosterize([2, 4]), RandomPosterize((2, 4))),
        (RandomSolarize([0.2, 0.4]), RandomSolarize((0.2, 0.4))),
        (ColorJitter([0.5, 1.5]), ColorJitter((0.5, 1.5))),  # type: ignore[arg-type]
    ):
        assert one(given)["image"].equal(other(given)["image"])


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.bool], ids=str)
def test_integers_without_a_white_are_refused(dtype: torch.dtype) -> None:
    given = batch((pictures(2) * 255).to(dtype))
    for each in (ColorJitter(0.3), RandomEqualize(), GaussianBlur(3), Normalize(), TrivialAugmentWide()):
        for function in (each, Compose([RandomHorizontalFlip(), each])):
            with pytest.raises(
                ConfigError, match=rf"field 'image' is {dtype}, whose white is not known; convert it to"
            ):
                function(given)
    assert RandomErasing(1.0)(given)["image"].dtype == dtype
    assert Compose([RandomHorizontalFlip()])(given)["image"].dtype == dtype


@pytest.mark.parametrize("device", DEVICES)
def test_erasing_of_uint16_and_of_any_white(device: str) -> None:
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint16)
    found = RandomErasing(1.0, value=1.0)(batch(images).to(device))["image"].cpu()
    assert found.dtype == torch.uint16
    assert found.int().flatten(1).amax(1).tolist() == [65535] * 4
    fused = Compose([RandomVerticalFlip(), RandomErasing(1.0, value=0.5)])(batch(images).to(device))["image"].cpu()
    assert set(fused.int().unique().tolist()) == {0, 32768}
