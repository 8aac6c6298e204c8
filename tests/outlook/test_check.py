"""What a check says is what a loader then does; and each concern comes where it should, and only there."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from samples import flip_byte, make
from typer.testing import CliRunner
from webserver import Server

import fastload
from fastload.cli import app
from fastload.dataset import StreamingDataset
from fastload.errors import ConfigError
from fastload.flow import tensor_bytes
from fastload.machine import cores
from fastload.order.cursor import steps
from fastload.order.distribute import Share
from fastload.outlook import Outlook, check
from fastload.outlook import concerns as outlook_concerns
from fastload.outlook.run import shard_bytes
from fastload.outlook.table import render
from fastload.remote.cache import Cache
from fastload.samplers import LengthBuckets

Packed = Callable[..., Path]
LABEL = {"label": fastload.Scalar()}
IMAGE = {"image": fastload.Image(8), "label": fastload.Scalar()}
EVEN = [20] * 20


def names(outlook: Outlook) -> set[str]:
    return {concern.name for concern in outlook.concerns}


def said(outlook: Outlook, name: str) -> str:
    (concern,) = [concern for concern in outlook.concerns if concern.name == name]
    return f"{concern.severity}: {concern.what}; {concern.remedy}"


@pytest.mark.parametrize("last_batch", ["auto", "pad", "drop", "wrap"])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("lanes", [1, 3])
def test_batches_padding_and_dropping_are_those_of_the_loaders(
    packed: Packed, last_batch: str, world_size: int, lanes: int
) -> None:
    data = packed("tar", EVEN)
    about = check(data, 9, world_size=world_size, last_batch=last_batch, fields=LABEL, lanes=lanes)  # type: ignore[arg-type]
    rows = valid = 0
    read = []
    for rank in range(world_size):
        dataset = StreamingDataset(data, fields=LABEL, lanes=lanes, rank=rank, world_size=world_size)
        loader = fastload.DataLoader(dataset, 9, last_batch=last_batch)  # type: ignore[arg-type]
        batches = list(loader)
        assert len(batches) == about.epoch.batches
        rows += sum(batch.rows for batch in batches)
        valid += sum(int(batch.valid.sum()) for batch in batches)
        plan = list(steps(dataset.order, loader._share(), 0))
        read.append(len({shard for step in plan for shard in step.shards[step.epochs == 0].tolist()}))
    assert about.epoch.padded == rows - valid
    assert about.epoch.dropped == (400 - valid if last_batch == "drop" else 0)
    assert about.epoch.shards_per_rank == pytest.approx(np.mean(read), abs=1)


@pytest.mark.parametrize("lanes", [2, 4])
def test_lanes_leave_a_rank_its_part_of_the_shards(packed: Packed, lanes: int) -> None:
    about = check(packed("tar", EVEN), 5, world_size=4, lanes=lanes, window=2, fields=LABEL)
    assert about.epoch.shards_per_rank == pytest.approx(20 / lanes, abs=1)
    assert about.window.shards == 2
    assert about.window.lane_shards == (20 // lanes, 20 // lanes)


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_memory_disk_and_first_batch_are_those_of_a_batch_that_was_read(packed: Packed, shard_format: str) -> None:
    data = packed(shard_format, EVEN)
    about = check(data, 16, num_workers=1, prefetch_factor=3, window=2, fields=IMAGE)
    batch = next(iter(fastload.DataLoader(data, 16, fields=IMAGE)))
    assert about.first_batch is not None
    assert about.memory is not None
    assert about.first_batch.seconds > 0
    assert about.first_batch.bytes == tensor_bytes(batch)
    assert (about.memory.batches, about.memory.batches_bytes) == (5, 5 * tensor_bytes(batch))
    size = about.data.bytes / 20
    assert about.window.bytes == pytest.approx(2 * size, rel=0.1)
    assert about.memory.row_groups_bytes == (0 if shard_format == "tar" else pytest.approx(4 * size, rel=0.1))
    assert about.data.bytes == sum(path.stat().st_size for path in (data / "train").glob("*[rt]"))


def test_row_groups_share_the_bytes_of_their_file(tmp_path: Path) -> None:
    data = make(tmp_path / "groups", "parquet", [6, 3], ("bytes", "label"), row_group_bytes=1)
    index = StreamingDataset(data).index
    found = shard_bytes(index)
    assert len(found) == 9
    assert found[:6].sum() == pytest.approx(index.files[0].bytes, abs=6)


def test_texts_and_ragged_images_count_in_memory(packed: Packed) -> None:
    data = packed("tar", [8], ("text", "image", "label"))
    about = check(data, 8, window=1)
    batch = next(iter(fastload.DataLoader(data, 8)))
    text = sum(len(text) for text in batch["text"])
    assert about.first_batch is not None
    assert about.first_batch.bytes == text + sum(image.nbytes for image in batch["image"]) + 8 * 8 + 8 + 8 * 8


def test_a_run_that_is_well_raises_no_concern(packed: Packed) -> None:
    about = check(packed("tar", EVEN), 10, world_size=4, num_workers=1, lanes=2, fields=IMAGE, cache_size=10**9)
    assert about.concerns == ()
    assert about.ok


def test_fewer_samples_than_a_global_batch(packed: Packed) -> None:
    data = packed("tar", [20])
    about = check(data, 6, world_size=4, fields=LABEL)
    assert said(about, "small-epoch") == (
        "warning: 20 samples are fewer than a global batch of 24; a batch_size of at most 5, or fewer ranks"
    )
    assert about.window.mixing is None
    assert check(data, 5, world_size=4, fields=LABEL).concerns == ()
    assert "12 of 32 ranks get none; at most 20 ranks" in said(
        check(data, 1, world_size=32, fields=LABEL), "small-epoch"
    )


def test_what_the_loader_refuses_is_an_error(packed: Packed) -> None:
    data = packed("tar", [20])
    several = check(data, 5, world_size=4, last_batch="partial", fields=LABEL)
    assert "error: the loader refuses this: last_batch='partial' on 4 ranks" in said(several, "refused")
    assert several.concerns[0].severity == "error"
    assert not several.ok
    nothing = check(data, 8, world_size=4, last_batch="drop", fields=LABEL)
    assert "last_batch='drop' would drop everything: 20 samples" in said(nothing, "refused")
    assert nothing.first_batch is None


def test_much_padding_and_much_dropping(packed: Packed) -> None:
    data = packed("tar", EVEN)
    assert said(check(data, 75, world_size=4, fields=LABEL), "padding").startswith(
        "warning: 200 of the 600 rows of an epoch are padding (33%), all in the last batch; weight by batch.valid"
    )
    dropped = check(data, 75, world_size=4, last_batch="drop", fields=LABEL)
    assert "100 of 400 samples are left out of each epoch (25%)" in said(dropped, "dropping")
    assert names(check(data, 75, world_size=4, last_batch="wrap", fields=LABEL)) == set()


def test_a_shard_that_dominates(packed: Packed) -> None:
    about = check(packed("tar", [90, 5, 5]), 10, fields=LABEL)
    assert "shard-000000.tar holds 90% of all samples, 2.7 times the mean of 3 shards" in said(about, "dominant-shard")
    many = check(packed("tar", [5] * 19 + [60]), 10, fields=LABEL)
    assert "shard-000019.tar holds 39% of all samples, 7.7 times" in said(many, "dominant-shard")
    assert names(check(packed("tar", [60, 40]), 10, fields=LABEL)) == set()
    assert names(check(packed("tar", [60]), 10, fields=LABEL)) == set()


def test_a_window_that_is_too_small(packed: Packed) -> None:
    data = packed("tar", EVEN)
    about = check(data, 40, window=2, fields=LABEL)
    assert "a global batch draws from 2.0 shards, where all shards together would give 17.7: window=2" in said(
        about, "small-window"
    )
    assert "small-window" not in names(check(data, 40, window=20, fields=LABEL))
    assert "small-window" not in names(check(data, 40, shuffle=False, fields=LABEL)), "the order of packing is meant"


def test_more_threads_than_cores_and_threads_for_nothing(packed: Packed) -> None:
    data = packed("tar", EVEN)
    most = cores()
    assert f"num_workers={most + 1} threads on {most} cores" in said(
        check(data, 10, num_workers=most + 1, fields=IMAGE), "workers-above-cores"
    )
    assert "workers-above-cores" not in names(check(data, 10, num_workers=most, fields=IMAGE))
    assert "none will be started" in said(check(data, 10, num_workers=1, fields=LABEL), "idle-workers")


def test_a_crew_is_of_use(packed: Packed) -> None:
    data = packed("tar", EVEN, ("image", "tensor", "label"))
    fields = {"tensor": fastload.Tensor((3,), "float32")}
    assert "idle-workers" not in names(check(data, 10, num_workers=1, fields=fields))


def test_lanes_that_do_not_fit(packed: Packed) -> None:
    data = packed("tar", EVEN)
    ranks = said(check(data, 10, world_size=4, lanes=3, fields=LABEL), "lanes-and-ranks")
    assert "lanes=3 does not divide world_size=4" in ranks
    few = check(packed("tar", [20]), 5, world_size=2, lanes=2, fields=LABEL)
    assert "1 shard for lanes=2: several lanes read the same shard" in said(few, "few-shards")
    alone = check(packed("tar", [20]), 5, lanes=9, window=1, fields=LABEL)
    assert (alone.window.shards, alone.window.bytes) == (1, alone.data.bytes), "no more than there is"
    assert alone.window.mixing is not None
    assert alone.window.mixing.window_allows == 1
    uneven = check(packed("tar", [60] + [5] * 12), 5, world_size=2, lanes=2, fields=LABEL)
    assert "of lanes=2, one has " in said(uneven, "uneven-lanes")
    assert uneven.window.lane_shards[0] < uneven.window.lane_shards[1]


def test_a_cache_that_is_too_small(packed: Packed) -> None:
    data = packed("tar", EVEN)
    window = check(data, 10, window=4, fields=LABEL).window
    below = check(data, 10, window=4, fields=LABEL, cache_size=window.room - 1)
    assert said(below, "cache-below-window").startswith("warning: the loader refuses a cache of ")
    assert " for shards behind URLs: the largest that window=4 mixes" in said(below, "cache-below-window")
    again = check(data, 10, window=4, lanes=4, fields=LABEL, cache_size=window.room)
    assert f"smaller than the {again.window.shards} shards that are mixed" in said(again, "cache-below-window")
    between = check(data, 10, window=4, fields=LABEL, cache_size=window.room)
    assert "every epoch fetches what it lacks again" in said(between, "cache-below-data")
    assert {"cache-below-data", "cache-below-window"} & names(
        check(data, 10, window=4, fields=LABEL, cache_size=between.data.bytes)
    ) == set()


def test_a_nodes_part_of_the_data_is_that_of_its_lanes_and_another_in_each_epoch_if_it_is_shuffled(
    packed: Packed,
) -> None:
    data = packed("tar", EVEN)
    half = check(data, 10, fields=LABEL).data.bytes // 2
    for lanes, ordered in ((2, False), (4, False), (1, True), (3, True)):  # 3 do not divide the world size
        options: dict[str, Any] = {"world_size": 4, "lanes": lanes, "fields": LABEL, "cache_size": half}
        assert ("cache-below-data" in names(check(data, 10, shuffle=False, **options))) == ordered
        text = said(check(data, 10, window=1, **options), "cache-below-data")
        assert ("of which a node has other shards in every epoch" in text) == (not ordered)
        assert ("or one lane a node" in text) == ordered
    quarter = check(data, 10, world_size=4, lanes=4, window=1, fields=LABEL, cache_size=half // 2)
    assert "every epoch fetches what it lacks again, 86% of a node's part" in said(quarter, "cache-below-data")


def test_data_behind_a_url_is_checked_alike_and_a_small_cache_is_an_error(tmp_path: Path, packed: Packed) -> None:
    data = packed("tar", EVEN)
    local = check(data, 10, world_size=2, window=4, fields=IMAGE)
    with Server(data) as server:
        remote = check(server.url, 10, world_size=2, window=4, fields=IMAGE, cache_dir=tmp_path / "cache")
        assert remote.data == replace(local.data, remote=True)
        assert (remote.epoch, remote.window, remote.memory) == (local.epoch, local.window, local.memory)
        below = check(server.url, 10, window=4, fields=IMAGE, cache_dir=tmp_path / "cache", cache_size="1kB")
        assert said(below, "cache-below-window").startswith("error: the loader refuses a cache of 1000 bytes: the ")


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_cache_that_the_loader_refuses_is_an_error_and_one_that_it_takes_is_none(
    tmp_path: Path, packed: Packed, lanes: int
) -> None:
    order: dict[str, Any] = {"window": 4, "lanes": lanes}
    with Server(packed("tar", EVEN)) as server:

        def ok(size: int) -> bool:
            return check(server.url, 10, fields=LABEL, cache_dir=tmp_path / "seen", cache_size=size, **order).ok

        def taken(size: int) -> bool:
            try:
                StreamingDataset(server.url, fields=LABEL, cache_dir=tmp_path / "cache", cache_size=size, **order)
            except ConfigError as error:
                return "is less than the" not in str(error)
            return True

        window = check(server.url, 10, fields=LABEL, cache_dir=tmp_path / "seen", **order).window
        assert [ok(size) for size in (window.room - 1, window.room)] == [False, True]
        assert [taken(size) for size in (window.room - 1, window.room)] == [False, True]
        assert window.room > window.bytes if lanes == 1 else window.room < window.bytes


def test_what_the_first_batch_fetches_is_counted_and_a_slow_one_is_a_concern(
    tmp_path: Path, packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(packed("tar", EVEN)) as server:
        server.latency_seconds = 0.01
        about = check(server.url, 10, window=2, fields=IMAGE, cache_dir=tmp_path / "a")
        assert about.first_batch is not None
        assert about.first_batch.objects == 2 * 2, "of two shards, each a tar and its index"
        assert about.first_batch.fetched_bytes == pytest.approx(about.data.bytes / 10, rel=0.1)
        assert about.first_batch.seconds > 0.01
        assert names(about) == {"small-window"}
        assert "fetched for it 4 objects of a server, " in text_of(about)
        monkeypatch.setattr(outlook_concerns, "FIRST_SECONDS", 0.01)
        slow = said(check(server.url, 10, window=2, fields=IMAGE, cache_dir=tmp_path / "b"), "slow-first-batch")
        assert "4 objects of a server, " in slow
        assert "are fetched for it; smaller shards or a smaller window; if the server is slow to answer" in slow
        again = check(server.url, 10, window=2, fields=IMAGE, cache_dir=tmp_path / "b")
        assert (names(again), again.first_batch and again.first_batch.objects) == ({"small-window"}, 0)
        assert "fetched for it" not in text_of(again)


def text_of(outlook: Outlook) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(render(outlook))
    return " ".join(out.getvalue().split())


def test_a_disk_that_is_too_small_for_the_data_is_told_before(
    tmp_path: Path, packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(packed("tar", EVEN)) as server:
        about = check(server.url, 10, window=1, fields=LABEL, cache_dir=tmp_path)
        assert about.plan.disk_bytes is not None
        assert about.plan.disk_bytes > about.data.bytes
        monkeypatch.setattr(Cache, "room", lambda self: about.data.bytes // 2)
        small = check(server.url, 10, window=1, fields=LABEL, cache_dir=tmp_path)
        assert "every epoch fetches what it lacks again, 85% of it" in said(small, "disk-below-data")
        two: dict[str, Any] = {"world_size": 2, "lanes": 2, "fields": LABEL, "cache_dir": tmp_path}
        assert "again, 69% of a node's part" in said(check(server.url, 10, window=1, **two), "disk-below-data")
        assert "disk-below-data" not in names(check(server.url, 10, shuffle=False, **two))
        half = about.data.bytes // 2
        limited = StreamingDataset(server.url, window=1, fields=LABEL, cache_dir=tmp_path, cache_size=half)
        assert "cache-below-data" in names(check(limited, 10)), "a data set's own cache_size counts"
    assert check(packed("tar", EVEN), 10, fields=LABEL).plan.disk_bytes is None


def test_a_loader_that_takes_the_machines_memory(packed: Packed) -> None:
    about = check(packed("tar", EVEN), 10, num_workers=1, prefetch_factor=10**9, fields=IMAGE)
    assert "the loader of one rank holds about" in said(about, "memory")


@pytest.mark.parametrize(
    ("workers", "fields", "batches"),
    [(0, IMAGE, 3), (1, IMAGE, 9), (1, LABEL, 3), (1, {"tensor": fastload.Tensor((3,), "float32")}, 9)],
    ids=["no threads", "threads", "threads for nothing", "a crew"],
)
def test_batches_are_held_ahead_where_threads_make_them(
    packed: Packed, workers: int, fields: dict[str, Any], batches: int
) -> None:
    data = packed("tar", EVEN, ("image", "tensor", "label"))
    about = check(data, 10, num_workers=workers, prefetch_factor=7, fields=fields)
    assert about.memory is not None
    assert about.memory.batches == batches


def test_a_first_batch_that_cannot_be_read(tmp_path: Path) -> None:
    data = make(tmp_path / "data", "tar", [4, 4])
    for tar in (data / "train").glob("*.tar"):
        flip_byte(tar, 2000)
    about = check(data, 8, fields=IMAGE)
    assert "error: the first batch cannot be read: shard" in said(about, "unreadable")
    assert about.memory is None
    assert not about.ok


def test_no_samples(packed: Packed) -> None:
    about = check(packed("tar", []), 8)
    assert said(about, "no-samples") == "error: the data has no samples; pack some, or name another split"
    assert about.epoch.batches == 0


def test_a_data_set_that_is_made_already_and_a_sampler_that_plans_batches(packed: Packed) -> None:
    buckets = StreamingDataset(packed("tar", EVEN), fields=LABEL, sampler=LengthBuckets("label", max_tokens=4000))
    about = check(buckets, 16, world_size=2)
    share = Share.auto(rank=0, world_size=2, batch_size=16, last_batch="auto")
    assert about.epoch.batches == len(list(steps(buckets.order, share, 0)))
    assert (about.epoch.padded, about.window.mixing) == (None, None)
    assert buckets.world_size is None, "the user's data set stays as it is"
    with pytest.raises(ConfigError, match="window: pass these to the StreamingDataset and not to check"):
        check(buckets, 16, window=3)


def test_arguments_out_of_range(packed: Packed) -> None:
    data = packed("tar", EVEN)
    for wrong in ({"world_size": 0}, {"num_workers": -1}, {"prefetch_factor": 0}, {"cache_size": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}="):
            check(data, 4, **wrong)
    with pytest.raises(ConfigError, match="batch_size=0"):
        check(data, 0)
    with pytest.raises(ConfigError, match="check: got an unexpected keyword argument 'colour'"):
        check(data, 4, colour="red")


def test_the_command_says_it_as_a_table_and_as_json(packed: Packed) -> None:
    data = str(packed("tar", EVEN))
    options = ["--fields", "image:8,label", "--batch-size", "20", "--world-size", "2", "--workers", "1"]
    more = ["--window", "2", "--cache", "1kB"]
    shown = CliRunner().invoke(app, ["check", data, *options, *more])
    assert shown.exit_code == 0, shown.output
    assert "warning: cache-below-window: the loader refuses a cache of 1000 bytes for" in shown.output
    assert "40 = 2 ranks x 20" in shown.output
    as_json = CliRunner().invoke(app, ["check", data, *options, *more, "--json"])
    found = json.loads(as_json.output)
    assert found["epoch"]["batches"] == math.ceil(400 / 40)
    assert [concern["name"] for concern in found["concerns"]] == ["small-window", "cache-below-window"]
    assert found["ok"] is True


def test_the_command_fails_where_the_run_would_not_start(packed: Packed) -> None:
    data = str(packed("tar", EVEN))
    done = CliRunner().invoke(app, ["check", data, "--world-size", "2", "--last-batch", "partial"])
    assert done.exit_code == 1
    assert "error: refused: the loader refuses this" in done.output
    wrong = CliRunner().invoke(app, ["check", data, "--window", "most"])
    assert wrong.exit_code == 2
    assert "window='most'" in wrong.output


def test_the_commands_table_of_a_run_without_concerns(packed: Packed) -> None:
    done = CliRunner().invoke(app, ["check", str(packed("tar", EVEN)), "--batch-size", "10", "--fields", "image:8"])
    assert "nothing will hurt, as far as can be known beforehand" in done.output
