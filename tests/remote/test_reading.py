"""Shards behind URLs read as the same shards on the disk do."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import samples
import torch.utils.data
import xxhash
from webserver import Server

import fastload
from fastload.describe import describe
from fastload.describe.page import to_html
from fastload.errors import ConfigError, CorruptError, ShardIndexError, SourceError
from fastload.inspect import summary
from fastload.remote.fetch import fetch_bytes
from fastload.samplers import Weighted
from fastload.shards.open import index_folder, open_index
from fastload.stream import Streamed
from fastload.verify import verify

SIZES = [5, 3, 4, 7, 2]
FIELDS = {"label": fastload.Scalar(), "image": fastload.Image(16), "text": fastload.Text()}
QUICK = fastload.Remote(stall_seconds=1, give_up_seconds=2)
Packed = Callable[..., Path]


@pytest.fixture(params=samples.FORMATS)
def folder(packed: Packed, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return packed(request.param, SIZES, ("image", "label", "text"))


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server(folder) as running:
        yield running


def stream_hash(loader: fastload.DataLoader) -> str:
    """Over everything that the batches of one epoch hold, and their states."""
    state = xxhash.xxh3_64()
    for batch in loader:
        state.update(repr((batch["__key__"], batch["text"], batch.state)).encode())
        state.update(batch["label"].numpy().tobytes() + batch["image"].numpy().tobytes())
    return state.hexdigest()


def names(folder: Path) -> list[str]:
    return [file.name for file in open_index(folder).files]


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_folder_behind_a_url_streams_the_same_and_is_fetched_once(
    folder: Path, server: Server, tmp_path: Path, num_workers: int
) -> None:
    local = fastload.DataLoader(folder, 4, num_workers=num_workers, fields=FIELDS, seed=3, window=2)
    remote = fastload.DataLoader(
        server.url, 4, num_workers=num_workers, fields=FIELDS, seed=3, window=2, cache_dir=tmp_path / "cache"
    )
    assert [stream_hash(remote) for _ in range(3)] == [stream_hash(local) for _ in range(3)]
    assert set(server.gets().values()) == {1}
    again = fastload.DataLoader(server.url + "/", 4, fields=FIELDS, seed=3, window=2, cache_dir=tmp_path / "cache")
    stream_hash(again)
    assert {path: count for path, count in server.gets().items() if count > 1} == {"index.json": 2}


def test_every_way_to_name_it(folder: Path, server: Server) -> None:
    local, shards = open_index(folder), names(folder)
    pattern = shards[0].replace("00000.", "0000{0..4}.")
    for url in ("", "/index.json", "/train", "/train/"):
        found = open_index(server.url + url)
        assert (found.digest, found.files, found.fields) == (local.digest, local.files, local.fields)
    one_by_one = open_index([folder / name for name in shards])
    for data in (f"{server.url}/{pattern}", [f"{server.url}/{name}" for name in shards]):
        found = open_index(data)
        assert (found.digest, found.files, found.fields) == (one_by_one.digest, one_by_one.files, one_by_one.fields)
    mixed = open_index([folder / shards[0], f"{server.url}/{shards[1]}", folder / shards[2]])
    assert mixed.digest == open_index([folder / name for name in shards[:3]]).digest
    loader = fastload.DataLoader([f"{server.url}/{shards[1]}", str(folder / shards[0])], fields=FIELDS, shuffle=False)
    assert [int(batch["label"][0]) for batch in loader] == [5, 6, 7, 0, 1, 2, 3, 4]


def test_the_same_data_has_one_fingerprint_wherever_it_lies(folder: Path, server: Server, tmp_path: Path) -> None:
    local = fastload.DataLoader(folder, 4, fields=FIELDS, seed=1)
    batches = iter(local)
    for _ in range(2):
        next(batches)
    remote = fastload.DataLoader(server.url, 4, fields=FIELDS, seed=1, cache_dir=tmp_path)
    remote.load_state_dict(local.state_dict())
    assert [batch["__key__"] for batch in remote] == [batch["__key__"] for batch in batches]


def test_shards_of_others_are_fetched_and_scanned_once(folder: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(folder / "train", foreign)
    for idx in foreign.glob("*.idx"):
        idx.unlink()
    shards = sorted(path.name for path in foreign.iterdir())
    with Server(foreign) as server:
        urls = [f"{server.url}/{name}" for name in shards]
        loader = fastload.DataLoader(urls, 4, shuffle=False, fields=FIELDS, cache_dir=tmp_path / "cache")
        assert np.concatenate([batch["label"].numpy() for batch in loader]).tolist() == list(range(sum(SIZES)))
        before = server.gets()
        assert [before[name] for name in shards] == [1] * len(shards)
        shutil.rmtree(tmp_path / "cache" / "remote")
        open_index(urls, remote=fastload.Remote(cache_dir=tmp_path / "cache"))
        assert server.gets() == before  # what is in them is known


def test_a_foreign_idx_beside_a_tar_is_not_taken_for_ours(packed: Packed, tmp_path: Path) -> None:
    shutil.copy(packed("tar", [3]) / "train/shard-000000.tar", tmp_path / "a.tar")
    (tmp_path / "a.idx").write_text("v1.2 3\n1024 png 0\n")
    with Server(tmp_path) as server:
        assert open_index(f"{server.url}/a.tar", remote=fastload.Remote(cache_dir=tmp_path / "c")).samples == 3


def test_a_server_that_knows_no_head(packed: Packed, tmp_path: Path) -> None:
    with Server(packed("tar", [3])) as server:
        server.heads = False
        remote = fastload.Remote(cache_dir=tmp_path)
        assert open_index(f"{server.url}/train/shard-000000.tar", remote=remote).samples == 3


def test_equal_names_in_two_folders_are_two_files(packed: Packed, tmp_path: Path) -> None:
    """C17"""
    web = tmp_path / "web"
    for number, split in enumerate(("train", "val")):
        fields = {i: {"text": b"%d" % number} for i in range(3)}
        samples.make(web / split, "tar", [3], ("text", "label"), replace=fields)
    with Server(web) as server:
        for number, split in enumerate(("train", "val")):
            loader = fastload.DataLoader(f"{server.url}/{split}", 3, cache_dir=tmp_path / "c")
            assert [batch["text"] for batch in loader] == [[str(number)] * 3]
        url = f"{server.url}/train/train/shard-000000.tar"
        a, b = (f"{url}?v={v}" for v in (1, 2))
        assert open_index([a, b], remote=fastload.Remote(cache_dir=tmp_path / "c")).samples == 6
    kept = [path.name for path in (tmp_path / "c/remote").iterdir()]
    assert len([name for name in kept if name.endswith("-shard-000000.tar")]) == 2


def test_a_plain_copy_of_an_s3_bucket_is_read(packed: Packed, tmp_path: Path) -> None:
    shutil.copytree(packed("tar", [3, 2]), tmp_path / "bucket/some/data")
    with Server(tmp_path) as server:
        options = {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}
        remote = fastload.Remote(cache_dir=tmp_path / "c", options=options)
        loader = fastload.DataLoader("s3://bucket/some/data", 5, shuffle=False, remote=remote)
        assert [batch["label"].tolist() for batch in loader] == [[0, 1, 2, 3, 4]]


def test_credentials_that_are_renewed_are_used_once_the_old_ones_were_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket/a.tar").write_bytes(b"content")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "old")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Server(tmp_path) as server:
        remote = fastload.Remote(options={"endpoint": server.url, "region": "us-east-1"})
        server.key = "old"
        assert fetch_bytes("s3://bucket/a.tar", remote) == b"content"
        server.key = "new"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "new")
        with pytest.raises(SourceError, match="is refused"):
            fetch_bytes("s3://bucket/a.tar", remote)
        assert fetch_bytes("s3://bucket/a.tar", remote) == b"content"


def test_other_schemes_are_read_by_fsspec(packed: Packed, tmp_path: Path) -> None:
    folder = packed("tar", [3, 2])
    loader = fastload.DataLoader(f"file://{folder}", 5, shuffle=False, cache_dir=tmp_path)
    assert [batch["label"].tolist() for batch in loader] == [[0, 1, 2, 3, 4]]


def test_names_with_spaces_and_marks(packed: Packed, tmp_path: Path) -> None:
    source = packed("tar", [3]) / "train"
    for ending in ("tar", "idx"):
        (tmp_path / "a b").mkdir(exist_ok=True)
        shutil.copy(source / f"shard-000000.{ending}", tmp_path / f"a b/odd +#1.{ending}")
    with Server(tmp_path) as server:
        data = f"{server.url}/a%20b/odd%20%2B%231.tar"
        assert open_index(data, remote=fastload.Remote(cache_dir=tmp_path / "c")).samples == 3


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_a_stock_loader_with_worker_processes(packed: Packed, tmp_path: Path, method: str, workers: int) -> None:
    folder = packed("tar", SIZES)
    with Server(folder) as server:
        dataset = fastload.StreamingDataset(server.url, fields={"label": fastload.Scalar()}, cache_dir=tmp_path)
        loader: torch.utils.data.DataLoader[object] = torch.utils.data.DataLoader(
            dataset, batch_size=None, num_workers=workers, multiprocessing_context=multiprocessing.get_context(method)
        )
        found = sorted(int(sample["label"]) for sample in loader)  # type: ignore[index]
        assert found == list(range(sum(SIZES)))
        assert set(server.gets().values()) == {1}


def test_map_style_after_a_fork(packed: Packed, tmp_path: Path) -> None:
    with Server(packed("tar", SIZES)) as server:
        dataset = fastload.IndexedDataset(server.url, cache_dir=tmp_path)
        assert int(dataset[0]["label"]) == 0  # requests were sent before the fork
        context = multiprocessing.get_context("fork")
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=context)
        assert [int(sample["label"]) for sample in loader] == list(range(sum(SIZES)))


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/none", SourceError, r"/none/index.json does not exist; upload the index.json that `fastload pack`"),
        ("/none.tar", SourceError, r"http://127.0.0.1:\d+/none.tar does not exist \(404\); check the URL"),
        ("/index.txt", SourceError, "/index.txt/index.json does not exist"),
        ("/{3..1}.tar", ConfigError, "runs backwards"),
    ],
)
def test_what_is_not_there(packed: Packed, tmp_path: Path, path: str, error: type[Exception], message: str) -> None:
    with Server(packed("tar", [3])) as server, pytest.raises(error, match=message):
        open_index(server.url + path, remote=fastload.Remote(cache_dir=tmp_path))


def test_splits_and_arguments(packed: Packed, tmp_path: Path) -> None:
    with Server(packed("tar", [3])) as server:
        with pytest.raises(ShardIndexError, match="no split 'test' in http://"):
            open_index(server.url, "test")
        with pytest.raises(ConfigError, match="is one file and has no splits"):
            open_index(f"{server.url}/train/shard-000000.tar", "train")
        with pytest.raises(ConfigError, match=r"is the split 'train'; pass http://127.0.0.1:[0-9]+ instead"):
            open_index(f"{server.url}/train", "test")
        with pytest.raises(ConfigError, match=r"cache_size='1kB' is less than the [0-9]+ bytes of 1 shards: window=1"):
            fastload.StreamingDataset(server.url, cache_size="1kB", cache_dir=tmp_path)
    with pytest.raises(ConfigError, match="cache_size='many': pass bytes, or a size such as"):
        fastload.StreamingDataset(server.url, cache_size="many")
    with pytest.raises(ConfigError, match="cache_dir='a' and remote=Remote"):
        fastload.StreamingDataset(server.url, cache_dir="a", remote=fastload.Remote(cache_dir="b"))
    with pytest.raises(ConfigError, match="downloads=0: must be at least 1"):
        fastload.Remote(downloads=0)
    with pytest.raises(ConfigError, match="stall_seconds=0: must be positive seconds"):
        fastload.Remote(stall_seconds=0)


def test_a_server_without_an_index(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        with pytest.raises(SourceError, match=rf"^{server.url}/index.json does not exist; upload the index.json"):
            open_index(server.url)
        with pytest.raises(ConfigError, match=r"has no index.json, which holds the statistics"):
            fastload.augment.Normalize.from_index(f"{server.url}/train")


def test_commands_take_urls(packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = packed("tar", SIZES)
    with Server(folder) as server:
        for url in (server.url, f"{server.url}/index.json", f"{server.url}/train"):
            about = summary(url)
            assert about["splits"][next(iter(about["splits"]))] == summary(folder)["splits"]["train"]
            assert about["data"] == url
    with pytest.raises(
        ConfigError, match=r"^s3:/bucket/a is a URL, and a local folder is needed: what is read from a URL"
    ):
        verify(Path("s3://bucket/a"))
    with pytest.raises(
        ConfigError, match="is a URL, and a local folder is needed: shards behind URLs are indexed when"
    ):
        index_folder("s3://bucket/a")


def test_pages_and_pixels_of_a_url_are_those_of_the_folder(folder: Path, server: Server) -> None:
    page = to_html(server.url)
    assert page.count("<img") == to_html(folder).count("<img") > 0
    assert describe(server.url, pixels=True)["splits"] == describe(folder, pixels=True)["splits"]
    assert describe(server.url, "train")["splits"] == describe(folder, "train")["splits"]


def test_a_shard_that_is_missing_is_no_damaged_sample(packed: Packed, tmp_path: Path) -> None:
    web = tmp_path / "web"
    shutil.copytree(packed("tar", SIZES), web)
    (web / "train/shard-000001.tar").unlink()
    with Server(web) as server:
        loader = fastload.DataLoader(server.url, 4, on_error="mask", cache_dir=tmp_path / "c", num_workers=2)
        with pytest.raises(SourceError, match=r"shard 'train/shard-000001.tar'.*shard-000001.tar does not exist"):
            list(loader)


def test_a_changed_file_is_named(packed: Packed, tmp_path: Path) -> None:
    """C10"""
    web = tmp_path / "web"
    shutil.copytree(packed("tar", SIZES), web)
    first, second = (web / f"train/shard-00000{number}.tar" for number in (0, 1))
    samples.flip_byte(first, 600)
    with Server(web) as server:
        dataset: Streamed = fastload.StreamingDataset(server.url, remote=QUICK, cache_dir=tmp_path / "c", shuffle=False)
        with pytest.raises(CorruptError, match=r"00.tar is not the file that its index describes \(xxh3") as at:
            list(fastload.DataLoader(dataset))
        assert at.value.shard == "train/shard-000000.tar"
        assert server.gets()["train/shard-000000.tar"] in (
            2,
            4,
        )  # 4: who fetches ahead came second
        shutil.copy(second, first)
        with pytest.raises(CorruptError, match=r"00.tar has \d+ bytes, and its index says \d+, in 2 downloads"):
            list(fastload.DataLoader(dataset))
    assert not list((tmp_path / "c/remote").glob("*.part"))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Three Parquet files of 2 MiB, in two row groups each, with hardly any numbers in them."""
    contents: dict[int, dict[str, bytes | None]] = {i: {"bytes": b"%04d" % i * 16384} for i in range(96)}
    fields = ("bytes", "label", "weight")
    return samples.make(tmp_path / "large", "parquet", [32, 32, 32], fields, replace=contents, row_group_bytes=1 << 20)


def test_a_sampler_has_only_its_columns_fetched(large: Path, tmp_path: Path) -> None:
    sampler = Weighted("weight")
    local = fastload.StreamingDataset(large, sampler=sampler)
    assert [list(file.row_groups) for file in local.index.files] == [[16, 16]] * 3
    with Server(large) as server:
        server.faults[local.index.files[1].name] = ["503", "reset"]
        remote = fastload.StreamingDataset(server.url, sampler=sampler, cache_dir=tmp_path / "cache")
        assert server.sent() < 0.1 * sum(file.bytes for file in local.index.files)
        assert remote.fingerprint == local.fingerprint
        keys = [batch["__key__"] for batch in fastload.DataLoader(remote, 8)]
        assert keys == [batch["__key__"] for batch in fastload.DataLoader(local, 8)]
        before = server.sent()
        fastload.StreamingDataset(server.url, sampler=sampler, cache_dir=tmp_path / "cache")
        assert server.sent() == before + (large / "index.json").stat().st_size, "files that are there are read there"


def test_a_sampler_has_its_columns_read_by_fsspec_too(large: Path, tmp_path: Path) -> None:
    remote = fastload.StreamingDataset(f"file://{large}", sampler=Weighted("weight"), cache_dir=tmp_path / "cache")
    assert remote.fingerprint == fastload.StreamingDataset(large, sampler=Weighted("weight")).fingerprint
    assert not list((tmp_path / "cache").rglob("*.parquet"))


def test_a_server_that_gives_no_parts_is_asked_for_the_files(large: Path, tmp_path: Path) -> None:
    with Server(large, ranges=False) as server:
        remote = fastload.StreamingDataset(server.url, sampler=Weighted("weight"), cache_dir=tmp_path / "cache")
        assert remote.fingerprint == fastload.StreamingDataset(large, sampler=Weighted("weight")).fingerprint


def test_whole_files_of_columns_need_no_more_room_than_the_loader(large: Path, tmp_path: Path) -> None:
    sizes = [file.bytes for file in open_index(large).files]
    with Server(large, ranges=False) as server:
        server.bytes_per_second = 5e6  # two files at a time would leave the third without room for 0.4 s
        remote = fastload.Remote(cache_dir=tmp_path / "cache", cache_size=sum(sorted(sizes)[-2:]), give_up_seconds=0.2)
        stream = fastload.StreamingDataset(server.url, sampler=Weighted("weight"), shuffle=False, remote=remote)
        assert stream.samples == 96


def test_a_column_that_comes_damaged_is_found_by_the_checksum_of_its_file(large: Path, tmp_path: Path) -> None:
    file = large / open_index(large).files[1].name
    group = pq.read_metadata(file).row_group(1)
    weights = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "weight")
    start = weights.dictionary_page_offset or weights.data_page_offset
    samples.flip_byte(file, start + weights.total_compressed_size // 2)
    with Server(large) as server, pytest.raises(CorruptError, match="is not the file that its index describes"):
        fastload.StreamingDataset(server.url, sampler=Weighted("weight"), cache_dir=tmp_path / "cache")
