"""Synonyms of English words from WordNet, as nltk reads it, for `eda`."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from fastload.errors import ConfigError, missing_extra

# Words whose synonyms change a sentence's grammar and not its meaning ("in": "inch", "indium"): English function words.
STOP_WORDS = frozenset(
    """
    a about above after again against all am an and any are as at be because been before being below between both but
    by can could did do does doing don down during each few for from further had has have having he her here hers
    herself him himself his how i if in into is it its itself just me more most my myself no nor not now of off on once
    only or other our ours ourselves out over own s same she should so some such t than that the their theirs them
    themselves then there these they this those through to too under until up very was we were what when where which
    while who whom why will with would you your yours yourself yourselves
    """.split()  # noqa: SIM905
)


class WordNet(Mapping[str, Sequence[str]]):
    """lower-case word -> its synonyms, sorted: `functools.partial(eda, synonyms=WordNet())`.

    As in EDA: the lemmas of all of a word's senses, lower-case, their underscores and hyphens as spaces, without any
    character but letters. A word is looked up when it is first asked for, and remembered.

    Args:
        stop_words: words that count as having no synonyms.

    Raises:
        MissingExtraError: nltk is not installed.
        ConfigError: nltk finds no WordNet.
    """

    def __init__(self, stop_words: Collection[str] = STOP_WORDS) -> None:
        try:
            from nltk.corpus import wordnet
        except ImportError as error:
            raise missing_extra("nltk", "text", "synonyms from WordNet") from error
        try:
            wordnet.ensure_loaded()
        except LookupError:
            raise ConfigError(
                "nltk finds no WordNet on this machine; fetch it once: python -m nltk.downloader wordnet"
            ) from None
        self._wordnet: Any = wordnet
        self._opened_by = os.getpid()
        self._stop_words = frozenset(stop_words)
        self._found: dict[str, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return "WordNet()"

    def __getitem__(self, word: str) -> Sequence[str]:
        if word not in self._found:
            self._found[word] = self._look_up(word)
        if not self._found[word]:
            raise KeyError(word)
        return self._found[word]

    def _look_up(self, word: str) -> tuple[str, ...]:
        if word in self._stop_words:
            return ()
        with _reading.setdefault(os.getpid(), threading.Lock()):
            if self._opened_by != os.getpid():  # forked: the files' positions are those of the other process too
                _close_files(self._wordnet)
                self._opened_by = os.getpid()
            lemmas = {lemma.name().lower() for sense in self._wordnet.synsets(word) for lemma in sense.lemmas()}
        readable = {"".join(c for c in lemma.replace("_", " ").replace("-", " ") if c in _LETTERS) for lemma in lemmas}
        return tuple(sorted(readable - {word, ""}))

    def __iter__(self) -> Iterator[str]:
        """All lemmas that have synonyms."""
        return (word for word in self._wordnet.all_lemma_names() if word in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _close_files(wordnet: Any) -> None:
    """Have nltk open its files anew when it next reads them."""
    files: dict[str, Any] = getattr(wordnet, "_data_file_map", {})
    for file in files.values():
        file.close()
    files.clear()


# By process: nltk's, for all that ask it share its files and their positions. After a fork it may be held by a thread
# that stayed behind.
_reading: dict[int, threading.Lock] = {}
_LETTERS = frozenset(" abcdefghijklmnopqrstuvwxyz")
