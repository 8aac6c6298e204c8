"""The cache: its limit, its files, and several processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import samples
import xxhash
from webserver import Server

import fastload
from fastload.errors import ConfigError, CorruptError, EngineError, SourceError
from fastload.remote.cache import Cache
from fastload.remote.fetch import Blob
from fastload.remote.folder import Folder, let_go, name_of
from fastload.stopping import work_until

Packed = Callable[..., Path]
SIZE = 100_000

# Opens objects as another process does; says when the first is there, and ends when its input does.
PROGRAM = """
import sys
from fastload.remote.cache import Cache
from fastload.remote.fetch import Blob
from fastload.remote.settings import Remote
folder, limit, *urls = sys.argv[1:]
cache = Cache(Remote(cache_dir=folder, cache_size=None if limit == "-" else int(limit)))
views = []
for url in urls:
    url, _, digest = url.partition("#")
    views.append(cache.open(Blob(url=url, size=100_000, xxh3=digest)))
    print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """Ten files of 100 kB."""
    folder = tmp_path / "web"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.tar").write_bytes(bytes([number]) * SIZE)
    return folder


@pytest.fixture
def server(web: Path) -> Iterator[Server]:
    with Server(web) as running:
        yield running


def blob(server: Server, number: int) -> Blob:
    digest = xxhash.xxh3_64_hexdigest((server.folder / f"{number}.tar").read_bytes())
    return Blob(url=f"{server.url}/{number}.tar", size=SIZE, xxh3=digest)


def make(tmp_path: Path, **options: object) -> Cache:
    return Cache(fastload.Remote(cache_dir=tmp_path / "c", **options))  # type: ignore[arg-type]


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name[33:] for path in (tmp_path / "c/remote").iterdir())


def start(tmp_path: Path, server: Server, limit: str, numbers: range) -> subprocess.Popen[str]:
    urls = [f"{one.url}#{one.xxh3}" for one in (blob(server, number) for number in numbers)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "c"), limit, *urls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def test_the_oldest_unused_make_room(server: Server, tmp_path: Path) -> None:
    cache = make(tmp_path, cache_size=3 * SIZE)
    in_use = cache.open(blob(server, 0))
    for number in (1, 2, 1, 3, 4):
        cache.open(blob(server, number))
    assert kept(tmp_path) == ["0.tar", "3.tar", "4.tar"]  # 2 went before 1, which had been used since; 0 is in use
    assert server.gets()["1.tar"] == 1
    in_use.release()
    del in_use
    cache.open(blob(server, 5))
    assert kept(tmp_path) == ["3.tar", "4.tar", "5.tar"]


def test_files_of_others_are_left_alone(server: Server, tmp_path: Path) -> None:
    """C16"""
    mine = tmp_path / "c/remote"
    mine.mkdir(parents=True)
    names = ["0.tar", "notes.txt", "0123456789abcdef-0.tar", "x" * 32 + "-0.tar", "a.part", "1.tar.0.part"]
    for name in names:
        (mine / name).write_bytes(b"x" * SIZE)
    (mine.parent / "top.tar").write_bytes(b"y")
    source = {path.name: path.read_bytes() for path in server.folder.iterdir()}
    cache = make(tmp_path, cache_size=2 * SIZE)
    for number in range(6):
        cache.open(blob(server, number))
    assert all((mine / name).read_bytes() == b"x" * SIZE for name in names)
    assert (mine.parent / "top.tar").read_bytes() == b"y"
    assert {path.name: path.read_bytes() for path in server.folder.iterdir()} == source


def test_what_does_not_fit_is_an_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"0.tar has 100000 bytes, more than cache_size=50000; raise it"):
        make(tmp_path, cache_size=50_000).open(blob(server, 0))
    cache = make(tmp_path, cache_size=2 * SIZE, give_up_seconds=0.2)
    held = [cache.open(blob(server, number)) for number in (0, 1)]
    with pytest.raises(SourceError, match=r"no room for .*2.tar \(100000 bytes\) .* all 200000 bytes in it are in use"):
        cache.open(blob(server, 2))
    assert [bytes(view[:1]) for view in held] == [b"\0", b"\1"]
    assert kept(tmp_path) == ["0.tar", "1.tar"]


def test_holders_let_go_where_room_is_short(server: Server, tmp_path: Path) -> None:
    class Holder:
        def __init__(self) -> None:
            self.views: list[memoryview] = []

        def let_go(self) -> None:
            self.views.clear()

    cache, holder = make(tmp_path, cache_size=2 * SIZE), Holder()
    cache.holders.add(holder)
    holder.views += [cache.open(blob(server, number)) for number in (0, 1)]
    assert bytes(cache.open(blob(server, 2))[:1]) == b"\2"
    assert not holder.views


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_found_and_fetched_again(server: Server, tmp_path: Path, damage: str) -> None:
    """C10"""
    make(tmp_path).open(blob(server, 3))
    (path,) = (tmp_path / "c/remote").iterdir()
    if damage == "flip":
        samples.flip_byte(path, 77_777)
    else:
        os.truncate(path, SIZE - 1 if damage == "cut" else 0)
    assert bytes(make(tmp_path).open(blob(server, 3))) == b"\3" * SIZE
    assert server.gets()["3.tar"] == 2


@pytest.mark.parametrize("by_now", ["gone", "fetched again"])
def test_a_damaged_file_that_another_has_dropped_by_now(tmp_path: Path, by_now: str) -> None:
    """Who drops it second finds nothing to do, and leaves what was fetched in its place."""
    folder, path = Folder(tmp_path, None, 1.0), tmp_path / "x.tar"
    path.write_bytes(b"damaged")
    file = folder.hold("x.tar")
    assert file is not None
    try:
        path.unlink()
        if by_now == "fetched again":
            path.write_bytes(b"whole")
        folder.drop("x.tar", file)
        assert path.exists() == (by_now == "fetched again")
    finally:
        os.close(file)


@pytest.mark.parametrize("by_now", ["made", "not made"])
def test_an_object_that_comes_while_a_part_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_now: str
) -> None:
    """Nobody else's writing is done twice, and no empty part stays."""
    folder, lock = Folder(tmp_path, None, 1.0), Folder._lock

    def late(*args: Any) -> bool:
        if by_now == "made":
            (tmp_path / "x.tar").write_bytes(b"whole")
        return lock(*args)

    monkeypatch.setattr(Folder, "_lock", late)
    part = folder.begin("x.tar")
    assert (part is None) == (by_now == "made")
    if part is not None:
        folder.finish("x.tar")
        let_go(part)
    assert os.listdir(tmp_path) == ["x.tar"]


def test_a_fork_at_any_moment_keeps_no_lock(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C16: what a process that was forked has is a copy of each descriptor, and with it of the lock."""
    lock, copies = fcntl.flock, []

    def locked(file: int, kind: int) -> None:
        lock(file, kind)
        if kind & fcntl.LOCK_EX:
            copies.append(os.dup(file))

    monkeypatch.setattr(fcntl, "flock", locked)
    cache = make(tmp_path, cache_size=2 * SIZE, stall_seconds=0.2, give_up_seconds=0.2)
    try:
        for number in range(3):
            assert bytes(cache.open(blob(server, number))[:1]) == bytes([number])
        assert len(copies) > 6
    finally:
        for copy in copies:
            os.close(copy)


def test_what_held_objects_before_a_fork_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is not there any more may have left it locked."""
    asked = []

    class Holder:
        def let_go(self) -> None:
            asked.append(self)

    cache, before, after = make(tmp_path), Holder(), Holder()
    cache.readers.add(before)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    cache.readers.add(after)
    cache.close_readers()
    assert asked == [after]


def test_threads_that_come_first_share_all_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, cache, make_folder = threading.Barrier(2), make(tmp_path), Folder.make

    def at_once(folder: Folder) -> None:
        both.wait(30)
        make_folder(folder)

    monkeypatch.setattr(Folder, "make", at_once)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: cache._process(), range(2))
    assert first is second


def test_a_map_that_the_system_refuses_names_the_cache(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("fastload.remote.cache._map", refused)
    with pytest.raises(SourceError, match=r"c/remote cannot be used: Too many open files"):
        make(tmp_path).open(blob(server, 0))


def test_time_in_which_the_process_stands_still_is_no_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes with each look, as with Ctrl-Z; the writer, who stood still too, is done at the third."""
    (tmp_path / "x.tar").write_bytes(b"whole")
    folder, hours, looks = Folder(tmp_path, None, 30.0), itertools.count(step=3600), itertools.count()
    with open(tmp_path / "x.tar", "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        unlock = {3: lambda: fcntl.flock(writer, fcntl.LOCK_UN)}
        monkeypatch.setattr("fastload.remote.folder.time", SimpleNamespace(monotonic=lambda: float(next(hours))))
        monkeypatch.setattr("fastload.remote.folder.pause", lambda _: unlock.get(next(looks), lambda: None)())
        file = folder.hold("x.tar")
    assert file is not None
    os.close(file)


def test_a_disk_that_damages_what_it_keeps(server: Server, tmp_path: Path) -> None:
    damaged = Blob(url=f"{server.url}/0.tar", size=SIZE, xxh3=xxhash.xxh3_64_hexdigest(b"something else"))
    with pytest.raises(CorruptError, match=r"0.tar is not the file that its index describes .* in 2 downloads"):
        make(tmp_path).open(damaged)
    assert not kept(tmp_path)


def test_names_differ_for_all_urls_and_versions() -> None:
    """C17"""
    urls = [f"http://h/{folder}/000000.tar" for folder in ("train", "val", "a/train")] + ["s3://h/train/000000.tar"]
    blobs = [Blob(url=url, size=1, xxh3=digest) for url in urls for digest in ("a", "b", None)]
    blobs += [Blob(url=url, size=size, version=version) for url in urls for size in (1, 2) for version in ("a", "")]
    found = {name_of(each) for each in blobs}
    assert len(found) == len(blobs)
    assert all(name.endswith("-000000.tar") for name in found)
    assert name_of(Blob(url="http://h/a/é {x}?token=secret")).endswith("-___x_")


def test_threads_fetch_each_object_once(server: Server, tmp_path: Path) -> None:
    server.bytes_per_second = 2e6
    cache, found = make(tmp_path), []

    def work() -> None:
        found.extend(bytes(cache.open(blob(server, number))[:1]) for number in range(4))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(bytes([number]) for number in range(4) for _ in threads)
    assert set(server.gets().values()) == {1}


def test_processes_share_a_cache(server: Server, tmp_path: Path) -> None:
    """C16: each object is fetched once, whoever asks; nothing is left but the objects."""
    server.bytes_per_second = 2e6
    programs = [start(tmp_path, server, "-", range(6)) for _ in range(3)]
    for program in programs:
        out, errors = program.communicate("", timeout=60)
        assert (program.returncode, out.count("open"), errors) == (0, 6, "")
    assert set(server.gets().values()) == {1}
    assert kept(tmp_path) == [f"{number}.tar" for number in range(6)]


def test_an_object_in_use_by_another_process_stays(server: Server, tmp_path: Path) -> None:
    program = start(tmp_path, server, "-", range(2))
    assert program.stdout is not None
    assert [program.stdout.readline() for _ in range(2)] == ["open\n"] * 2
    cache = make(tmp_path, cache_size=3 * SIZE)
    for number in (5, 6, 7):
        cache.open(blob(server, number))
    assert kept(tmp_path) == ["0.tar", "1.tar", "7.tar"]
    program.communicate("", timeout=60)
    cache.open(blob(server, 8))
    cache.open(blob(server, 9))
    assert kept(tmp_path) == ["7.tar", "8.tar", "9.tar"]


def test_a_process_that_is_killed_leaves_nothing_that_stays(server: Server, tmp_path: Path) -> None:
    """C15: its half file and its lock are no obstacle, and are gone after the next start."""
    server.bytes_per_second = 50_000.0
    program = start(tmp_path, server, "-", range(1))
    until(lambda: bool(server.gets()))
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=60)
    assert [path.suffix for path in (tmp_path / "c/remote").iterdir()] == [".part"]
    server.bytes_per_second = 0
    assert bytes(make(tmp_path).open(blob(server, 1))[:1]) == b"\1"
    assert kept(tmp_path) == ["1.tar"]
    assert bytes(make(tmp_path).open(blob(server, 0))) == b"\0" * SIZE


def test_who_waits_for_a_process_that_is_killed_takes_over(server: Server, tmp_path: Path) -> None:
    server.bytes_per_second = 50_000.0
    program = start(tmp_path, server, "-", range(1))
    until(lambda: bool(server.gets()))
    found: list[memoryview] = []
    waiting = threading.Thread(target=lambda: found.append(make(tmp_path).open(blob(server, 0))))
    waiting.start()
    server.bytes_per_second = 0
    program.kill()
    program.communicate(timeout=60)
    waiting.join(60)
    assert bytes(found[0]) == b"\0" * SIZE
    assert server.gets()["0.tar"] == 2


def test_a_writer_that_stands_still_is_named(server: Server, tmp_path: Path) -> None:
    """C11: a stopped process holds its lock; who waits for it does not wait for ever."""
    server.bytes_per_second = 50_000.0
    program = start(tmp_path, server, "-", range(1))
    until(lambda: bool(server.gets()))
    program.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(SourceError, match=r"-0.tar.\d+.part has been locked for 0.6 s by a process that makes no"):
            make(tmp_path, stall_seconds=0.3, give_up_seconds=0.3).open(blob(server, 0))
    finally:
        program.kill()
        program.send_signal(signal.SIGCONT)
        program.communicate(timeout=60)


def test_work_that_was_given_up_ends(server: Server, tmp_path: Path) -> None:
    server.bytes_per_second = 50_000.0
    stop, errors = threading.Event(), []

    def work() -> None:
        work_until(stop)
        try:
            make(tmp_path).open(blob(server, 0))
        except EngineError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: (tmp_path / "c/remote").is_dir() and bool(kept(tmp_path)))
    stop.set()
    thread.join(60)
    assert errors == ["what this was read for was closed; begin a new iteration"]
    assert not kept(tmp_path)


def test_a_folder_that_cannot_be_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match=r"file/remote cannot be used: .*; pass another cache_dir"):
        Cache(fastload.Remote(cache_dir=tmp_path / "file")).open(blob(server, 0))
    with pytest.raises(SourceError, match="file/remote cannot be used: "):  # before anything is fetched
        fastload.StreamingDataset(server.url, cache_dir=tmp_path / "file")
    assert not server.requests
    with pytest.raises(ConfigError, match="cache_dir='': pass a folder"):
        fastload.Remote(cache_dir="")


def test_a_folder_that_is_removed_during_a_run_is_made_again(server: Server, tmp_path: Path) -> None:
    cache = make(tmp_path)
    for number in (0, 1, 0):
        assert bytes(cache.open(blob(server, number))) == bytes([number]) * SIZE
        shutil.rmtree(tmp_path / "c")
    assert server.gets() == {"0.tar": 2, "1.tar": 1}


def test_epochs_whose_cache_is_removed_between_them(packed: Packed, tmp_path: Path) -> None:
    folder = packed("tar", [6] * 6)
    with Server(folder) as server:  # with room for few shards, so that most are opened again in each epoch
        size = sum(file.stat().st_size for file in (folder / "train").glob("*.tar"))
        loader = fastload.DataLoader(
            server.url, 4, num_workers=2, window=1, seed=1, cache_dir=tmp_path / "c", cache_size=size // 2
        )
        local = fastload.DataLoader(folder, 4, window=1, seed=1)
        for _ in range(3):
            assert [batch["__key__"] for batch in loader] == [batch["__key__"] for batch in local]
            shutil.rmtree(tmp_path / "c")


def test_the_cache_stays_under_its_limit_during_a_run(packed: Packed, tmp_path: Path) -> None:
    """C16: polled while two loaders read through it; the stream is that of the local folder."""
    folder = packed("tar", [4] * 12)
    sizes = sorted(path.stat().st_size for path in folder.glob("train/*"))
    limit, seen, over = sum(sizes[-6:]) + 20_000, [0], threading.Event()

    def poll() -> None:
        cache = tmp_path / "c/remote"
        until(cache.is_dir)
        while not over.is_set():
            folder = os.open(cache, os.O_RDONLY)
            fcntl.flock(folder, fcntl.LOCK_EX)  # no room is made meanwhile
            sizes = {}  # by inode: a file may get its last name meanwhile
            for path in cache.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    sizes[path.stat().st_ino] = path.stat().st_size
            os.close(folder)
            seen.append(sum(sizes.values()))
            time.sleep(0.001)

    with Server(folder) as server:
        options = {"cache_dir": tmp_path / "c", "cache_size": limit, "window": 2, "num_workers": 2}
        loaders = [fastload.DataLoader(server.url, 4, seed=seed, **options) for seed in (0, 0)]
        watching = threading.Thread(target=poll)
        watching.start()
        rows = [[batch["__key__"] for pair in zip(*loaders, strict=True) for batch in pair] for _ in range(3)]
        over.set()
        watching.join()
    local = fastload.DataLoader(folder, 4, window=2, seed=0)
    assert [keys[::2] for keys in rows] == [[batch["__key__"] for batch in local] for _ in range(3)]
    assert 0 < max(seen) <= limit
    assert sum(sizes) > limit


def test_nothing_is_left_behind(packed: Packed, tmp_path: Path) -> None:
    """C15: threads, descriptors and half files after an end, a break and an error."""
    web = tmp_path / "web"
    shutil.copytree(packed("tar", [4] * 6), web)
    with Server(web) as server:
        loader = fastload.DataLoader(server.url, 4, num_workers=2, cache_dir=tmp_path / "c")
        list(loader)
        threads, files = _threads(), len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            list(loader)
            for _ in loader:
                break
        assert _threads() == threads
        assert len(os.listdir("/proc/self/fd")) <= files + 1
        server.always["train/shard-000003.tar"] = "404"
        broken = fastload.DataLoader(server.url, 4, num_workers=2, cache_dir=tmp_path / "other")
        with pytest.raises(SourceError):
            list(broken)
        assert _threads() == threads
    assert not list(tmp_path.glob("*/remote/*.part"))


def _threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("fastload"))


def test_a_resume_reads_no_more_than_the_rest(packed: Packed, tmp_path: Path) -> None:
    """C5"""
    folder = packed("tar", [4] * 12)
    local = fastload.DataLoader(folder, 4, window=1)
    with Server(folder) as server:
        for place in (0, 6, 11):
            batches = iter(local)
            for _ in range(place):
                next(batches)
            state = local.state_dict()
            expected = [batch["__key__"] for batch in batches]
            remote = fastload.DataLoader(server.url, 4, window=1, cache_dir=tmp_path / f"{place}")
            server.requests.clear()
            remote.load_state_dict(state)
            assert [batch["__key__"] for batch in remote] == expected
            assert len([path for path in server.gets() if path.endswith(".tar")]) == 12 - place


def test_the_room_of_a_cache_is_its_limit_or_what_the_disk_has(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make(tmp_path, cache_size="300kB").room() == 300_000
    cache = make(tmp_path)
    cache.open(blob(server, 0))
    disk = SimpleNamespace(f_bavail=50, f_frsize=4096, f_blocks=1000)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    assert cache.room() == SIZE, "5% of the disk stay free, and that is all that is left"
    disk.f_bavail = 150
    assert cache.room() == SIZE + 100 * 4096
