from __future__ import annotations

import functools
from collections import Counter
from itertools import pairwise

import pytest
import torch
from conformance import chi_squared_z
from made import keys

from fastload.augment import Compose, EachText, aeda, eda
from fastload.augment.strings import PUNCTUATION
from fastload.batch import Batch
from fastload.errors import ConfigError

TEXT = "the quick brown fox jumps over the lazy dog today"
SYNONYMS = {"quick": ["fast", "swift"], "lazy": ["idle"]}


def test_eda_draws_each_of_its_four_operations_and_is_a_function_of_the_key() -> None:
    kinds: Counter[str] = Counter()
    for key in range(2000):
        changed = eda(TEXT, key, share=0.2, synonyms=SYNONYMS)
        assert changed == eda(TEXT, key, share=0.2, synonyms=SYNONYMS)
        words, new = TEXT.split(), changed.split()
        if len(new) > len(words):
            kinds["insert"] += 1
            assert set(new) - set(words) <= {"fast", "swift", "idle"}
        elif set(new) & {"fast", "swift", "idle"}:
            kinds["replace"] += 1
            assert all(a == b or b in SYNONYMS[a] for a, b in zip(words, new, strict=True))
        elif sorted(new) == sorted(words):
            kinds["swap or nothing deleted"] += 1
        else:
            kinds["delete"] += 1
            left = iter(words)
            assert all(word in left for word in new)
    stays = 500 * 0.8**10
    expected = [500.0, 500.0, 500 + stays, 500 - stays]
    counts = [kinds[name] for name in ("insert", "replace", "swap or nothing deleted", "delete")]
    assert abs(chi_squared_z(counts, expected)) < 4


def test_eda_of_short_texts_and_without_synonyms() -> None:
    assert eda("", 1) == ""
    assert eda("one", 1) == "one"
    seen = {eda("one two", key, share=0.5) for key in range(50)}
    assert seen == {"one two", "two one", "one", "two"}, "never empty"
    with pytest.raises(ConfigError, match=r"eda\(share=2\): must be in \[0, 1\]"):
        eda("a b", 1, share=2)


def test_aeda_inserts_marks_and_changes_no_word() -> None:
    counts: Counter[int] = Counter()
    for key in range(3000):
        new = aeda(TEXT, key).split()
        assert [word for word in new if word not in PUNCTUATION] == TEXT.split()
        counts[len(new) - 10] += 1
        assert not any(a in PUNCTUATION and b in PUNCTUATION for a, b in pairwise(new))
    assert set(counts) == {1, 2, 3}
    assert abs(chi_squared_z(list(counts.values()), 1000.0)) < 4
    assert aeda("", 3) == ""
    with pytest.raises(ConfigError, match=r"aeda\(share=-1\)"):
        aeda("a", 1, share=-1)


def test_golden_values() -> None:
    assert eda(TEXT, 7) == GOLDEN[0]
    assert aeda(TEXT, 7) == GOLDEN[1]


GOLDEN = (
    "the dog brown fox jumps over the lazy quick today",
    "the quick brown : fox jumps over ? the lazy dog today",
)


def test_each_text_of_a_batch() -> None:
    batch = Batch({"text": [TEXT, None, TEXT]}, sample_keys=keys(3))
    operation = EachText("text", aeda)
    found = operation(batch)["text"]
    assert found[1] is None
    assert found[0] != found[2]
    assert found[2] == aeda(TEXT, int(operation.draw(keys(3))["key"][2]))
    with pytest.raises(ConfigError, match="the batch has no strings 'x'; it has 'text'"):
        EachText("x", eda)(batch)
    with pytest.raises(ConfigError, match="field 'x' is Tensor and no list of strings; declare it as Text"):
        EachText("x", eda)(Batch({"x": torch.ones(3)}, sample_keys=keys(3)))
    with pytest.raises(ConfigError, match="this one has no sample_keys"):
        EachText("text", eda)(Batch({"text": ["a"]}))


def test_each_text_draws_apart_by_field_function_and_place() -> None:
    count = 20
    batch = Batch({"text": [TEXT] * count, "title": [TEXT] * count}, sample_keys=keys(count))
    deleting = functools.partial(eda, share=0.3)
    both = Compose([EachText("text", deleting), EachText("title", deleting)])(batch)
    assert sum(a == b for a, b in zip(both["text"], both["title"], strict=True)) < count // 2
    once, twice = EachText("text", aeda), Compose([EachText("text", aeda), EachText("text", aeda)])
    assert len(twice.draw(keys(count))) == 2
    same = [EachText("text", lambda text, key: aeda(text, int(key)))] * 2
    assert Compose(same)(batch)["text"] != twice(batch)["text"], "functions of another name draw apart"
    doubled = once(once(batch))["text"]
    assert sum(a == b for a, b in zip(doubled, twice(batch)["text"], strict=True)) < count // 2


def test_each_text_replays_in_a_chain() -> None:
    batch = Batch({"text": [TEXT] * 5}, sample_keys=keys(5))
    chain = Compose([EachText("text", eda), EachText("text", aeda)])
    drawn = chain.draw(keys(5))
    assert list(drawn) == ["EachText/text/eda", "EachText/text/aeda"]
    other = Batch({"text": [TEXT] * 5}, sample_keys=keys(5, epoch=1))
    assert chain.replay(other, drawn)["text"] == chain(batch)["text"] != chain(other)["text"]


def test_eda_finds_words_that_marks_stand_beside() -> None:
    seen = {eda('the "Quick," one, (lazy) ...', key, share=0.2, synonyms=SYNONYMS) for key in range(200)}
    assert 'the "swift," one, (lazy) ...' in seen
    assert 'the "Quick," one, (idle) ...' in seen
    assert any("idle" in text.split() and "(lazy)" in text for text in seen), "inserted without them"


def test_arguments_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pass the name of a field and a function, EachText\('text', eda\)"):
        EachText(eda, "text")  # type: ignore[arg-type]
