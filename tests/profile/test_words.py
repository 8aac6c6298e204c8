"""How reports put numbers."""

from __future__ import annotations

import pytest

from fastload.profile.words import ms


@pytest.mark.parametrize(
    ("value", "said"), [(1234.4, "1,234"), (-28.94, "-28.9"), (0.126, "0.13"), (-0.004, "0.00"), (-0.02, "-0.02")]
)
def test_milliseconds_have_three_digits_and_nothing_has_no_sign(value: float, said: str) -> None:
    assert ms(value) == said
