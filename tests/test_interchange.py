"""Other libraries' data through fastload, and fastload's through them: webdataset, Hugging Face datasets, torch."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import conformance
import datasets
import numpy as np
import PIL.Image
import pytest
import samples
import simplejpeg
import torch
import torch.utils.data
import webdataset
from samples import FORMATS, Leftovers, freeze

import fastload
from fastload import DataLoader
from fastload.augment import On, RandomHorizontalFlip
from fastload.batch import Batch, BufferPool
from fastload.collated import _batch
from fastload.errors import ConfigError, StateError
from fastload.shards.open import index_folder

# webdataset leaves closing a shard to the garbage collector; torch says so
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

Packed = Callable[..., Path]
SIZES = [5, 1, 9, 8]
CLASSES = ("cat", "dog", "bird", "fish", "horse")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    datasets.disable_progress_bars()


def labels(batches: Any) -> list[list[int]]:
    return [batch["label"].tolist() for batch in batches]


# fastload's shards read by others.


def test_plain_tarfile_reads_the_tars(packed: Packed) -> None:
    members: list[str] = []
    for path in sorted((packed("tar", SIZES, samples.FIELDS) / "train").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.isfile()
                members.append(member.name)
                key, extension = member.name.split(".", 1)
                content = tar.extractfile(member)
                assert content is not None
                if extension == "cls":
                    assert int(content.read()) == int(key)
    assert len(members) == 23 * len(samples.FIELDS)
    assert members[:9] == [
        "000000.jpg", "000000.wav", "000000.txt", "000000.npy", "000000.tensor.npy", "000000.json", "000000.bin",
        "000000.cls", "000000.weight.json",
    ]  # fmt: skip


def test_webdataset_decodes_the_tars(packed: Packed) -> None:
    shards = str(packed("tar", SIZES, samples.FIELDS) / "train/shard-{000000..000003}.tar")
    found = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in found] == [samples.key(i) for i in range(23)]
    for i, sample in enumerate(found):
        assert np.asarray(sample["jpg"]).tolist() == simplejpeg.decode_jpeg(samples.jpeg(i)).tolist()
        assert sample["cls"] == i
        assert sample["txt"] == f"text of sample {i}"
        assert sample["npy"].tolist() == samples.tokens(i).tolist()
        assert sample["tensor.npy"].tolist() == [i, i / 2, -i]
        assert sample["json"] == {"i": i}
        assert sample["weight.json"] == i / 4
        assert sample["wav"] == samples.wav(i)


@pytest.fixture
def with_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    info = replace(samples.FIELDS["label"], classes=tuple(f"class {i}" for i in range(23)))
    monkeypatch.setitem(samples.FIELDS, "label", info)


def test_datasets_reads_the_parquet_with_its_features(tmp_path: Path, with_classes: None) -> None:
    folder = samples.make(tmp_path / "data", "parquet", SIZES, samples.FIELDS)
    files = sorted(map(str, (folder / "train").glob("*.parquet")))
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert found.num_rows == 23
    assert isinstance(found.features["image"], datasets.Image)
    assert isinstance(found.features["audio"], datasets.Audio)
    assert found.features["label"] == datasets.ClassLabel(names=[f"class {i}" for i in range(23)])
    for i, row in enumerate(found.cast_column("audio", datasets.Audio(decode=False))):
        assert isinstance(row["image"], PIL.Image.Image)
        assert np.asarray(row["image"]).tolist() == simplejpeg.decode_jpeg(samples.jpeg(i)).tolist()
        assert row["audio"] == {"bytes": samples.wav(i), "path": f"{samples.key(i)}.wav"}
        assert row["label"] == i
        assert found.features["label"].int2str(row["label"]) == f"class {i}"
        assert row["tokens"] == samples.tokens(i).tolist()
        assert (row["text"], json.loads(row["json"]), row["weight"]) == (f"text of sample {i}", {"i": i}, i / 4)


@pytest.mark.parametrize("way", ["packed", "converted"])
def test_datasets_reads_what_is_packed_and_converted(tmp_path: Path, way: str) -> None:
    """With the facts that packing learned as columns of their own."""
    rows = []
    for i in range(6):
        (tmp_path / f"p{i}.jpg").write_bytes(samples.jpeg(i))
        (tmp_path / f"s{i}.wav").write_bytes(samples.wav(i))
        rows.append({"key": f"k{i}", "image": f"p{i}.jpg", "audio": f"s{i}.wav", "label": CLASSES[i % 3]})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    if way == "packed":
        index = fastload.pack(tmp_path / "m.jsonl", out, format="parquet", shuffle=False, jpeg="keep")
    else:
        fastload.pack(tmp_path / "m.jsonl", tmp_path / "tar", shuffle=False, jpeg="keep")
        index = fastload.convert(tmp_path / "tar", out, format="parquet")
    found = by_load_dataset(out, tmp_path / "cache")
    assert isinstance(found.features["image"], datasets.Image)
    assert isinstance(found.features["audio"], datasets.Audio)
    assert found.features["label"] == datasets.ClassLabel(names=list(index.fields["label"].classes or ()))
    for i, row in enumerate(found.cast_column("audio", datasets.Audio(decode=False))):
        assert row["__key__"] == f"k{i}"
        assert np.asarray(row["image"]).tolist() == simplejpeg.decode_jpeg(samples.jpeg(i)).tolist()
        assert (row["image.width"], row["image.height"]) == (samples.WIDTH, samples.HEIGHT)
        assert row["audio"]["bytes"] == samples.wav(i)
        assert row["audio.frames"] == samples.FRAMES + i
        assert found.features["label"].int2str(row["label"]) == CLASSES[i % 3]


def test_datasets_reads_the_types_of_converted_files(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with webdataset.TarWriter(str(tmp_path / "tars/only.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:04d}", "jpg": samples.pixels(i), "mp4": b"film %d" % i, "cls": i})
    fastload.convert(tmp_path / "tars", tmp_path / "out", format="parquet")
    found = by_load_dataset(tmp_path / "out", tmp_path / "cache")
    assert isinstance(found.features["image"], datasets.Image)
    for i, row in enumerate(found):
        assert np.asarray(row["image"]).shape == (samples.HEIGHT, samples.WIDTH, 3)
        assert (row["mp4"], row["mp4.type"], row["label"]) == (b"film %d" % i, "mp4", i)


def by_load_dataset(folder: Path, cache: Path) -> Any:
    files = sorted(map(str, (folder / "train").glob("*.parquet")))
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache))


# Shards that others wrote, streamed with every guarantee.


def by_webdataset(folder: Path) -> Path:
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "s-%06d.tar"), maxcount=9, verbose=0) as writer:
        for i in range(23):
            writer.write(
                {
                    "__key__": f"a/{i:04d}", "jpg": samples.pixels(i), "cls": i, "txt": f"größe {i}", "json": {"i": i},
                    "npy": np.arange(i + 1, dtype=np.int32), "wav": samples.wav(i),
                }
            )  # fmt: skip
    return folder


def by_tar_writer(folder: Path) -> Path:
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "only.tar")) as writer:
        for i in range(23):
            writer.write({"__key__": f"{i:04d}", "png": samples.pixels(i), "cls": i})
    return folder


def by_datasets(folder: Path) -> Path:
    folder.mkdir()
    encoded = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = {
        "image": datasets.Image(), "audio": encoded, "label": datasets.ClassLabel(names=[f"c{i}" for i in range(23)]),
        "text": datasets.Value("string"), "ids": datasets.Sequence(datasets.Value("int32")),
        "vector": datasets.Sequence(datasets.Value("float32"), length=3),
    }  # fmt: skip
    rows = [
        {
            "image": {"bytes": samples.jpeg(i), "path": None}, "audio": {"bytes": samples.wav(i), "path": f"{i}.wav"},
            "label": i, "text": f"größe {i}", "ids": list(range(i + 1)), "vector": [i, i, i],
        }
        for i in range(23)
    ]  # fmt: skip
    found = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    found = found.cast_column("audio", datasets.Audio(decode=False))
    for number, part in enumerate((found.select(range(9)), found.select(range(9, 23)))):
        part.to_parquet(str(folder / f"train-{number:05d}-of-00002.parquet"), batch_size=6)
    return folder


@pytest.mark.parametrize("write", [by_webdataset, by_tar_writer, by_datasets])
def test_shards_of_others_keep_every_promise(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    folder = write(tmp_path / "shards")
    index = index_folder(folder)
    assert index.samples("train") == 23
    fields = {"image": fastload.Image(8, crop="random"), "label": fastload.Scalar()}
    runs = []
    for world_size, rows in ((1, 6), (2, 3), (3, 2)):
        ranks = []
        for rank in range(world_size):
            data = fastload.StreamingDataset(folder, fields=fields, rank=rank, world_size=world_size)
            ranks.append([samples.ids(batch) for _ in range(2) for batch in DataLoader(data, rows, last_batch="pad")])
        conformance.assert_equal_batches(ranks)
        conformance.assert_exactly_once(conformance.flat([batches[:4] for batches in ranks]), 23)
        runs.append(ranks)
    conformance.assert_same_global_batches(runs[0], runs[1])
    conformance.assert_same_global_batches(runs[0], runs[2])

    def start(state: Any) -> Iterator[tuple[Any, Any]]:
        loader = DataLoader(folder, 5, fields=fields, num_workers=2)
        if state is not None:
            loader.load_state_dict(state)
        while True:
            for batch in loader:
                yield samples.content(batch), loader.state_dict()

    conformance.assert_resumes(start, 8)


def test_what_webdataset_wrote_comes_as_it_was(tmp_path: Path) -> None:
    for i, sample in enumerate(fastload.StreamingDataset(by_webdataset(tmp_path / "shards"), shuffle=False)):
        assert sample["__key__"] == f"a/{i:04d}"
        assert sample["label"].item() == i
        assert (sample["text"], sample["json"]) == (f"größe {i}", {"i": i})
        assert sample["tensor"].tolist() == list(range(i + 1))
        assert sample["audio"].shape == (1, samples.FRAMES + i)
        assert sample["image"].shape == (3, samples.HEIGHT, samples.WIDTH)


def test_what_datasets_wrote_comes_as_it_was(tmp_path: Path) -> None:
    dataset = fastload.StreamingDataset(by_datasets(tmp_path / "shards"), shuffle=False)
    assert dataset.index.fields["label"].classes == tuple(f"c{i}" for i in range(23))
    for i, sample in enumerate(dataset):
        expected = torch.from_numpy(simplejpeg.decode_jpeg(samples.jpeg(i))).permute(2, 0, 1)
        assert freeze(sample["image"]) == freeze(expected)
        assert (sample["label"].item(), sample["text"]) == (i, f"größe {i}")
        assert sample["ids"].tolist() == list(range(i + 1))
        assert sample["vector"].tolist() == [float(i)] * 3
        assert sample["audio"].shape == (1, samples.FRAMES + i)


# Datasets of others through fastload.DataLoader: pipelines that only go forwards.


def pipeline(packed: Packed) -> webdataset.WebDataset:
    shards = str(packed("tar", SIZES) / "train/shard-{000000..000003}.tar")
    return webdataset.WebDataset(shards, shardshuffle=False).decode("torchrgb8").rename(image="jpg", label="cls")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_webdataset_pipeline_streams_through_the_engine(packed: Packed, workers: int) -> None:
    before = Leftovers()
    loader = DataLoader(pipeline(packed), 5, num_workers=workers, augment=[RandomHorizontalFlip(1.0)])
    for _ in range(2):
        batches = list(loader)
        assert labels(batches) == [list(range(start, min(start + 5, 23))) for start in range(0, 23, 5)]
        for batch in batches:
            assert isinstance(batch, Batch)
            assert batch.valid is not None
            assert batch.valid.all()
            for i, image in zip(batch["label"].tolist(), batch["image"], strict=True):
                pixels = torch.from_numpy(simplejpeg.decode_jpeg(samples.jpeg(i)).copy()).permute(2, 0, 1)
                assert torch.equal(image, pixels.flip(-1)), "augmented as a batch of fastload is"
    assert labels(DataLoader(pipeline(packed), 5, last_batch="drop")) == [list(range(i, i + 5)) for i in (0, 5, 10, 15)]
    for batch in loader:
        assert batch.rows == 5
        break
    del batch, batches, loader
    before.assert_none()


def test_a_pipeline_of_tuples_or_of_batches(packed: Packed) -> None:
    tuples = DataLoader(pipeline(packed).to_tuple("image", "label"), 10, num_workers=1)
    assert [(tuple(x.shape), y.tolist()[0]) for x, y in tuples] == [
        ((10, 3, 20, 28), 0), ((10, 3, 20, 28), 10), ((3, 3, 20, 28), 20),
    ]  # fmt: skip
    batched = DataLoader(pipeline(packed).to_tuple("image", "label").batched(7), None, num_workers=1)
    assert [y.tolist() for _, y in batched] == [list(range(i, min(i + 7, 23))) for i in range(0, 23, 7)]
    named = DataLoader(pipeline(packed), 10, as_tuple=("label", "valid"))
    assert [label.tolist()[0] for label, valid in named if valid.all()] == [0, 10, 20]
    with pytest.raises(ConfigError, match="as_tuple names 'lable'; the batch has "):
        list(DataLoader(pipeline(packed), 10, as_tuple=("lable",)))


class Counting(torch.utils.data.IterableDataset[int]):
    """0, 1, 2, ...; notes its thread, its epoch and its closing."""

    def __init__(self, n: int, fail_at: int = -1) -> None:
        self.n, self.fail_at, self.threads, self.closed, self.epochs = n, fail_at, set[str](), 0, list[int]()

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[int]:
        try:
            for i in range(self.n):
                self.threads.add(threading.current_thread().name)
                if i == self.fail_at:
                    raise OSError(f"sample {i} is gone")
                yield i
        finally:
            self.closed += 1


def test_an_iterable_is_read_ahead_by_one_thread_and_closed(packed: Packed) -> None:
    data = Counting(100)
    loader = DataLoader(data, 4, num_workers=3, prefetch_factor=2)
    batches = iter(loader)
    assert next(batches).tolist() == [0, 1, 2, 3]
    batches.close()  # type: ignore[attr-defined]
    assert data.threads == {"fastload-0"}
    assert data.closed == 1
    loader.set_epoch(7)
    assert data.epochs == [7]
    assert [len(batch) for batch in DataLoader(Counting(10), {0: 2, 4: 3})] == [2, 2, 3, 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_pipeline_comes_at_its_turn(workers: int) -> None:
    batches = iter(DataLoader(Counting(10, fail_at=6), 2, num_workers=workers))
    assert [next(batches).tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(OSError, match="sample 6 is gone"):
        next(batches)


def test_what_a_pipeline_cannot_promise_is_refused_by_name(packed: Packed) -> None:
    loader = DataLoader(pipeline(packed), 5)
    message = "a WebDataset only gives one sample after the other, so that its place cannot be saved or found again; "
    for ask in (loader.state_dict, lambda: loader.load_state_dict({"version": 1, "consumed": 0, "fingerprint": {}})):
        with pytest.raises(StateError, match=message + "stream its shards by their path instead"):
            ask()
    with pytest.raises(TypeError, match="a WebDataset does not tell its length"):
        len(loader)

    class Unwilling(Counting):
        def __len__(self) -> int:
            raise NotImplementedError

    unwilling = DataLoader(Unwilling(4), 2)
    with pytest.raises(TypeError, match="a Unwilling does not tell its length"):
        len(unwilling)
    assert [batch.tolist() for batch in unwilling] == [[0, 1], [2, 3]]
    with pytest.raises(
        ConfigError, match=r"a WebDataset on 2 ranks: nothing keeps ranks from reading the same samples"
    ):
        DataLoader(pipeline(packed), 5, rank=1, world_size=2)
    with pytest.raises(ConfigError, match="last_batch='pad': where a WebDataset ends is not known; pass 'drop'"):
        DataLoader(pipeline(packed), 5, last_batch="pad")
    with pytest.raises(ConfigError, match="WebDataset: got an unexpected keyword argument 'shuffle'"):
        DataLoader(pipeline(packed), 5, shuffle=True)
    assert len(DataLoader(pipeline(packed).with_length(23, silent=True), 5)) == 5


def test_ranks_of_a_pipeline_that_shares_itself_out(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="on 2 ranks"):
        DataLoader(Counting(4), 2)
    loader = DataLoader(Counting(4), 2, rank=0, world_size=1)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]


# Datasets of others by number: all promises hold.


class Squares(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 23

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"label": torch.tensor(i), "image": torch.full((1, 2, 2), float(i * i)), "name": f"no. {i}"}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_map_style_dataset_in_order_or_shuffled(workers: int) -> None:
    plain = DataLoader(Squares(), 5, num_workers=workers)
    assert len(plain) == 5
    batches = list(plain)
    assert labels(batches) == [list(range(i, min(i + 5, 23))) for i in range(0, 23, 5)]
    assert batches[1]["image"].shape == (5, 1, 2, 2)
    assert batches[1]["name"] == [f"no. {i}" for i in range(5, 10)]
    shuffled = DataLoader(Squares(), 5, shuffle=True, seed=3, num_workers=workers)
    epochs = [[i for batch in labels(shuffled) for i in batch] for _ in range(2)]
    for epoch in epochs:
        conformance.assert_exactly_once(epoch, 23)
    assert epochs[0] != epochs[1]
    other = DataLoader(Squares(), 5, shuffle=True, seed=3)
    assert [[i for batch in labels(other) for i in batch] for _ in range(2)] == epochs


def test_a_map_style_dataset_is_shared_out_and_resumed() -> None:
    runs = []
    for world_size, rows in ((1, 6), (2, 3), (3, 2)):
        ranks = [
            [
                samples.ids(batch)
                for batch in DataLoader(Squares(), rows, shuffle=True, rank=r, world_size=world_size, last_batch="pad")
            ]
            for r in range(world_size)
        ]
        conformance.assert_equal_batches(ranks)
        conformance.assert_exactly_once(conformance.flat(ranks), 23)
        runs.append(ranks)
    conformance.assert_same_global_batches(runs[0], runs[2])

    def start(state: Any) -> Iterator[tuple[Any, Any]]:
        noise = On("image", lambda image: image + torch.rand_like(image))
        loader = DataLoader(Squares(), 5, shuffle=True, num_workers=2, augment=[noise])
        if state is not None:
            loader.load_state_dict(json.loads(state))
        while True:
            for batch in loader:
                yield samples.content(batch), json.dumps(loader.state_dict())

    conformance.assert_resumes(start, 8)
    with pytest.raises(StateError, match="saved with seed=0, and this loader has seed=1"):
        DataLoader(Squares(), 5, seed=1).load_state_dict(DataLoader(Squares(), 5).state_dict())


@pytest.mark.parametrize("workers", [0, 2])
def test_datasets_of_others_pass_the_stages_of_the_device(packed: Packed, workers: int) -> None:
    """They are augmented on it, and what is no tensor stays."""

    def brighter(batch: Batch) -> Batch:
        batch["image"] = batch["image"] + 1
        return batch

    for data in (pipeline(packed), Squares()):
        plain = next(iter(DataLoader(data, 5)))
        changed = next(iter(DataLoader(data, 5, num_workers=workers, device="cpu", augment=[brighter])))
        assert torch.equal(changed["image"], plain["image"] + 1)
        moved = next(iter(DataLoader(data, 5, num_workers=workers, device="meta", augment=[brighter])))
        assert {name: value.device.type for name, value in moved.items() if isinstance(value, torch.Tensor)} == {
            "image": "meta",
            "label": "meta",
        }
        assert moved["image"].shape == plain["image"].shape
        assert {n: v for n, v in moved.items() if isinstance(v, list)} == {
            n: v for n, v in plain.items() if isinstance(v, list)
        }


def test_a_fingerprint_tells_map_style_datasets_apart() -> None:
    plain = DataLoader(Squares(), 5).state_dict()
    DataLoader(Squares(), 5).load_state_dict(plain)  # nothing tells that it may be another
    named = DataLoader(Squares(), 5, fingerprint="v1")
    named.load_state_dict(json.loads(json.dumps(named.state_dict())))
    wrong = "saved with fingerprint=.*, and this loader has fingerprint=.*it belongs to other data"
    for state, now in ((named.state_dict(), "v2"), (named.state_dict(), None), (plain, "v1")):
        with pytest.raises(StateError, match=wrong):
            DataLoader(Squares(), 5, fingerprint=now).load_state_dict(state)
    with pytest.raises(ConfigError, match="fingerprint=1: pass a string"):
        DataLoader(Squares(), 5, fingerprint=1)


def test_datasets_of_several_libraries_by_number(packed: Packed) -> None:
    tensors = torch.utils.data.TensorDataset(torch.arange(23), torch.arange(23) * 2)
    assert [(a.tolist(), b.tolist()) for a, b in DataLoader(tensors, 20)][1] == ([20, 21, 22], [40, 42, 44])
    table = datasets.Dataset.from_dict({"label": list(range(23)), "x": [[i, i] for i in range(23)]}).with_format(
        "torch"
    )
    assert labels(DataLoader(table, 20, num_workers=2)) == [list(range(20)), [20, 21, 22]]
    indexed = fastload.IndexedDataset(packed("tar", SIZES), fields={"label": fastload.Scalar()})
    assert labels(DataLoader(indexed, 20)) == [list(range(20)), [20, 21, 22]]
    assert labels(DataLoader(table.to_iterable_dataset(), 20)) == [list(range(20)), [20, 21, 22]]


def test_random_crops_of_an_indexed_data_set_follow_the_epoch(packed: Packed) -> None:
    fields = {"image": fastload.Image(8, crop="random")}
    own = DataLoader(packed("tar", SIZES), 23, fields=fields, shuffle=False)
    indexed = DataLoader(fastload.IndexedDataset(packed("tar", SIZES), fields=fields), 23)
    for _ in range(2):
        assert freeze(next(iter(indexed))["image"]) == freeze(next(iter(own))["image"].contiguous())


def test_errors_of_a_map_style_dataset_and_options_it_cannot_have() -> None:
    class Broken(Squares):
        def __getitem__(self, i: int) -> dict[str, Any]:
            if i == 7:
                raise ValueError("no sample 7")
            return super().__getitem__(i)

    for workers in (0, 2):
        with pytest.raises(ValueError, match="no sample 7"):
            list(DataLoader(Broken(), 5, num_workers=workers))
    with pytest.raises(ConfigError, match="Squares: got an unexpected keyword argument 'sampler'"):
        DataLoader(Squares(), 5, sampler=[1, 2])
    with pytest.raises(ConfigError, match="batch_size=None: must be an integer, not NoneType"):
        DataLoader(Squares(), None)
    with pytest.raises(ConfigError, match="as_tuple names 'lable'; the batch has 'label', 'image', 'name', 'valid'"):
        DataLoader(Squares(), 5, as_tuple=("lable",))
    assert list(DataLoader(torch.utils.data.TensorDataset(torch.zeros(0)), 5)) == []


def test_torchs_default_device_does_not_matter() -> None:
    numbers, seen = torch.arange(6), []
    by_number = DataLoader(torch.utils.data.TensorDataset(numbers), 4, last_batch="pad", as_tuple=("0", "valid"))
    iterated = DataLoader(Counting(4), 4, collate_fn=lambda found: {"x": numbers[found]})
    with torch.device("meta"):
        for found, valid in by_number:
            seen.append((found.tolist(), valid.tolist()))
        (batch,) = iterated
    assert seen == [([0, 1, 2, 3], [True] * 4), ([4, 5, 5, 5], [True, True, False, False])]
    assert batch["x"].tolist() == [0, 1, 2, 3]
    assert batch.valid.tolist() == [True] * 4


def test_only_tensors_of_the_cpu_are_pinned() -> None:
    """Those that a dataset has put on a GPU cannot be."""
    there, valid = torch.ones(2, device="meta"), torch.ones(2, dtype=torch.bool)
    found = _batch({"x": there, "name": ["a", "b"]}, valid, np.zeros(2, np.uint64), None, BufferPool(pinned=True))
    assert found["x"] is there


@pytest.mark.parametrize("shard_format", FORMATS)
def test_pillow_reads_what_is_stored(packed: Packed, shard_format: str) -> None:
    dataset = fastload.StreamingDataset(packed(shard_format, SIZES), fields={"image": fastload.Bytes()}, shuffle=False)
    for i, sample in enumerate(dataset):
        assert np.asarray(PIL.Image.open(io.BytesIO(sample["image"]))).shape == (samples.HEIGHT, samples.WIDTH, 3), i
