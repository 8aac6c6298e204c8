"""How reports put numbers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fastload.meter import STAGES
from fastload.profile.capacity import Capacity, Ceilings
from fastload.profile.model import Model
from fastload.profile.network import Network
from fastload.profile.words import hidden_share, ms, of_ceiling, of_server
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


def test_copies_to_a_gpu_are_set_beside_its_bus() -> None:
    copy = Capacity(stage="copy", threads=(1,), rates=(1.0,), cpu_ms=1.0, bytes_per_second=6.0)
    found: Any = SimpleNamespace(ceilings=Ceilings(memory_copy=9.0, file_read=None, bus=12.0), capacities=(copy,))
    assert of_ceiling(found) == {"copy": (0.5, "copying pinned memory to the GPU does")}
    found.ceilings = replace(found.ceilings, bus=None)
    assert of_ceiling(found) == {"copy": (pytest.approx(2 / 3), "copying memory does")}


@pytest.mark.parametrize(
    ("between", "augment", "hidden"),
    [
        (0.0, 0.0, 1.0),  # nothing lies between steps
        (0.1, 0.0, 0.75),  # 1 of 10 ms, which copying 4 may have been waited for
        (0.1, 1.0, 1.0),  # what lies there is the augmentation
        (0.3, 1.0, 0.5),
        (0.9, 1.0, 0.0),  # the loader does not keep up, and nothing can be told
    ],
)
def test_how_much_of_copying_is_hidden_follows_from_what_lies_between_steps(
    between: float, augment: float, hidden: float
) -> None:
    def on_gpu(stage: str, device_ms: float) -> Capacity:
        return Capacity(stage=stage, threads=(1,), rates=(1.0,), cpu_ms=1.0, queue_ms=0.1, device_ms=device_ms)

    found: Any = SimpleNamespace(
        between_share=between,
        model=SimpleNamespace(batch_ms=10.0),
        capacities=(on_gpu("copy", 4.0), *([on_gpu("augment", augment)] if augment else [])),
    )
    assert hidden_share(found) == pytest.approx(hidden)
    found.between_share = None
    assert hidden_share(found) is None


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
