"""Modules of Kornia, torchaudio and anybody's in `augment=`: the field they run on, what they draw, what they leave."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.augmentation as kornia
import pytest
import torch
import torchaudio
from samples import SAMPLE_RATE, freeze

import fastload
from fastload.augment import Compose, Normalize, On, RandomHorizontalFlip, eda
from fastload.augment.chain import make_chain
from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.loader import DataLoader

Packed = Callable[..., Path]
IMAGE = {"image": fastload.Image(8), "label": fastload.Scalar()}
SIZES = [5, 1, 9, 8]


def run(data: Path, augment: Any, **options: Any) -> list[Batch]:
    return list(DataLoader(data, options.pop("batch_size", 5), augment=augment, **{"fields": IMAGE, **options}))


class Noise(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(x)


class Other(Noise):
    pass


class Chosen(torch.nn.Module):
    """As torchvision's RandomChoice and RandomOrder draw."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, random.random())


KORNIA = {
    "flip": kornia.RandomHorizontalFlip(p=0.5),
    "jitter": kornia.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0),
    "Python's": Chosen(),
    "sequence": kornia.AugmentationSequential(kornia.RandomVerticalFlip(), kornia.RandomErasing(p=1.0)),
}


@pytest.mark.parametrize("module", KORNIA.values(), ids=KORNIA)
def test_modules_of_kornia_draw_the_same_in_a_resumed_run_and_leave_torchs_generator(
    packed: Packed, module: torch.nn.Module
) -> None:
    data = packed("tar", SIZES)
    torch.manual_seed(5)
    before, pythons = torch.get_rng_state(), random.getstate()
    batches = run(data, [module])
    assert torch.get_rng_state().equal(before), "the user's own random numbers moved"
    assert random.getstate() == pythons
    plain = run(data, None)
    assert batches[0]["image"].dtype == torch.float32
    assert batches[0]["image"].shape == (5, 3, 8, 8)
    assert any(not b["image"].allclose(p["image"] / 255) for b, p in zip(batches, plain, strict=True))
    torch.manual_seed(6)
    other = DataLoader(data, 5, fields=IMAGE, augment=[module], num_workers=2)
    other.load_state_dict(batches[1].state or {})
    assert [freeze(batch["image"]) for batch in other] == [freeze(batch["image"]) for batch in batches[2:]]


def test_a_spectrogram_of_torchaudio_runs_on_the_audio_field(packed: Packed) -> None:
    data = packed("tar", SIZES, ("image", "audio", "label"))
    fields = {"image": fastload.Image(8), "audio": fastload.Audio(SAMPLE_RATE, 0.02)}
    spectrogram = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=64, hop_length=32, n_mels=8)
    batches = run(data, [spectrogram], fields=fields, shuffle=False)
    plain = run(data, None, fields=fields, shuffle=False)
    for batch, before in zip(batches, plain, strict=True):
        assert batch["audio"].equal(spectrogram(before["audio"]))
        assert batch["image"].equal(before["image"])
        assert batch["audio_length"].equal(before["audio_length"])


def test_what_a_module_is_given(packed: Packed) -> None:
    seen: list[torch.Tensor] = []

    class Look(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    data = packed("tar", SIZES, ("image", "tokens", "label"))
    fields = {**IMAGE, "tokens": fastload.Tokens(3)}
    (plain,) = run(data, None, fields=fields, batch_size=23)
    run(data, [On("image", Look()), On("tokens", Look()), On("label", Look())], fields=fields, batch_size=23)
    pixels, tokens, labels = seen
    assert pixels.dtype == torch.float32
    assert pixels.equal(plain["image"].float() / 255)
    assert tokens.equal(plain["tokens"]), "only pixels are scaled"
    assert tokens.dtype == torch.int64
    assert labels.equal(plain["label"])


def test_operations_run_in_their_order_whatever_they_are(packed: Packed) -> None:
    data = packed("tar", SIZES)
    chain = [RandomHorizontalFlip(), Normalize(), lambda batch: batch.replaced({"twice": batch["image"] * 2})]
    flipped = run(data, [chain[0]])
    for batch, before in zip(run(data, chain), flipped, strict=True):
        assert batch["twice"].equal(Normalize()(before)["image"] * 2)


def test_one_operation_needs_no_list(packed: Packed) -> None:
    data = packed("tar", SIZES)
    one, several = run(data, Normalize()), run(data, (Normalize(),))
    assert [freeze(batch["image"]) for batch in one] == [freeze(batch["image"]) for batch in several]
    sequence = torch.nn.Sequential(kornia.RandomHorizontalFlip(p=1.0))
    flipped = run(data, sequence)
    assert flipped[0]["image"].flip(-1).allclose(run(data, None)[0]["image"] / 255)


# What random modules draw.


def drawn(packed: Packed, *modules: Any, **options: Any) -> list[torch.Tensor]:
    """What each of the modules, on the field of its own that it is given here, draws for the first batch."""
    data = packed("tar", SIZES)
    noises: list[torch.Tensor] = []

    def keep(batch: Batch) -> Batch:
        noises.append(batch["image"])
        return batch

    chain = [each for module in modules for each in (module, keep)]
    next(iter(DataLoader(data, 5, fields=IMAGE, augment=chain, **options)))
    return noises


def test_several_random_modules_draw_apart(packed: Packed) -> None:
    noises = drawn(packed, Noise(), Other(), Noise(), On("image", Noise()))
    assert len({freeze(noise) for noise in noises}) == 4
    assert drawn(packed, Noise())[0].equal(noises[0])
    assert drawn(packed, Normalize(), Noise())[1].equal(noises[0]), "an operation put in front changes no draw"


def test_draws_differ_from_batch_to_batch_epoch_to_epoch_rank_to_rank_and_by_seed(packed: Packed) -> None:
    data = packed("tar", SIZES)
    loaders = [
        DataLoader(data, 5, fields=IMAGE, augment=Noise(), rank=rank, world_size=2, seed=seed)
        for rank, seed in ((0, 0), (1, 0), (0, 1))
    ]
    noises = [batch["image"] for loader in loaders for _ in range(2) for batch in loader]
    assert len({freeze(noise) for noise in noises}) == len(noises) == 18


def test_the_generator_is_put_back_after_an_error(packed: Packed) -> None:
    class Fails(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(3)
            raise ArithmeticError("no")

    before = torch.get_rng_state()
    with pytest.raises(ArithmeticError):
        run(packed("tar", SIZES), Fails())
    assert torch.get_rng_state().equal(before)


def test_what_draws_after_a_function_that_makes_a_batch_anew_draws_as_ever(packed: Packed) -> None:
    data, options = packed("tar", SIZES), {"fields": IMAGE, "num_workers": 1}
    for random_part in (Noise(), RandomHorizontalFlip()):
        anew = [lambda batch: Batch({"image": batch["image"]}), random_part]
        same = [lambda batch: batch, random_part]
        found = [freeze(batch["image"]) for batch in run(data, anew, **options)]
        assert found == [freeze(batch["image"]) for batch in run(data, same, **options)]
        assert len(set(found)) == len(found) == 5
    fewer = [lambda batch: Batch({"size": 1, "image": batch["image"][1:]}), Noise()]
    found = [freeze(batch["image"]) for batch in run(data, fewer, **options)]
    assert len(set(found)) == len(found), "other rows have no keys of their own, and batches draw apart all the same"


def test_a_batch_that_is_made_anew_has_the_same_valid_rows(packed: Packed) -> None:
    anew = run(packed("tar", SIZES), lambda b: Batch({"label": b["label"]}), batch_size=8, last_batch="pad")
    assert [None if b.valid is None else int(b.valid.sum()) for b in anew] == [8, 8, 7]
    own = torch.tensor([True, False])
    given = Batch({"x": torch.zeros(2)}, valid=torch.ones(2, dtype=torch.bool), sample_keys=torch.tensor([1, 2]))
    (function,) = make_chain([lambda b: Batch({"x": b["x"]}, valid=own)], {})
    assert function(given).valid is own, "what the function says itself holds"
    (function,) = make_chain([lambda b: Batch({"x": b["x"][:1]})], {})
    assert function(given).valid is None, "of other rows nothing is known"
    (function,) = make_chain([lambda b: Batch({"x": b["x"]})], {})
    assert function(given.to("meta")).host_keys is given.sample_keys, "a GPU is not waited for"


def test_a_batch_made_by_hand_is_augmented_too() -> None:
    batch = Batch({"x": torch.zeros(2, 3)})
    assert On("x", Noise())(batch)["x"].equal(On("x", Noise())(batch)["x"])
    assert batch["x"].equal(torch.zeros(2, 3))


@pytest.mark.gpu
def test_generators_of_the_gpu_are_put_back_and_draws_there_are_repeatable(packed: Packed) -> None:
    torch.cuda.manual_seed_all(3)
    cuda, cpu = torch.cuda.get_rng_state_all(), torch.get_rng_state()
    first = [freeze(b["image"].cpu()) for b in run(packed("tar", SIZES), [Noise(), KORNIA["jitter"]], device="cuda")]
    again = [freeze(b["image"].cpu()) for b in run(packed("tar", SIZES), [Noise(), KORNIA["jitter"]], device="cuda")]
    run(packed("tar", SIZES), [Noise()], device="cpu")
    assert first == again
    assert torch.get_rng_state().equal(cpu)
    assert all(now.equal(then) for now, then in zip(torch.cuda.get_rng_state_all(), cuda, strict=True))


# Which field, and what is refused.

TWO = {"image": fastload.Image(8), "depth": fastload.Image(8, mode="L"), "sound": fastload.Audio()}


@pytest.mark.parametrize(
    ("module", "fields", "message"),
    [
        (KORNIA["flip"], TWO, r"RandomHorizontalFlip: several fields could be meant \('image', 'depth'\); say which: "),
        (Noise(), TWO, r"Noise: several fields could be meant \('image', 'depth', 'sound'\)"),
        (KORNIA["flip"], {"x": fastload.Audio()}, "RandomHorizontalFlip: no field of that kind is declared"),
        (torchaudio.transforms.Vol(1.0), {"x": fastload.Image(8)}, "Vol: no field of that kind is declared"),
        (Noise(), {"x": fastload.Tokens(3)}, r"say which: fastload.augment.On\('name', Noise\(...\)\)"),
    ],
)
def test_a_module_whose_field_is_not_clear_is_refused(
    module: torch.nn.Module, fields: dict[str, fastload.fields.Field], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_chain([module], fields)


def test_a_modules_field_is_found_by_its_library() -> None:
    chain = make_chain(
        [KORNIA["flip"], torchaudio.transforms.Vol(1.0)], {"a": fastload.Audio(), "i": fastload.Image(8)}
    )
    assert [operation.field for operation in chain] == ["i", "a"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("augment", [5, object(), {"image": 1}, "flip"])
def test_what_is_no_list_of_operations_is_refused(augment: Any) -> None:
    with pytest.raises(ConfigError, match=r"augment=.*: pass a list of operations"):
        make_chain(augment, {})


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="augment: None cannot be called; pass operations, torch modules or functions"
    ):
        make_chain([Normalize(), None], {})
    assert make_chain(None, {}) == []


@pytest.mark.parametrize("function", [eda, functools.partial(eda, share=0.3)])
def test_functions_of_strings_say_how_they_are_used(function: Any) -> None:
    with pytest.raises(ConfigError, match=r"augment: eda changes a string and not .* EachText\('text', eda\)"):
        make_chain([function], {})


def test_a_field_that_is_missing_or_a_list_is_refused() -> None:
    batch = Batch({"x": torch.zeros(1), "text": ["a"]})
    for name in ("y", "text"):
        with pytest.raises(ConfigError, match=rf"On\('{name}', Noise\(\)\): the batch has no tensor '{name}'; it has"):
            On(name, Noise())(batch)


def test_a_class_in_place_of_an_operation_is_refused() -> None:
    message = r"RandomHorizontalFlip is a class; pass an instance, RandomHorizontalFlip\(...\)"
    for make in (lambda: make_chain([RandomHorizontalFlip], {}), lambda: make_chain(RandomHorizontalFlip, {})):
        with pytest.raises(ConfigError, match=f"augment: {message}"):
            make()
    with pytest.raises(ConfigError, match=f"Compose: {message}"):
        Compose([RandomHorizontalFlip])


@pytest.mark.parametrize(
    "gives", [lambda b: None, lambda b: b["image"], lambda b: {**b}], ids=["None", "tensor", "dict"]
)
def test_a_function_that_gives_back_no_batch_is_refused(packed: Packed, gives: Callable[[Batch], Any]) -> None:
    with pytest.raises(ConfigError, match=r"gave back (NoneType|Tensor|dict), not a batch; return it, changed by e.g."):
        run(packed("tar", SIZES), [gives])


# Several fields at once.


def test_a_module_on_several_fields_moves_them_alike() -> None:
    images = torch.zeros(6, 3, 24, 24, dtype=torch.uint8)
    images[:, :, 4:10, 6:20] = 255
    mask = (images[:, :1] > 0).long() * 7
    module = kornia.AugmentationSequential(
        kornia.RandomHorizontalFlip(), kornia.RandomVerticalFlip(), data_keys=["input", "mask"]
    )
    batch = Batch({"image": images, "mask": mask})
    found = Compose([On(("image", "mask"), module)], masks="mask")(batch)
    assert found["mask"].dtype == torch.int64
    assert found["mask"][:, 0].equal((found["image"][:, 0] > 0.5).long() * 7)
    assert not found["mask"].equal(mask)
    with pytest.raises(ConfigError, match=r"AugmentationSequential takes 2 tensors \(data_keys\), and fields are"):
        make_chain([module], IMAGE)
    with pytest.raises(ConfigError, match=r"the module must give 2 tensors; it gave Tensor"):
        On(("image", "mask"), lambda image, mask: image)(batch)
