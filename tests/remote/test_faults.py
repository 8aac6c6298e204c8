"""What a network does: passing faults are invisible, lasting ones an error that names the URL, in time."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import samples
import xxhash
from webserver import Server

import fastload
from fastload.errors import ConfigError, CorruptError, SourceError
from fastload.remote.cache import Cache
from fastload.remote.fetch import Blob, fetch_bytes, look
from fastload.shards.idx import Idx
from fastload.shards.open import open_index

SIZES = [3, 4, 2, 5, 3, 4]
PATIENT = fastload.Remote(stall_seconds=0.25, give_up_seconds=30)
HASTY = fastload.Remote(stall_seconds=0.3, give_up_seconds=0.6)
BROKEN = "train/shard-000002.tar"
Packed = Callable[..., Path]


class OnlyHere:
    """An option that the process which fetches cannot import."""


def stream(loader: fastload.DataLoader) -> list[object]:
    return [(samples.content(batch), batch.state) for batch in loader]


@pytest.mark.parametrize("shard_format", samples.FORMATS)
@pytest.mark.parametrize("seed", range(3))
def test_passing_faults_are_invisible(packed: Packed, tmp_path: Path, shard_format: str, seed: int) -> None:
    """C12: resets, short reads, slow answers, 503 and 429, by chance, on every kind of file."""
    folder = packed(shard_format, SIZES)
    local = fastload.DataLoader(folder, 4, num_workers=2, window=3)
    with Server(folder) as server:
        server.chance = (0.3, random.Random(seed))
        remote = fastload.DataLoader(server.url, 4, num_workers=2, window=3, remote=PATIENT, cache_dir=tmp_path)
        assert [stream(remote) for _ in range(2)] == [stream(local) for _ in range(2)]


@pytest.mark.parametrize("fault", ["refuse", "reset", "short", "503", "429", "hang", "stall", "wrong"])
@pytest.mark.parametrize("ranges", [True, False])
def test_each_fault_once(packed: Packed, tmp_path: Path, fault: str, ranges: bool) -> None:
    folder = packed("tar", SIZES)
    with Server(folder, ranges=ranges) as server:
        server.faults = {name: [fault] for name in (BROKEN, "index.json", "train/shard-000001.idx")}
        if fault == "wrong":  # of index.json no checksum is known
            del server.faults["index.json"]
        remote = fastload.DataLoader(server.url, 4, remote=PATIENT, cache_dir=tmp_path)
        assert stream(remote) == stream(fastload.DataLoader(folder, 4))
        assert not any(server.faults.values())


@pytest.mark.parametrize("fault", ["cannot be started", "has ended already"])
def test_a_forked_process_whose_fetching_process_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """C12"""
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.tar").write_bytes(b"content")
    begin, faults = subprocess.Popen, [fault]

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if not faults:
            return begin(command, **options)
        if faults.pop() == "cannot be started":
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        process = begin([command[0], "-c", "raise SystemExit(1)"], **options)
        process.wait()
        return process

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr("fastload.remote.transfer.forked", lambda: True)
    with Server(tmp_path / "web") as server:
        assert fetch_bytes(f"{server.url}/a.tar", PATIENT) == b"content"
    assert not faults


@pytest.mark.parametrize(
    ("timeout", "says"),
    [
        (aiohttp.ClientTimeout(sock_read=10), None),
        (threading.Lock(), r"^the option 'timeout', a lock, cannot be handed to .*pass what can be pickled"),
        (OnlyHere(), r"cannot be had in the process .*OnlyHere.*; define their classes in a module"),
    ],
)
def test_a_forked_process_hands_over_options_that_are_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout: object, says: str | None
) -> None:
    (tmp_path / "a.tar").write_bytes(b"content")
    monkeypatch.setattr("fastload.remote.transfer.forked", lambda: True)
    monkeypatch.setattr(OnlyHere, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "OnlyHere", OnlyHere, raising=False)
    with Server(tmp_path) as server:
        url, remote = f"{server.url}/a.tar?token=1", replace(HASTY, options={"timeout": timeout})
        if says is None:
            assert fetch_bytes(url, remote) == b"content"
        else:
            with pytest.raises(ConfigError, match=says):
                fetch_bytes(url, remote)


def test_what_was_cut_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(1_000_000)
    (tmp_path / "a.tar").write_bytes(content)
    with Server(tmp_path) as server:
        server.faults = {"a.tar": ["short", "reset", "503", "stall"]}
        blob = Blob(url=f"{server.url}/a.tar", size=len(content), xxh3=xxhash.xxh3_64_hexdigest(content))
        assert bytes(Cache(replace(PATIENT, cache_dir=tmp_path / "c")).open(blob)) == content
        asked = [first for _, path, first, _ in server.requests if path == "a.tar" and first]
    assert len(asked) >= 2
    assert asked == sorted(asked)
    assert asked[0] > 400_000


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("refuse", "cannot be fetched: "),
        ("reset", "cannot be fetched: "),
        ("503", "cannot be fetched: .*503"),
        ("hang", "cannot be fetched: "),
        ("stall", "cannot be fetched: "),
    ],
)
def test_a_store_that_is_gone_is_an_error_in_time(
    packed: Packed, tmp_path: Path, fault: str, says: str, num_workers: int
) -> None:
    """C11: a SourceError, before the loader's own limit would raise an EngineError; no short epoch, also under mask."""
    with Server(packed("tar", SIZES), ranges=False) as server:
        server.always[BROKEN] = fault
        loader = fastload.DataLoader(
            server.url, 4, num_workers=num_workers, timeout=60, remote=HASTY, on_error="mask", cache_dir=tmp_path
        )
        with pytest.raises(SourceError, match=rf"^shard '{BROKEN}': http://127.0.0.1:\d+/{BROKEN} {says}") as at:
            list(loader)
        assert "tries, the last 0.6 s without a byte; check the network and the server" in str(at.value)


@pytest.mark.parametrize("status", ["400", "401", "403", "404"])
def test_what_is_refused_is_not_tried_again(packed: Packed, tmp_path: Path, status: str) -> None:
    with Server(packed("tar", SIZES)) as server:
        server.always["index.json"] = status
        with pytest.raises(SourceError, match=r"does not exist|is refused: .*check the URL and the credentials"):
            open_index(f"{server.url}/index.json", remote=fastload.Remote(cache_dir=tmp_path))
        assert server.gets() == {"index.json": 1}


@pytest.mark.parametrize("faults", [[], ["503"] * 2, ["refuse"] * 2, ["hang"] * 2, ["short"] * 2])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_signed_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool, faults: list[str]) -> None:
    """Read by fsspec: faults pass, and a server need not know ranges; more than one of its blocks."""
    monkeypatch.setattr("fastload.remote.fetch.FIRST_PAUSE_SECONDS", 0.01)
    content = random.Random(0).randbytes(8 << 20)
    (tmp_path / "a.tar").write_bytes(content)
    with Server(tmp_path, ranges=ranges) as server:
        server.faults["a.tar"] = list(faults)
        assert fetch_bytes(f"{server.url}/a.tar?token=1", PATIENT) == content
        head = look(f"{server.url}/a.tar?token=1", PATIENT)
        assert head is not None
        assert (head.size, bool(head.version)) == (len(content), True)


def test_what_is_not_behind_a_signed_url(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert fetch_bytes(f"{server.url}/a.tar?token=secret", HASTY) is None
        for status, says in (("403", "is refused: 403 Forbidden; check"), ("503", "cannot be fetched: 503 Service Un")):
            server.always["a.tar"] = status
            with pytest.raises(SourceError, match=says) as at:
                fetch_bytes(f"{server.url}/a.tar?token=secret", HASTY)
            assert "secret" not in str(at.value)


def test_the_bound_of_stalls_of_a_signed_url_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"content")
    options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_read=0.2)}}
    remote = fastload.Remote(stall_seconds=30, give_up_seconds=30, options=options)
    with Server(tmp_path) as server:
        server.faults["a.tar"] = ["hang"]
        since = time.monotonic()
        assert fetch_bytes(f"{server.url}/a.tar?token=1", remote) == b"content"
        assert time.monotonic() - since < 10


def test_a_bucket_that_may_not_be_listed(packed: Packed, tmp_path: Path) -> None:
    """It says 403 of what is not there."""
    with Server(packed("tar", SIZES)) as server:
        server.always = {"train/index.json": "403", "train/shard-000001.idx": "403"}
        assert len(open_index(f"{server.url}/train", remote=fastload.Remote(cache_dir=tmp_path)).files) == len(SIZES)
        shard = f"{server.url}/train/shard-000001.tar"
        assert open_index(shard, remote=fastload.Remote(cache_dir=tmp_path)).samples == SIZES[1]
        server.always["index.json"] = "403"
        with pytest.raises(SourceError, match=r"/train/index.json is refused: .*403"):
            open_index(f"{server.url}/train", remote=fastload.Remote(cache_dir=tmp_path))


def test_an_index_of_a_shard_that_is_damaged_is_no_damaged_sample(packed: Packed, tmp_path: Path) -> None:
    with Server(packed("tar", SIZES)) as server:
        server.always["train/shard-000001.idx"] = "wrong"
        loader = fastload.DataLoader(server.url, 4, on_error="mask", cache_dir=tmp_path)
        with pytest.raises(CorruptError, match=r"shard-000001.idx is not the file that index.json describes"):
            list(loader)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"http://127.0.0.1:9/a.tar cannot be fetched: .*; \d+ tries"):
        open_index("http://127.0.0.1:9/a.tar", remote=HASTY)


def test_bytes_that_are_always_wrong(packed: Packed, tmp_path: Path) -> None:
    """C10: fetched once more, then raised, whoever found it: who reads, or who fetched ahead."""
    with Server(packed("tar", SIZES)) as server:
        server.always[BROKEN] = "wrong"
        for num_workers in (0, 2):
            loader = fastload.DataLoader(server.url, 4, num_workers=num_workers, cache_dir=tmp_path / f"{num_workers}")
            with pytest.raises(CorruptError, match=f"{BROKEN} is not the file that its index describes"):
                list(loader)
        assert server.gets()[BROKEN] <= 8  # two threads may ask one after the other


def test_masked_are_damaged_samples_and_nothing_else(packed: Packed, tmp_path: Path) -> None:
    """C13: as of a local folder; the shard was fetched twice, for its damage could have been on the way."""
    web = tmp_path / "web"
    shutil.copytree(packed("tar", SIZES), web)
    idx = Idx(str(web / BROKEN).replace(".tar", ".idx"))
    samples.flip_byte(web / BROKEN, int(idx.offsets[1]) + 600)
    with Server(web) as server:
        for cache in ("a", "a", "b"):  # the second one finds it in the cache
            local = fastload.DataLoader(web, 4, on_error="mask")
            remote = fastload.DataLoader(server.url, 4, on_error="mask", num_workers=2, cache_dir=tmp_path / cache)
            assert stream(remote) == stream(local)
            assert remote.faults == local.faults
            assert len(remote.faults) == 1
        with pytest.raises(CorruptError, match="is not the file that its index describes"):
            list(fastload.DataLoader(server.url, 4, cache_dir=tmp_path / "a"))


def test_a_file_that_changes_after_it_was_opened(packed: Packed, tmp_path: Path) -> None:
    """C10: a shard without an index.json is known by its ETag."""
    web = tmp_path / "web"
    shutil.copytree(packed("tar", [4, 4]) / "train", web)
    with Server(web) as server:
        urls = f"{server.url}/shard-00000{{0,1}}.tar"
        loader = fastload.DataLoader(urls, 4, remote=HASTY, cache_dir=tmp_path / "c", shuffle=False)
        samples.flip_byte(web / "shard-000001.tar", 700)
        with pytest.raises(CorruptError, match=r"01.tar is version '.*', and was '.*' when it was opened, in 2"):
            list(loader)
