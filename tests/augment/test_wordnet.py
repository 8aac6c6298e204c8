"""Synonyms from WordNet, read by nltk from files in WordNet's own format, of four senses."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import nltk.data
import pytest
from made import keys
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader

from fastload.augment import EachText, WordNet, eda
from fastload.batch import Batch
from fastload.errors import ConfigError

SENSES = {
    "noun": [["car", "auto", "motor-car"], ["dog", "domestic_dog"], ["inch", "in"]],
    "adj": [["quick", "fast", "car"]],
}


def write(folder: Path) -> None:
    """Files of wordnet(5WN): index.POS, data.POS, and empty ones."""
    folder.mkdir(parents=True)
    for name in ("cntlist.rev", "index.sense", *(f"{pos}.exc" for pos in ("adj", "adv", "noun", "verb"))):
        (folder / name).touch()
    names = ["adj.all", "adj.pert", "adv.all", "noun.Tops"]
    (folder / "lexnames").write_text("".join(f"{i:02d}\t{name}\t1\n" for i, name in enumerate(names)))
    for pos in ("noun", "verb", "adj", "adv"):
        letter, data, offsets = pos[0] if pos != "adv" else "r", "  1 four senses\n", dict[str, list[int]]()
        for words in SENSES.get(pos, []):
            for word in words:
                offsets.setdefault(word, []).append(len(data))
            members = " ".join(f"{word} 0" for word in words)
            data += f"{len(data):08d} 03 {letter} {len(words):02x} {members} 000 | what it means  \n"
        index = "".join(
            f"{word} {letter} {len(at)} 0 {len(at)} 0 {' '.join(f'{o:08d}' for o in at)}  \n"
            for word, at in sorted(offsets.items())
        )
        (folder / f"data.{pos}").write_text(data)
        (folder / f"index.{pos}").write_text("  1 four senses\n" + index)


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where nltk looks, and nothing else; what nltk loaded before is out of the way."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    fresh = LazyCorpusLoader("wordnet", WordNetCorpusReader, None)
    monkeypatch.setattr("nltk.corpus.wordnet", fresh)
    yield tmp_path
    for file in vars(fresh).get("_data_file_map", {}).values():  # nltk leaves them open
        file.close()


@pytest.fixture
def wordnet(corpora: Path) -> WordNet:
    write(corpora / "corpora" / "wordnet")
    with pytest.warns(UserWarning, match="multilingual functions are not available"):
        return WordNet()


def test_synonyms_are_the_lemmas_of_all_senses(wordnet: WordNet) -> None:
    assert wordnet["car"] == ("auto", "fast", "motor car", "quick")
    assert wordnet["dog"] == ("domestic dog",)
    assert "auto" in wordnet
    assert "in" not in wordnet, "a stop word"
    assert "cat" not in wordnet
    assert wordnet.get("cat") is None
    assert WordNet(stop_words=())["in"] == ("inch",)
    assert len(wordnet) == len(list(wordnet)) >= 7
    assert repr(wordnet) == "WordNet()"


def test_eda_takes_its_synonyms(wordnet: WordNet) -> None:
    text = "the dog saw a car in town"
    given = Batch({"text": [text] * 200}, sample_keys=keys(200))
    changed = EachText("text", partial(eda, synonyms=wordnet))(given)["text"]
    new = {word for each in changed for word in each.split()} - set(text.split())
    assert new == {"domestic", "auto", "fast", "motor", "quick"}
    assert changed == EachText("text", partial(eda, synonyms=wordnet))(given)["text"]


def test_where_nltk_has_no_wordnet_the_remedy_is_told(corpora: Path) -> None:
    with pytest.raises(ConfigError, match=r"finds no WordNet on this machine; .*python -m nltk.downloader wordnet"):
        WordNet()


def test_a_fork_reads_files_of_its_own(wordnet: WordNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shares the positions in those of its parent, and a thread that stayed there may have the lock."""
    assert wordnet["dog"] == ("domestic dog",)
    before = dict(wordnet._wordnet._data_file_map)
    held = vars(sys.modules[WordNet.__module__])["_reading"][os.getpid()]
    with held:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(wordnet.get, "car").result(20) == ("auto", "fast", "motor car", "quick")
    after = wordnet._wordnet._data_file_map
    assert before
    assert all(file is not before.get(pos) for pos, file in after.items())


def test_threads_ask_nltk_one_at_a_time(wordnet: WordNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It seeks and reads in files that all its users share."""
    inside, synsets = threading.Lock(), wordnet._wordnet.synsets

    def slow(word: str) -> Any:
        assert inside.acquire(blocking=False), "two at a time"
        time.sleep(0.01)
        found = synsets(word)
        inside.release()
        return found

    monkeypatch.setattr(wordnet._wordnet, "synsets", slow)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(wordnet.get, ["car", "dog", "quick", "auto"]))
    assert found == [("auto", "fast", "motor car", "quick"), ("domestic dog",), ("car", "fast"), ("car", "motor car")]
