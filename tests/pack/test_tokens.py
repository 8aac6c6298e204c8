"""Texts as tokens: those of the tokenizers library, each text a row, or documents joined into rows of one length."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pack_sources import tree
from tokenizers import models, pre_tokenizers, trainers
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.errors import ConfigError, MissingExtraError, PackError
from fastload.pack import Prepare, pack, vocabulary
from fastload.pack.rows import RowFile, Sequences, SplitRows, TokenizedRun
from fastload.pack.tokenizing import as_row
from fastload.pack.vocabulary import Vocabulary, load_vocabulary
from fastload.shards.foreign import JOURNAL_NAME
from fastload.verify import verify

WORDS = ("the", "loader", "reads", "shards", "of", "tokens", "and", "a", "batch", "waits", "ünïcödé", "漢字")


def documents(count: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 60 words; one spells the end of a text."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 60))) for _ in range(count)]
    texts[0] = "a <|endoftext|> in a text"
    return texts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small byte-level BPE, with an end of text and a post-processor that would add it."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(documents(50), trainer)
    end = ("<|endoftext|>", 1)
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[end])
    made.enable_truncation(7)
    made.enable_padding(length=9)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def expected(tokenizer: Path, texts: Sequence[str]) -> list[list[int]]:
    """The numbers of each text, of the library itself."""
    library = tokenizers.Tokenizer.from_file(str(tokenizer))
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return [encoding.ids for encoding in library.encode_batch(list(texts), add_special_tokens=False)]


def write_jsonl(path: Path, texts: Sequence[str], **more: Any) -> Path:
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))
    return path


def rows(out: Path, split: str = "train", name: str = "tokens") -> dict[str, list[int]]:
    """Key -> tokens of each row, in the order of the shards."""
    data = fastload.IndexedDataset(out / split)
    return {sample["__key__"]: sample[name].tolist() for sample in (data[i] for i in range(len(data)))}


# One row a text


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_tokens_are_those_of_the_library(tokenizer: Path, tmp_path: Path, form: Any) -> None:
    texts = documents(40)
    source = write_jsonl(tmp_path / "t.jsonl", texts, label="x", weight=0.5)
    index = pack(source, tmp_path / "out", prepare=Prepare(tokenizer=tokenizer), format=form)
    wanted = expected(tokenizer, texts)
    assert 1 not in wanted[0]
    assert rows(tmp_path / "out") == {f"{i:09d}": ids for i, ids in enumerate(wanted, 1)}
    assert list(index.fields) == ["tokens", "label", "weight"]
    assert index.fields["tokens"].dtype == "uint16"
    assert index.statistics["tokens"]["train"]["tokens"] == sum(map(len, wanted))
    assert index.statistics["fields"]["train"]["tokens"]["count"]["max"] == max(map(len, wanted))
    assert index.packed["tokens"]["end_of_text"] == 1
    assert index.packed["libraries"] == {"tokenizers": tokenizers.__version__}
    assert verify(tmp_path / "out", decode=True).ok


def test_lines_and_files_of_text(tokenizer: Path, tmp_path: Path) -> None:
    texts = documents(12)
    (tmp_path / "t.txt").write_text("\n".join(texts) + "\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number:02d}.txt").write_text(text)
    wanted = expected(tokenizer, texts)
    for source in (tmp_path / "t.txt", folder):
        out = tmp_path / f"out-{source.name}"
        pack(source, out, prepare=Prepare(tokenizer=str(tokenizer)), shuffle=False)
        assert list(rows(out).values()) == wanted


def test_bytes_need_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    texts = documents(5)
    index = pack(write_jsonl(tmp_path / "t.jsonl", texts), tmp_path / "out", prepare=Prepare(tokenizer="bytes"))
    assert rows(tmp_path / "out") == {f"{i:09d}": list(text.encode()) for i, text in enumerate(texts, 1)}
    assert index.packed["tokens"]["vocabulary"] == 257


def test_one_of_several_fields(tokenizer: Path, tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl"
    source.write_text(json.dumps({"caption": "the model", "title": "a batch"}) + "\n")
    with pytest.raises(ConfigError, match="'caption', 'title' are all texts; say which becomes tokens: text='caption'"):
        pack(source, tmp_path / "out", prepare=Prepare(tokenizer=tokenizer))
    with pytest.raises(ConfigError, match="text='x' is no field of texts; those are 'caption', 'title'"):
        pack(source, tmp_path / "out", prepare=Prepare(tokenizer=tokenizer, text="x"))
    pack(source, tmp_path / "out", prepare=Prepare(tokenizer=tokenizer, text="title"))
    (sample,) = fastload.IndexedDataset(tmp_path / "out").__getitems__([0])
    assert sample["caption"] == "the model"
    assert sample["title_tokens"].tolist() == expected(tokenizer, ["a batch"])[0]


def test_a_large_vocabulary_is_stored_in_32_bits(tmp_path: Path) -> None:
    words = {f"w{i}": i for i in range(70_000)}
    made = tokenizers.Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "large.json"))
    source = write_jsonl(tmp_path / "t.jsonl", ["w1 w69999 other"])
    index = pack(source, tmp_path / "out", prepare=Prepare(tokenizer=tmp_path / "large.json"))
    assert index.fields["tokens"].dtype == "int32"
    assert rows(tmp_path / "out") == {"000000001": [1, 69_999, 0]}


def test_the_field_called_text_is_taken_unless_told_otherwise(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "t.jsonl", ["ab"], title="cd")
    index = pack(source, tmp_path / "out", prepare=Prepare(tokenizer="bytes"))
    assert {name: info.kind for name, info in index.fields.items()} == {"tokens": "tokens", "title": "text"}
    index = pack(source, tmp_path / "b", prepare=Prepare(tokenizer="bytes", text="title", sequence_length=3))
    assert rows(tmp_path / "b", name="title_tokens") == {"000000001-000000": [*b"cd", 256]}


# Rows of one length


@pytest.mark.parametrize("form", ["tar", "parquet"])
@pytest.mark.parametrize("last", ["drop", "pad"])
def test_documents_are_joined_in_order(tokenizer: Path, tmp_path: Path, form: Any, last: Any) -> None:
    texts = documents(60)
    prepare = Prepare(tokenizer=tokenizer, sequence_length=32, last_row=last)
    index = pack(
        write_jsonl(tmp_path / "t.jsonl", texts), tmp_path / "out", prepare=prepare, format=form, shuffle=False
    )
    stream: list[int] = []
    starts: list[int] = []  # of each document
    for ids in expected(tokenizer, texts):
        starts.append(len(stream))
        stream += [*ids, 1]
    rest = len(stream) % 32
    assert rest
    counts = {"documents": 60, "tokens": len(stream), "rows": len(stream) // 32 + (last == "pad")}
    counts |= {"dropped_tokens": rest if last == "drop" else 0, "padding_tokens": 32 - rest if last == "pad" else 0}
    assert index.statistics["tokens"] == {"train": counts}
    stream = stream[:-rest] if last == "drop" else stream + [1] * (32 - rest)
    found = rows(tmp_path / "out")
    assert list(found.values()) == [stream[i : i + 32] for i in range(0, len(stream), 32)]
    firsts = [int(np.searchsorted(starts, i, "right")) for i in range(0, len(stream), 32)]
    assert list(found) == [f"{first:09d}-{number - firsts.index(first):06d}" for number, first in enumerate(firsts)]
    assert index.fields["tokens"].dtype == "uint16"
    assert verify(tmp_path / "out", decode=True).ok
    assert not (tmp_path / "out" / JOURNAL_NAME).exists()
    loader = fastload.DataLoader(
        tmp_path / "out" / "train", batch_size=4, fields={"tokens": fastload.Tokens(32)}, shuffle=True
    )
    batches = [batch["tokens"] for batch in loader]
    assert {tuple(batch.shape[1:]) for batch in batches} == {(32,)}
    assert sorted(row for batch in batches for row in batch.tolist()) == sorted(found.values())


def test_splits_share_no_document(tokenizer: Path, tmp_path: Path) -> None:
    texts = documents(80)
    prepare = Prepare(tokenizer=tokenizer, sequence_length=16)
    index = pack(write_jsonl(tmp_path / "t.jsonl", texts), tmp_path / "out", prepare=prepare, split="train=0.7,val=0.3")
    of_split = {name: {key[:9] for key in rows(tmp_path / "out", name)} for name in ("train", "val")}
    assert not of_split["train"] & of_split["val"]
    counts = index.statistics["tokens"]
    assert counts["train"]["documents"] + counts["val"]["documents"] == 80
    total = sum(len(ids) + 1 for ids in expected(tokenizer, texts))
    assert sum(split["tokens"] for split in counts.values()) == total
    for name, split in counts.items():
        assert split["rows"] * 16 + split["dropped_tokens"] == split["tokens"]
        assert index.samples(name) == split["rows"]
    pack(write_jsonl(tmp_path / "t.jsonl", texts), tmp_path / "plain", split="train=0.7,val=0.3")
    plain = fastload.IndexedDataset(tmp_path / "plain" / "val")
    assert of_split["val"] <= {plain[i]["__key__"] for i in range(len(plain))}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 5), max_size=12), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from(["drop", "pad"]),
)
def test_rows_do_not_depend_on_how_documents_come(texts: list[list[int]], length: int, at_once: int, last: Any) -> None:
    numbers = Vocabulary(name="", definition="", size=10, end_of_text=9)
    sequences = Sequences(vocabulary=numbers, length=length, last=last)
    file = Sink()
    rows, split = RowFile(file, sequences), SplitRows()  # type: ignore[arg-type]
    for first in range(0, len(texts), at_once):
        some = [[*text, 9] for text in texts[first : first + at_once]]
        tokens = np.array([token for text in some for token in text], np.uint16)
        split.add(TokenizedRun(tokens=tokens, lengths=np.array([len(text) for text in some])), first, rows)
    split.finish(rows)
    stream = [token for text in texts for token in (*text, 9)]
    owners = [number for number, text in enumerate(texts) for _ in range(len(text) + 1)]
    if last == "pad":
        stream += [9] * (-len(stream) % length)
    whole = [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]
    assert bytes(file.content) == b"".join(as_row(np.array(row, np.uint16)) for row in whole)
    assert split.documents == [owners[i * length] for i in range(len(whole))]
    assert split.dropped == (len(stream) % length if last == "drop" else 0)


class Sink:
    """A file in memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> None:
        self.content += data


@given(st.lists(st.integers(0, 65535), max_size=300))
def test_a_row_is_what_numpy_writes(tokens: list[int]) -> None:
    for dtype in (np.uint16, np.int32):
        file = io.BytesIO()
        np.save(file, np.array(tokens, dtype))
        assert as_row(np.array(tokens, dtype)) == file.getvalue()


def test_other_fields_are_left_out_and_named(tmp_path: Path) -> None:
    for name in ("wiki", "books"):
        (tmp_path / "corpus" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "corpus" / name / f"{number}.txt").write_text(f"text {number} of {name} " * 5)
    index = pack(tmp_path / "corpus", tmp_path / "out", prepare=Prepare(tokenizer="bytes", sequence_length=20))
    assert list(index.fields) == ["tokens"]
    assert index.packed["left_out_fields"] == ["label"]
    assert any(key.startswith("wiki/") for key in rows(tmp_path / "out"))


# The same bytes however it ran


@pytest.mark.parametrize("length", [None, 16])
@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_any_number_of_workers_writes_the_same(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any, length: int | None
) -> None:
    monkeypatch.setattr("fastload.pack.plan.RUN_BYTES", 2000)
    monkeypatch.setattr("fastload.pack.sequences.RUN_BYTES", 2000)
    source = write_jsonl(tmp_path / "t.jsonl", documents(150))
    prepare = Prepare(tokenizer=tokenizer, sequence_length=length)
    for workers in (1, 2, 7):
        index = pack(
            source, tmp_path / str(workers), prepare=prepare, shard_size=12_000, workers=workers, format=form,
            split="train=0.8,val=0.2",
        )  # fmt: skip
    assert len(index.shards) > 2
    assert tree(tmp_path / "2") == tree(tmp_path / "7") == tree(tmp_path / "1")


@pytest.mark.parametrize("length", [None, 16])
def test_fresh_interpreters_write_the_same_as_forked_ones(tokenizer: Path, tmp_path: Path, length: int | None) -> None:
    source = write_jsonl(tmp_path / "t.jsonl", documents(60))
    prepare = Prepare(tokenizer=tokenizer, sequence_length=length)
    assert threading.enumerate() == [threading.main_thread()], "a test has left threads, and packing does not fork"
    pack(source, tmp_path / "forked", prepare=prepare, shard_size=12_000, workers=2)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()  # workers are not forked beside other threads
    try:
        pack(source, tmp_path / "fresh", prepare=prepare, shard_size=12_000, workers=2)
    finally:
        stop.set()
        thread.join()
    assert tree(tmp_path / "fresh") == tree(tmp_path / "forked")


class _Stop(Exception):
    pass


@pytest.mark.parametrize("length", [None, 16])
def test_an_interrupted_run_goes_on(tokenizer: Path, tmp_path: Path, length: int | None) -> None:
    source = write_jsonl(tmp_path / "t.jsonl", documents(150))
    prepare = Prepare(tokenizer=tokenizer, sequence_length=length)
    pack(source, tmp_path / "clean", prepare=prepare, shard_size=40_000, workers=1)
    out = tmp_path / "out"

    def stop(done: int, total: int, written: int) -> None:
        if len(list(out.rglob("*.tar"))) >= 2:
            raise _Stop

    with pytest.raises(_Stop):
        pack(source, out, prepare=prepare, shard_size=40_000, workers=1, progress=stop)
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    assert len(kept) >= 2
    assert not (out / JOURNAL_NAME / "rows").exists()
    other = Prepare(tokenizer="bytes", sequence_length=length)
    with pytest.raises(PackError, match="an unfinished pack with"):
        pack(source, out, prepare=other, shard_size=40_000, workers=1)
    pack(source, out, prepare=prepare, shard_size=40_000, workers=2)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert tree(out) == tree(tmp_path / "clean")


# Refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 8}, "sequence_length=8 needs tokenizer"),
        ({"text": "t"}, "text='t' needs tokenizer"),
        ({"tokenizer": "bytes", "sequence_length": 0}, "sequence_length=0: pass a whole number from 1"),
        ({"tokenizer": "bytes", "end_of_text": "x"}, "end_of_text='x' needs sequence_length"),
        ({"tokenizer": "bytes", "last_row": "pad"}, "last_row='pad' needs sequence_length"),
        ({"tokenizer": "bytes", "last_row": "cut"}, "last_row='cut': pass 'drop' or 'pad'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prepare(**options)


def test_tokenizers_that_are_none(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(.*No such file.*pass a tokenizer.json, or 'bytes'"):
        load_vocabulary(tmp_path / "missing.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer.json is no tokenizer.json of Hugging Face tokenizers"):
        load_vocabulary(tmp_path)
    with pytest.raises(ConfigError, match="end_of_text='<stop>' is no token of"):
        load_vocabulary(tokenizer, "<stop>")
    with pytest.raises(ConfigError, match="the tokenizer 'bytes' has 256 for it"):
        load_vocabulary("bytes", "<stop>")
    assert load_vocabulary(tokenizer.parent, "<unk>").end_of_text == 0


def test_a_tokenizer_without_an_end_of_text(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    made.save(str(tmp_path / "small.json"))
    source = write_jsonl(tmp_path / "t.jsonl", ["a b"])
    with pytest.raises(ConfigError, match=r"small.json has no token that usually ends a text; say which one stands"):
        pack(source, tmp_path / "out", prepare=Prepare(tokenizer=tmp_path / "small.json", sequence_length=4))
    assert not (tmp_path / "out").exists()


def test_without_the_library(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    vocabulary._library.cache_clear()
    with pytest.raises(MissingExtraError, match=r"a tokenizer.json needs tokenizers.*\[text\]"):
        pack(write_jsonl(tmp_path / "t.jsonl", ["a"]), tmp_path / "out", prepare=Prepare(tokenizer=tokenizer))


def test_too_few_tokens_for_a_row(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "t.jsonl", ["a text"])
    with pytest.raises(PackError, match="the split 'train' has 7 tokens, fewer than one row of 100; shorten the rows"):
        pack(source, tmp_path / "out", prepare=Prepare(tokenizer="bytes", sequence_length=100))
    assert not (tmp_path / "out").exists()
    index = pack(source, tmp_path / "out", prepare=Prepare(tokenizer="bytes", sequence_length=100, last_row="pad"))
    assert index.statistics["tokens"]["train"]["padding_tokens"] == 93


@pytest.mark.parametrize("length", [None, 16])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_text_that_is_not_utf8(tmp_path: Path, length: int | None, workers: int) -> None:
    (tmp_path / "s").mkdir()
    for number in range(3):
        (tmp_path / "s" / f"{number}.txt").write_bytes(b"fine" if number else b"bad \xff byte")
    with pytest.raises(PackError, match=r"0.txt: not UTF-8 \(invalid start byte at byte 4\); remove or mend the file"):
        pack(
            tmp_path / "s", tmp_path / "out", workers=workers,
            prepare=Prepare(tokenizer="bytes", sequence_length=length, last_row="pad" if length else "drop"),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_pictures_have_no_tokens(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a tokenizer needs texts; the source has 'image' \(image\), 'label'"):
        pack(images, tmp_path / "out", prepare=Prepare(tokenizer="bytes"))


def test_the_command(tokenizer: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "t.jsonl", documents(60))
    command = ["pack", str(source), str(tmp_path / "out"), "--tokenizer", str(tokenizer), "--sequence-length", "32"]
    done = CliRunner().invoke(app, [*command, "--end-of-text", "<|endoftext|>", "--last-row", "pad"])
    assert done.exit_code == 0, done.output
    assert "; 60 documents of " in done.stdout
    assert " tokens of padding\n" in done.stdout
    done = CliRunner().invoke(app, ["pack", str(source), str(tmp_path / "b"), "--tokenizer", "bytes"])
    assert "; 60 texts tokenized, " in done.stdout
