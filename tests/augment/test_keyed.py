from __future__ import annotations

import numpy as np
import pytest
import torch
from conformance import PROPERTY, chi_squared_z, correlation_z
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fastload.augment import keyed
from fastload.order import hashing

I64 = st.integers(-(2**63), 2**63 - 1)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@PROPERTY
@given(st.lists(I64, min_size=1, max_size=20), st.integers(0, 2**34))
def test_combine_has_the_bits_of_the_order_layer(device: str, keys: list[int], word: int) -> None:
    found = keyed.combine(torch.tensor(keys, device=device), word).cpu().numpy().view(np.uint64)
    expected = hashing.combine_array(np.array(keys, np.int64).view(np.uint64), word)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("device", DEVICES)
@PROPERTY
@given(st.lists(I64, min_size=1, max_size=20), st.integers(0, 2**34), st.integers(0, 1000))
def test_uniform_is_the_first_24_bits_of_the_order_layers_draw(
    device: str, keys: list[int], operation: int, number: int
) -> None:
    found = keyed.uniform(torch.tensor(keys, device=device), operation, number)
    assert found.dtype == torch.float32
    words = [hashing.combine_word(hashing.combine_word(key % 2**64, operation), number) for key in keys]
    assert found.tolist() == [(word >> 40) * 2.0**-24 for word in words]
    draws = [hashing.draw(key % 2**64, operation, number) for key in keys]
    assert all(draw - 2.0**-24 < value <= draw for value, draw in zip(found.tolist(), draws, strict=True))


def test_uniform_lies_below_one_for_every_word() -> None:
    keys = torch.from_numpy(hashing.sample_keys(0, 0, np.arange(200_000)).view(np.int64))
    values = keyed.uniform(keys, keyed.operation_number("x"))
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    assert abs(chi_squared_z(np.histogram(values.numpy(), 100, (0, 1))[0], 2000)) < 4


def test_operations_and_numbers_draw_apart() -> None:
    keys = torch.from_numpy(hashing.sample_keys(0, 0, np.arange(20_000)).view(np.int64))
    names = [keyed.operation_number(name) for name in ("RandomHorizontalFlip/image", "RandomHorizontalFlip/mask")]
    rows = [keyed.uniform(keys, name, number).numpy() for name in names for number in (0, 1)]
    for one in range(4):
        for other in range(one):
            assert abs(correlation_z(rows[one], rows[other])) < 4


def test_operation_numbers_are_fixed_and_clear_of_the_decoders() -> None:
    assert keyed.operation_number("RandomHorizontalFlip/image") == (1 << 32) + 0xDA080662
    assert keyed.operation_number("") == 1 << 32
    assert keyed.operation_number("") > max(hashing.OP_IMAGE_CROP, hashing.OP_AUDIO_CROP)


def test_a_compiler_is_told_of_a_constant_as_torch_tells_it() -> None:
    def ours() -> None: ...

    def torchs() -> None: ...

    assert keyed.compiled_as_constant(ours) is ours
    assert vars(ours) == vars(torch.compiler.assume_constant_result(torchs))  # a torch that renames it is seen here


def test_golden_values() -> None:
    keys = torch.from_numpy(hashing.sample_keys(42, 0, np.arange(3)).view(np.int64))
    assert keyed.uniform(keys, 1 << 32, 0).tolist() == [0.09870654344558716, 0.209134042263031, 0.9626381397247314]


# Many draws at once.


@pytest.mark.parametrize("device", DEVICES)
def test_a_batchs_draws_are_those_of_one_after_another(device: str) -> None:
    keys = torch.from_numpy(hashing.sample_keys(1, 0, np.arange(50)).view(np.int64)).to(device)
    numbers = [keyed.operation_number(name) for name in "abc"]
    found = keyed.drawn(keys, ((numbers[0], 3), (numbers[1], 0), (numbers[2], 5)))
    assert [tuple(u.shape) for u in found] == [(50, 3), (50, 0), (50, 5)]
    for u, number in ((found[0], numbers[0]), (found[2], numbers[2])):
        assert u.equal(keyed.uniforms(keys, number, u.shape[1]))
        for k in range(u.shape[1]):
            assert u[:, k].equal(keyed.uniform(keys, number, k))


def test_draws_are_uniform_and_independent_over_samples_and_numbers() -> None:
    keys = torch.from_numpy(hashing.sample_keys(3, 5, np.arange(20_000)).view(np.int64))
    u = keyed.uniforms(keys, keyed.operation_number("RandomAffine/image"), 12).numpy()
    for k in range(12):
        assert abs(chi_squared_z(np.histogram(u[:, k], 100, (0, 1))[0], 200)) < 4
        assert abs(correlation_z(u[1:, k], u[:-1, k])) < 4, "from sample to sample"
    for one in range(12):
        for other in range(one):
            assert abs(correlation_z(u[:, one], u[:, other])) < 4.5
    pairs = np.histogram2d(u[:, 0], u[:, 1], 20, ((0, 1), (0, 1)))[0]
    assert abs(chi_squared_z(pairs.ravel(), 50)) < 4


def test_normals_are_normal_and_independent() -> None:
    keys = torch.from_numpy(hashing.sample_keys(0, 0, np.arange(300)).view(np.int64))
    seeds = keyed.seeds(keyed.uniforms(keys, keyed.operation_number("noise"), 2))
    assert len(seeds.unique()) == 300
    z = keyed.normals(seeds, 501)
    assert z.shape == (300, 501)
    assert bool(z.isfinite().all())
    edges = torch.special.ndtri(torch.linspace(0, 1, 41)[1:-1])
    counts = torch.bincount(torch.bucketize(z.flatten(), edges), minlength=40)
    assert abs(chi_squared_z(counts.numpy(), z.numel() / 40)) < 4
    halves = z[:, :250].flatten().numpy(), z[:, 251:].flatten().numpy()  # the two normals of one word
    assert abs(correlation_z(*halves)) < 4
    assert abs(correlation_z(np.square(halves[0]), np.square(halves[1]))) < 4
    assert abs(correlation_z(z[1:].flatten().numpy(), z[:-1].flatten().numpy())) < 4


def test_below_and_between_stay_in_their_range() -> None:
    u = torch.tensor([0.0, 0.5, 1 - 2.0**-24])
    for count in (1, 3, 1000, 2**24, 10**9):
        whole = keyed.below(u, count)
        assert whole[0] == 0
        assert int(whole.max()) < count
    assert keyed.between(u, -2, 2).tolist() == pytest.approx([-2, 0, 2])


def test_stand_ins_do_not_meet_constants_that_were_kept() -> None:
    def doubled() -> torch.Tensor:
        return torch.ones(2) * keyed.constant((2.0, 3.0), torch.float32, torch.device("cpu"))

    kept = doubled()
    with FakeTensorMode():
        assert isinstance(doubled(), FakeTensor)
    assert doubled().equal(kept)


def test_constants_are_made_once_and_apart_by_dtype() -> None:
    one = keyed.constant((1, 2), torch.float32, torch.device("cpu"))
    assert keyed.constant((1, 2), torch.float32, torch.device("cpu")) is one
    assert keyed.constant((1, 2), torch.int64, torch.device("cpu")).tolist() == [1, 2]
