from __future__ import annotations

import json

import numpy as np
import pytest
from conformance import PROPERTY
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import ConfigError
from fastload.order.distribute import Share, place_of


def share(last_batch: str = "pad", rank: int = 0, world_size: int = 1, batch_size: int = 8) -> Share:
    return Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch=last_batch)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("last_batch", "consumed", "span", "left"),
    [
        ("pad", 0, (0, 8, 8), 3),
        ("pad", 16, (16, 20, 20), 1),  # the short rest, then the next epoch
        ("pad", 20, (20, 28, 28), 3),
        ("partial", 16, (16, 20, 20), 1),
        ("drop", 0, (0, 8, 8), 2),
        ("drop", 8, (8, 16, 20), 1),  # the rest of 4 is skipped at once
        ("drop", 20, (20, 28, 28), 2),
        ("wrap", 16, (16, 24, 24), 1),
        ("wrap", 24, (24, 32, 32), 2),  # 16 of the second epoch's 20 are left
    ],
)
def test_global_batches_of_8_from_epochs_of_20(
    last_batch: str, consumed: int, span: tuple[int, int, int], left: int
) -> None:
    assert share(last_batch).span(20, consumed) == span
    assert share(last_batch).batches_left(20, consumed) == left


def test_ranks_take_a_stride_of_the_global_batch() -> None:
    rows = [share(rank=rank, world_size=3, batch_size=4).rows(100, 112).tolist() for rank in range(3)]
    assert rows == [[100, 103, 106, 109], [101, 104, 107, 110], [102, 105, 108, 111]]
    assert [share(rank=rank, world_size=3, batch_size=4).rows(100, 102).tolist() for rank in range(3)] == [
        [100],
        [101],
        [],
    ]


@PROPERTY
@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 10**6), st.integers(0, 10**12))
def test_ranks_divide_every_span(world_size: int, batch_size: int, length: int, start: int) -> None:
    stop = start + length % (world_size * batch_size + 1)
    parts = [share(rank=r, world_size=world_size, batch_size=batch_size).rows(start, stop) for r in range(world_size)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(start, stop))
    assert max(map(len, parts)) <= batch_size
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@PROPERTY
@given(
    st.sampled_from(["pad", "drop", "wrap", "partial"]),
    st.integers(1, 200),
    st.integers(1, 250),
    st.integers(0, 10**6),
)
def test_spans_follow_each_other_to_the_epochs_end(last_batch: str, samples: int, batch: int, start: int) -> None:
    one = share(last_batch, batch_size=batch)
    consumed, edge = start, (start // samples + 1) * samples
    for _ in range(one.batches_left(samples, start)):
        begin, stop, after = one.span(samples, consumed)
        assert begin == consumed < edge
        assert begin < stop <= begin + batch
        assert after >= stop
        consumed = after
    if last_batch == "drop":
        assert one.settle(samples, consumed) in ({edge} if start % samples else {edge, start})
    elif last_batch == "wrap":
        assert edge <= consumed < edge + batch
    else:
        assert consumed == edge


@PROPERTY
@given(st.sampled_from(["pad", "drop", "wrap"]), st.integers(1, 200), st.integers(1, 250), st.integers(0, 10**6))
def test_settling_skips_only_what_no_batch_is_left_in(last_batch: str, samples: int, batch: int, consumed: int) -> None:
    one = share(last_batch, batch_size=batch)
    settled = one.settle(samples, consumed)
    assert 0 <= settled - consumed < min(batch, samples)
    assert one.settle(samples, settled) == settled
    if samples >= batch:
        assert (
            one.batches_left(samples, settled) > 0
        )  # a run that was resumed with another batch size never stands still
    if settled != consumed:
        assert last_batch == "drop"
        assert settled % samples == 0


def test_drop_with_less_than_one_global_batch_has_no_batches() -> None:
    assert share("drop").batches_left(7, 0) == 0
    assert share("drop").settle(7, 0) == 0
    assert share("drop").batches_left(7, 7 * 5) == 0


def test_nothing_to_read_has_no_batches() -> None:
    for last_batch in ("pad", "partial", "drop", "wrap"):
        assert share(last_batch).batches_left(0, 0) == 0
        assert share(last_batch).settle(0, 0) == 0


def test_auto_is_partial_on_one_rank_and_pad_on_several() -> None:
    assert Share.auto(rank=0, world_size=1, batch_size=4, last_batch="auto").last_batch == "partial"
    assert Share.auto(rank=1, world_size=2, batch_size=4, last_batch="auto").last_batch == "pad"
    assert Share.auto(rank=1, world_size=2, batch_size=4, last_batch="wrap").last_batch == "wrap"


def test_numpy_integers_end_as_pythons_which_a_state_can_hold() -> None:
    one = Share(rank=np.int64(0), world_size=np.int32(2), batch_size=np.int64(4), last_batch="pad")  # type: ignore[arg-type]
    assert json.dumps(one.span(20, 0)) == "[0, 8, 8]"
    assert one == share(world_size=2, batch_size=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"batch_size": 32.0}, r"batch_size=32\.0: must be an integer, not float"),
        ({"world_size": 0}, "world_size=0: must be at least 1"),
        ({"world_size": "2"}, "world_size='2': must be an integer, not str"),
        ({"rank": 1}, r"rank=1: must be in \[0, 1\), the world size"),
        ({"rank": -1}, r"rank=-1: must be in \[0, 1\)"),
        ({"rank": None}, "rank=None: must be an integer"),
        ({"last_batch": "skip"}, "last_batch='skip': pass 'auto', 'partial', 'pad', 'drop' or 'wrap'"),
        ({"last_batch": "partial", "world_size": 2}, "last_batch='partial' on 2 ranks would give them batches of"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        share(**options)  # type: ignore[arg-type]


@PROPERTY
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(0, 10**6), st.integers(0, 10**12))
def test_a_nodes_ranks_take_one_lane(nodes: int, ranks: int, batch_size: int, length: int, start: int) -> None:
    world_size = nodes * ranks
    stop = start + length % (world_size * batch_size + 1)
    shares = [
        Share(rank=rank, world_size=world_size, batch_size=batch_size, last_batch="wrap", lanes=nodes)
        for rank in range(world_size)
    ]
    parts = [one.rows(start, stop) for one in shares]
    assert sorted(np.concatenate(parts).tolist()) == list(range(start, stop))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for node in range(nodes):
        own = np.concatenate(parts[ranks * node : ranks * (node + 1)])
        assert ((own - start) % nodes == node).all()


def test_where_lanes_do_not_divide_the_world_size_ranks_take_their_own_number() -> None:
    assert [place_of(rank, 4, 2) for rank in range(4)] == [0, 2, 1, 3]
    assert [place_of(rank, 6, 3) for rank in range(6)] == [0, 3, 1, 4, 2, 5]
    for lanes in (1, 3, 4, 8):
        assert [place_of(rank, 4, lanes) for rank in range(4)] == [0, 1, 2, 3]
