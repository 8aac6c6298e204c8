"""Chains: what fused passes equal, what follows the geometry, what is drawn, replayed and left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.augmentation
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from made import DEVICES, DTYPES, as_dtype, as_unit, assert_no_loop_and_no_wait, batch, keys, pictures
from samples import key
from torchvision.transforms import InterpolationMode as Mode

import fastload
from fastload.augment import (
    AugMix,
    AutoAugment,
    CenterCrop,
    ColorJitter,
    Compose,
    CutMix,
    GaussianBlur,
    MixUp,
    Normalize,
    On,
    RandAugment,
    RandomAffine,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    TrivialAugmentWide,
)
from fastload.augment.chain import make_chain
from fastload.augment.fused import Fused
from fastload.augment.operation import Operation
from fastload.batch import Batch
from fastload.errors import ConfigError

Packed = Callable[..., Path]
COUNT = 10


def one_by_one(operations: list[Operation], given: Batch) -> Batch:
    return Compose(operations, fuse=False)(given)


CHAINS: dict[str, tuple[list[Operation], int]] = {  # operations, passes
    "index": ([RandomHorizontalFlip(), RandomVerticalFlip(), RandomCrop(12), CenterCrop((8, 9))], 1),
    "resize": ([RandomHorizontalFlip(), RandomResizedCrop(16), RandomVerticalFlip(), RandomCrop(12)], 1),
    "letterbox": ([Resize(16), CenterCrop(40, fill=0.4)], 1),
    "padded": ([RandomCrop(20, padding=6, fill=0.4), Resize(16)], 1),
    "filled": ([RandomResizedCrop(16), RandomAffine(30, fill=0.4)], 2),
    "eval": ([Resize(18), CenterCrop(16), Normalize()], 2),
    "colour": ([ColorJitter(0.2, 0.2, 0.2), RandomGrayscale(0.5), RandomInvert(), ColorJitter(0, 0.2), Normalize()], 1),
    "hue": ([ColorJitter(0.1, 0.1, 0.1, 0.1), Normalize()], 1),
    "mixed": (
        [
            RandomHorizontalFlip(),
            RandomAffine(10),
            ColorJitter(0.1, 0.1),
            RandomEqualize(),
            Normalize(),
            RandomErasing(),
        ],
        5,
    ),
    "erased": ([ColorJitter(0.1), RandomErasing(), RandomHorizontalFlip(), GaussianBlur(3)], 4),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("chain", CHAINS)
def test_fused_equals_one_by_one_where_nothing_is_lost_on_the_way(chain: str, device: str) -> None:
    operations, passes = CHAINS[chain]
    given = batch(pictures(COUNT, low=0.3, high=0.7)).to(device)
    fused = Compose(operations)
    (stage,) = fused.stages
    assert isinstance(stage, Fused)
    assert len(stage.groups) == passes
    expected, found = one_by_one(operations, given)["image"], fused(given)["image"]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 3e-5
    drawn = fused.draw(given.sample_keys)  # type: ignore[arg-type]
    assert fused.replay(given, drawn)["image"].equal(found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("chain", CHAINS)
def test_other_dtypes_are_rounded_once(chain: str, dtype: torch.dtype) -> None:
    operations, _ = CHAINS[chain]
    images = as_dtype(pictures(COUNT), dtype)
    found = Compose(operations)(batch(images))["image"]
    exact = Compose(operations)(batch(as_unit(images)))["image"]
    if isinstance(operations[-1], Normalize) or chain == "mixed":
        assert found.dtype == torch.float32
        off = (found - exact).abs() > 1e-4
    else:
        assert found.dtype == dtype
        steps = {torch.uint8: 0.502 / 255, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
        off = (as_unit(found) - exact).abs() > steps.get(dtype, 0) + 1e-5
    assert off.float().mean() < 1e-3  # equalize may see another level


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("after", [RandomRotation(30), Resize(16), RandomHorizontalFlip()], ids=repr)
def test_what_moves_normalised_pixels_keeps_their_dtype(after: Operation, dtype: torch.dtype) -> None:
    images = pictures(4).contiguous(memory_format=torch.channels_last)
    for chain in (
        [Normalize(dtype=dtype), after],
        [ColorJitter(0.2), Normalize(dtype=dtype), RandomErasing(1.0), after],
    ):
        fused, alone = (Compose(chain, fuse=fuse)(batch(images))["image"] for fuse in (True, False))
        assert fused.dtype == alone.dtype == dtype
        assert fused.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(fused.float(), alone.float(), atol={torch.float32: 1e-4}.get(dtype, 0.02))


def test_warps_after_one_another_are_one_and_lose_no_corner() -> None:
    images = pictures(4, 32, 32)
    there, back = RandomRotation((45, 45)), RandomRotation((-45, -45))
    fused = Compose([there, back])(batch(images))["image"]
    assert torch.allclose(fused, images, atol=1e-4)
    lost = one_by_one([there, back], batch(images))["image"]
    assert lost[:, :, 0, 0].abs().max() == 0


def test_a_warp_of_three_equals_torchvisions_affine_of_the_product() -> None:
    images = pictures(3, 32, 40)
    chain = Compose(
        [RandomAffine((20, 20)), RandomHorizontalFlip(1.0), RandomAffine(translate=(0.0, 0.0), scale=(2, 2))]
    )
    found = chain(batch(images))["image"]
    turned = reference.affine(images, 20, [0, 0], 2.0, [0, 0], Mode.BILINEAR).flip(-1)
    assert torch.allclose(found, turned, atol=1e-5)


def test_the_mean_that_contrast_draws_to_is_of_what_came_before() -> None:
    images = pictures(COUNT, low=0.4, high=0.6)
    operations: list[Operation] = [
        ColorJitter(brightness=(0.8, 0.8)),
        RandomInvert(1.0),
        ColorJitter(contrast=(0.5, 0.5)),
    ]
    expected = reference.adjust_contrast(1 - images * 0.8, 0.5)
    assert (Compose(operations)(batch(images))["image"] - expected).abs().max() < 1e-4


# What does not fuse.


def test_an_antialiased_resize_is_not_fused_with_a_warp_and_settings_must_agree() -> None:
    def passes(*operations: Operation) -> int:
        (stage,) = Compose(operations).stages
        return len(stage.groups)  # type: ignore[attr-defined]

    turn = RandomRotation(10)
    assert passes(turn, RandomResizedCrop(8)) == 2
    assert passes(turn, RandomResizedCrop(8, antialias=False)) == 2, "its edge is repeated, theirs is black"
    assert passes(RandomRotation(10, padding="border"), RandomResizedCrop(8, antialias=False)) == 1
    assert passes(turn, RandomHorizontalFlip(), RandomPerspective()) == 1
    assert passes(turn, RandomRotation(10, fill=0.5)) == 2
    assert passes(turn, RandomRotation(10, mode="nearest")) == 2
    assert passes(turn, RandomCrop(8, padding=2)) == 1
    assert passes(turn, RandomCrop(8, padding=2, fill=0.5)) == 2
    assert passes(RandomRotation(10, padding="border"), RandomCrop(8, padding=2)) == 2
    assert passes(ColorJitter(hue=0.1), ColorJitter(0.1)) == 2


def test_colours_after_normalize_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ColorJitter\(.*\) after Normalize: pixels are no longer in \[0, 1\]"):
        Compose([Normalize(), ColorJitter(0.1)])
    jitter, mixed = ColorJitter(0.1), MixUp(5)
    for chain in (
        lambda: Compose([Normalize(), jitter], fuse=False),
        lambda: Compose([Normalize(), mixed, jitter]),
        lambda: Compose([Compose([Normalize()]), Compose([jitter], masks="mask")]),
        lambda: make_chain([Normalize(), mixed, jitter], {}),
    ):
        with pytest.raises(ConfigError, match=r"ColorJitter\(.*\) after Normalize: pixels are no longer in \[0, 1\]"):
            chain()
    Compose([Normalize(), Normalize(field="other"), RandomErasing(), RandomRotation(5), mixed])
    Compose([Normalize(), lambda batch: batch, jitter])  # which may bring them back
    with pytest.raises(ConfigError, match="Compose: 5 cannot be called"):
        Compose([5])


# What is drawn.


def test_inserting_an_operation_changes_no_draw_of_the_others() -> None:
    given = keys(50)
    short = Compose([RandomAffine(10), RandomHorizontalFlip()]).draw(given)
    long = Compose([RandomErasing(), RandomHorizontalFlip(), GaussianBlur(3), RandomAffine(10), Normalize()]).draw(
        given
    )
    assert list(short) == ["RandomAffine/image", "RandomHorizontalFlip/image"]
    for name, params in short.items():
        for each, value in params.items():
            assert value.equal(long[name][each])
    alone = RandomAffine(10).draw(given)
    assert all(alone[each].equal(short["RandomAffine/image"][each]) for each in alone)


def test_the_same_operation_twice_draws_apart_and_the_first_as_if_alone() -> None:
    drawn = Compose([RandomHorizontalFlip(), lambda batch: batch, RandomHorizontalFlip()]).draw(keys(200))
    first, second = drawn["RandomHorizontalFlip/image"]["flip"], drawn["RandomHorizontalFlip/image/1"]["flip"]
    assert first.equal(RandomHorizontalFlip().draw(keys(200))["flip"])
    assert 60 < int((first == second).sum()) < 140
    other = Compose([RandomHorizontalFlip(), RandomHorizontalFlip(field="mask")])
    assert list(other.draw(keys(2))) == ["RandomHorizontalFlip/image", "RandomHorizontalFlip/mask"]


def test_parameters_can_be_changed_and_replayed() -> None:
    given = batch(pictures(4))
    chain = Compose([RandomHorizontalFlip(), GaussianBlur(3), Normalize()])
    drawn = chain.draw(given.sample_keys)  # type: ignore[arg-type]
    drawn["RandomHorizontalFlip/image"]["flip"] = torch.ones(4, dtype=torch.bool)
    drawn["GaussianBlur/image"]["sigma"] = torch.zeros(4)
    assert torch.allclose(chain.replay(given, drawn)["image"], Normalize()(given)["image"].flip(-1), atol=1e-5)
    assert (
        RandomHorizontalFlip()
        .replay(given, drawn["RandomHorizontalFlip/image"])["image"]
        .equal(given["image"].flip(-1))
    )


def test_parameters_that_lack_an_operation_are_refused() -> None:
    given = batch(pictures(4), label=torch.zeros(4, dtype=torch.int64))
    drawn = Compose([RandomHorizontalFlip()]).draw(given)
    for further in (RandomVerticalFlip(), MixUp(2), CutMix(2)):
        chain = Compose([RandomHorizontalFlip(), further])
        with pytest.raises(
            ConfigError, match=rf"replay: no parameters of '{further.name}', only of 'RandomHorizontalFl"
        ):
            chain.replay(given, drawn)
    with pytest.raises(ConfigError, match="no parameters of 'MixUp/image', only of nothing"):
        Compose([MixUp(2)]).replay(given, {})


def test_parameters_are_saved_with_their_batch(tmp_path: Path) -> None:
    """As plain tensors, which torch loads without running code; on the batch's device, where they are replayed."""
    given = batch(as_dtype(pictures(6), torch.uint8), mask=torch.ones(6, 20, 24))
    chain = Compose([RandomRotation(40), ColorJitter(0.3), RandAugment(), RandomErasing(1.0)], masks="mask")
    expected, drawn = chain(given), chain.draw(given.sample_keys)  # type: ignore[arg-type]
    torch.save({"batch": dict(given), "drawn": drawn}, tmp_path / "batch.pt")
    loaded = torch.load(tmp_path / "batch.pt", weights_only=True)
    again = chain.replay(Batch(loaded["batch"]), loaded["drawn"])
    assert again["image"].equal(expected["image"])
    assert again["mask"].equal(expected["mask"])
    assert set(loaded["drawn"]) == {f"{type(o).__name__}/image" for o in chain.operations}
    assert loaded["drawn"]["RandAugment/image"]["operation"].shape == (6, 2)


def test_a_samples_picture_depends_on_seed_epoch_and_sample_alone(packed: Packed) -> None:
    data = packed("tar", [5, 1, 9, 8])
    augment = [RandomHorizontalFlip(), RandomAffine(20), ColorJitter(0.3, 0.3, 0.3), Normalize()]
    options: dict[str, Any] = {"fields": {"image": fastload.Image(8)}, "shuffle": True, "augment": augment}

    def run(**more: Any) -> dict[str, torch.Tensor]:
        return {
            name: image
            for batch in fastload.DataLoader(data, **{**options, **more})
            for name, image in zip(batch["__key__"], batch["image"], strict=True)
            if name
        }

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return one.keys() == other.keys() and all(torch.allclose(one[k], other[k], atol=1e-5) for k in one)

    expected = run(batch_size=5)
    assert len(expected) == 23
    assert key(0) in expected
    assert same(run(batch_size=23, num_workers=3), expected)
    assert same(run(batch_size=4, window=1), expected), "another order"
    ranks = [run(batch_size=3, rank=rank, world_size=3) for rank in range(3)]
    assert same({**ranks[0], **ranks[1], **ranks[2]}, expected)
    assert not same(run(batch_size=5, seed=1), expected)
    assert same(run(batch_size=5, augment=Compose(augment)), expected)


# How it runs.


@pytest.mark.parametrize("chain", CHAINS)
def test_no_loop_over_samples_and_no_wait_for_the_device(chain: str) -> None:
    assert_no_loop_and_no_wait(Compose(CHAINS[chain][0]))


@pytest.mark.gpu
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype, it says
def test_the_gpu_is_never_waited_for(chain: str) -> None:
    compose, given = Compose(CHAINS[chain][0]), batch(pictures(COUNT)).to("cuda")
    compose(given)
    torch.cuda.set_sync_debug_mode("error")
    try:
        compose(given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_is_captured_as_a_graph_and_reads_other_batches(chain: str) -> None:
    (stage,) = Compose(CHAINS[chain][0]).stages
    assert isinstance(stage, Fused)
    images, given = pictures(2 * COUNT).to("cuda"), keys(2 * COUNT).to("cuda")
    pixels, read = images[:COUNT].clone(), given[:COUNT].clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        stage.apply(pixels, stage.draw(read))  # what is made once
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = stage.apply(pixels, stage.draw(read))
    for chosen in (slice(COUNT, None), slice(COUNT)):
        pixels.copy_(images[chosen])
        read.copy_(given[chosen])
        graph.replay()
        assert torch.allclose(result, stage.apply(images[chosen], stage.draw(given[chosen])), atol=1e-5)


COMPILED: dict[str, list[Operation]] = {
    **{name: operations for name, (operations, _) in CHAINS.items()},
    "recipe": [RandomResizedCrop(16), RandomHorizontalFlip(), TrivialAugmentWide(16), Normalize(), RandomErasing()],
    "policies": [RandAugment(1), AutoAugment(), AugMix(width=2, depth=1)],
}


@pytest.mark.parametrize("chain", COMPILED)
def test_a_chain_compiles_as_one_graph(chain: str) -> None:
    """A branch on data, or anything that torch cannot trace, would break it."""
    torch.compiler.reset()  # one function is compiled here for all chains
    (stage,) = Compose(COMPILED[chain]).stages
    assert isinstance(stage, Fused)
    compiled = torch.compile(lambda x, k: stage.apply(x, stage.draw(k)), fullgraph=True, backend="eager")
    for first in (0, 4):
        images, given = pictures(8)[first : first + 4], keys(8)[first : first + 4]
        off = (compiled(images, given) - stage.apply(images, stage.draw(given))).abs() > 1e-5
        # as on a GPU: a level, or a centre between two pixels, may be rounded to the other side
        assert float(off.float().mean()) <= (0.002 if chain in ("recipe", "policies") else 0)


# Beside other libraries.


def test_modules_of_kornia_and_functions_stand_in_the_chain() -> None:
    given = batch(as_dtype(pictures(4), torch.uint8))
    sequence = kornia.augmentation.AugmentationSequential(kornia.augmentation.RandomVerticalFlip(p=1.0))
    chain = Compose(
        [RandomHorizontalFlip(1.0), sequence, lambda batch: batch.replaced({"twice": batch["image"] * 2}), Normalize()]
    )
    assert [type(stage).__name__ for stage in chain.stages] == ["Fused", "On", "_Checked", "Fused"]
    found = chain(given)
    expected = given["image"].float().flip(-1).flip(-2) / 255
    assert torch.allclose(found["twice"], expected * 2, atol=1e-6)
    assert torch.allclose(found["image"], Normalize()(batch(expected))["image"], atol=1e-5)
    noise = Compose([torch.nn.Dropout(), On("image", torch.nn.Dropout())])
    assert noise.stages[0].name != noise.stages[1].name  # type: ignore[attr-defined]


def test_a_list_is_fused_as_compose_fuses_it_and_composes_nest() -> None:
    operations = [RandomHorizontalFlip(), ColorJitter(0.2), Normalize()]
    given = batch(pictures(4))
    inner = Compose(operations[:1])
    for chain in (
        make_chain(operations, {}),
        make_chain([inner, *operations[1:]], {}),
        make_chain(Compose(operations), {}),
    ):
        (stage,) = chain
        assert stage(given)["image"].equal(Compose([inner, Compose(operations[1:])])(given)["image"])
