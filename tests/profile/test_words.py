"""How reports put numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fastload.profile.capacity import Capacity, Ceilings
from fastload.profile.words import ms, of_ceiling


@pytest.mark.parametrize(
    ("value", "said"), [(1234.4, "1,234"), (-28.94, "-28.9"), (0.126, "0.13"), (-0.004, "0.00"), (-0.02, "-0.02")]
)
def test_milliseconds_have_three_digits_and_nothing_has_no_sign(value: float, said: str) -> None:
    assert ms(value) == said


def test_shares_of_what_the_machine_does_are_by_thread_and_of_bytes_that_are_moved() -> None:
    def reading(bytes_per_second: float) -> Any:
        read = Capacity(stage="read", threads=(1, 2), rates=(1.0, 2.0), cpu_ms=1.0, bytes_per_second=bytes_per_second)
        decode = Capacity(stage="decode", threads=(1,), rates=(1.0,), cpu_ms=1.0)
        return SimpleNamespace(ceilings=Ceilings(memory_copy=9.0, file_read=100.0), capacities=(read, decode))

    assert of_ceiling(reading(50.0)) == {"read": (0.25, "reading a file from the page cache does")}
    assert of_ceiling(reading(2_434.0)) == {}, "mapped, and moved by nobody"
