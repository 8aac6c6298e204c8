from __future__ import annotations

from typing import Any

import pytest
import torch
from conformance import chi_squared_z
from made import DEVICES, as_dtype, assert_no_loop_and_no_wait, batch, keys, pictures
from torchvision.transforms import v2

from fastload.augment import Compose, CutMix, MixUp, RandomHorizontalFlip
from fastload.augment.mix import beta, partners
from fastload.batch import Batch
from fastload.errors import ConfigError


def labelled(count: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Batch:
    return batch(as_dtype(pictures(count), dtype), label=torch.arange(count) % 5).to(device)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 2.0, 8.0])
def test_weights_are_of_the_beta_distribution(alpha: float) -> None:
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    x = beta(u.float(), alpha).double()
    assert bool(((x >= 0) & (x <= 1)).all())
    assert bool((x.diff() >= -1e-6).all())
    assert float(x.mean()) == pytest.approx(0.5, abs=1e-3)
    assert float(x.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=2e-3)
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))  # central moment of Beta(a, a)
    assert float(((x - 0.5) ** 4).mean()) == pytest.approx(fourth, rel=4e-3)
    torch.manual_seed(0)
    exact = torch.tensor(alpha, dtype=torch.float64)
    theirs = torch.distributions.Beta(exact, exact).sample((20_000,))
    folded = torch.minimum(theirs, 1 - theirs)  # near 1, float32 has no numbers left to tell apart
    counts = torch.bincount(torch.bucketize(folded, x[5000:100_000:5000].contiguous()), minlength=20)
    assert abs(chi_squared_z(counts, 1000.0)) < 4


def test_weights_do_not_depend_on_torchs_default_device() -> None:
    u = torch.tensor([0.25])
    with torch.device("meta"):
        found = beta(u, 0.35)  # whose table no other test makes
    assert 0 < float(found) < 0.25


def test_an_alpha_that_is_a_tensor_is_a_number() -> None:
    """A tensor would find no table that was computed before."""
    operation = MixUp(5, alpha=torch.tensor(0.5))  # type: ignore[arg-type]
    assert type(operation.alpha) is float
    assert operation == MixUp(5, alpha=0.5)


def test_partners_are_a_ring_of_the_valid_rows() -> None:
    for rows in range(1, 12):
        for padding in range(rows + 1):
            valid = torch.arange(rows) < rows - padding
            found = partners(torch.rand(rows), valid)
            assert sorted(found.tolist()) == list(range(rows))
            assert found[~valid].equal(torch.arange(rows)[~valid])
            if rows - padding >= 2:
                assert not bool((found == torch.arange(rows))[valid].any())
                assert bool(valid[found[valid]].all())
    pairs = torch.stack(
        [partners(row, None) for row in torch.rand(4000, 5, generator=torch.Generator().manual_seed(0))]
    )
    for row in range(5):
        counts = torch.bincount(pairs[:, row], minlength=5)
        assert counts[row] == 0
        assert abs(chi_squared_z(counts[[i for i in range(5) if i != row]], 1000.0)) < 4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32], ids=str)
def test_mixup(device: str, dtype: torch.dtype) -> None:
    given = labelled(12, device, dtype)
    operation = MixUp(5, alpha=1.0)
    params = operation.draw(given.sample_keys)  # type: ignore[arg-type]
    found = operation(given)
    weight, partner = params["weight"].cpu(), params["partner"].cpu()
    images, labels = given["image"].cpu().float(), given["label"].cpu()
    expected = images * weight[:, None, None, None] + images[partner] * (1 - weight[:, None, None, None])
    assert found["image"].dtype == dtype
    off = (found["image"].cpu().float() - expected).abs().max()
    assert off <= {torch.uint8: 0.501, torch.float16: 5e-4, torch.float32: 1e-6}[dtype]
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    mixed = one_hot * weight[:, None] + one_hot[partner] * (1 - weight[:, None])
    assert torch.allclose(found["label"].cpu(), mixed, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_cutmix_labels_are_the_area_seen(device: str, dtype: torch.dtype) -> None:
    count = 40
    planes = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 20, 24).to(dtype)
    given = batch(planes, label=torch.arange(count)).to(device)
    found = CutMix(count)(given)
    params = CutMix(count).draw(given.sample_keys)  # type: ignore[arg-type]
    image, label, partner = found["image"].cpu(), found["label"].cpu(), params["partner"].cpu()
    assert image.dtype == dtype
    for i in range(count):
        own = (image[i, 0] == i).float().mean()
        assert float(label[i, i]) == pytest.approx(float(own), abs=1e-5)
        assert float(label[i, partner[i]]) == pytest.approx(
            float((image[i, 0] == int(partner[i])).float().mean()), abs=1e-5
        )
        assert float(label[i].sum()) == pytest.approx(1, abs=1e-5)
    assert abs(float(label.diagonal().mean()) - 0.6) < 0.15


def test_padding_stays_out() -> None:
    given = labelled(8)
    given.valid[5:] = False  # type: ignore[index]
    found = MixUp(5, alpha=2.0)(given)
    assert found["image"][5:].equal(given["image"][5:])
    assert bool((found["label"][5:].max(1)[0] == 1).all())


def test_p_and_weight_belong_to_the_sample() -> None:
    operation = MixUp(5, p=0.3)
    many = operation.draw(keys(20_000))
    mixed = int((many["weight"] < 1).sum())
    assert abs(mixed - 6000) < 4 * 4200**0.5
    assert operation.draw(keys(20_000)[100:200])["weight"].equal(many["weight"][100:200])
    once = CutMix(5)
    drawn = once.draw(keys(6))
    assert once.replay(labelled(6), drawn)["image"].equal(once(labelled(6))["image"])


@pytest.mark.parametrize("operation", [MixUp(5), CutMix(5)], ids=["mixup", "cutmix"])
def test_no_loop_and_no_wait(operation: Any) -> None:
    assert_no_loop_and_no_wait(operation, labelled)


def test_soft_labels_are_mixed_again_and_others_refused() -> None:
    given = MixUp(5)(labelled(6))
    assert CutMix(5)(given)["label"].sum(1).tolist() == pytest.approx([1.0] * 6)
    with pytest.raises(ConfigError, match=r"field 'label' is torch.float32 \[6, 5\]; pass integers \[B\], or floats"):
        MixUp(7)(given)
    with pytest.raises(RuntimeError, match="out of bounds"):
        MixUp(4)(labelled(6))
    with pytest.raises(ConfigError, match="alpha must be above 0"):
        MixUp(4, alpha=0)
    with pytest.raises(ConfigError, match="classes must be at least 1"):
        CutMix(0)


def test_a_chain_draws_for_a_batch_what_it_does_to_it() -> None:
    """Padding is no partner."""
    given = labelled(6)
    given.valid[4:] = False  # type: ignore[index]
    for operation in (MixUp(6, alpha=1.0), CutMix(6)):
        chain = Compose([RandomHorizontalFlip(), operation])
        drawn = chain.draw(given)
        assert drawn[f"{type(operation).__name__}/image"]["partner"][4:].tolist() == [4, 5]
        found, expected = chain.replay(given, drawn), chain(given)
        assert found["image"].equal(expected["image"])
        assert found["label"].equal(expected["label"])
        assert chain.draw(given.sample_keys).keys() == drawn.keys()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"draw needs a batch of fastload.DataLoader"):
        chain.draw(Batch({"image": given["image"]}))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operation", [MixUp(5, alpha=1.0), CutMix(5)], ids=["mixup", "cutmix"])
def test_uint16(operation: MixUp, device: str) -> None:
    given = labelled(6)
    exact = operation(given)["image"]
    wide = given.replaced({"image": (given["image"] * 65535).round().to(torch.int32).to(torch.uint16)}).to(device)
    found = operation(wide)["image"]
    assert found.dtype == torch.uint16
    assert torch.allclose(found.cpu().float() / 65535, exact, atol=1.01 / 65535)


@pytest.mark.parametrize("weight", [0.13, 0.5, 0.9])
def test_torchvision_gives_the_same_of_the_same_weight(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 6
    given = labelled(count)
    partner = torch.arange(count).roll(1)
    params = {"weight": torch.full((count,), weight), "partner": partner}

    def theirs(kind: type[v2.Transform]) -> tuple[torch.Tensor, torch.Tensor]:
        transform = kind(num_classes=5)
        monkeypatch.setattr(transform._dist, "sample", lambda shape: weight)
        mixed: tuple[torch.Tensor, torch.Tensor] = transform(given["image"], given["label"])
        return mixed

    image, label = theirs(v2.MixUp)
    found = MixUp(5).replay(given, params)
    assert torch.allclose(found["image"], image, atol=1e-6)
    assert torch.allclose(found["label"], label, atol=1e-6)
    for x, y in ((0.01, 0.99), (0.4, 0.6)):  # cut at the edges, and inside
        places = iter([int(x * 24), int(y * 20)])
        monkeypatch.setattr(torch, "randint", lambda high, size, places=places: torch.tensor([next(places)]))
        image, label = theirs(v2.CutMix)
        found = CutMix(5).replay(given, {**params, "x": torch.full((count,), x), "y": torch.full((count,), y)})
        assert found["image"].equal(image)
        assert torch.allclose(found["label"], label, atol=1e-6)
