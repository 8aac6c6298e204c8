"""Text as strings, before it is tokens: EDA and AEDA, as plain functions of (text, key).

A key is the sample's 64-bit key of (seed, epoch, sample): the same text with the same key becomes the same text.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastload.augment.keyed import operation_number, seeds
from fastload.augment.operation import Operation, Params
from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.order.hashing import draw

_EDA, _AEDA = operation_number("eda"), operation_number("aeda")
PUNCTUATION = (".", ";", "?", ":", "!", ",")  # AEDA's six
_EDGES = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)  # a word and the marks on both its sides


class _Draws:
    """Numbers drawn one after another from one key."""

    def __init__(self, key: int, operation: int) -> None:
        self._key, self._operation, self._number = key % (1 << 64), operation, 0

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.uniform() * count)

    def uniform(self) -> float:
        """A number in [0, 1)."""
        self._number += 1
        return draw(self._key, self._operation, self._number - 1)


def eda(text: str, key: int, *, share: float = 0.1, synonyms: Mapping[str, Sequence[str]] | None = None) -> str:
    """One of the four "easy" operations, drawn: synonym replacement, insertion of a synonym, swap of two words,
    deletion (Wei and Zou, "EDA: Easy Data Augmentation", 2019).

    Args:
        text: words separated by white space; of fewer than two words, unchanged.
        share: of the words that are changed, at least one.
        synonyms: lower-case word -> its synonyms, such as fastload.augment.WordNet(). Marks on either side of a word
            are no part of it, and stay when it is replaced. Without synonyms of the text's words, a swap or deletion
            is drawn instead.

    Raises:
        ConfigError: a share outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"eda(share={share}): must be in [0, 1]")
    words, draws = text.split(), _Draws(key, _EDA)
    if len(words) < 2:
        return text
    known = [i for i, word in enumerate(words) if synonyms and synonyms.get(_parted(word)[1].lower())]
    count = max(1, int(share * len(words)))
    kind = draws.below(4) if known else 2 + draws.below(2)
    if kind == 2:
        return " ".join(_swapped(words, count, draws))
    if kind == 3:
        kept = [word for word in words if draws.uniform() >= share]
        return " ".join(kept or [words[draws.below(len(words))]])
    assert synonyms is not None
    return " ".join(_with_synonyms(words, known, count, draws, synonyms, insert=kind == 1))


def _parted(word: str) -> tuple[str, str, str]:
    """Marks before a word, the word, and marks after it."""
    found = _EDGES.fullmatch(word)
    assert found is not None  # it matches anything
    return found[1], found[2], found[3]


def _swapped(words: list[str], count: int, draws: _Draws) -> list[str]:
    words = list(words)
    for _ in range(count):
        one = draws.below(len(words))
        other = (one + 1 + draws.below(len(words) - 1)) % len(words)
        words[one], words[other] = words[other], words[one]
    return words


def _with_synonyms(
    words: list[str],
    known: list[int],
    count: int,
    draws: _Draws,
    synonyms: Mapping[str, Sequence[str]],
    *,
    insert: bool,
) -> list[str]:
    changed, left = list(words), list(known)
    for _ in range(min(count, len(known))):
        at = left.pop(draws.below(len(left)))
        before, word, after = _parted(words[at])
        choice = synonyms[word.lower()]
        synonym = choice[draws.below(len(choice))]
        if insert:
            changed.insert(draws.below(len(changed) + 1), synonym)
        else:
            changed[at] = before + synonym + after
    return changed


def aeda(text: str, key: int, *, share: float = 1 / 3) -> str:
    """Punctuation marks inserted between words: from one to `share` of the words, each at another place (Karimi et al.,
    "AEDA: An Easier Data Augmentation Technique", 2021).

    Raises:
        ConfigError: a share outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"aeda(share={share}): must be in [0, 1]")
    words, draws = text.split(), _Draws(key, _AEDA)
    if not words:
        return text
    count = 1 + draws.below(max(1, int(share * len(words))))
    places = list(range(len(words)))
    before = {
        places.pop(draws.below(len(places))): draws.below(len(PUNCTUATION)) for _ in range(min(count, len(words)))
    }
    return " ".join(f"{PUNCTUATION[before[i]]} {word}" if i in before else word for i, word in enumerate(words))


@dataclass(frozen=True, eq=False, repr=False)
class EachText(Operation):
    """Runs a function of (text, key) on each string of a field. The key is drawn from the sample's own, the field and
    the function, so that two fields, and the same function twice, draw apart.

    On a Text field of the loader's it runs while decoding, in the decode threads (num_workers >= 1), where no function
    of a batch and no module stands before it in `augment=`; else in the consumer's thread. The strings are the same. A
    loader calls a function once at a time, whatever its number of threads, so that one of your own need not be fit for
    several; it must not depend on which thread calls it.

    Args:
        field: name of a Text field.
        function: `eda`, `aeda`, or one of your own: (str, int) -> str.

    Raises:
        ConfigError: a function that cannot be called; when applied: no such field, or a batch without keys.
    """

    field: str = dataclasses.field()
    function: Callable[[str, int], str]

    def __post_init__(self) -> None:
        good = isinstance(self.field, str) and callable(self.function)
        self.check(good, "pass the name of a field and a function, EachText('text', eda)")

    def __repr__(self) -> str:
        return f"EachText({self.field!r}, {getattr(self.function, '__name__', repr(self.function))})"

    @property
    def draws(self) -> int:
        return 2

    @property
    def name(self) -> str:
        function = getattr(self.function, "func", self.function)  # of a functools.partial
        name = f"EachText/{self.field}/{getattr(function, '__name__', type(function).__name__)}"
        return name + (f"/{self.place}" if self.place else "")

    def params(self, u: torch.Tensor) -> Params:
        """`key`: int64 [B], what the function gets."""
        return {"key": seeds(u)}

    def apply(self, value: Any, params: Params) -> Any:
        """A list of B strings (or None) to the same."""
        keys = params["key"].tolist()
        return [None if text is None else self.function(text, key) for text, key in zip(value, keys, strict=True)]

    def __call__(self, batch: Batch) -> Batch:
        if batch.host_keys is None:
            raise ConfigError(f"{self!r} needs a batch of fastload.DataLoader: this one has no sample_keys")
        return self.replay(batch, self.draw(batch.host_keys))

    def replay(self, batch: Batch, params: Params) -> Batch:
        texts = batch.get(self.field)
        if not isinstance(texts, list) or any(text is not None and not isinstance(text, str) for text in texts):
            found = f"the batch has no strings {self.field!r}; it has {', '.join(map(repr, batch))}"
            if self.field in batch:
                found = f"field {self.field!r} is {type(texts).__name__} and no list of strings; declare it as Text"
            raise ConfigError(f"{self!r}: {found}")
        return batch.replaced({self.field: self.apply(texts, params)})


class Turns:
    """Several EachText of one field, for the threads that decode it: they take turns, as Python code would anyway.

    Called with strings, and the keys of their samples, uint64 [k].
    """

    def __init__(self, operations: Sequence[EachText]) -> None:
        self._operations, self._turn = operations, threading.Lock()

    def __call__(self, texts: list[Any], keys: npt.NDArray[np.uint64]) -> list[Any]:
        words = torch.from_numpy(keys.view(np.int64))
        with self._turn:
            for operation in self._operations:
                texts = operation.apply(texts, operation.draw(words))
        return texts
