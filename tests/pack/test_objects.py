"""Python's own data sets: what their values become, what is refused, and what a run that goes on does."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from pack_sources import FORK, Stopped, check_alike, jpeg, photo, scene, stop_after, tree, wav

import fastload
from fastload.errors import ConfigError, PackError
from fastload.pack import pack
from fastload.pack.journal import SPOOL_NAME
from fastload.pack.missing import Lenience
from fastload.pack.objects import object_stream
from fastload.pack.spool import spool
from fastload.pack.streams import Sample, Stream
from fastload.pack.table import Spans, Values
from fastload.shards.foreign import JOURNAL_NAME
from fastload.shards.index import FieldInfo


def stream(out: Path) -> list[dict[str, Any]]:
    return list(fastload.StreamingDataset(out, shuffle=False))


class Pictures(torch.utils.data.Dataset[Any]):
    """A map-style data set of tuples, as torchvision's are."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[PIL.Image.Image, int]:
        if index >= self.samples:
            raise KeyError(index)  # nothing says that it must be an IndexError
        return PIL.Image.fromarray(scene(index, 20, 10 + index)), index % 3


def rows(samples: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "key": f"a/{i}.x",
            "image": photo(i),
            "text": f"größe {i}",
            "label": "ab"[i % 2],
            "count": i,
            "score": i / 4 if i % 3 else i,
            "ok": i % 2 == 0,
            "vector": np.full((2, 3), i, np.float32),
            "tokens": torch.arange(i + 1),
            "about": {"i": [i]},
        }
        for i in range(samples)
    ]


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_each_value_becomes_what_it_is(tmp_path: Path, shard_format: Any) -> None:
    index = pack(rows(3), tmp_path / "out", format=shard_format, shuffle=False, workers=1, jpeg="keep")
    kinds = {name: info.kind for name, info in index.fields.items()}
    assert kinds == {
        "image": "image", "text": "text", "label": "scalar", "count": "scalar", "score": "scalar", "ok": "scalar",
        "vector": "tensor", "tokens": "tokens", "about": "json",
    }  # fmt: skip
    assert index.fields["label"].classes == ("a", "b")
    assert index.fields["vector"].shape == (2, 3)
    assert [index.fields[name].dtype for name in ("count", "score", "ok")] == ["int64", "float64", "bool"]
    assert index.packed["source"] == "list"
    found = stream(tmp_path / "out")
    assert [sample["__key__"] for sample in found] == ["a/0_x", "a/1_x", "a/2_x"]
    for i, sample in enumerate(found):
        assert sample["text"] == f"größe {i}"
        assert (sample["label"].item(), sample["count"].item(), sample["ok"].item()) == (i % 2, i, i % 2 == 0)
        assert sample["score"].item() == (i / 4 if i % 3 else i)
        assert sample["vector"].tolist() == [[i] * 3] * 2
        assert sample["tokens"].tolist() == list(range(i + 1))
        assert sample["about"] == {"i": [i]}
        expected = np.asarray(PIL.Image.open(io.BytesIO(photo(i))), np.int16)
        assert np.abs(sample["image"].permute(1, 2, 0).numpy().astype(np.int16) - expected).max() <= 8


def test_a_map_style_dataset_of_tuples(tmp_path: Path) -> None:
    index = pack(Pictures(5), tmp_path / "out", columns="image,label", workers=1, shuffle=False)
    assert index.packed["source"] == "Pictures"
    assert index.fields["image"] == FieldInfo(kind="image", extension="png")
    found = stream(tmp_path / "out")
    assert [sample["__key__"] for sample in found] == [f"{i:09d}" for i in range(1, 6)]
    for i, sample in enumerate(found):
        assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), scene(i, 20, 10 + i))
        assert sample["label"].item() == i % 3


class Numbers(torch.utils.data.IterableDataset[dict[str, int]]):
    """A stream that knows its length: it has a `__getitem__`, which only raises."""

    def __init__(self, start: int, stop: int) -> None:
        self.numbers = range(start, stop)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[dict[str, int]]:
        return ({"n": number} for number in self.numbers)


def test_streams_of_torch_that_know_their_length(tmp_path: Path) -> None:
    chain = torch.utils.data.ChainDataset([Numbers(0, 3), Numbers(3, 5)])
    assert len(chain) == 5
    pack(chain, tmp_path / "a", workers=1, shuffle=False)
    assert [sample["n"].item() for sample in stream(tmp_path / "a")] == [0, 1, 2, 3, 4]
    pack(fastload.StreamingDataset(tmp_path / "a", shuffle=False), tmp_path / "b", workers=1, shuffle=False)
    assert [(sample["__key__"], sample["n"].item()) for sample in stream(tmp_path / "b")] == [
        (f"{i + 1:09d}", i) for i in range(5)
    ]


def test_a_package_of_somebody_that_is_called_datasets(tmp_path: Path) -> None:
    own: Any = type("CocoDetection", (Pictures,), {"__module__": "datasets.coco"})
    index = pack(own(3), tmp_path / "out", columns="image,label", workers=1)
    assert (index.packed["source"], index.samples("train")) == ("CocoDetection", 3)


def test_generators_and_single_values(tmp_path: Path) -> None:
    pack((f"line {i}" for i in range(4)), tmp_path / "a", workers=1, shuffle=False)
    assert [sample["text"] for sample in stream(tmp_path / "a")] == [f"line {i}" for i in range(4)]
    sounds = (wav(100 + i) for i in range(2))
    index = pack(sounds, tmp_path / "b", workers=1, shuffle=False, columns=["sound"])
    assert index.fields == {"sound": FieldInfo(kind="audio", extension="sound.wav")}
    pack([np.arange(i + 2) for i in range(3)], tmp_path / "c", workers=1, shuffle=False)
    assert [sample["tokens"].tolist() for sample in stream(tmp_path / "c")] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_columns_choose_and_rename(tmp_path: Path) -> None:
    index = pack(rows(2), tmp_path / "out", columns={"caption": "text", "n": "count", "key": "text"}, workers=1)
    assert set(index.fields) == {"caption", "n"}
    assert {sample["__key__"] for sample in stream(tmp_path / "out")} == {"größe 0", "größe 1"}


def test_samples_are_split_by_a_text_of_theirs(tmp_path: Path) -> None:
    data = [{"n": i, "patient": f"p{i % 8}"} for i in range(64)]
    pack(data, tmp_path / "out", workers=1, split=fastload.Splitting(shares="train=0.5,val=0.5", group_by="patient"))
    found = [{row["patient"] for row in stream(tmp_path / "out" / split)} for split in ("train", "val")]
    assert found[0] | found[1] == {f"p{i}" for i in range(8)}
    assert not found[0] & found[1]


def test_jpegs_become_crop_seekable_and_the_spool_is_gone(tmp_path: Path) -> None:
    index = pack(rows(6), tmp_path / "out", workers=2, split="train=0.5,val=0.5")
    counts = index.statistics["jpeg"]
    assert sum(split["seekable"] for split in counts.values()) == 6
    assert sorted(os.listdir(tmp_path / "out")) == ["index.json", "train", "val"]


def test_any_number_of_workers_writes_the_same_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    def run(out: Path, **options: Any) -> None:
        pack(iter(rows()), out, **options)

    check_alike(run, tmp_path, shard_size="120KiB", split="train=0.7,val=0.3")


def die_while_reading(out: Path, after: int) -> None:
    def samples() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows()):
            if number == after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield row

    pack(samples(), out, workers=1, shard_size="120KiB")


def test_killed_while_it_is_read(tmp_path: Path) -> None:
    pack((row for row in rows()), tmp_path / "clean", workers=1, shard_size="120KiB")
    for after in (0, 1, 39):
        out = tmp_path / f"out{after}"
        child = FORK.Process(target=die_while_reading, args=(out, after))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        with pytest.raises(fastload.FastloadError, match="is incomplete: packing was not finished"):
            fastload.StreamingDataset(out)
        pack((row for row in rows()), out, workers=1, shard_size="120KiB")
        assert tree(out) == tree(tmp_path / "clean")


def test_a_run_that_goes_on_packs_what_the_dataset_has_now(tmp_path: Path) -> None:
    data, out = rows(), tmp_path / "out"
    with pytest.raises(Stopped):
        pack(data, out, workers=1, shard_size="80KiB", shuffle=False, progress=stop_after(out, 2))
    assert sorted(os.listdir(out / ".fastload-pack")) == ["journal.jsonl", "lock"]
    first, second, *_ = sorted(out.rglob("*.tar"))
    times = {path: path.stat().st_mtime_ns for path in (first, second)}
    data[0]["text"] = "another"
    pack(data, out, workers=1, shard_size="80KiB", shuffle=False)
    pack(data, tmp_path / "fresh", workers=1, shard_size="80KiB", shuffle=False)
    assert tree(out) == tree(tmp_path / "fresh")
    assert second.stat().st_mtime_ns == times[second]
    assert first.stat().st_mtime_ns != times[first]


def test_an_error_of_the_dataset_comes_through_and_leaves_nothing(tmp_path: Path) -> None:
    def samples() -> Iterator[dict[str, Any]]:
        yield {"text": "a"}
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match="the disk is on fire"):
        pack(samples(), tmp_path / "new" / "out", workers=1)
    assert not (tmp_path / "new").exists()


class _Half:
    pass


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "list has no samples"),
        ([{"key": "a"}], {}, "list: its samples have a key and no field"),
        ([{"text": "a"}, {"text": None}], {}, "sample 2 of list: field 'text' is None; fill it, or"),
        ([{"text": "a"}, {"text": "\ud800 x"}], {}, r"sample 2 of list: field 'text': '\\ud800' is half a character"),
        ([{"text": "a", "n": 1}, {"text": "b"}], {}, "sample 2 of list: the sample lacks 'n', unlike the first one"),
        ([{"n": 1}, {"n": 1, "m": 2}], {}, "sample 2 of list: the sample also has 'm', unlike the first one"),
        ([{"n": 1}, {"n": "x"}], {}, "sample 2 of list: field 'n' is str, and scalar of int64 in the first sample"),
        ([{"n": True}, {"n": 1}], {}, "sample 2 of list: field 'n' is int, and scalar of bool in the first sample"),
        ([{"n": 1 << 63}], {}, "sample 1 of list: field 'n': 9223372036854775808 does not fit into 64 bits"),
        ([{"label": "a"}, {"label": 1}], {}, "sample 2 of list: field 'label' is int, and text of any type in"),
        ([{"v": np.zeros(2)}, {"v": np.zeros(2, "f4")}], {}, "sample 2 of list: field 'v' is an array of float32, and"),
        ([{"v": np.array(["a"])}], {}, "sample 1 of list: field 'v' is an array of <U1; make it one of booleans"),
        ([{"v": torch.zeros(2, dtype=torch.bfloat16)}], {}, r"field 'v': .*; cast it first, as with .float\(\)"),
        ([{"v": _Half()}], {}, r"sample 1 of list: field 'v' is a .*_Half, which no field holds; pass text, bytes"),
        ([{"v": {1, 2}}], {}, r"field 'v' is a builtins.set, which no field holds"),
        ([{"v": [_Half()]}], {}, "field 'v' is a list that JSON cannot hold"),
        ([{"v": [float("nan")]}], {}, "field 'v' is a list that JSON cannot hold"),
        ([{"tokens": [1.5]}], {}, "field 'tokens': tokens are one list of integers"),
        ([{"image": jpeg(1)}, {"image": jpeg(2)[:-200]}], {}, "sample 2 of list: field 'image': JPEG of .* cut off"),
        ([{"image": PIL.Image.new("CMYK", (2, 2))}], {}, "sample 1 of list: a picture of mode 'CMYK' cannot"),
        ([{"key": "a", "n": 1}, {"key": "a", "n": 2}], {}, "sample 2 of list: the key 'a' is that of sample 1 of"),
        ([{"key": "a/", "n": 1}], {}, "sample 1 of list: 'a/' cannot be a key"),
        ([{"a b": 1}], {}, "a field cannot be called 'a b'"),
    ],
)  # fmt: skip
def test_faulty_samples_are_named(tmp_path: Path, data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PackError, match=message):
        pack(data, tmp_path / "out", workers=1, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"n": "x"}, "field 'n' is str, and scalar of int64 in the first sample; it is 'x'"),
        ({"n": True}, "field 'n' is bool, and scalar of int64"),
        ({"n": 1 << 63}, "field 'n': 9223372036854775808 does not fit into 64 bits"),
        ({"n": {1}}, "field 'n' is a builtins.set, which no field holds; pass text, bytes"),
        ({"text": "\ud800"}, "field 'text': '\\ud800' is half a character"),
        ({"key": "/"}, "'/' cannot be a key"),
        ({"v": np.zeros(2, "f4")}, "field 'v' is an array of float32, and tensor of float64"),
        ({"tokens": [1, None]}, "field 'tokens': tokens are one list of integers, not [1, None]"),
        ({"tokens": [1 << 63]}, "field 'tokens': 9223372036854775808 does not fit into 64 bits"),
        ({"about": [float("nan")]}, "field 'about' is a list that JSON cannot hold"),
    ],
)
def test_samples_with_values_that_no_field_holds_are_left_out(tmp_path: Path, bad: dict[str, Any], why: str) -> None:
    whole = [{"text": f"t{i}", "n": i, "v": np.zeros(2), "tokens": [i], "about": [i]} for i in range(3)]
    source = [whole[0], whole[1] | bad, whole[2]]
    tables = []
    for samples in (source, [whole[0], whole[2]]):
        opened = object_stream(samples, None)
        tables.append(spool(opened, tmp_path / "spool", lambda *counts: None, Lenience(faulty=True)))
    table, alone = tables
    ((place, found),) = [(left.place, left.why) for left in table.left_out or ()]
    assert (place, found[: len(why)]) == ("sample 2 of list", why)
    assert (table.fields, list(table.keys)) == (alone.fields, ["000000001", "000000003"])
    contents = [[c.read(np.arange(2)) for c in t.columns.values() if isinstance(c, Spans)] for t in tables]
    assert contents[0] == contents[1]
    assert table.places is not None
    assert table.places[1] == "sample 3 of list"
    with pytest.raises(
        PackError, match=re.escape(f"sample 2 of list: {why}") + ".*; mend it, or leave such samples out"
    ):
        spool(object_stream(source, None), tmp_path / "spool", lambda *counts: None)


def test_a_first_sample_that_most_others_are_unlike_is_an_error(tmp_path: Path) -> None:
    """Not a data set of one."""

    def kept(*values: Any) -> int:
        rows = object_stream([{"n": value} for value in values], None)
        return len(spool(rows, tmp_path / "spool", lambda *counts: None, Lenience(faulty=True)).keys)

    message = "list: only 1 of 4 samples fit the first one that is kept, sample 2 of list; 3 do not (sample 3 of list:"
    message += " field 'n' is int, and text of any type in the first sample; it is 1); mend the first one"
    with pytest.raises(PackError, match=re.escape(message)):
        kept({1}, "?", 1, 2, 3)
    assert kept("?", 1) == 1
    assert kept("?", 1, 2, "!") == 2
    assert kept("?", "\ud800", "\ud800", "\ud800") == 1, "which are no texts either"


def test_the_first_sample_that_is_kept_says_what_the_fields_are(tmp_path: Path) -> None:
    """Also where one before it was found unfit only when it was to be added, or was the first to have a value."""
    rows = [{"n": 1 << 63, "gone": 1}, {"n": "x", "m": None}, {"n": "y", "m": 1 << 63}, {"n": "z", "m": 7}]
    lenience = Lenience(faulty=True, fill={"m": "0"})
    table = spool(object_stream(rows, None), tmp_path / "spool", lambda *counts: None, lenience)
    assert [left.key for left in table.left_out or ()] == ["000000001", "000000003"]
    assert {name: info.kind for name, info in table.fields.items()} == {"n": "text", "m": "scalar"}
    column = table.columns["m"]
    assert isinstance(column, Values)
    assert column.values.tolist() == [0, 7]
    with pytest.raises(PackError, match="sample 2 of list: fill: field 'm' is str, and scalar of int64"):
        spool(
            object_stream(rows[1:2] + rows[3:], None),
            tmp_path / "spool",
            lambda *counts: None,
            Lenience(fill={"m": "x"}),
        )


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (7, {}, "a int is no source: pass a path, or a data set whose samples are dicts"),
        ({"a": 1}, {}, "a dict is no source"),
        ([(1, 2)], {}, "sample 1 of list is a tuple of 2: name its parts, in order, as in columns='image,label'"),
        ([(1, 2)], {"columns": "a"}, "sample 1 of list is a tuple of 2, and columns names 1 fields"),
        ([1], {"columns": "a,b"}, "sample 1 of list is a int, and columns names 2 fields; make it a dict"),
        ([{"a": 1}], {"columns": "b"}, "columns: sample 1 of list has no 'b'; it has 'a'"),
        ([{"a": 1}], {"kind": "text"}, "kind, label_regex and label_level are of files; data sets"),
    ],
)
def test_datasets_that_do_not_fit_are_refused(tmp_path: Path, data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pack(data, tmp_path / "out", workers=1, **options)
    assert not (tmp_path / "out").exists()


def test_the_spool_is_the_contents_one_after_the_other(tmp_path: Path) -> None:
    samples = [Sample(f"line {i}", {"text": "x" * i, "n": i}) for i in range(4)]
    told: list[tuple[int, int]] = []
    source = Stream(name="lines", read=lambda: iter(samples))
    table = spool(source, tmp_path / "spool", lambda *counts: told.append(counts))
    assert told == [(4, 6)]
    assert (tmp_path / "spool").read_bytes() == b"x" * 6
    column = table.columns["text"]
    assert isinstance(column, Spans)
    assert (column.starts.tolist(), column.sizes.tolist()) == ([0, 0, 1, 3], [0, 1, 2, 3])
    assert table.fields["text"] == FieldInfo(kind="text", extension="txt")


def test_a_class_beyond_the_names_is_named(tmp_path: Path) -> None:
    samples = [Sample(f"row {i}", {"label": i}) for i in (0, -1)]
    source = Stream(name="rows", read=lambda: iter(samples), classes={"label": ("a", "b")})
    with pytest.raises(PackError, match="row -1: field 'label' has the class -1, and there are names of 2; correct"):
        spool(source, tmp_path / "spool", lambda *counts: None)
    samples.insert(0, Sample("row", {}, lacking={"label": "no label"}))
    with pytest.raises(PackError, match="row -1: field 'label' has the class -1"):
        spool(source, tmp_path / "spool", lambda *counts: None, Lenience(drop=True))
    table = spool(source, tmp_path / "spool", lambda *counts: None, Lenience(drop=True, faulty=True))
    assert (list(table.keys), [left.place for left in table.left_out or ()]) == (["000000002"], ["row", "row -1"])


def test_a_label_that_is_blank_makes_no_class(tmp_path: Path) -> None:
    source = [{"n": i, "label": name} for i, name in enumerate((" ", "a", "", "b"))]

    def classes(**options: Any) -> Any:
        table = spool(object_stream(source, None), tmp_path / "spool", lambda *counts: None, Lenience(**options))
        return table.fields["label"].classes

    message = (
        "sample 1 of list: field 'label' is empty among class names; fill it (--fill), or pass --drop-missing; mend"
    )
    with pytest.raises(PackError, match=re.escape(message)):
        classes()
    assert classes(faulty=True) == classes(drop=True) == ("a", "b")
    assert classes(fill={"label": "none"}) == ("a", "b", "none")


def test_contents_that_come_in_several_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call gives at most 2 GiB; here 100 bytes."""
    whole = os.preadv

    def some(descriptor: int, buffers: Any, offset: int) -> int:
        return whole(descriptor, [buffer[:100] for buffer in buffers], offset)

    monkeypatch.setattr(os, "preadv", some)
    texts = ["x" * 1000, "", "y" * 99, "z" * 201]
    pack([{"text": text} for text in texts], tmp_path / "out", workers=1, shuffle=False)
    assert [sample["text"] for sample in stream(tmp_path / "out")] == texts


def test_contents_are_not_held_until_all_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastload.pack.spool._BUFFER_BYTES", 1000)
    written = []

    def samples() -> Iterator[dict[str, str]]:
        for _ in range(10):
            yield {"text": "x" * 600}
            written.append((tmp_path / "out" / JOURNAL_NAME / SPOOL_NAME).stat().st_size)

    pack(samples(), tmp_path / "out", workers=1)
    assert written == [n // 2 * 1200 for n in range(1, 11)]


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_contents_that_are_empty(tmp_path: Path, shard_format: Any) -> None:
    pack([{"text": ""}] * 2, tmp_path / "out", format=shard_format, workers=1)
    assert [sample["text"] for sample in stream(tmp_path / "out")] == ["", ""]


FULL_DISK = """
import resource, sys, fastload
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
fastload.pack(({"blob": bytes(600_000)} for _ in range(4)), sys.argv[1], workers=1)
"""


def test_no_space_for_the_spool_is_said(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert "spool cannot be written (File too large): contents of such a source go there first, and take" in run.stderr
    assert not (tmp_path / "out").exists()


def test_numbers_of_numpy_and_json_as_they_are(tmp_path: Path) -> None:
    data = [{"a": np.float32(0.5), "b": np.int8(3), "c": np.bool_(True), "d": np.str_("x"), "e": torch.tensor(2.5)}]
    index = pack(data, tmp_path / "out", workers=1)
    assert [info.dtype for info in index.fields.values()] == ["float64", "int64", "bool", None, "float64"]
    assert json.loads((tmp_path / "out" / "index.json").read_text())["packed"]["options"]["columns"] is None
