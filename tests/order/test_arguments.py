from __future__ import annotations

import numpy as np
import pytest

from fastload.errors import ConfigError
from fastload.order.arguments import integer


@pytest.mark.parametrize("value", [7, np.int64(7), np.uint8(7)])
def test_any_integer_type_becomes_pythons_int(value: int) -> None:
    assert type(integer("seed", value)) is int
    assert integer("seed", value, least=7) == 7


@pytest.mark.parametrize("value", [7.0, "7", None, np.float32(7), True])
def test_anything_else_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=.*7|batch_size=(None|True)") as caught:
        integer("batch_size", value)  # type: ignore[arg-type]
    assert f"must be an integer, not {type(value).__name__}" in str(caught.value)


def test_a_value_below_the_least_is_refused() -> None:
    with pytest.raises(ConfigError, match="lanes=0: must be at least 1"):
        integer("lanes", 0, least=1)
