from __future__ import annotations

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from conformance import chi_squared_z
from made import (
    DEVICES,
    as_dtype,
    assert_close,
    assert_no_loop_and_no_wait,
    assert_samples_stand_alone,
    batch,
    keys,
    pictures,
)
from torchvision.transforms import InterpolationMode, autoaugment, v2

from fastload.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugMix,
    AutoAugment,
    Normalize,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    TrivialAugmentWide,
    eval_classification,
    operation,
    train_classification,
)
from fastload.augment.layers import NAMES, NUMBER, layer
from fastload.augment.operation import ImageOperation
from fastload.augment.policies import IMAGENET_POLICIES
from fastload.errors import ConfigError

POLICIES: list[ImageOperation] = [RandAugment(), TrivialAugmentWide(24), AutoAugment(), AugMix()]
VALUES = {
    "ShearX": 0.2, "ShearY": -0.3, "TranslateX": 0.26, "TranslateY": -0.3, "Rotate": 25.0, "Brightness": 0.4,
    "Color": -0.6, "Contrast": -0.5, "Sharpness": 0.9, "Posterize": 3.0, "Solarize": 0.55,
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_a_layer_gives_each_sample_its_own_operation_as_torchvision_does(device: str) -> None:
    images = pictures(len(NAMES), 32, 32, low=0.05, high=0.9)
    number = torch.arange(len(NAMES), device=device)
    value = torch.tensor([VALUES.get(name, 0.0) for name in NAMES], device=device)
    found = layer(images.to(device), number, value).cpu()
    for i, name in enumerate(NAMES):
        magnitude = VALUES.get(name, 0.0)
        magnitude = {"Translate": magnitude * 32, "Solarize": magnitude * 255}.get(name.rstrip("XY"), magnitude)
        eight_bit = (images[i] * 255).round().to(torch.uint8)
        if name == "Posterize":
            magnitude = int(magnitude)
        expected = autoaugment._apply_op(eight_bit, name, magnitude, InterpolationMode.NEAREST, None).float() / 255
        rounded = 2.02 if name in ("Color", "Contrast", "Sharpness") else 1.02  # levels, cut on the way
        off = (found[i] - expected).abs() > rounded / 255
        # centres that fall between two pixels may take either
        allowed = 0.03 if name in ("ShearX", "ShearY", "Rotate") else 0
        assert off.float().mean() <= allowed, f"{name}: {off.float().mean()}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
def test_half_precision_is_rounded_once(policy: ImageOperation, dtype: torch.dtype, device: str) -> None:
    """What comes in is what half precision holds; computed in float32, rounded at the end."""
    images = pictures(16).to(dtype)
    params = policy.draw(keys(16))
    expected = policy.apply(images.float(), params)
    found = policy.apply(images.to(device), {name: value.to(device) for name, value in params.items()})
    assert_close(found, expected, dtype, outliers=0.0 if device == "cpu" else 0.005)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
def test_policies_draw_by_sample_and_run_without_loop_or_wait(
    policy: ImageOperation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_samples_stand_alone(policy, pictures(8), tolerance=1e-5)
    by_rows = policy(batch(pictures(16)))["image"]
    with monkeypatch.context() as patch:
        patch.setattr(operation, "by_rows", lambda images: False)  # as on a GPU
        assert_no_loop_and_no_wait(policy)
        assert torch.allclose(policy(batch(pictures(16)))["image"], by_rows, atol=1e-5)
    images = as_dtype(pictures(16), torch.uint8)
    found = policy(batch(images))["image"]
    with monkeypatch.context() as patch:
        patch.setattr(operation, "by_rows", lambda images: False)
        for given in (images, images.contiguous(memory_format=torch.channels_last)):
            levels = policy(batch(given))["image"].int() - found.int()
            assert int(levels.abs().max()) <= 1, "but for halves, that may be rounded to either side"
            assert float((levels != 0).float().mean()) < 0.01
    last = images.contiguous(memory_format=torch.channels_last)
    assert policy(batch(last))["image"].equal(found)
    assert policy(batch(last))["image"].is_contiguous(memory_format=torch.channels_last)
    assert found.dtype == torch.uint8
    changed = (found != images).flatten(1).any(1)
    assert int(changed.sum()) > 8
    assert len({tuple(row) for row in policy.draw(keys(16))["operation"].flatten(1).tolist()}) > 5
    grey = policy(batch(pictures(4, channels=1)))["image"]
    assert grey.shape == (4, 1, 20, 24)
    assert bool(grey.isfinite().all())


def in_turn(images: torch.Tensor, operation: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """uint8 images, each through its operations int64 [B, layers], by torchvision; rounded after each."""
    found = []
    for image, numbers, values in zip(images, operation.tolist(), strength.tolist(), strict=True):
        for number, value in zip(numbers, values, strict=True):
            name = NAMES[number]
            size = {"TranslateX": image.shape[-1], "TranslateY": image.shape[-2], "Solarize": 255}.get(name, 1)
            image = autoaugment._apply_op(image, name, value * size, InterpolationMode.NEAREST, None)
        found.append(image)
    return torch.stack(found)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("last", [False, True], ids=["planes", "channels last"])
@pytest.mark.parametrize(
    "policy", [RandAugment(1, 15), RandAugment(2, 9), TrivialAugmentWide(32), AutoAugment()], ids=repr
)
def test_policies_on_bytes_are_torchvisions(policy: ImageOperation, last: bool, device: str) -> None:
    images = as_dtype(pictures(60, 32, 32, low=0.05, high=0.9), torch.uint8)
    params = policy.draw(keys(60))
    expected = in_turn(images, params["operation"], params["strength"])
    memory = torch.channels_last if last else torch.contiguous_format
    given = images.to(device).contiguous(memory_format=memory)
    found = policy.apply(given, {name: value.to(device) for name, value in params.items()}).cpu()
    off = (found.int() - expected.int()).abs().flatten(1)
    operation = params["operation"]
    once = (operation > 0).sum(1) <= 1
    turned = ((operation >= NUMBER["ShearX"]) & (operation <= NUMBER["Rotate"])).any(1)
    exact = (off <= 2).float().mean(1)  # levels, that torchvision cuts on the way
    assert bool((exact[once & ~turned] == 1).all())
    assert exact[once].min() > 0.95  # centres that fall between two pixels may take either
    # a level that one of two operations rounds otherwise may fall on the other side of a threshold of the next
    assert exact.mean() > 0.97
    assert exact.quantile(0.1) > 0.9


def test_randaugment_draws_14_operations_at_one_strength() -> None:
    drawn = RandAugment(3, 15).draw(keys(10_000))
    assert drawn["operation"].shape == (10_000, 3)
    assert abs(chi_squared_z(torch.bincount(drawn["operation"].flatten()), 30_000 / 14)) < 4
    space = v2.RandAugment._AUGMENTATION_SPACE
    for name, (magnitudes, signed) in space.items():
        if name in ("Identity", "AutoContrast", "Equalize"):
            continue
        expected = float(magnitudes(31, 331, 331)[15]) / (331 if name.startswith("Translate") else 1)  # type: ignore[operator]
        seen = drawn["strength"][drawn["operation"] == NUMBER[name]]
        assert torch.allclose(seen.abs(), torch.tensor(expected), rtol=1e-4), name
        if signed:
            assert abs(chi_squared_z([int((seen < 0).sum()), int((seen > 0).sum())], len(seen) / 2)) < 4
        else:
            assert bool((seen >= 0).all())


def test_trivial_augment_draws_every_strength() -> None:
    drawn = TrivialAugmentWide(320).draw(keys(20_000))
    for name, (magnitudes, _) in v2.TrivialAugmentWide._AUGMENTATION_SPACE.items():
        if name in ("Identity", "AutoContrast", "Equalize"):
            continue
        expected = torch.as_tensor(magnitudes(31, 320, 320)) / (320 if name.startswith("Translate") else 1)  # type: ignore[operator]
        seen = drawn["strength"][drawn["operation"] == NUMBER[name]].abs().unique()
        assert torch.allclose(seen, expected.unique().float(), atol=1e-5), name


def test_trivial_augment_draws_operations_and_strengths_evenly() -> None:
    drawn = TrivialAugmentWide().draw(keys(60_000))
    operation, strength = drawn["operation"][:, 0], drawn["strength"][:, 0]
    assert abs(chi_squared_z(torch.bincount(operation, minlength=14), 60_000 / 14)) < 4
    for name in ("ShearX", "TranslateY", "Rotate", "Brightness", "Sharpness", "Solarize"):
        seen = strength[operation == NUMBER[name]]
        _, counts = seen.abs().unique(return_counts=True)
        assert len(counts) == 31
        assert abs(chi_squared_z(counts, len(seen) / 31)) < 4, name
        if name != "Solarize":  # 0 has no sign
            signs = [int((seen < 0).sum()), int((seen > 0).sum())]
            assert abs(chi_squared_z(signs, sum(signs) / 2)) < 4, name


def test_autoaugment_draws_its_policies_with_their_chances() -> None:
    table = v2.AutoAugment()._get_policies(v2.AutoAugmentPolicy.IMAGENET)
    theirs = [tuple(None if v is None else v for part in policy for v in part) for policy in table]
    ours = [tuple(v for v in policy) for policy in IMAGENET_POLICIES]
    for mine, their in zip(ours, theirs, strict=True):
        assert mine[:2] == their[:2]
        assert mine[3:5] == their[3:5]
        assert [m for m, t in zip(mine[2::3], their[2::3], strict=True) if t is not None] == [
            t for t in their[2::3] if t is not None
        ]
    drawn = AutoAugment().draw(keys(50_000))["operation"]
    for name in ("Invert", "Equalize", "Rotate"):
        wanted = sum(p[1] * (p[0] == name) + p[4] * (p[3] == name) for p in IMAGENET_POLICIES) / 25 * 50_000
        seen = int((drawn == NUMBER[name]).sum())
        assert abs(seen - wanted) < 4 * wanted**0.5, name
    assert abs(chi_squared_z(*_chances())) < 4


def _chances() -> tuple[list[int], list[float]]:
    first = AutoAugment().draw(keys(25_000, epoch=1))["operation"][:, 0]
    left_out = sum(1 - p[1] for p in IMAGENET_POLICIES) / 25
    return [int((first == 0).sum()), int((first != 0).sum())], [25_000 * left_out, 25_000 * (1 - left_out)]


def test_augmix_weights_are_dirichlet_and_depths_even() -> None:
    drawn = AugMix().draw(keys(20_000))
    weight = drawn["weight"]
    assert torch.allclose(weight.sum(1), torch.ones(20_000), atol=1e-5)
    assert abs(chi_squared_z(torch.histc(weight[:, 0], 20, 0, 1), 1000.0)) < 4
    share = weight[:, 1] / (1 - weight[:, 0])
    wanted = [((1 - i / 10) ** 2 - (1 - (i + 1) / 10) ** 2) * 20_000 for i in range(10)]  # of Beta(1, 2)
    assert abs(chi_squared_z(torch.histc(share, 10, 0, 1), wanted)) < 4
    depths = (drawn["operation"] > 0).sum(2).flatten()
    assert abs(chi_squared_z(torch.bincount(depths)[1:], 20_000.0)) < 4
    assert AugMix(depth=2).draw(keys(5))["operation"].min() > 0


def test_augmix_mixes_what_its_parameters_say() -> None:
    images = pictures(3)
    policy = AugMix(width=2, depth=1)
    params = policy.draw(keys(3))
    chains = [layer(images, params["operation"][:, i, 0], params["strength"][:, i, 0]) for i in range(2)]
    weight = params["weight"][:, :, None, None, None]
    expected = images * weight[:, 0] + chains[0] * weight[:, 1] + chains[1] * weight[:, 2]
    assert torch.allclose(policy.apply(images, params), expected, atol=1e-5)


class Told(v2.AugMix):
    """torchvision's AugMix with the parameters of one sample of ours."""

    def __init__(
        self, operation: list[list[int]], strength: list[list[float]], weight: torch.Tensor, side: int
    ) -> None:
        super().__init__(
            mixture_width=len(operation), chain_depth=len(operation[0]), interpolation=InterpolationMode.NEAREST
        )
        self.shares = iter([torch.stack([weight[0], 1 - weight[0]])[None], weight[None, 1:] / (1 - weight[0])])
        self.steps = iter([pair for rows in zip(operation, strength, strict=True) for pair in zip(*rows, strict=True)])
        self.side = side

    def _sample_dirichlet(self, params: torch.Tensor) -> torch.Tensor:
        return next(self.shares)

    def _get_random_item(self, dct: object) -> tuple[str, object]:
        number, value = next(self.steps)
        magnitude = value * self.side if NAMES[number].startswith("Translate") else value
        return NAMES[number], (lambda bins, height, width: [magnitude] * bins, False)


@pytest.mark.parametrize("depth", [1, 2])
def test_augmix_is_torchvisions_with_the_same_parameters(depth: int) -> None:
    images = as_dtype(pictures(30, 32, 32, low=0.05, high=0.9), torch.uint8)
    policy = AugMix(severity=5, width=2, depth=depth)
    params = policy.draw(keys(30))
    drawn = zip(params["operation"].tolist(), params["strength"].tolist(), params["weight"], strict=True)
    theirs = torch.stack([Told(*each, side=32)(image) for image, each in zip(images, drawn, strict=True)])
    off = (policy.apply(images, params).int() - theirs.int()).abs().flatten(1)
    exact = (off <= 2).float().mean(1)  # torchvision rounds after each operation, and down at the end
    assert exact.mean() > 0.97
    assert exact.quantile(0.1) > 0.9
    assert float((policy.apply(images, params).int() - images.int()).abs().float().mean()) > 4, "and much is changed"


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_torchs_default_dtype_changes_no_operation(
    dtype: torch.dtype, by_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation, "by_rows", lambda images: by_rows)
    images = pictures(len(NAMES), 8, 300).contiguous(memory_format=torch.channels_last)
    given = as_dtype(images, dtype if by_rows else torch.float32)
    number, value = torch.arange(len(NAMES)), torch.tensor([VALUES.get(name, 0.0) for name in NAMES])
    expected = layer(given, number, value)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = layer(given, number, value)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == expected.dtype
    assert found.equal(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandAugment(magnitude=31), r"magnitude must be in \[0, 30\]"),
        (lambda: RandAugment(-1), "count must be at least 0"),
        (lambda: TrivialAugmentWide(0), "side=0: pass a number of pixels above 0"),
        (lambda: TrivialAugmentWide(torch.tensor(224)), "pass a number of pixels above 0"),
        (lambda: AugMix(0), r"severity must be in \[1, 10\]"),
        (lambda: AugMix(width=0), "width and depth must be at least 1"),
    ],
)
def test_what_is_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("policy", [RandAugment(1), TrivialAugmentWide(24), AutoAugment(), AugMix()], ids=repr)
def test_what_is_no_colour_picture_is_refused_whatever_is_drawn(policy: ImageOperation) -> None:
    images = pictures(1, channels=4)
    params = policy.draw(keys(1))
    params["operation"][:] = 0  # nothing that would look at colours
    for given in (images, as_dtype(images, torch.uint8)):
        with pytest.raises(ConfigError, match="policies need images of 3 channels, or 1; these have 4"):
            policy.apply(given, params)


def test_presets() -> None:
    images = as_dtype(pictures(4, 40, 50), torch.uint8)
    for preset in (train_classification(32), eval_classification(32, dtype=torch.float16)):
        found = preset(batch(images))["image"]
        assert found.shape == (4, 3, 32, 32)
        assert found.is_floating_point()
        assert abs(float(found.float().mean())) < 3
    assert train_classification(None, trivial=False, erasing=0)(batch(images))["image"].shape == images.shape
    theirs = v2.Compose([v2.Resize(37, antialias=True), v2.CenterCrop(32)])(images.float() / 255)
    expected = Normalize()(batch(theirs))["image"]
    assert torch.allclose(eval_classification(32)(batch(images))["image"], expected, atol=1e-4)


@pytest.mark.parametrize("trivial", [False, True])
def test_the_training_preset_is_torchvisions_chain_with_the_same_parameters(trivial: bool) -> None:
    count, size = 24, 32
    images = as_dtype(pictures(count, 48, 56, low=0.05, high=0.9), torch.uint8)
    chain = train_classification(size, trivial=trivial, erasing=0.5)
    given = batch(images)
    drawn = chain.draw(given)
    crop, erase = RandomResizedCrop(size), RandomErasing(0.5)
    boxes = torch.stack(crop.box(drawn["RandomResizedCrop/image"], (48, 56)), 1).int().tolist()
    erased = torch.stack(erase.box(drawn["RandomErasing/image"], (size, size)), 1).int().tolist()
    expected = []
    for i, image in enumerate(images):
        image = reference.resized_crop(image, *boxes[i], [size, size], antialias=True)
        if drawn["RandomHorizontalFlip/image"]["flip"][i]:
            image = reference.horizontal_flip(image)
        if trivial:
            policy = {name: value[i : i + 1] for name, value in drawn["TrivialAugmentWide/image"].items()}
            image = in_turn(image[None], policy["operation"], policy["strength"])[0]
        image = reference.normalize(image.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
        expected.append(reference.erase(image, *erased[i], torch.zeros(3, 1, 1)))
    assert sum(high > 0 for _, _, high, _ in erased) > 4
    # levels that torchvision rounds after the crop, and that a policy then draws apart, or past a threshold
    levels = (chain(given)["image"] - torch.stack(expected)).abs() * (255 * 0.224)
    off = (levels > (3.5 if trivial else 1.01)).flatten(1).float().mean(1)
    assert off.quantile(0.75) < 0.01
    assert off.mean() < (0.06 if trivial else 1e-3)
