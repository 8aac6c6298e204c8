"""Packing into an object store: the bytes of a folder, the index last, and going on after whatever stopped it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pack_sources import tree
from webserver import Server

import fastload
from fastload import Cleaning
from fastload.errors import ConfigError, PackError, SourceError
from fastload.pack import pack

OPTIONS: dict[str, Any] = {
    "shard_size": "20KiB",
    "split": {"train": 0.6, "val": 0.4},
    "clean": Cleaning(on_error="skip"),
}
URL = "s3://bucket/some/data"


def remote(server: Server, cache: Path, **options: Any) -> fastload.Remote:
    store = {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}
    return fastload.Remote(cache_dir=cache, options=store, **options)


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_the_bytes_are_those_of_a_folder_and_the_index_comes_last(images: Path, tmp_path: Path, format: str) -> None:
    (images / "class0/broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    pack(images, tmp_path / "clean", format=format, workers=1, **OPTIONS)  # type: ignore[arg-type]
    with Server(tmp_path / "store") as server:
        server.faults["bucket/some/data/index.json"] = ["404", "503"]
        settings = remote(server, tmp_path / "cache")
        index = pack(images, URL, format=format, workers=1, remote=settings, **OPTIONS)  # type: ignore[arg-type]
        assert tree(tmp_path / "store/bucket/some/data") == tree(tmp_path / "clean")
        puts = [path for method, path, *_ in server.requests if method == "PUT"]
        assert puts[-1].endswith("data/index.json")
        assert puts.count(puts[-1]) == 1
        assert "bucket/some/data/rejected.parquet" in puts
        assert not any((tmp_path / "cache/packing").iterdir())
        loader = fastload.DataLoader(f"{URL}/train", 64, shuffle=False, remote=settings)
        assert sum(int(batch.valid.sum()) for batch in loader) == index.samples("train")
        with pytest.raises(PackError, match=r"s3://bucket/some/data holds a finished data set \(index.json\)"):
            pack(images, URL, workers=1, remote=settings, **OPTIONS)


def test_a_run_that_was_stopped_goes_on_with_what_is_there(images: Path, tmp_path: Path) -> None:
    pack(images, tmp_path / "clean", workers=1, **OPTIONS)
    with Server(tmp_path / "store") as server:
        settings = remote(server, tmp_path / "cache", give_up_seconds=0.01)
        run = {"workers": 1, "remote": settings, "scratch": tmp_path / "scratch", **OPTIONS}
        server.always["bucket/some/data/train/shard-000002.tar"] = "503"
        with pytest.raises(SourceError, match=r"^s3://.*/train/shard-000002.tar cannot be written: .*503"):
            pack(images, URL, **run)
        done = sorted((tmp_path / "store").rglob("*.tar"))
        assert len(done) >= 2
        assert not list((tmp_path / "store").rglob("index.json"))
        assert not list((tmp_path / "scratch").rglob("*.tar"))
        server.always.clear()
        done[0].write_bytes(b"cut")  # somebody else's doing: it is made again
        server.requests.clear()
        pack(images, URL, **run)
        puts = [path for method, path, *_ in server.requests if method == "PUT"]
        assert str(done[0].relative_to(tmp_path / "store")) in puts
        assert str(done[1].relative_to(tmp_path / "store")) not in puts
        assert tree(tmp_path / "store/bucket/some/data") == tree(tmp_path / "clean")
        assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("conditions", ["kept", "ignored", "501"])
def test_a_url_is_one_runs_until_it_is_complete(images: Path, tmp_path: Path, conditions: str) -> None:
    claim = tmp_path / "store/bucket/some/data/.fastload-packing"
    with Server(tmp_path / "store") as server:
        server.conditions = conditions
        settings = remote(server, tmp_path / "cache", give_up_seconds=0.01)
        run = {"workers": 1, "remote": settings, **OPTIONS}
        server.always["bucket/some/data/train/shard-000002.tar"] = "503"
        with pytest.raises(SourceError, match="cannot be written"):
            pack(images, URL, scratch=tmp_path / "a", **run)
        server.always.clear()
        before = tree(tmp_path / "store")
        if conditions == "kept":
            with pytest.raises(PackError, match=r"another run \(on \S+, process \d+, since 20\S+Z\); .*delete s3://"):
                pack(images, URL, scratch=tmp_path / "b", **run)
            assert tree(tmp_path / "store") == before
            assert not (tmp_path / "b").exists()
        assert json.loads(claim.read_text()).keys() == {"host", "process", "since", "run"}
        pack(images, URL, scratch=tmp_path / "a", **run)
        assert not claim.exists()


def test_a_run_that_ends_before_its_first_shard_leaves_the_url_free(images: Path, tmp_path: Path) -> None:
    with Server(tmp_path / "store") as server:
        settings = remote(server, tmp_path / "cache", give_up_seconds=0.01)
        for split in ("train", "val"):
            server.always[f"bucket/some/data/{split}/shard-000000.tar"] = "503"
        with pytest.raises(SourceError, match="cannot be written"):
            pack(images, URL, workers=1, remote=settings, scratch=tmp_path / "a", **OPTIONS)
        assert not tree(tmp_path / "store")
        server.always.clear()
        pack(images, URL, workers=1, remote=settings, scratch=tmp_path / "b", **OPTIONS)


def test_of_two_that_begin_at_once_one_packs(images: Path, tmp_path: Path) -> None:
    ended: list[str] = []
    with Server(tmp_path / "store") as server:
        server.bytes_per_second = 50_000  # both are there before the first ends
        start = threading.Barrier(2)

        def run(name: str) -> None:
            settings = remote(server, tmp_path / name)
            start.wait()
            try:
                pack(images, URL, workers=1, remote=settings, scratch=tmp_path / f"{name}-scratch", **OPTIONS)
                ended.append("done")
            except PackError as error:
                ended.append("refused" if "another run" in str(error) or "finished" in str(error) else str(error))

        threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ended) == ["done", "refused"]


def test_large_shards_go_in_parts(tmp_path: Path) -> None:
    rows = [{"data": bytes([number]) * (3 << 20)} for number in range(5)]
    pack(rows, tmp_path / "clean", workers=1)
    with Server(tmp_path / "store") as server:
        pack(rows, "s3://bucket/data", workers=1, remote=remote(server, tmp_path / "cache"))
        assert sum(method == "PUT" and path.endswith(".tar") for method, path, *_ in server.requests) > 1
    assert tree(tmp_path / "store/bucket/data") == tree(tmp_path / "clean")


def test_other_schemes_are_written_by_fsspec(images: Path, tmp_path: Path) -> None:
    pack(images, tmp_path / "clean", workers=1, **OPTIONS)
    pack(images, f"file://{tmp_path}/store", workers=1, remote=fastload.Remote(cache_dir=tmp_path / "c"), **OPTIONS)
    assert tree(tmp_path / "store") == tree(tmp_path / "clean")


def test_what_does_not_fit_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"https://h/a: packing writes to object stores \(s3://, gs://, az://\)"):
        pack(images, "https://h/a", workers=1)
    with pytest.raises(ConfigError, match="with engine='ray': also pass scratch, a new folder that all machines share"):
        pack(images, URL, engine="ray")
    with pytest.raises(
        ConfigError, match=r"s3:/bucket/a is a URL, .*`fastload pack` alone writes to URLs, given as text"
    ):
        fastload.convert(images, Path("s3://bucket/a"))
    with pytest.raises(ConfigError, match="scratch and remote are for an output behind a URL"):
        pack(images, tmp_path / "out", scratch=tmp_path / "s")
    with Server(tmp_path / "store") as server:
        server.always["bucket/some/data/index.json"] = "403"
        with pytest.raises(SourceError, match=r"s3://bucket/some/data/index.json is refused"):
            pack(images, URL, workers=1, remote=remote(server, tmp_path / "c"))
