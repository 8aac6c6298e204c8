"""Masks, boxes and keypoints, which follow the geometry of their images, and what they cannot follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from made import DEVICES, batch, keys, pictures
from torchvision import tv_tensors

from fastload.augment import (
    AugMix,
    AutoAugment,
    CenterCrop,
    ColorJitter,
    Compose,
    CutMix,
    GaussianNoise,
    MixUp,
    Normalize,
    On,
    RandAugment,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    Resize,
    TrivialAugmentWide,
    operation,
)
from fastload.augment.chain import make_chain
from fastload.augment.layers import NUMBER
from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.fields import Image, Tensor


@pytest.mark.parametrize("device", DEVICES)
def test_masks_boxes_and_keypoints_follow(device: str) -> None:
    count, height, width = 8, 64, 80
    box = torch.tensor([[20.0, 24, 36, 40]])  # a white box on black is image, mask, box and corner points at once
    mask = torch.zeros(count, height, width, dtype=torch.int64)
    mask[:, 24:40, 20:36] = 7
    images = (mask > 0).float()[:, None].expand(-1, 3, -1, -1)
    given = batch(
        images,
        mask=mask,
        planes=mask[:, None],
        boxes=box.expand(count, 1, 4),
        points=torch.tensor([[28.0, 32]]).expand(count, 1, 2),
    )
    chain = Compose(
        [
            RandomHorizontalFlip(),
            RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 5),
            RandomPerspective(0.2),
            RandomCrop((56, 72)),
            ColorJitter(0.1),
        ],
        masks=("mask", "planes"),
        boxes="boxes",
        keypoints="points",
    )
    found = chain(given.to(device)).to("cpu")
    seen = found["image"][:, 0] > 0.45
    assert found["mask"].dtype == torch.int64
    assert found["mask"].equal(found["planes"][:, 0])
    assert set(found["mask"].unique().tolist()) == {0, 7}
    assert ((found["mask"] > 0) == seen).float().mean() > 0.995
    for i in range(count):
        y, x = torch.nonzero(found["mask"][i], as_tuple=True)
        around = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert (found["boxes"][i, 0] - around).abs().max() < 1.6
        middle = torch.tensor([x.float().mean() + 0.5, y.float().mean() + 0.5])
        assert (found["points"][i, 0] - middle).abs().max() < 1


def test_boxes_follow_a_flip_and_a_crop_exactly() -> None:
    given = batch(pictures(3, 20, 24), boxes=torch.tensor([[2.0, 3, 10, 12]]).expand(3, 1, 4))
    found = Compose([RandomHorizontalFlip(1.0), CenterCrop((10, 12))], boxes="boxes")(given)
    # flipped x: 14 to 22; the crop begins at x = 6, y = 5, and cuts at 12 and 10
    assert found["boxes"].tolist() == [[[8.0, 0.0, 12.0, 7.0]]] * 3
    gone = Compose([CenterCrop(2)], boxes="boxes")(given)["boxes"]
    assert ((gone[..., 2] - gone[..., 0]) * (gone[..., 3] - gone[..., 1])).abs().max() == 0


def test_a_mask_of_another_size_is_refused() -> None:
    given = batch(pictures(2), mask=torch.zeros(2, 5, 5))
    with pytest.raises(ConfigError, match=r"mask 'mask' has shape \[2, 5, 5\], its images are 20x24"):
        Compose([RandomHorizontalFlip()], masks="mask")(given)


def white_box(count: int, **fields: Any) -> Batch:
    """A white box on black as image and as mask of 7, its edges as `boxes`, two of its corners as `points`."""
    mask = torch.zeros(count, 64, 80, dtype=torch.int64)
    mask[:, 24:40, 20:36] = 7
    edges = torch.tensor([20.0, 24, 36, 40]).expand(count, 1, 4)
    images = (mask > 0).float()[:, None].expand(-1, 3, -1, -1).contiguous()
    return batch(images, mask=mask, boxes=edges, points=edges.unflatten(2, (2, 2))[:, 0], **fields)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", [TrivialAugmentWide(80), RandAugment(2, 15), AutoAugment()], ids=lambda o: o.name)
def test_masks_boxes_and_keypoints_follow_policies(policy: Any, device: str) -> None:
    given = white_box(60).to(device)
    chain = Compose([policy, RandomHorizontalFlip()], masks="mask", boxes="boxes", keypoints="points")
    drawn, found = chain.draw(given.sample_keys), chain(given).to("cpu")  # type: ignore[arg-type]
    operation = drawn[policy.name]["operation"].cpu()
    kept = (operation <= NUMBER["Rotate"]).all(1)  # colours tell the box from the rest no more
    moved = kept & (operation > 0).any(1)
    assert int(moved.sum()) >= 5
    seen = found["image"][:, 0] > 0.5
    assert ((found["mask"] > 0) == seen)[kept].float().mean() > 0.999
    assert not bool((found["mask"][moved] == given["mask"].cpu()[moved]).flatten(1).all(1).any())
    for i in moved.nonzero()[:, 0].tolist():
        y, x = torch.nonzero(found["mask"][i], as_tuple=True)
        if len(y):
            around = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
            assert (found["boxes"][i, 0] - around).abs().max() < 2.1
        else:
            assert (
                found["boxes"][i, 0, 0] == found["boxes"][i, 0, 2] or found["boxes"][i, 0, 1] == found["boxes"][i, 0, 3]
            )


@pytest.mark.parametrize("resize", [Resize((40, 36)), RandomResizedCrop((40, 36), scale=(0.3, 1.0))], ids=repr)
def test_masks_boxes_and_keypoints_follow_resizing_as_torchvisions_do(resize: Resize) -> None:
    given = white_box(12)
    chain = Compose([resize], masks="mask", boxes="boxes", keypoints="points")
    found, params = chain(given), chain.draw(given)[resize.name]
    crops = torch.tensor([[0, 0, 64, 80]]).expand(12, 4)
    if isinstance(resize, RandomResizedCrop):
        crops = torch.stack(resize.box(params, (64, 80)), 1).to(torch.int64)
    for i, (top, left, high, wide) in enumerate(crops.tolist()):
        mask = given["mask"][i : i + 1, None, top : top + high, left : left + wide].float()
        expected = torch.nn.functional.interpolate(mask, (40, 36), mode="nearest-exact")[0, 0]
        assert (found["mask"][i] != expected).float().mean() < 0.005  # a centre may fall between two pixels
        edges = tv_tensors.BoundingBoxes(given["boxes"][i], format="XYXY", canvas_size=(64, 80))  # type: ignore[call-arg]
        theirs = reference.resized_crop(edges, top, left, high, wide, [40, 36])
        assert torch.allclose(
            found["boxes"][i], reference.clamp_bounding_boxes(theirs).as_subclass(torch.Tensor), atol=1e-3
        )
        scaled = (given["points"][i] - torch.tensor([left, top])) * torch.tensor([36 / wide, 40 / high])
        assert torch.allclose(found["points"][i], scaled, atol=1e-3)


def test_boxes_and_keypoints_in_lists_come_back_in_lists() -> None:
    boxes = [torch.tensor([[2.0, 3, 10, 12], [1, 1, 4, 4]]), torch.zeros(0, 4), None, torch.tensor([[0.0, 0, 24, 20]])]
    points = [torch.tensor([[5.0, 6]]), None, torch.zeros(0, 2), torch.tensor([[1.0, 1], [2, 2], [3, 3]])]
    given = batch(pictures(4, 20, 24), boxes=boxes, points=points, none=[None] * 4)
    found = Compose([RandomHorizontalFlip(1.0)], boxes=["boxes", "none"], keypoints="points")(given)
    assert [None if b is None else b.tolist() for b in found["boxes"]] == [
        [[14.0, 3.0, 22.0, 12.0], [20.0, 1.0, 23.0, 4.0]],
        [],
        None,
        [[0.0, 0.0, 24.0, 20.0]],
    ]
    assert [None if p is None else p.tolist() for p in found["points"]] == [
        [[19.0, 6.0]],
        None,
        [],
        [[23.0, 1.0], [22.0, 2.0], [21.0, 3.0]],
    ]
    assert found["none"] == [None] * 4


def test_an_empty_list_of_boxes_is_none_at_all() -> None:
    """torch.tensor([]) is of shape [0]."""
    boxes = [torch.tensor([[2.0, 3, 10, 12]]), torch.tensor([])]
    for rows in (boxes, boxes[::-1], boxes[1:] * 2):
        found = Compose([RandomHorizontalFlip(1.0)], boxes="boxes")(batch(pictures(2), boxes=rows))["boxes"]
        assert [list(each.shape) for each in found] == [[len(each), 4] for each in rows]


def test_the_other_picture_of_a_pair_is_changed_alike() -> None:
    left, right = pictures(4), pictures(4).flip(0)
    operations = [
        RandomAffine(20), TrivialAugmentWide(), RandomCrop(12), ColorJitter(0.3, 0.3, 0.3, 0.1), GaussianNoise(p=1.0),
        Normalize(), RandomErasing(1.0),
    ]  # fmt: skip
    chain = Compose(operations, images=["right"], masks="mask")
    given = batch(left, right=right, mask=torch.ones(4, 20, 24))
    found, drawn = chain(given), chain.draw(given.sample_keys)  # type: ignore[arg-type]
    alone = Compose(operations)
    assert found["image"].equal(alone(batch(left))["image"])
    assert found["right"].equal(alone(batch(right))["image"])
    assert chain.replay(given, drawn)["right"].equal(found["right"])
    (stage,) = make_chain([chain], {})
    assert stage(given)["right"].equal(found["right"])
    for other in (right[:, :, :5], right[:3]):
        with pytest.raises(
            ConfigError, match=r"images='right': \[.*\] cannot be changed as 'image' is, which is \[4, 3"
        ):
            chain(given.replaced({"right": other}))
    with pytest.raises(ConfigError, match=r"MixUp.* makes one picture of several, and 'right' cannot follow it"):
        Compose([MixUp(5)], images="right")


def test_what_would_follow_two_pictures_is_refused() -> None:
    left, right = RandomHorizontalFlip(field="left"), RandomHorizontalFlip(field="right")
    with pytest.raises(ConfigError, match=r"'mask' would follow all of the fields 'left', 'right'; give.*\('right',\)"):
        Compose([left, right], masks="mask")
    with pytest.raises(ConfigError, match="'other' would follow all of the fields 'left', 'right'"):
        Compose([left, Normalize(field="right")], images="other")
    Compose([left, Normalize(field="right")], masks="mask")
    Compose([Compose([left], masks="mask"), right], masks="depth")


@pytest.mark.parametrize("by_rows", [True, False])
def test_masks_are_filled_with_what_is_told(by_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "by_rows", lambda images: by_rows)
    for dtype, fill in ((torch.int64, -1), (torch.uint8, 255), (torch.uint16, 65535), (torch.float32, 0.5)):
        given = batch(pictures(2, 8, 8), mask=torch.zeros(2, 8, 8).to(dtype))
        for chain in ([CenterCrop(10)], [RandomRotation((45, 45))], [CenterCrop(10), TrivialAugmentWide()]):
            found = Compose(chain, masks="mask", mask_fill=fill)(given)["mask"]
            assert found.dtype == dtype
            assert set(found.double().unique().tolist()) == {0.0, fill}
    inner = Compose([RandomHorizontalFlip(1.0)])
    mask = torch.arange(8.0).expand(2, 8, 8)
    outer = Compose([inner], masks="mask")(batch(pictures(2, 8, 8), mask=mask))
    assert outer["mask"].equal(mask.flip(-1)), "what follows a chain follows those in it"


@pytest.mark.parametrize(
    ("fields", "targets", "message"),
    [
        (
            {"boxes": torch.zeros(4, 4)},
            {"boxes": "boxes"},
            r"field 'boxes': \[4, 4\] where \[B, N, 4\] is needed, or a li",
        ),
        ({"boxes": [torch.zeros(4)] * 4}, {"boxes": "boxes"}, r"field 'boxes': \[4\] where \[B, N, 4\] is needed"),
        ({"boxes": ["x"] * 4}, {"boxes": "boxes"}, r"field 'boxes': 'x' where \[B, N, 4\] is needed"),
        (
            {"points": torch.zeros(4, 2)},
            {"keypoints": "points"},
            r"field 'points': \[4, 2\] where \[B, N, 2\] is needed",
        ),
        ({"points": torch.zeros(4, 1, 3)}, {"keypoints": "points"}, r"\[4, 1, 3\] where \[B, N, 2\] is needed"),
        ({}, {"keypoints": "points"}, r"field 'points': None where \[B, N, 2\] is needed.*the batch has 'image'"),
        (
            {"mask": torch.zeros(4, 20)},
            {"masks": "mask"},
            r"mask 'mask' has shape \[4, 20\], its images are 20x24; pass",
        ),
    ],
)
def test_what_has_another_shape_does_not_follow(fields: dict[str, Any], targets: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Compose([RandomHorizontalFlip()], **targets)(batch(pictures(4), **fields))  # type: ignore[arg-type]


def test_what_masks_cannot_follow_is_refused() -> None:
    identity = torch.nn.Identity()
    for mixes in (MixUp(5), CutMix(5), AugMix()):
        with pytest.raises(
            ConfigError, match=r"makes one picture of several, and 'boxes', 'm' cannot follow it; leave"
        ):
            Compose([RandomHorizontalFlip(), mixes], masks="m", boxes="boxes")
        Compose([Compose([RandomHorizontalFlip()], masks="m"), mixes])
    for module in (identity, On("image", identity), On("left", identity)):
        with pytest.raises(
            ConfigError, match="what the module does to pixels is not known, and 'm' cannot follow it; gi"
        ):
            Compose([RandomHorizontalFlip(field="left"), module], masks="m")
    Compose([On("sound", identity), On(("image", "m"), identity)], masks="m")


def test_a_mask_that_is_missing_is_told_by_its_argument() -> None:
    chain = Compose([RandomHorizontalFlip()], masks="masks")
    with pytest.raises(ConfigError, match="masks='masks': no such field in the batch, it has 'image', 'mask'"):
        chain(batch(pictures(2), mask=torch.ones(2, 20, 24)))


@pytest.mark.parametrize("crop", ["random", "center"])
@pytest.mark.parametrize("targets", [{"boxes": "boxes"}, {"keypoints": "points"}])
def test_boxes_and_keypoints_cannot_follow_a_crop_that_decoding_makes(crop: Any, targets: dict[str, str]) -> None:
    fields = {"image": Image(32, crop=crop), "boxes": Tensor(), "points": Tensor()}
    chain = Compose([RandomHorizontalFlip()], **targets)
    with pytest.raises(
        ConfigError, match=r"'(boxes|points)' cannot follow the crop that decoding makes of fields\['image'\]"
    ):
        make_chain([chain], fields)
    make_chain([chain], {**fields, "image": Image(32)})
    make_chain([Compose([RandomHorizontalFlip()], masks="mask")], {**fields, "mask": Image(32, crop=crop)})


# What passes over an image lose, one after another.


def ones(count: int = 8, **fields: Any) -> Batch:
    return batch(torch.ones(count, 3, 40, 40), mask=torch.ones(count, 40, 40, dtype=torch.int64), **fields)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize(
    "chain",
    [
        [RandomResizedCrop(20, scale=(0.2, 0.3)), RandomRotation((45, 45))],
        [RandomResizedCrop(20, scale=(0.2, 0.3)), ColorJitter(), RandomHorizontalFlip(), RandomPerspective(0.8, p=1.0)],
        [CenterCrop(20), RandomGrayscale(), RandomRotation((45, 45)), RandomHorizontalFlip()],
        [RandomRotation((45, 45)), Resize(24), RandomRotation((45, 45))],
        [RandomCrop(20), ColorJitter(), CenterCrop(30)],
    ],
    ids=str,
)
def test_masks_hold_the_fill_where_a_later_pass_shows_what_an_earlier_one_cut_off(
    chain: list[Any], by_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation, "by_rows", lambda images: by_rows)
    found = Compose(chain, masks="mask", mask_fill=255)(ones())
    black = found["image"].amax(1) < 0.01
    assert bool(black.flatten(1).any(1).all())
    assert set(found["mask"].unique().tolist()) == {1, 255}
    assert bool((found["mask"][black] == 255).all())
    white = found["image"].amin(1) > 0.99
    assert bool((found["mask"][white] == 1).all())
    third = Batch({name: value[2:3] for name, value in ones().items()}, sample_keys=keys(8)[2:3])
    one = Compose(chain, masks="mask", mask_fill=255)(third)
    assert one["mask"].equal(found["mask"][2:3])


def turned(steps: list[list[tuple[str, float]]]) -> tuple[Compose, Any]:
    """A chain of a policy, and parameters that have each sample go through such steps."""
    chain = Compose([RandAugment(len(steps[0]))], masks="mask", boxes="boxes", mask_fill=255)
    operations = torch.tensor([[NUMBER[name] for name, _ in row] for row in steps])
    strengths = torch.tensor([[value for _, value in row] for row in steps])
    return chain, {"RandAugment/image": {"operation": operations, "strength": strengths}}


def test_masks_hold_the_fill_where_a_policys_second_operation_shows_what_the_first_left_out() -> None:
    right, left, turn, shear = ("TranslateX", 0.25), ("TranslateX", -0.25), ("Rotate", 30.0), ("ShearY", 0.3)
    nothing = ("Identity", 0.0)
    steps = [[right, left], [left, right], [turn, turn], [turn, shear], [right, turn], [shear, left]]
    steps += [[nothing, turn], [turn, nothing], [("Brightness", 0.0), turn], [nothing, nothing]]
    boxes = torch.tensor([[0.0, 10, 40, 30]]).expand(len(steps), 1, 4)
    chain, drawn = turned(steps)
    found = chain.replay(ones(len(steps), boxes=boxes), drawn)
    black, filled = found["image"].amax(1) == 0, found["mask"] == 255
    assert black[0].equal(filled[0])
    assert black[0, :, 30:].all()
    assert black[1].equal(filled[1])
    # pixels are taken twice by the image and once by the mask, which may be the pixel beside it
    near = torch.nn.functional.max_pool2d(filled[:, None].float(), 3, 1, 1)[:, 0] > 0
    far = torch.nn.functional.max_pool2d((~filled)[:, None].float(), 3, 1, 1)[:, 0] > 0
    assert not bool((black & ~near).any())
    assert not bool((~black & ~far).any())
    assert found["boxes"][0].tolist() == [[0.0, 10.0, 30.0, 30.0]]
    once, params = turned([[turn]])
    alone = once.replay(ones(1, boxes=boxes[:1]), params)
    for row in (6, 7, 8):
        assert found["mask"][row].equal(alone["mask"][0]), "a step that does nothing loses nothing"
        assert torch.allclose(found["boxes"][row], alone["boxes"][0], atol=1e-4)
    assert not bool(filled[9].any())


def test_boxes_are_cut_to_what_each_pass_was_given() -> None:
    crop, turn = CenterCrop(20), RandomRotation((45, 45))
    left_out, inside, cut = [0.0, 18, 6, 22], [14.0, 14, 26, 26], [4.0, 18, 16, 22]
    boxes = torch.tensor([left_out, inside, cut, [10.0, 18, 16, 22]]).expand(2, 4, 4)
    two = Compose([crop, ColorJitter(), turn], boxes="boxes")(ones(2, boxes=boxes))["boxes"]
    one = Compose([crop, turn], boxes="boxes")(ones(2, boxes=boxes))["boxes"]
    assert bool((one[:, 0, 2:] > one[:, 0, :2]).all()), "one pass turns it into the picture, and shows it"
    assert bool((two[:, 0, 2:] == two[:, 0, :2]).all())
    assert torch.allclose(two[:, 1], one[:, 1], atol=1e-4), "and is not the box around a box around it"
    assert torch.allclose(two[:, 2], one[:, 3], atol=1e-4)
    assert torch.allclose(two[:, 3], one[:, 3], atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "fill", "message"),
    [
        (torch.uint8, -100, "whole numbers from 0 to 255; pass one of those, or masks of a dtype that .* torch.int64"),
        (torch.uint8, 256, "whole numbers from 0 to 255"),
        (torch.int8, 255, "whole numbers from -128 to 127"),
        (torch.int64, 0.5, "whole numbers from .*, or masks of a dtype that holds it, e.g. torch.float32"),
        (torch.int64, float("nan"), "whole numbers from"),
        (torch.bool, 255, "whole numbers from 0 to 1;"),
        (torch.float16, 1e6, "numbers from -65504.0 to 65504.0"),
    ],
)
def test_a_fill_that_a_mask_cannot_hold_is_refused(dtype: torch.dtype, fill: float, message: str) -> None:
    given = batch(pictures(2), mask=torch.zeros(2, 20, 24, dtype=dtype))
    with pytest.raises(ConfigError, match=rf"mask_fill={fill!r}: mask 'mask' is {dtype}, which holds {message}"):
        Compose([RandomHorizontalFlip()], masks="mask", mask_fill=fill)(given)


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [(torch.bool, 1), (torch.int16, -100), (torch.int64, 5.0), (torch.float16, -0.5), (torch.float32, float("inf"))],
)
def test_a_fill_that_a_mask_can_hold_is_in_it(dtype: torch.dtype, fill: float) -> None:
    given = batch(pictures(2), mask=torch.zeros(2, 20, 24, dtype=dtype))
    found = Compose([CenterCrop(30)], masks="mask", mask_fill=fill)(given)["mask"]
    assert found.dtype == dtype
    assert found[0, 0, 0].item() == fill
