"""Several data sets become one: splits by name, classes by name, keys told apart, counts added up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
from pack_sources import photo, png, tree
from reshape_sources import make_everything, word_tokenizer
from samples import FORMATS, freeze
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.errors import ConfigError, PackError, ShardIndexError
from fastload.pack import pack
from fastload.pack.convert import convert
from fastload.reshape import append, merge
from fastload.shards.columns import read_columns
from fastload.shards.index import IndexFile, ShardFormat
from fastload.shards.open import open_index
from fastload.verify import verify

SPLIT = {"train": 0.7, "val": 0.3}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Different samples; the second has a class that the first lacks, and lacks one of its."""
    first = make_everything(tmp_path / "s1", range(20))
    second = make_everything(tmp_path / "s2", range(20, 36), labels=("owl", "cat", "ant"))
    pack(first, tmp_path / "a", shard_size="20KiB", split=SPLIT)
    pack(second, tmp_path / "b", shard_size="20KiB", split=SPLIT)
    return tmp_path / "a", tmp_path / "b"


def by_key(folder: Path, split: str) -> dict[str, Any]:
    classes = open_index(folder, split).fields["label"].classes
    assert classes is not None
    found = {}
    for sample in fastload.StreamingDataset(folder, split=split, shuffle=False):
        named = {**sample, "label": classes[int(sample["label"])]}
        found[sample["__key__"]] = {name: freeze(value) for name, value in named.items()}
    return found


@pytest.mark.parametrize("shard_format", FORMATS)
def test_samples_splits_and_classes(two: tuple[Path, Path], tmp_path: Path, shard_format: ShardFormat) -> None:
    index = merge(two, tmp_path / "out", format=shard_format)
    assert index.fields["label"].classes == ("cat", "dog", "owl", "ant")
    for split in SPLIT:
        a, b = (by_key(folder, split) for folder in two)
        merged = by_key(tmp_path / "out", split)
        assert list(merged) == [*a, *b], "the samples of the first source first, in their order"
        assert merged == {**a, **b}
        labels = read_columns(open_index(tmp_path / "out", split), ["label"])["label"].tolist()
        names = index.fields["label"].classes
        expected = {name: labels.count(number) for number, name in enumerate(names)}
        assert index.statistics["classes"][split] == expected
    assert verify(tmp_path / "out", decode=True).ok


def test_counts_are_those_of_a_whole_packing(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Keys decide the split, so that packing all at once gives the same samples to each."""
    merged = merge(two, tmp_path / "out")
    manifest = (tmp_path / "s1/m.jsonl").read_text() + (tmp_path / "s2/m.jsonl").read_text()
    (tmp_path / "s").mkdir()
    for part in ("s1", "s2"):
        for path in (tmp_path / part).iterdir():
            (tmp_path / "s" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "s/m.jsonl").write_text(manifest)
    whole = pack(tmp_path / "s/m.jsonl", tmp_path / "whole", split=SPLIT)
    assert merged.statistics["fields"] == whole.statistics["fields"]
    assert merged.statistics["jpeg"] == whole.statistics["jpeg"]
    for split, counts in whole.statistics["classes"].items():
        assert dict(sorted(counts.items())) == dict(sorted(merged.statistics["classes"][split].items()))
    names = ["image.width", "audio.frames", "score", "flag"]
    for split in SPLIT:
        a, b = (read_columns(open_index(tmp_path / name, split), names) for name in ("out", "whole"))
        assert {n: sorted(v.tolist()) for n, v in a.items()} == {n: sorted(v.tolist()) for n, v in b.items()}


def test_counts_of_preparing_are_those_of_a_whole_packing(tmp_path: Path) -> None:
    prepare, folders = fastload.Prepare(resize_longer=64), []
    for number, name in enumerate("abcde"):
        for source in ("all", "one" if number < 2 else "two"):
            (tmp_path / source).mkdir(exist_ok=True)
            (tmp_path / source / f"{name}.jpg").write_bytes(photo(number, width=200 + number))
    for source in ("all", "one", "two"):
        folders.append(tmp_path / f"packed-{source}")
        pack(tmp_path / source, folders[-1], prepare=prepare)
    merged = merge(folders[1:], tmp_path / "merged")
    whole = IndexFile.load(folders[0] / "index.json").statistics
    assert merged.statistics == whole
    assert whole["resize"]["train"]["psnr_pictures"] == 5


def test_pixels_are_summed_over_all_sets_or_not_at_all(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_bytes(png(number))
        pack(tmp_path / name, tmp_path / f"packed-{name}", statistics=name == "a")
    sets = [tmp_path / "packed-a", tmp_path / "packed-b"]
    for index in (merge(sets, tmp_path / "merged"), append(sets[1], sets[0])):
        about = index.statistics["fields"]["train"]["image"]
        assert about["width"]["count"] == 2
        assert "channels" not in about


def test_formats_and_shard_sizes_may_differ(two: tuple[Path, Path], tmp_path: Path) -> None:
    convert(two[1], tmp_path / "p", format="parquet")
    with pytest.raises(ConfigError, match="a is tar and p is parquet: pass the format of the result"):
        merge([two[0], tmp_path / "p"], tmp_path / "out")
    index = merge([two[0], tmp_path / "p"], tmp_path / "out", format="tar", shard_size="100MiB")
    assert [shard.name for shard in index.shards] == ["train/shard-000000.tar", "val/shard-000000.tar"]
    assert by_key(tmp_path / "out", "val") == {**by_key(two[0], "val"), **by_key(tmp_path / "p", "val")}


def test_a_split_that_only_one_has(two: tuple[Path, Path], tmp_path: Path) -> None:
    pack(make_everything(tmp_path / "s3", range(40, 44)), tmp_path / "c", split={"test": 1.0})
    index = merge([*two, tmp_path / "c"], tmp_path / "out")
    assert {name: index.samples(name) for name in index.splits}["test"] == 4
    assert index.packed["sources"][2] == {"source": "c", "samples": 4}


def test_keys_that_clash_are_an_error_or_get_a_prefix(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_everything(tmp_path / "s3", range(3, 15))
    pack(other, tmp_path / "x" / "a", split=SPLIT)
    with pytest.raises(
        PackError, match=r"two samples have the key 'some/00\d\d', in a/.* and in a-2/.*; pass prefix=True"
    ):
        merge([two[0], tmp_path / "x/a"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge([two[0], tmp_path / "x/a"], tmp_path / "out", prefix=True)
    keys = [key for split in SPLIT for key in by_key(tmp_path / "out", split)]
    assert {key for key in keys if key.startswith("a-2/")} == {f"a-2/some/{i:04d}" for i in range(3, 15)}
    assert sum(key.startswith("a/some/") for key in keys) == 20


def test_a_source_without_facts_gets_them(tmp_path: Path) -> None:
    for name, first in (("x", 0), ("y", 10)):
        (tmp_path / name).mkdir()
        rows = {"__key__": [f"k{first + i}" for i in range(3)], "image": [None] * 3}
        rows["image"] = [{"bytes": samples.jpeg(i), "path": None} for i in range(3)]
        pq.write_table(pa.table(rows), tmp_path / name / "data.parquet")
    convert(tmp_path / "x", tmp_path / "own", format="parquet")
    merge([tmp_path / "own", tmp_path / "y"], tmp_path / "out")
    widths = read_columns(open_index(tmp_path / "out"), ["image.width"])["image.width"]
    assert widths.tolist() == [samples.WIDTH] * 6


class Stop(Exception):
    pass


def test_a_run_that_was_stopped_goes_on(two: tuple[Path, Path], tmp_path: Path) -> None:
    merge(two, tmp_path / "clean")

    def stop(done: int, total: int, written: int) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        merge(two, tmp_path / "out", progress=stop)
    with pytest.raises(PackError, match="holds an unfinished pack with merge"):
        merge(two[::-1], tmp_path / "out")
    merge(two, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")


def test_fields_that_do_not_fit(two: tuple[Path, Path], tmp_path: Path) -> None:
    for number, table in enumerate(
        [
            {"x": [1], "label": [0]},
            {"x": [1.5], "label": [0]},
            {"x": [1]},
            {"x": ["a"], "label": [0]},
        ]
    ):
        (tmp_path / f"p{number}").mkdir()
        pq.write_table(pa.table({"__key__": [f"k{number}"], **table}), tmp_path / f"p{number}/x.parquet")
    for other, message in (
        (1, "field 'x' is float64, not int64, in p1, unlike p0"),
        (2, "field 'label' is in p0 and not in p2; all shards must have the same"),
        (3, "field 'x' has another kind (text, not scalar) in p3, unlike p0"),
    ):
        with pytest.raises(ShardIndexError) as caught:
            merge([tmp_path / "p0", tmp_path / f"p{other}"], tmp_path / "out")
        assert message in str(caught.value)
    samples.make(tmp_path / "n", "tar", [2], ("label",))
    samples.make(tmp_path / "m", "tar", [2], ("label",))
    pack(labels_only(tmp_path / "l.csv"), tmp_path / "named", columns="label")
    with pytest.raises(
        ShardIndexError, match="the numbers of field 'label' have no names of classes in n, and have in"
    ):
        merge([tmp_path / "named", tmp_path / "n"], tmp_path / "out")
    with pytest.raises(ConfigError, match="pass at least two data sets"):
        merge([two[0]], tmp_path / "out")
    with pytest.raises(ConfigError, match="pass 'tar' or 'parquet'"):
        merge(two, tmp_path / "out", format="zip")  # type: ignore[arg-type]


def labels_only(path: Path) -> Path:
    path.write_text("label\ncat\ndog\n")
    return path


def test_tokens_of_several_vocabularies_are_refused(tmp_path: Path) -> None:
    """Each would read as words of the other."""
    tokenizer = word_tokenizer(tmp_path / "words.json", "?", "one", "two")
    for name, by in (("a", "bytes"), ("b", "bytes"), ("c", tokenizer), ("d", "bytes")):
        rows = [{"__key__": f"{name}{i}", "text": "one two"} for i in range(3)]
        pack(rows, tmp_path / name, prepare=fastload.Prepare(tokenizer=by), split={"train": 1.0}, workers=1)
    a, b, c, d = (tmp_path / name for name in "abcd")
    message = (
        r"tokens in {} are of another vocabulary \(words.json, \w{{16}}\) than in {} \(bytes, \w{{16}}\); pack both"
    )
    with pytest.raises(ShardIndexError, match=message.format("c", "a")):
        merge([a, c], tmp_path / "out")
    with pytest.raises(ShardIndexError, match=message.format("train", "a")):
        merge([a, c / "train"], tmp_path / "out")
    merged = merge([a, b], tmp_path / "out")
    assert merged.packed["tokens"] == IndexFile.load(a / "index.json").packed["tokens"]
    with pytest.raises(ShardIndexError, match=message.format("c", "out")):
        append(c, tmp_path / "out")
    assert append(d, tmp_path / "out").samples("train") == 9


def test_the_command(two: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["merge", *map(str, two), str(tmp_path / "out"), "--shard-size", "1MiB"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "merged 36 samples (train " in done.output
    assert CliRunner().invoke(app, ["merge", str(two[0]), str(tmp_path / "o")]).exit_code == 2


def test_what_was_left_out_stays_listed(tmp_path: Path) -> None:
    """In what is converted, the list to the byte; in what is merged, both lists and their sums."""
    clean = fastload.Cleaning(duplicates="drop", label_noise="report")
    for name, words in (("a", ["x", "x", "y"]), ("b", ["z", "w", "w"])):
        rows = [{"__key__": f"{name}{i}", "text": word, "label": f"of {word}"} for i, word in enumerate(words)]
        pack(rows, tmp_path / name, clean=clean)
    index = convert(tmp_path / "a", tmp_path / "there", format="parquet")
    for name in ("rejected.parquet", "suspects.parquet"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert verify(tmp_path / "there").ok
    assert index.statistics["cleaning"]["rejected"] == {"duplicate": 1}
    both = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both", prefix=True)
    assert both.statistics["cleaning"]["rejected"] == {"duplicate": 2}
    assert pq.read_table(tmp_path / "both/rejected.parquet")["key"].to_pylist() == ["a/a1", "b/b2"]
    assert len(pq.read_table(tmp_path / "both/suspects.parquet")) == 4
    (tmp_path / "b/rejected.parquet").write_bytes(b"half")
    with pytest.raises(PackError, match=r"b/rejected\.parquet is no list that packing wrote"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "more")
