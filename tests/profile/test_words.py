"""How reports put numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fastload.meter import STAGES
from fastload.profile.capacity import Capacity, Ceilings
from fastload.profile.model import Model
from fastload.profile.network import Network
from fastload.profile.words import ms, of_ceiling, of_server
from fastload.remote.pace import Pace


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
    assert of_ceiling(reading(210.0))["read"][0] == pytest.approx(1.05), "two measurements differ"
    assert of_ceiling(reading(2_434.0)) == {}, "mapped, and moved by nobody"


@pytest.mark.parametrize(("window", "later", "second"), [(64, 0.0, True), (64, 0.8, False), (None, 0.0, False)])
def test_a_second_epoch_is_foretold_where_the_cache_has_it_whole(
    window: int | None, later: float, second: bool
) -> None:
    network = Network(
        pace=Pace(object_bytes=1e6, latency_seconds=0.1, connection_bytes_per_second=1e8, rates=((1, 1e7),)),
        downloads=1,
        spare=None,
        mixed=0,
        sample_bytes=1e6,
        missing=1.0,
        missing_later=later,
        data_bytes=1e9,
        file_bytes=1e6,
        room_bytes=1e9,
        window=window,
    )
    stages = dict.fromkeys(STAGES, 1.0)
    model = Model(rows=10, stage_ms=stages, cpu_ms=0.0, batch_ms=5.0, waiting_ms=0.0, threads=0, cores=1)
    found: Any = SimpleNamespace(network=network, model=model)
    _, said = of_server(found)
    assert said.startswith("From the second epoch on" if second else "Once they are in the cache it is 2,000 samples/s")
    assert ("from the epoch before" in said) == (later > 0)
