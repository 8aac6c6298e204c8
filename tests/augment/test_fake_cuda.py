"""Every operation on stand-ins for tensors of a GPU, which need none: what mixes tensors of the CPU and of the GPU, or
makes the host wait for the GPU, is found on any machine.

What an operation makes once for a device (tables, windows, banks) is made in a first run, before anything is noted.
Where there is a GPU, all run on that too.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from made import keys
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastload.augment
from fastload.augment import (
    MFCC,
    AddBankNoise,
    AddNoise,
    AugMix,
    AutoAugment,
    CenterCrop,
    ColorJitter,
    Compose,
    CorruptSpans,
    CutMix,
    DeleteTokens,
    EachText,
    GaussianBlur,
    GaussianNoise,
    HighPass,
    InfillText,
    InsertTokens,
    LowPass,
    MakeAttentionMask,
    MaskTokens,
    MelSpectrogram,
    MixUp,
    Normalize,
    On,
    PitchShift,
    RandAugment,
    RandomAffine,
    RandomAutocontrast,
    RandomClipping,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGain,
    RandomGamma,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPerspective,
    RandomPolarity,
    RandomPosterize,
    RandomResizedCrop,
    RandomReverb,
    RandomRotation,
    RandomSharpness,
    RandomShift,
    RandomSolarize,
    RandomVerticalFlip,
    ReplaceTokens,
    Resize,
    SpecAugment,
    SpeedPerturbation,
    SwapTokens,
    TimeStretch,
    TrivialAugmentWide,
    aeda,
    eval_classification,
    keyed,
    rate,
    train_classification,
)
from fastload.augment.operation import Operation
from fastload.augment.policies import Policy
from fastload.batch import Batch

BANK = torch.ones(3, 1000)
OPERATIONS: list[Any] = [
    RandomHorizontalFlip(), RandomVerticalFlip(), RandomCrop(12, padding=2, fill=0.5), CenterCrop(12), Resize(16),
    RandomResizedCrop(12), RandomAffine(10, (0.1, 0.1), (0.9, 1.1), 5, fill=0.5), RandomRotation(10),
    RandomPerspective(), ColorJitter(0.2, 0.2, 0.2, 0.1), RandomGrayscale(), RandomInvert(), Normalize(), RandomGamma(),
    RandomSolarize(), RandomPosterize(), RandomAutocontrast(), RandomEqualize(), RandomSharpness(), GaussianBlur(5),
    GaussianNoise(), RandomErasing(value=0.5), RandAugment(1), TrivialAugmentWide(24), AutoAugment(),
    AugMix(width=1, depth=1), MixUp(5), CutMix(5),
    RandomGain(p=0.7), RandomPolarity(), AddNoise(), AddNoise((0, 20), (0, 2)), AddBankNoise(bank=BANK),
    RandomReverb(bank=BANK), RandomShift(0.4), RandomShift(0.4, roll=True), RandomClipping(), SpeedPerturbation(),
    SpeedPerturbation(tuple(0.88 + i / 50 for i in range(13))), TimeStretch(n_fft=256), PitchShift(n_fft=256),
    LowPass(8000, (300, 3000)), HighPass(8000), MelSpectrogram(8000, n_mels=20), MFCC(8000, n_mels=20, n_mfcc=10),
    SpecAugment(field="gram"), SpecAugment(value="mean", field="gram"),
    MaskTokens(5, 1000, special=(1, 2)), MaskTokens(5, 1000, continues=torch.arange(1000) % 2 == 1),
    ReplaceTokens(1000, 0.3), DeleteTokens(0.3), InsertTokens(1000, 0.3), SwapTokens(0.5), MakeAttentionMask(),
    InfillText(5), CorruptSpans(999),
    train_classification(12), eval_classification(12),
    Compose(
        [RandomAffine(5), TrivialAugmentWide(), RandomPerspective(), RandomCrop(12), ColorJitter(0.1), Normalize()],
        masks="mask", boxes="boxes", keypoints="points",
    ),
]  # fmt: skip

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_linalg_check_errors", "equal.default")


# Of torch.use_deterministic_algorithms on CUDA: what then makes the host wait, unless it writes one value, and what is
# then an error, of floats.
WAITS_IF_SETTLED = ("aten.scatter", "aten.index_put", "aten.index_copy", "aten.index_add")
WRONG_IF_SETTLED = ("aten.cumsum", "aten.bincount", "aten.histc", "aten.put", "aten.kthvalue", "aten.median")


class Checked(TorchDispatchMode):
    """Notes operators that mix devices, copy between them or wait; and those that wait or are refused where torch is
    told to be deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.waits_if_settled: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tensors((args, kwargs))
        found = func(*args, **(kwargs or {}))
        devices = {each.device.type for each in given if each.ndim} | {each.device.type for each in tensors(found)}
        by_mask = "index" in str(func) and any(each.dtype == torch.bool for each in given[1:])
        refused = str(func).startswith(WRONG_IF_SETTLED) and tensors(found)[0].is_floating_point()
        called = f"{func}({', '.join(f'{each.device.type}{list(each.shape)}' for each in given)})"
        if len(devices) > 1 or by_mask or refused or any(wait in str(func) for wait in WAITS):
            self.wrong.append(called)
        if str(func).startswith(WAITS_IF_SETTLED) and ".value" not in str(func):
            self.waits_if_settled.append(called)
        return found


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [each for one in value for each in tensors(one)] if isinstance(value, list | tuple) else []


class MadeHere(dict[Any, torch.Tensor]):
    """In place of the constants that are made once for a device, which stand-ins are not kept as."""

    def get(self, key: Any, default: Any = None) -> torch.Tensor:
        values, dtype, device = key
        return torch.empty(len(values), dtype=dtype, device=device)


def given(dtype: torch.dtype = torch.uint8) -> Batch:
    """Fields of all kinds. To be called under a FakeTensorMode."""

    def made(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="cuda")

    count, whole = 8, torch.int64
    return Batch(
        {
            "image": made(count, 3, 20, 24, dtype=dtype), "label": made(count, dtype=whole),
            "mask": made(count, 20, 24), "boxes": made(count, 2, 4), "points": made(count, 3, 2),
            "audio": made(count, 1, 1600), "audio_length": made(count, dtype=whole),
            "gram": made(count, 1, 20, 50), "gram_length": made(count, dtype=whole),
            "tokens": made(count, 40, dtype=whole), "tokens_length": made(count, dtype=whole),
        },
        valid=made(count, dtype=torch.bool), sample_keys=made(count, dtype=whole),
    )  # fmt: skip


@contextmanager
def stand_ins() -> Iterator[Checked]:
    """All tensors that are made inside are stand-ins; what is kept for devices is kept for this block alone."""
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        patch.setattr(keyed, "_constants", MadeHere())
        patch.setattr(rate, "_kernel", functools.cache(rate._kernel))
        yield Checked()


def test_all_operations_are_here() -> None:
    public = {getattr(fastload.augment, name) for name in fastload.augment.__all__}
    wanted = {each for each in public if isinstance(each, type) and issubclass(each, Operation)} - {EachText}
    assert wanted == {type(each) for each in OPERATIONS if isinstance(each, Operation)}


def counts_or_packs(operation: Any) -> bool:
    """Whether it counts levels or moves tokens together, for which it scatters: what `fastload.augment` names."""
    if isinstance(operation, Compose):
        return any(counts_or_packs(each) for each in operation.operations)
    return isinstance(operation, Policy | RandomEqualize | DeleteTokens | InsertTokens | InfillText | CorruptSpans)


@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=[type(each).__name__ for each in OPERATIONS])
def test_nothing_mixes_devices_or_waits_for_the_gpu(number: int) -> None:
    operation = copy.deepcopy(OPERATIONS[number])
    operation.draw(torch.arange(2))  # tables of Beta distributions are numbers
    with stand_ins() as checked:
        operation(given())
        for dtype in (torch.uint8, torch.float32):
            batch = given(dtype)
            with checked:
                found = operation(batch)
            assert not checked.wrong
            assert bool(checked.waits_if_settled) == counts_or_packs(operation), checked.waits_if_settled
            assert {each.device.type for each in tensors(dict(found))} == {"cuda"}


def test_modules_and_functions_of_strings_draw_without_asking_the_device() -> None:
    """Of others' modules the loader only sets the seed. A tensor of "meta" has no content to ask for."""
    here = Batch({"x": torch.ones(4), "text": ["some words that change"] * 4}, sample_keys=torch.arange(4))
    there = here.to("meta")
    for batch in (here, there):
        found = On("x", lambda x: x + torch.rand(4).to(x.device))(batch)
        assert found["x"].device == batch["x"].device
    assert EachText("text", aeda)(there)["text"] == EachText("text", aeda)(here)["text"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.arange(8), lambda x: torch.arange(8)[x], lambda x: x[torch.arange(3)], lambda x: x.cpu(),
        lambda x: torch.arange(8).to("cuda"), lambda x: torch.tensor([1, 2], device="cuda"), lambda x: x[x > 0],
        lambda x: x.sum().item(), lambda x: torch.index_put(x, (x > 0,), x[:1]), lambda x: x.nonzero(),
        lambda x: torch.linalg.inv(x.float()[:, None, None]), lambda x: x.tolist(), lambda x: x[[0, 1]],
        lambda x: x.float().cumsum(0),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(wrong: Any) -> None:
    with stand_ins() as checked, suppress(RuntimeError):
        x = given()["label"]
        with checked:
            wrong(x)
        assert checked.wrong


# On a GPU itself.


def filled() -> Batch:
    """The fields of `given` with content, on the CPU."""
    generator, count = torch.Generator().manual_seed(0), 8
    number = torch.arange(count)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    return Batch(
        {
            "image": (uniform(count, 3, 20, 24) * 255).to(torch.uint8), "label": number % 5,
            "mask": uniform(count, 20, 24), "boxes": 20 * uniform(count, 2, 4), "points": 20 * uniform(count, 3, 2),
            "audio": uniform(count, 1, 1600) - 0.5, "audio_length": 1600 - 100 * number,
            "gram": uniform(count, 1, 20, 50), "gram_length": 50 - number,
            "tokens": 3 + (uniform(count, 40) * 900).to(torch.int64), "tokens_length": 40 - number,
        },
        valid=number < 7, sample_keys=keys(count),
    )  # fmt: skip


def test_stand_ins_are_of_what_is_real() -> None:
    real = filled()
    with stand_ins():
        made = given()
        assert list(made) == list(real)
        for one, other in zip(tensors(dict(made)), tensors(dict(real)), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype, it says
@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=[type(each).__name__ for each in OPERATIONS])
def test_no_operation_waits_for_a_gpu_that_is_there(number: int) -> None:
    operation, here = copy.deepcopy(OPERATIONS[number]), filled()
    there = here.to("cuda")
    operation(there)  # what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = operation(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    if isinstance(operation, MelSpectrogram | MFCC):
        assert torch.allclose(found["audio"].cpu(), operation(here)["audio"], atol=2e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=[type(each).__name__ for each in OPERATIONS])
def test_a_gpu_that_has_to_be_deterministic_refuses_no_operation(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch refuses matrix products
    operation, there = copy.deepcopy(OPERATIONS[number]), filled().to("cuda")
    torch.use_deterministic_algorithms(True)
    try:
        found, again = operation(there), operation(there)
    finally:
        torch.use_deterministic_algorithms(False)
    for field, value in found.items():
        assert value.equal(again[field]), field
