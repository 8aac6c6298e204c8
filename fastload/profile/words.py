"""How reports put numbers."""

from __future__ import annotations

from fastload.inspect import size_text
from fastload.profile.model import Model

QUEUED_WORTH_SAYING = 0.2  # of the time that threads could have run; below, figures are of the program alone


def rate(value: float) -> str:
    """Samples/s: 12345.6 -> "12,346"; small ones with their decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ms(value: float) -> str:
    """Milliseconds: three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def speed(value: float | None) -> str:
    """Bytes/s."""
    return f"{size_text(value)}/s" if value else ""


def gain(value: float) -> str:
    """A factor of throughput: 1.8 -> "x 1.8"; 1 is no gain."""
    return "same speed" if value == 1.0 else f"× {value:.3g}"


def queued(model: Model) -> str:
    """What a machine that others use does to a profile."""
    return (
        f"Threads that were ready to run waited for a processor {model.queued_share:.0%} of that time: other programs, "
        "or more threads than processors. Figures and predictions are of the machine as it was."
    )
