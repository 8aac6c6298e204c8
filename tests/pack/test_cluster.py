"""Packing through Ray: on two nodes, one of them lost on the way, the same bytes as here; and what is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from pack_sources import photo, tree
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from typer.testing import CliRunner
from webserver import Server

from fastload import Cleaning, Remote
from fastload.cli import app
from fastload.errors import ConfigError, MissingExtraError, PackError, SourceError
from fastload.pack import cluster as module
from fastload.pack import pack
from fastload.pack.cluster import ParentNode, carry_out
from fastload.pack.journal import Journal
from fastload.pack.prepare import Prepare
from fastload.pack.tasks import Tell
from fastload.shards.foreign import JOURNAL_NAME

ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}  # no token in the home folder
SETTINGS = {
    "worker_niceness": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
    "health_check_initial_delay_ms": 0,
}
STORE = 80 << 20
OPTIONS: dict[str, Any] = {"shard_size": "40KiB", "split": {"train": 0.6, "val": 0.4}}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster of one node with one processor; `second` adds another."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        unused = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        head = {"num_cpus": 1, "object_store_memory": STORE, "_system_config": SETTINGS, **unused}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def driver(nodes: Cluster) -> Iterator[None]:
    """From here on this process stays connected, so that workers that have begun serve all tests."""
    with module._nothing_changed():
        ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def second(nodes: Cluster, driver: None) -> Any:
    """Another node with one processor and a worker that has begun; a test that kills it removes it."""
    node = next(iter(nodes.worker_nodes), None) or nodes.add_node(num_cpus=1, object_store_memory=STORE)
    there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    ray.get(ray.remote(module.own_version).options(scheduling_strategy=there).remote())
    return node


@pytest.fixture
def source(images: Path) -> Path:
    """Small pictures, and some that are made crop-seekable: about 20 shards."""
    for number in range(30):
        (images / f"class{number % 3}" / f"large{number}.jpg").write_bytes(photo(number))
    return images


def raylets_of(node: Any) -> list[psutil.Process]:
    return [psutil.Process(one.process.pid) for processes in node.all_processes.values() for one in processes]


def workers_of(node: Any) -> list[psutil.Process]:
    """The processes of a node that carry out tasks: Ray renames them to what they do."""
    children = (child for raylet in raylets_of(node) for child in raylet.children())
    return [child for child in children if doing(child).startswith("ray::")]


def doing(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.NoSuchProcess:  # a worker that ended by itself
        return ""


def send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def killed_at_work(node: Any, workers: list[psutil.Process]) -> bool:
    """End a node as a power cut does, its raylet and all its processes at once, by their process ids; if one of its
    workers has a task in hand, else it goes on."""
    for worker in workers:
        if doing(worker) == "ray::carry_out":
            send([worker], signal.SIGSTOP)
            if doing(worker) == "ray::carry_out":
                raylets = raylets_of(node)
                send([*raylets, *(child for one in raylets for child in one.children(recursive=True))], signal.SIGKILL)
                for processes in node.all_processes.values():
                    for one in processes:
                        one.process.wait()
                return True
            send([worker], signal.SIGCONT)
    return False


# What is refused, without a cluster


def test_arguments(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="engine='dask': pass 'local' or 'ray'"):
        pack(source, tmp_path / "out", engine="dask")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="address='auto' is that of a Ray cluster; pass engine='ray' too"):
        pack(source, tmp_path / "out", address="auto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(PackError, match=f"no Ray cluster answers at {address} .*refused.*; start one"):
            pack(source, tmp_path / "out", engine="ray", address=address)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r"needs ray, which is not installed; pip install .*\[ray\]'"):
        pack(source, tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


def test_a_machine_that_would_write_other_bytes_or_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARED_SECONDS", 0.2)
    with Journal(tmp_path / "out", {}) as journal:
        prepare = Prepare(resize_longer=64)
        parent = ParentNode.here(tmp_path / "out", journal.owner, prepare, "parquet")
        assert carry_out(parent, lambda tell: 7) == ("result", 7)
        other = replace(parent, host="elsewhere", owner=journal.owner + b"0")  # another run's folder
        expected = {
            "out is not the folder that elsewhere packs into; with engine='ray', source and output must be in a": other,
            "none is not the folder that elsewhere packs into": replace(other, out=tmp_path / "none"),
        }
        for name in ("fastload", "the native JPEG kernel", "pillow", "pyarrow"):
            message = (
                rf"{name} is [\w. ]+, and 0.0.1 on elsewhere, so that shards could differ; install the same on all"
            )
            expected[message] = replace(other, versions={**parent.versions, name: "0.0.1"})
        for message, wanted in expected.items():
            what, error = carry_out(wanted, lambda tell: 7)
            assert what == "error"
            with pytest.raises(PackError, match=message + rf".* \(on {socket.gethostname()}\)$"):
                raise error
    assert not (tmp_path / "out" / JOURNAL_NAME).exists()


def test_tasks_of_a_run_that_ends_end_too(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", {}) as journal:
        parent = ParentNode.here(tmp_path / "out", journal.owner, Prepare(), "tar")
        done: list[int] = []

        def work(tell: Tell) -> None:
            for samples in range(5):
                tell(samples, 0)
                done.append(samples)
                if samples == 2:
                    parent.stop()

        for _ in range(2):  # one that is at work, and one that was still to begin
            what, error = carry_out(parent, work)
            assert what == "error"
            assert str(error) == "the run was stopped"
        assert done == [0, 1, 2]
    assert not (tmp_path / "out").exists()


# Runs that connect by themselves


def test_what_a_task_refuses_ends_the_run_and_leaves_no_attempt(nodes: Cluster, source: Path, tmp_path: Path) -> None:
    bad = source / "class1" / "large1.jpg"
    bad.write_bytes(photo(1)[:-400])
    out = tmp_path / "out"
    with pytest.raises(PackError, match=r"large1.jpg: JPEG of \d+ bytes has no end: it was cut off; remove or mend"):
        pack(source, out, engine="ray", address=nodes.address, workers=1, shard_size="40KiB")
    assert not list(out.rglob("*.partial"))
    finished = len(list(out.rglob("*.tar")))
    bad.write_bytes(photo(1))
    done = CliRunner().invoke(
        app,
        ["pack", str(source), str(out), "--shard-size", "40KiB", "--engine", "ray"],
        env={"RAY_ADDRESS": nodes.address},
    )
    assert done.exit_code == 0, done.output
    assert finished < len(list(out.rglob("*.tar")))
    pack(source, tmp_path / "clean", workers=1, shard_size="40KiB")
    assert tree(out) == tree(tmp_path / "clean")


ALONE = """
import os, signal, sys
from pathlib import Path
import psutil
from fastload.pack import pack

def state():
    return dict(os.environ), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.excepthook

before = state()
pack(sys.argv[1], sys.argv[2], engine="ray", workers=2, shard_size=200_000)
assert state() == before
assert psutil.Process().children(recursive=True) == []
import ray
assert not ray.is_initialized()
ray.init(sys.argv[4], log_to_driver=False)
pack(sys.argv[1], sys.argv[3], engine="ray", shard_size=200_000)
assert ray.is_initialized()  # the caller's own stays
ray.shutdown()
"""


def test_a_cluster_of_its_own_ends_with_the_run_and_the_callers_stays(
    nodes: Cluster, source: Path, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | ENVIRONMENT
    with tempfile.TemporaryDirectory() as folder:  # where no cluster of others is found; sockets need a short path
        environment["RAY_TMPDIR"] = folder
        command = [sys.executable, "-c", ALONE, str(source), str(tmp_path / "a"), str(tmp_path / "b"), nodes.address]
        subprocess.run(command, env=environment, check=True)
        left = [process.info for process in psutil.process_iter(["cmdline"]) if folder in str(process.info["cmdline"])]
        assert left == []
    pack(source, tmp_path / "clean", workers=1, shard_size=200_000)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "clean")


# Runs of a process that stays connected


KILLED = """
import json, os, signal, sys
from fastload.pack import pack
looked = []
def progress(done, total, written):
    if looked and done > 20:
        os.kill(os.getpid(), signal.SIGKILL)
    if done == total:
        looked.append(True)
pack(sys.argv[1], sys.argv[2], progress=progress, **json.loads(sys.argv[3]))
"""


@pytest.mark.parametrize("first", ["ray", "local"])
def test_either_engine_goes_on_with_what_the_other_began(
    nodes: Cluster, driver: None, source: Path, tmp_path: Path, first: str
) -> None:
    ray, local = {"engine": "ray", "address": nodes.address}, {"engine": "local", "workers": 1}
    begun, ended = (ray, local) if first == "ray" else (local, ray)
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, "source", str(out), json.dumps(OPTIONS | begun)]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == -signal.SIGKILL
    kept = {path: path.stat().st_ino for path in out.rglob("*.tar")}
    assert 2 <= len(kept) < 20
    pack(source, out, **OPTIONS, **ended)  # type: ignore[arg-type]
    assert {path: path.stat().st_ino for path in kept} == kept
    pack(source, tmp_path / "clean", workers=1, **OPTIONS)
    assert tree(out) == tree(tmp_path / "clean")


@pytest.mark.usefixtures("driver")
def test_what_is_cleaned_prepared_and_summed_up_is_the_same(source: Path, tmp_path: Path) -> None:
    large = source / "class0/large0.jpg"
    (source / "class0/copy.jpg").write_bytes(large.read_bytes())
    (source / "class0/cut.jpg").write_bytes(large.read_bytes()[:-400])
    options = OPTIONS | {"prepare": Prepare(resize_longer=120), "statistics": True}
    options["clean"] = Cleaning(on_error="skip", duplicates="drop")
    index = pack(source, tmp_path / "ray", engine="ray", **options)
    assert index == pack(source, tmp_path / "local", workers=1, **options)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    assert index.statistics["cleaning"]["rejected"] == {"duplicate": 1, "unreadable": 1}
    assert sum(split["resized"] for split in index.statistics["resize"].values()) == 30
    assert len(index.shards) > 2


@pytest.mark.usefixtures("second")
def test_shards_of_a_cluster_go_to_an_object_store(source: Path, tmp_path: Path) -> None:
    with Server(tmp_path / "store") as server:
        store = {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}
        url, scratch, remote = "s3://bucket/data", tmp_path / "scratch", Remote(options=store, give_up_seconds=0.01)
        ray = {"engine": "ray", "scratch": scratch, "remote": remote}
        server.always["bucket/data/val/shard-000003.tar"] = "503"
        with pytest.raises(SourceError, match=r"val/shard-000003.tar cannot be written"):
            pack(source, url, **OPTIONS, **ray)  # type: ignore[arg-type]
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.tar")}
        assert len(kept) > 5
        server.always.clear()
        pack(source, url, **OPTIONS, **ray)  # type: ignore[arg-type]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    pack(source, tmp_path / "clean", workers=1, **OPTIONS)
    assert tree(tmp_path / "store/bucket/data") == tree(tmp_path / "clean")
    assert not scratch.exists()


@pytest.mark.parametrize("options", [{}, {"jpeg": "keep", "format": "parquet"}], ids=["seekable", "keep-parquet"])
def test_a_node_lost_on_the_way_changes_no_byte(
    nodes: Cluster, second: Any, source: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    calls: list[tuple[int, int]] = []
    lost: list[int] = []
    ended = threading.Event()

    def hunt() -> None:
        others = workers_of(nodes.head_node)
        send(others, signal.SIGSTOP)  # so that the tasks go to the second node until it is lost
        try:
            workers = workers_of(second)
            while not ended.is_set() and not lost:
                if killed_at_work(second, workers):
                    lost.append(len(calls))
        finally:
            send(others, signal.SIGCONT)

    hunter = threading.Thread(target=hunt)

    def progress(done: int, total: int, written: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:  # first come the splits
            hunter.start()

    try:
        index = pack(source, tmp_path / "ray", engine="ray", progress=progress, **OPTIONS, **options)
    finally:
        ended.set()
        if hunter.ident is not None:
            hunter.join()
        nodes.remove_node(second, allow_graceful=False)
    assert lost, "never while it had a task in hand"
    assert 2 < lost[0] < len(calls) - 2, "with tasks before and after"
    assert len(calls) - 1 == len(index.shards) > 10
    assert calls[0] == calls[-1] == (90, 90)
    assert pack(source, tmp_path / "local", workers=1, **OPTIONS, **options) == index
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
