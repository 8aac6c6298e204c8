from __future__ import annotations

import numpy as np
import pytest
import torch
from conformance import PROPERTY, chi_squared_z, correlation_z
from hypothesis import given
from hypothesis import strategies as st

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


def test_golden_values() -> None:
    keys = torch.from_numpy(hashing.sample_keys(42, 0, np.arange(3)).view(np.int64))
    assert keyed.uniform(keys, 1 << 32, 0).tolist() == [0.09870654344558716, 0.209134042263031, 0.9626381397247314]
