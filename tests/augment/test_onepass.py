"""The one kernel of geometry, colour and erasing beside torch's passes: interpreted on a CPU, on a GPU where there is
one, and compiled for GPUs that are not there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreting import by_torch, interpreted, kernels_on, put_back, triton
from made import DEVICES, as_dtype, keys, pictures

from fastload.augment import (
    CenterCrop,
    ColorJitter,
    Compose,
    GaussianBlur,
    Normalize,
    RandomAffine,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPerspective,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    gpu,
    onepass,
)
from fastload.augment.fused import Fused
from fastload.augment.onepass import OnePass
from fastload.augment.operation import Operation

COUNT = 2
LEVEL = {torch.uint8: 1, torch.uint16: 60, torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-4}


def fused(operations: list[Operation]) -> Fused:
    (stage,) = Compose(operations).stages
    assert isinstance(stage, Fused)
    return stage


def assert_same(operations: list[Operation], images: torch.Tensor, outliers: float = 2e-3) -> None:
    """Kernel and torch agree, but for a few pixels that lie on an edge between two, or between two levels."""
    stage, device, launched = fused(operations), images.device.type, []  # type: ignore[var-annotated]
    drawn = stage.draw(keys(len(images)).to(device))
    with kernels_on(device, "one_pass", launched):
        found = stage.apply(images, drawn)
    with by_torch():
        expected = stage.apply(images, drawn)
    assert launched
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
    off = (found.to(torch.float64) - expected.to(torch.float64)).abs() > LEVEL[found.dtype]
    assert off.to(torch.float32).mean() <= outliers, f"{off.sum()} of {off.numel()} differ"


GEOMETRY: dict[str, list[Operation]] = {
    "none": [],
    "flips": [RandomHorizontalFlip(), RandomVerticalFlip()],
    "crop": [RandomCrop((13, 14), padding=3, fill=0.3), RandomHorizontalFlip()],
    "letterbox": [CenterCrop((16, 22), fill=0.6)],
    "affine": [RandomHorizontalFlip(), RandomAffine(25, (0.2, 0.2), (0.7, 1.4), 10)],
    "filled": [RandomAffine(40, (0.3, 0.3), fill=0.4)],
    "border": [RandomRotation(60, padding="border")],
    "reflection": [RandomAffine(60, (0.6, 0.6), (0.3, 0.6), padding="reflection")],
    "nearest": [RandomAffine(33.3, (0.2, 0.2), (0.77, 1.3), mode="nearest")],
    "perspective": [RandomPerspective(0.6, p=1.0), RandomAffine(10), CenterCrop((9, 11))],
    "plain resize": [Resize((17, 9), antialias=False)],
}
COLOUR: dict[str, list[Operation]] = {
    "none": [],
    "jitter": [ColorJitter(0.4, 0.4, 0.4), RandomGrayscale(0.5)],
    "normalised": [ColorJitter(0.4, (0.2, 2.0), 0.4), RandomInvert(), Normalize()],
    "scaled": [Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))],
    "halved": [RandomGrayscale(0.5), Normalize(dtype=torch.float16)],
    "bfloat16": [Normalize(dtype=torch.bfloat16)],
}


def made(count: int, channels: int, dtype: torch.dtype, layout: str, height: int = 20, width: int = 24) -> torch.Tensor:
    images = pictures(count, height, width, channels)
    images = (images * 65535).round().to(torch.uint16) if dtype == torch.uint16 else as_dtype(images, dtype)
    if layout == "last":
        return images.contiguous(memory_format=torch.channels_last)
    if layout == "cut":  # neither
        wide = torch.zeros(count, channels, height, 2 * width, dtype=dtype)
        wide[..., ::2] = images
        return wide[..., ::2]
    return images


def one_channel(operations: list[Operation]) -> list[Operation]:
    return [Normalize((0.4,), (0.2,), dtype=o.dtype) if isinstance(o, Normalize) else o for o in operations]


ALL = [("cpu", geometry, colour) for geometry in GEOMETRY for colour in COLOUR]
# a GPU has a kernel to compile for each
SOME = {*((geometry, "normalised") for geometry in GEOMETRY), *(("affine", colour) for colour in COLOUR)}


@pytest.mark.parametrize(
    ("device", "geometry", "colour"),
    [*ALL, *(pytest.param("cuda", *of, marks=pytest.mark.gpu) for of in sorted(SOME))],
)
def test_bytes_in_channels_last(device: str, geometry: str, colour: str) -> None:
    operations = [*GEOMETRY[geometry], *COLOUR[colour]]
    if any(isinstance(each, OnePass) for each in (fused(operations).passes if operations else [])):
        images = made(COUNT, 3, torch.uint8, "last").to(device)
        assert_same([*operations, *([RandomErasing(1.0, value=0.25)] if COLOUR[colour] else [])], images)
    else:
        assert not COLOUR[colour]  # nothing at all, or what only copies


MEMORY = [
    *((3, layout, dtype) for layout in ("first", "last", "cut") for dtype in LEVEL),
    *((1, "first", d) for d in LEVEL),
]


@pytest.mark.parametrize(("channels", "layout", "dtype"), MEMORY)
@pytest.mark.parametrize("device", DEVICES)
def test_any_dtype_and_memory_format(channels: int, layout: str, dtype: torch.dtype, device: str) -> None:
    chains = [
        [*GEOMETRY["affine"], *COLOUR["jitter"], RandomErasing(1.0, value=0.5)],
        [*GEOMETRY["crop"], RandomErasing(1.0, value=0.5)],
        [*GEOMETRY["filled"], *COLOUR["normalised"]],
        [*COLOUR["halved"], RandomAffine(10, fill=-2.0), RandomErasing(1.0, value=2.0)],
    ]
    if layout != "last":
        chains = chains[:2]
    if channels == 1:
        chains = [one_channel(chain) for chain in (*chains, [*GEOMETRY["flips"], *COLOUR["scaled"]])]
    for chain in chains:
        assert_same(chain, made(COUNT, channels, dtype, layout).to(device))


def test_halves_are_rounded_to_the_even_number() -> None:
    numbers = torch.tensor([0.5, 1.5, 2.5, 0.49999997, 254.5, 255.5, -0.5, 7.0, 300.0])[None, None, None]
    out, unused = torch.empty(numbers.shape, dtype=torch.uint8), torch.zeros(1)
    with put_back():
        interpreted().one_pass[(1,)](
            numbers, out, unused, unused, unused, unused, unused,
            1, 9, 9, 9, 1, *numbers.stride(), *out.stride(), 0, 1, 0.0, 0.0, 1.0, 255.0,
            CHANNELS=1, MOVE="", PADDING="zeros", PROJECTIVE=False, COLOUR="", ERASE=False, ROUND=True, MEANS=False,
            BLOCK=16,
        )  # fmt: skip
    assert out.flatten().tolist() == [0, 2, 2, 0, 254, 255, 0, 7, 255]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    geometry=st.sampled_from(sorted(GEOMETRY)),
    colour=st.sampled_from(sorted(COLOUR)),
    erasing=st.booleans(),
    between=st.sampled_from([None, RandomEqualize(1.0), GaussianBlur(3)]),
    size=st.tuples(st.integers(5, 20), st.integers(5, 20)),
    dtype=st.sampled_from(sorted(LEVEL, key=str)),
    layout=st.sampled_from(["first", "last", "cut"]),
)
def test_any_chain(
    geometry: str,
    colour: str,
    erasing: bool,
    between: Operation | None,
    size: tuple[int, int],
    dtype: torch.dtype,
    layout: str,
) -> None:
    moved = [o for o in GEOMETRY[geometry] if not isinstance(o, RandomCrop)]
    operations = [*COLOUR["jitter"], *([between] if between else []), *moved, *COLOUR[colour]]
    operations += [RandomErasing(1.0)] if erasing else []
    outliers = 0.05 if isinstance(between, RandomEqualize) else 2e-3  # which sees another level
    assert_same(operations, made(COUNT, 3, dtype, layout, *size), outliers)


@pytest.mark.parametrize("device", DEVICES)
def test_a_sample_is_the_same_alone_and_again(device: str) -> None:
    stage = fused([*GEOMETRY["affine"], *COLOUR["normalised"], RandomErasing(1.0)])
    images, of = made(3, 3, torch.uint8, "last", 20, 20).to(device), keys(3).to(device)
    with kernels_on(device, "one_pass"):
        whole = stage.apply(images, stage.draw(of))
        assert stage.apply(images, stage.draw(of)).equal(whole)
        assert stage.apply(images[1:2], stage.draw(of[1:2])).equal(whole[1:2])


def kinds(operations: list[Operation]) -> list[str]:
    return [type(each).__name__ if isinstance(each, OnePass) else "torch" for each in fused(operations).passes]


def test_which_groups_become_one_pass() -> None:
    six = [*GEOMETRY["affine"], *COLOUR["normalised"], RandomErasing()]
    assert kinds(six) == ["OnePass"]
    assert kinds([RandomHorizontalFlip(), *COLOUR["scaled"]]) == ["OnePass"]
    assert kinds([RandomHorizontalFlip(), RandomVerticalFlip()]) == ["torch"]
    assert kinds([RandomErasing(), RandomHorizontalFlip()]) == ["torch", "torch"]
    assert kinds([RandomErasing(), RandomAffine(10)]) == ["torch", "OnePass"]
    assert kinds([Resize(20), CenterCrop(16), Normalize()]) == ["torch", "OnePass"]
    assert kinds([ColorJitter(hue=0.1), Normalize(), RandomErasing()]) == ["torch", "torch"]
    assert kinds([RandomAffine(5), Normalize(dtype=torch.float64), RandomErasing()]) == ["OnePass", "torch", "torch"]
    assert kinds([ColorJitter(0.1), RandomAffine(5), ColorJitter(0.2), RandomErasing()]) == ["OnePass", "OnePass"]
    assert kinds([RandomAffine(5), RandomEqualize(), ColorJitter(0.1)]) == ["OnePass", "torch", "OnePass"]
    first, _, last = fused([RandomAffine(5), RandomEqualize(), ColorJitter(0.1)]).passes
    assert isinstance(first, OnePass)
    assert isinstance(last, OnePass)
    assert (first.last, last.last) == (False, True)
    (unfused,) = Compose([RandomAffine(5)], fuse=False).stages
    assert isinstance(unfused, Fused)
    assert not isinstance(unfused.passes[0], OnePass)


def test_contrast_costs_one_launch_more() -> None:
    images = made(COUNT, 3, torch.uint8, "last")
    for jitter, launches in ((ColorJitter(0.4, 0, 0.4), 1), (ColorJitter(0.4, 0.4), 2)):
        stage, launched = fused([RandomAffine(10), jitter, Normalize()]), []  # type: ignore[var-annotated]
        with kernels_on("cpu", "one_pass", launched):
            stage.apply(images, stage.draw(keys(COUNT)))
        assert len(launched) == launches


@pytest.mark.parametrize("operation", [RandomAffine(10), ColorJitter(0.3, 0.3, 0.3), RandomGrayscale(0.5)], ids=str)
def test_an_operation_alone_gives_the_bits_that_it_gives_without_a_chain(operation: Operation) -> None:
    images, stage = made(8, 3, torch.uint16, "first"), fused([operation])
    drawn = stage.draw(keys(len(images)))
    with by_torch():
        assert stage.apply(images, drawn).equal(operation.apply(images, drawn[operation.name]))


@pytest.mark.parametrize(
    "images",
    [
        made(2, 3, torch.float32, "first").double(),
        torch.rand(2, 2, 8, 8),
        torch.rand(2, 3, 8, 8).requires_grad_(),
        torch.zeros(0, 3, 8, 8),
    ],
    ids=["float64", "two channels", "gradients", "empty"],
)
def test_what_the_kernel_is_not_for_torch_does(images: torch.Tensor) -> None:
    stage, launched = fused([RandomAffine(10), RandomErasing()]), []  # type: ignore[var-annotated]
    drawn = stage.draw(keys(len(images)))
    with kernels_on("cpu", "one_pass", launched):
        found = stage.apply(images, drawn)
    with by_torch():
        assert found.equal(stage.apply(images, drawn))
    assert not launched
    if images.requires_grad:
        found.sum().backward()
        assert images.grad is not None
        with torch.no_grad(), kernels_on("cpu", "one_pass", launched):
            stage.apply(images, drawn)
        assert launched


@pytest.mark.parametrize("inside", ["vmap", "jvp", "dual_level", "trace"])
def test_what_torch_follows_on_its_own_ways_is_torchs(inside: str) -> None:
    stage, launched = fused([RandomGrayscale(1.0), RandomErasing(1.0)]), []  # type: ignore[var-annotated]
    images, drawn = torch.rand(2, 2, 3, 8, 8), stage.draw(keys(2))

    def apply(images: torch.Tensor) -> torch.Tensor:
        return stage.apply(images, drawn)

    def derived() -> torch.Tensor:
        if inside == "vmap":
            return torch.func.vmap(apply)(images)
        if inside == "jvp":
            return torch.func.jvp(apply, (images[0],), (images[1],))[1]  # type: ignore[no-any-return]
        if inside == "trace":
            return torch.jit.trace(apply, images[0], check_trace=False)(images[1])  # type: ignore[no-any-return]
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(images[0], images[1])
            tangent = torch.autograd.forward_ad.unpack_dual(apply(dual)).tangent
            assert tangent is not None
            return tangent

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)  # vmap's, of speed
        with kernels_on("cpu", "one_pass", launched):
            found = derived()
            assert not gpu._gave_up
        with by_torch():
            assert found.equal(derived())
    assert not launched


@pytest.mark.parametrize("operation", [RandomAffine(10), RandomGrayscale(1.0), RandomErasing(1.0)], ids=str)
def test_parameters_of_fewer_samples_are_an_error_as_torchs(operation: Operation) -> None:
    stage, launched = fused([operation, Normalize()]), []  # type: ignore[var-annotated]
    if isinstance(operation, RandomErasing):
        stage = fused([Normalize(), operation])
    images, drawn = made(3, 3, torch.uint8, "last"), stage.draw(keys(2))
    with by_torch(), pytest.raises(RuntimeError):
        stage.apply(images, drawn)
    with kernels_on("cpu", "one_pass", launched), pytest.raises(RuntimeError, match="expanded size"):
        stage.apply(images, drawn)
    assert not launched


def test_a_kernel_is_not_given_what_it_cannot_reach() -> None:
    (one,) = fused([RandomAffine(10), RandomErasing()]).passes
    assert isinstance(one, OnePass)
    memory = torch.empty(1, device="meta")
    with kernels_on("cpu", "one_pass"):
        for stride, fits in ((2**29, True), (2**30, False)):
            images = memory.as_strided((2, 3, 4, 4), (16, stride, 4, 1))  # a few pixels of many, far apart
            assert one.fits(onepass.Pixels(images, torch.float32, 1.0), [{"angle": memory}]) == fits
        elsewhere = {"angle": torch.zeros(2)}
        images = memory.as_strided((2, 3, 4, 4), (48, 16, 4, 1))
        assert not one.fits(onepass.Pixels(images, torch.float32, 1.0), [elsewhere])


def build_of(launch: dict[str, Any]) -> list[tuple[str, Any]]:
    """Of each argument the type, and what else a kernel is compiled for, as Triton finds it when it launches one."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel = gpu.kernels().one_pass
    bind = create_function_from_signature(kernel.signature, kernel.params, make_backend(GPUTarget("cuda", 90, 32)))
    return list(bind(**launch)[1])


@pytest.mark.parametrize("layout", ["first", "last"])
def test_sizes_and_the_last_batch_need_no_other_build(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    stage, launched = fused([*GEOMETRY["affine"], *COLOUR["normalised"], RandomErasing(1.0)]), []  # type: ignore[var-annotated]
    for count, height, width in ((2, 16, 32), (3, 16, 16), (1, 16, 16), (2, 17, 16), (2, 16, 19), (2, 5, 7), (2, 1, 3)):
        images = made(count, 3, torch.uint8, layout, height, width)
        for some in (images, images[1:]):  # at an address that 16 may not divide
            if len(some):
                with kernels_on("cpu", "one_pass", launched):
                    stage.apply(some, stage.draw(keys(len(some))))
    builds = [build_of(launch) for launch in launched]
    assert len({str(build) for build in builds}) == 2  # for the sums, and for the rest

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = gpu.kernels().one_pass
    for launch, build in zip(launched[:2], builds, strict=False):
        signature = {name: kind for name, (kind, _) in zip(kernel.arg_names, build, strict=True)}
        constants = {name: launch[name] for name, kind in signature.items() if kind == "constexpr"}
        assert constants["column_stride" if layout == "first" else "channel_stride"] == 1
        triton.compile(ASTSource(kernel, signature, constexprs=constants), target=GPUTarget("cuda", 90, 32))


POINTERS = {"sums", "matrices", "colours", "limits", "boxes"}
BUILDS: dict[str, tuple[str, str, dict[str, Any]]] = {  # pixels read, written, constants
    "sums": ("u8", "u8", {"MEANS": True, "COLOUR": "", "ERASE": False}),
    "six": ("u8", "fp32", {}),
    "bfloat16": ("u16", "bf16", {"COLOUR": "scale"}),
    "rounded": ("fp16", "u8", {"MOVE": "nearest", "PADDING": "reflection", "PROJECTIVE": True, "ROUND": True}),
    "grey": ("bf16", "fp16", {"CHANNELS": 1, "MOVE": "index"}),
    "in place": ("fp32", "u16", {"MOVE": "", "ROUND": True}),
}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("build", BUILDS)
def test_it_is_compiled_for_gpus(build: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To machine code, by NVIDIA's assembler: A100 and H100."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = gpu.kernels()
    read, written, changed = BUILDS[build]
    constants = {"CHANNELS": 3, "MOVE": "bilinear", "PADDING": "zeros", "PROJECTIVE": False, "COLOUR": "matrix"}
    constants |= {"ERASE": True, "ROUND": False, "MEANS": False, "BLOCK": kernels.BLOCK, **changed}
    signature = {}
    for name in kernels.one_pass.arg_names:
        pointers = {"images": f"*{read}", "out": f"*{written}", **dict.fromkeys(POINTERS, "*fp32")}
        floats = dict.fromkeys(("fill", "erased", "scale", "top"), "fp32")
        signature[name] = "constexpr" if name in constants else (pointers | floats).get(name, "i32")
    found = triton.compile(
        ASTSource(kernels.one_pass, signature, constexprs=constants), target=GPUTarget("cuda", capability, 32)
    )
    assert f".target sm_{capability}" in found.asm["ptx"]
    assert found.asm["cubin"][:4] == b"\x7fELF"
    if constants["COLOUR"] == "matrix":  # what is no number stays none, as by torch; the interpreter's always does
        assert found.asm["ptx"].count("max.NaN.f32") >= constants["CHANNELS"]
