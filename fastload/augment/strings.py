"""Text as strings, before it is tokens: EDA and AEDA, as plain functions of (text, key).

A key is the sample's 64-bit key of (seed, epoch, sample): the same text with the same key becomes the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fastload.augment.keyed import operation_number
from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.order.hashing import draw

_EDA, _AEDA = operation_number("eda"), operation_number("aeda")
PUNCTUATION = (".", ";", "?", ":", "!", ",")  # AEDA's six


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
        synonyms: lower-case word -> its synonyms, such as fastload.augment.WordNet(). Without any for the text's
            words, a swap or deletion is drawn instead.

    Raises:
        ConfigError: a share outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"eda(share={share}): must be in [0, 1]")
    words, draws = text.split(), _Draws(key, _EDA)
    if len(words) < 2:
        return text
    known = [i for i, word in enumerate(words) if (synonyms or {}).get(word.lower())]
    count = max(1, int(share * len(words)))
    kind = draws.below(4) if known else 2 + draws.below(2)
    if kind == 2:
        return " ".join(_swapped(words, count, draws))
    if kind == 3:
        kept = [word for word in words if draws.uniform() >= share]
        return " ".join(kept or [words[draws.below(len(words))]])
    assert synonyms is not None
    return " ".join(_with_synonyms(words, known, count, draws, synonyms, insert=kind == 1))


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
        choice = synonyms[words[at].lower()]
        synonym = choice[draws.below(len(choice))]
        if insert:
            changed.insert(draws.below(len(changed) + 1), synonym)
        else:
            changed[at] = synonym
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


class EachText:
    """Runs a function of (text, key) on each string of a field.

    Args:
        field: name of a Text field.
        function: `eda`, `aeda`, or one of your own: (str, int) -> str.

    Raises (when applied):
        ConfigError: no such field, or a batch without keys.
    """

    def __init__(self, field: str, function: Callable[[str, int], str]) -> None:
        self.field, self.function = field, function

    def __repr__(self) -> str:
        return f"EachText({self.field!r}, {getattr(self.function, '__name__', repr(self.function))})"

    def __call__(self, batch: Batch) -> Batch:
        texts = batch.get(self.field)
        if not isinstance(texts, list) or any(text is not None and not isinstance(text, str) for text in texts):
            raise ConfigError(
                f"{self!r}: the batch has no strings {self.field!r}; it has {', '.join(map(repr, batch))}"
            )
        if batch.sample_keys is None:
            raise ConfigError(f"{self!r} needs a batch of fastload.DataLoader: this one has no sample_keys")
        keys = batch.sample_keys.tolist()
        changed = [None if t is None else self.function(t, key) for t, key in zip(texts, keys, strict=True)]
        return batch.replaced({self.field: changed})
