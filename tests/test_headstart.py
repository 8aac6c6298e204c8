"""What decoding does of a chain: the same as the chain would, in the decode threads."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import samples
import torch
from samples import FORMATS, content

import fastload
from fastload.augment import Compose, EachText, RandomInvert, aeda, eda
from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.loader import DataLoader
from fastload.meter import READ, Clock
from fastload.profile.rig import Rig

Packed = Callable[..., Path]
Fields = dict[str, fastload.fields.Field]

SIZES = [5, 1, 9, 8]
TEXT: Fields = {"text": fastload.Text()}
BOTH: Fields = {**TEXT, "image": fastload.Image(8, crop="random")}
CHAIN = [EachText("text", aeda), EachText("text", functools.partial(eda, share=0.4)), EachText("text", aeda)]


def loader(data: Path, **options: Any) -> DataLoader:
    return DataLoader(data, **{"batch_size": 4, "fields": TEXT, "seed": 5, **options})


def strings(batches: Iterable[Batch]) -> list[str | None]:
    return [text for batch in batches for text in batch["text"]]


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("fields", [TEXT, BOTH])
def test_strings_are_those_of_the_chain_at_any_number_of_workers_and_batch_size_and_after_a_resume(
    packed: Packed, shard_format: str, fields: Fields
) -> None:
    data = packed(shard_format, SIZES, ("text", "image"))
    expected = [Compose(CHAIN)(batch) for batch in loader(data, fields=fields)]
    assert strings(expected) != strings(loader(data, fields=fields))
    for workers in (0, 1, 3):
        made = loader(data, fields=fields, num_workers=workers, augment=CHAIN)
        assert not made._chain, "nothing is left to do on the batch"
        iterator = iter(made)
        begun, state = [next(iterator), next(iterator)], made.state_dict()
        assert [content(b) for b in (*begun, *iterator)] == [content(b) for b in expected]
        resumed = loader(data, fields=fields, num_workers=3 - workers, augment=CHAIN)
        resumed.load_state_dict(state)
        assert [content(b) for b in resumed] == [content(b) for b in expected[2:]]
        assert strings(loader(data, batch_size=1, num_workers=workers, augment=CHAIN)) == strings(expected)


@pytest.mark.parametrize("fields", [TEXT, BOTH])
@pytest.mark.parametrize("workers", [0, 1, 3, "auto"])
def test_a_function_runs_in_decode_threads_one_call_at_a_time(packed: Packed, fields: Fields, workers: Any) -> None:
    ran_in: set[str] = set()
    inside = threading.Lock()

    def noting(text: str, key: int) -> str:
        assert inside.acquire(blocking=False), "two calls at a time"
        ran_in.add(threading.current_thread().name)
        time.sleep(0.001)  # in which the others have their turn
        inside.release()
        return text

    data = packed("tar", SIZES, ("text", "image"))
    list(loader(data, fields=fields, num_workers=workers, augment=[EachText("text", noting)]))
    names = {"MainThread"} if workers == 0 else {name for name in ran_in if name.startswith("fastload-")}
    assert ran_in == names != set()


def test_the_consumers_step_and_a_slow_function_overlap(packed: Packed) -> None:
    """The function runs for the second batch while the consumer has the first."""
    ran: list[str] = []
    second = threading.Event()

    def counting(text: str, key: int) -> str:
        ran.append(text)
        if len(ran) > 4:
            second.set()
        return text

    made = iter(loader(packed("tar", SIZES, ("text",)), num_workers=1, augment=[EachText("text", counting)]))
    next(made)
    assert second.wait(10)
    made.close()


def test_what_stands_behind_a_function_of_the_batch_stays_there(packed: Packed) -> None:
    data = packed("tar", SIZES, ("text", "image"))

    def upper(batch: Batch) -> Batch:
        return batch.replaced({"text": [text.upper() for text in batch["text"]]})

    chain = [RandomInvert(), EachText("text", aeda), upper, EachText("text", aeda)]
    made = loader(data, fields=BOTH, num_workers=2, augment=chain)
    assert len(made._chain) == 3
    assert [each.place for each in made._head_start.strings["text"]] == [0]
    plain = [Compose(chain)(batch) for batch in loader(data, fields=BOTH)]
    assert [content(batch) for batch in made] == [content(batch) for batch in plain]


def test_an_operation_that_is_not_moved_keeps_those_behind_it_on_its_field(packed: Packed) -> None:
    class Own(EachText):
        """Changes what it likes."""

        def __call__(self, batch: Batch) -> Batch:
            return batch.replaced({"text": [text[::-1] for text in batch["text"]]})

    data, chain = packed("tar", SIZES, ("text",)), [Own("text", aeda), EachText("text", aeda)]
    made = loader(data, num_workers=2, augment=chain)
    assert len(made._chain) == 2
    assert strings(made) == strings(Compose(chain)(batch) for batch in loader(data))


@pytest.mark.parametrize("workers", [0, 2])
def test_masked_rows_are_none_and_the_rest_is_as_ever(tmp_path: Path, workers: int) -> None:
    data = samples.make(tmp_path / "data", "tar", [6], ("text",), replace={2: {"text": b"\xff"}})
    made = loader(data, shuffle=False, on_error="mask", num_workers=workers, augment=CHAIN)
    whole = samples.make(tmp_path / "whole", "tar", [6], ("text",))
    expected = strings(loader(whole, shuffle=False, augment=CHAIN))
    assert strings(made) == [*expected[:2], None, *expected[3:]]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_function_raises_comes_at_its_batch(packed: Packed, workers: int) -> None:
    wrong = EachText("text", functools.partial(eda, share=2))
    with pytest.raises(ConfigError, match=r"eda\(share=2\): must be in \[0, 1\]"):
        list(loader(packed("tar", SIZES, ("text",)), num_workers=workers, augment=[wrong]))
    missing = loader(packed("tar", SIZES, ("text",)), num_workers=workers, augment=[EachText("x", eda)])
    with pytest.raises(ConfigError, match="the batch has no strings 'x'; it has 'text'"):
        list(missing)


def test_a_profile_measures_the_same_threads(packed: Packed) -> None:
    data = packed("tar", SIZES, ("text",))
    assert Rig(loader(data, num_workers=3)).threads == 0
    rig = Rig(loader(data, num_workers=3, augment=CHAIN))
    assert rig.threads == 1
    job = next(rig.jobs(rig.endless()))
    job.run(0, Clock(READ))
    assert job.result()["text"] == strings(loader(data, augment=CHAIN))[:4]
    assert torch.equal(job.result().sample_keys, next(iter(loader(data))).sample_keys)
