"""What a server gives: measured against one that answers late, or sends slowly, on purpose."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
from webserver import Server

import fastload
from fastload.loader import DataLoader
from fastload.profile import profile
from fastload.profile.measuring import drop
from fastload.profile.network import Network, _sources, fetch_first, measure, served
from fastload.profile.page import to_html
from fastload.profile.rig import Rig
from fastload.profile.suspects import slow_shards

Packed = Callable[..., Path]
SHARDS, ROWS = 24, 4
LATE = 0.05  # seconds, of every answer
SECONDS = 0.5  # of measuring
FIELDS = {"bytes": fastload.Bytes(), "label": fastload.Scalar()}
EACH = 1 << 14  # bytes a sample


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars of 64 KiB and more."""
    contents: dict[int, dict[str, bytes | None]] = {i: {"bytes": os.urandom(EACH)} for i in range(SHARDS * ROWS)}
    folder = tmp_path_factory.mktemp("network") / "data"
    return samples.make(folder, "tar", [ROWS] * SHARDS, ("bytes", "label"), replace=contents)


@pytest.fixture
def server(data: Path) -> Iterator[Server]:
    with Server(data) as running:
        yield running


def loader(server: Server, cache: Path, downloads: int = 2, **options: Any) -> DataLoader:
    remote = fastload.Remote(downloads=downloads, cache_dir=cache, cache_size=options.pop("cache_size", None))
    return DataLoader(server.url, 8, fields=FIELDS, remote=remote, **options)


def measured(loader: DataLoader, seconds: float = SECONDS) -> Network:
    found = measure(Rig(loader), seconds)
    assert found is not None
    return found


def test_a_server_that_answers_late_is_one_of_latency(server: Server, tmp_path: Path) -> None:
    taken = loader(server, tmp_path)
    server.latency_seconds = LATE
    found = measured(taken)
    assert found.pace.latency_seconds == pytest.approx(LATE, rel=0.3)
    assert (found.pace.reason(2), found.pace.is_saturated) == ("latency", False)
    assert (found.downloads, found.pace.most_downloads, found.missing, found.missing_later) == (2, 8, 1, 0)
    assert found.pace.bytes_per_second(8) == pytest.approx(4 * found.pace.bytes_per_second(2), rel=0.3)
    whole = sum(path.stat().st_size for path in server.folder.glob("train/*.tar"))
    assert found.data_bytes == whole
    # for each shard two answers are waited for, that of the tar and that of its index
    assert found.fetch_ms(8) == pytest.approx(1e3 * 8 / (SHARDS * ROWS) * 2 * SHARDS * LATE / 2, rel=0.3)
    assert not list((tmp_path / "remote").iterdir()), "what came was dropped"


def test_a_server_that_sends_slowly_over_all_connections_is_one_of_bandwidth(server: Server, tmp_path: Path) -> None:
    taken = loader(server, tmp_path)
    server.all_bytes_per_second = 2e6
    found = measured(taken, 3 * SECONDS)  # what is on its way at either end counts less
    assert (found.pace.reason(2), found.pace.is_saturated) == ("bandwidth", True)
    assert found.pace.bytes_per_second(2) == pytest.approx(2e6, rel=0.3)
    assert found.pace.at_its_end(2)
    assert found.pace.bytes_per_second(8) < 2 * found.pace.bytes_per_second(2)


def test_a_server_that_sends_slowly_over_each_connection_gives_more_over_more(server: Server, tmp_path: Path) -> None:
    taken = loader(server, tmp_path)
    server.bytes_per_second = 5e5
    found = measured(taken)
    assert (found.pace.reason(2), found.pace.is_saturated) == ("bandwidth", False)
    assert found.pace.bytes_per_second(8) > 2.5 * found.pace.bytes_per_second(2)


def test_what_is_local_or_in_the_cache_is_not_asked_for(server: Server, data: Path, tmp_path: Path) -> None:
    assert measure(Rig(DataLoader(data, 8)), SECONDS) is None
    taken = loader(server, tmp_path)
    for _ in taken:
        pass
    before = len(server.requests)
    assert measure(Rig(taken), SECONDS) is None
    assert len(server.requests) == before


def test_what_a_cache_is_too_small_for_is_missing_later_and_is_fetched_as_it_comes_to_be_mixed(
    server: Server, tmp_path: Path
) -> None:
    size = (data_bytes := sum(path.stat().st_size for path in server.folder.glob("train/*.tar"))) // 4
    found = measured(loader(server, tmp_path, downloads=8, cache_size=size, window=4), 0.1)
    assert found.room_bytes == size
    assert 0.9 < found.missing_later < 1, "a quarter of the data: 3% are still there"
    assert found.spare is not None
    shard = data_bytes / SHARDS
    assert found.spare == pytest.approx((0.8 * size - 4 * shard) / (shard / 2), abs=1)
    assert (found.mixed, found.at_a_time(), found.at_a_time(64)) == (4 * 2, 8, 8), "all that come to be mixed"


def test_a_cache_that_just_holds_the_data_is_fetched_into_by_all_downloads(server: Server, tmp_path: Path) -> None:
    size = round(1.1 * sum(path.stat().st_size for path in server.folder.glob("train/*.tar")))
    options: dict[str, Any] = {"downloads": 4, "cache_size": size, "num_workers": 2}
    taken = loader(server, tmp_path / "a", **options)
    server.latency_seconds = LATE
    found = measured(taken)
    assert found.spare is not None
    assert found.spare < 0
    assert (found.mixed, found.at_a_time()) == (2 * SHARDS, 4)
    started = time.perf_counter()
    batches = sum(1 for _ in loader(server, tmp_path / "b", **options))
    real = 1e3 * (time.perf_counter() - started) / batches
    assert 0.5 < found.fetch_ms(8) / real < 2


def test_a_server_that_refuses_more_at_a_time_gives_no_more(data: Path, tmp_path: Path) -> None:
    with Server(data, most_at_a_time=3) as server:
        taken = loader(server, tmp_path)
        server.latency_seconds = LATE
        found = measured(taken)
        one, most = found.pace.bytes_per_second(1), found.pace.bytes_per_second(8)
        assert found.pace.bytes_per_second(2) == pytest.approx(2 * one, rel=0.3)
        assert most < 4 * one
        assert served(Rig(taken), found, 8, 0.5) < 4 * one


def test_of_a_mixture_each_source_has_the_bytes_of_its_share(server: Server, packed: Packed, tmp_path: Path) -> None:
    remote = fastload.Remote(downloads=2, cache_dir=tmp_path)
    label = {"label": fastload.Scalar()}
    many = fastload.StreamingDataset(server.url, fields=label, remote=remote)
    few = fastload.StreamingDataset(packed("tar", [6]), fields=label)
    mixed = fastload.Mix({"few": few, "many": many})
    assert mixed.samples < 16, "an epoch ends with the few"
    found = measured(DataLoader(mixed, 4), 0.1)
    each = found.data_bytes / (SHARDS * ROWS)
    assert found.sample_bytes == pytest.approx(each / 2)
    assert (found.missing, found.window) == (1, None)
    more = fastload.StreamingDataset(server.url, fields=label, remote=remote)
    deeper = fastload.Mix({"mixed": mixed, "more": more}, [3, 1])
    assert [(share, len(shards)) for share, shards, _ in _sources(deeper.order, range(99))] == [
        (3 / 8, 1),
        (3 / 8, SHARDS),
        (1 / 4, SHARDS),
    ]


def test_of_several_nodes_each_fetches_what_its_lanes_do_not_leave_to_others(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(lanes: int) -> Network:
        dataset = fastload.StreamingDataset(
            server.url, fields=FIELDS, lanes=lanes, rank=0, world_size=4, cache_dir=tmp_path
        )
        return measured(DataLoader(dataset, 8), 0.05)

    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone, two, four = of(1), of(2), of(4)
    assert [each.fetched_by for each in (alone, two, four)] == [4, 2, 1]
    assert alone.fetch_ms(8, 1e6) == pytest.approx(4 * four.fetch_ms(8, 1e6))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert of(1).fetched_by == 1, "ranks of a node share a cache"


def test_what_is_fetched_first_is_said_before(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(loader(server, tmp_path, window=1))
    with caplog.at_level("INFO", "fastload.profile"):
        fetch_first(rig, 0.0)
        (said,) = caplog.messages
        assert re.fullmatch(r"fetching 4 objects of a server, 1\d\d\.\d KiB, for the first batch, before .*", said)
        fetch_first(rig, 0.0)
    assert len(caplog.messages) == 1, "it is there already"


def test_a_server_that_fails_meanwhile_says_nothing(server: Server, tmp_path: Path) -> None:
    taken = loader(server, tmp_path)
    for path in server.folder.glob("train/*"):
        server.always[f"train/{path.name}"] = "503"
    assert measure(Rig(taken), 0.1) is None


def test_measurements_keep_to_the_shards_that_were_fetched_for_them(server: Server, tmp_path: Path) -> None:
    rig = Rig(loader(server, tmp_path, window=1, num_workers=1))
    first = fetch_first(rig, 0.0)
    assert first is not None
    assert (first.consumed, first.objects) == (8, 2 * 2)
    fetched = len(server.requests)
    steps = rig.endless()
    assert {int(shard) for _ in range(30) for shard in next(steps).shards} == set(first.shards)
    rig.run(rig.jobs(rig.endless()), 0.05)
    assert slow_shards(rig, 0.1) == []
    assert len(server.requests) == fetched
    assert len(set(first.shards)) == 2
    local = Rig(DataLoader(server.folder, 8))
    assert fetch_first(local, 1.0) is None
    assert local.at_hand is None


def test_of_a_small_cache_no_more_is_fetched_than_it_can_hold(server: Server, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in server.folder.glob("train/*.tar")) // 4
    first = fetch_first(Rig(loader(server, tmp_path, cache_size=size, window=2)), 60.0)
    assert first is not None
    assert 2 <= len(first.shards) < SHARDS / 4


def epoch_rate(server: Server, cache: Path, downloads: int) -> float:
    """Samples/s of a first epoch, from an empty cache."""
    taken, started = loader(server, cache, downloads), time.perf_counter()
    return sum(len(batch["label"]) for batch in taken) / (time.perf_counter() - started)


def test_a_profile_names_the_latency_and_predicts_an_epoch_and_more_downloads(server: Server, tmp_path: Path) -> None:
    taken = loader(server, tmp_path / "a")
    server.latency_seconds = LATE
    found = profile(taken, drop, seconds=1.0, try_advice=True)
    assert (found.verdict.limit, found.verdict.cause) == ("read", "latency")
    assert found.verdict.sentence.startswith("read limits, for each request waits ")
    assert found.verdict.waiting_share > 0.8
    real = epoch_rate(server, tmp_path / "b", 2)
    assert found.verdict.samples_per_second == pytest.approx(real, rel=0.3)
    (tried,) = [each for each in found.tried if "downloads" in each.advice.setting]
    advice = tried.advice
    assert (advice.change, dict(advice.setting)) == ("downloads=8 of fastload.Remote, from 2", {"downloads": 8})
    assert advice.gain == pytest.approx(4, rel=0.3)
    assert epoch_rate(server, tmp_path / "c", 8) > 1.5 * real, "an epoch of 0.3 s is mostly its ends"
    assert tried.came is not None
    assert tried.now is not None
    assert tried.came / tried.now == pytest.approx(advice.gain, rel=0.3)
    assert found.rungs[-1].source == "the server, by the model"
    assert found.rungs[-1].batch_ms == pytest.approx(found.model.fetch_ms)
    assert found.setting["downloads"] == 2
    read = json.loads(json.dumps(found.to_dict()))
    assert [number for number, _ in read["network"]["pace"]["rates"]] == [1, 2, 8]
    for text in (" ".join(str(found).split()), to_html(found)):
        for said in ("samples/s as the server gives them", "ms for a request, and gives", "From the second epoch on"):
            assert said in text


def test_a_profile_of_what_is_in_the_cache_is_one_of_the_loader_alone(server: Server, tmp_path: Path) -> None:
    taken = loader(server, tmp_path)
    for _ in taken:
        pass
    server.latency_seconds = 5.0
    found = profile(taken, lambda batch: time.sleep(0.01), seconds=0.3)
    assert (found.verdict.limit, found.network) == ("step", None)
    assert "shards in the cache" in str(found)
    assert "Nothing is told of the server" in str(found)
