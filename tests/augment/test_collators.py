"""Tokens against what others train with: transformers' collators, T5's published masks, fairseq's infilling.

Both sides draw at random, so what is compared is what each does to the same rows: exactly where nothing is drawn
(lengths, sentinels, labels, what is never touched), and by chi-squared on fixed seeds where it is.

BERT's masking is compared with transformers' own code. No package has T5's or BART's to compare with: what stands in
for them below is written after the published code, and what the papers promise is held as properties of any row.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conformance import chi_squared_z
from hypothesis import given, settings
from hypothesis import strategies as st
from made import keys
from transformers import BertTokenizerFast, DataCollatorForLanguageModeling

from fastload.augment import CorruptSpans, InfillText, MaskTokens
from fastload.augment.spans import poisson
from fastload.batch import Batch
from fastload.errors import ConfigError

Ints = npt.NDArray[np.int64]
WORDS = [f"{a}{b}" for a in "bcdfghklmnprst" for b in ("an", "en", "in", "on", "un")]
PIECES = ["##al", "##el", "##il", "##ol"]
PAD, CLS, SEP, MASK = 0, 2, 3, 4


def two_samples_z(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """How far two tables of counts are from the same shares, as `chi_squared_z` says it (Pearson's test of homogeneity,
    each table's expected counts from both together)."""
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    seen = one + other > 0
    one, other = one[seen], other[seen]
    share = (one + other) / (one.sum() + other.sum())
    statistic = sum(float((np.square(c - share * c.sum()) / (share * c.sum())).sum()) for c in (one, other))
    k = len(one) - 1
    return (math.cbrt(statistic / k) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))


# BERT.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PIECES]
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(vocabulary))
    return BertTokenizerFast(vocab=str(path))


@pytest.fixture(scope="module")
def encoded(tokenizer: BertTokenizerFast) -> list[dict[str, list[int]]]:
    """4,000 texts of 3 to 20 words, some with endings that are tokens of their own."""
    rng = np.random.default_rng(0)
    endings = ["", "", *[piece[2:] for piece in PIECES], PIECES[0][2:] + PIECES[1][2:]]
    texts = [
        " ".join(str(rng.choice(WORDS)) + str(rng.choice(endings)) for _ in range(rng.integers(3, 21)))
        for _ in range(4000)
    ]
    found = tokenizer(texts, padding=True, return_special_tokens_mask=True, return_offsets_mapping=True)
    return [{name: found[name][i] for name in found} for i in range(len(texts))]


def as_batch(encoded: list[dict[str, list[int]]]) -> Batch:
    lengths = torch.tensor([sum(each["attention_mask"]) for each in encoded])
    tokens = torch.tensor([each["input_ids"] for each in encoded])
    return Batch({"tokens": tokens, "tokens_length": lengths}, sample_keys=keys(len(encoded)))


def fates(before: torch.Tensor, after: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """Tokens that are not chosen, and of those chosen: masked, as they were, another."""
    chosen = labels != -100
    masked, same = chosen & (after == MASK), chosen & (after == before)
    return [int((~chosen).sum()), int(masked.sum()), int(same.sum()), int((chosen & ~masked & ~same).sum())]


def test_masking_is_that_of_transformers(tokenizer: Any, encoded: list[dict[str, list[int]]]) -> None:
    collator = DataCollatorForLanguageModeling(tokenizer, seed=0)
    plain = [{k: v for k, v in each.items() if k != "offset_mapping"} for each in encoded]
    theirs, given = collator(plain), as_batch(encoded)
    ours = MaskTokens(MASK, len(tokenizer), special=tokenizer.all_special_ids)(given)
    assert ours["tokens"].shape == theirs["input_ids"].shape
    assert ours["attention_mask"].to(torch.int64).equal(theirs["attention_mask"])
    special = torch.isin(given["tokens"], torch.tensor(tokenizer.all_special_ids))
    for after, labels in ((ours["tokens"], ours["labels"]), (theirs["input_ids"], theirs["labels"])):
        chosen = labels != -100
        assert after.dtype == labels.dtype == torch.int64
        assert not bool((chosen & special).any()), "special tokens and padding are never chosen"
        assert labels[chosen].equal(given["tokens"][chosen])
        assert after[~chosen].equal(given["tokens"][~chosen])
    free = ~special
    counts = [
        fates(given["tokens"][free], after[free], labels[free])
        for after, labels in ((ours["tokens"], ours["labels"]), (theirs["input_ids"], theirs["labels"]))
    ]
    assert abs(two_samples_z(*counts)) < 4
    share = [0.85, 0.15 * 0.8, 0.15 * (0.1 + 0.1 / len(tokenizer)), 0.15 * 0.1 * (1 - 2 / len(tokenizer))]
    share[1] += 0.15 * 0.1 / len(tokenizer)  # a random token may be the mask, or the token itself
    assert abs(chi_squared_z(counts[0], sum(counts[0]) * np.array(share))) < 4
    random = [
        torch.bincount(after[(labels != -100) & (after != MASK) & (after != given["tokens"])], minlength=len(tokenizer))
        for after, labels in ((ours["tokens"], ours["labels"]), (theirs["input_ids"], theirs["labels"]))
    ]
    assert abs(two_samples_z(random[0].tolist(), random[1].tolist())) < 4


def test_whole_words_are_masked_as_transformers_does(tokenizer: Any, encoded: list[dict[str, list[int]]]) -> None:
    """Its whole_word_mask draws for each word's first token, too, and knows no random tokens: split=(1, 0)."""
    collator = DataCollatorForLanguageModeling(
        tokenizer, seed=0, whole_word_mask=True, mask_replace_prob=1, random_replace_prob=0
    )
    theirs, given = collator(encoded), as_batch(encoded)
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    continues = torch.tensor([name.startswith("##") for name in names])
    operation = MaskTokens(
        MASK, len(tokenizer), split=(1.0, 0.0), continues=continues, special=tokenizer.all_special_ids
    )
    ours = operation(given)
    inside = given["tokens"] > MASK
    word = torch.where(inside, (inside & ~continues[given["tokens"]]).cumsum(1), 0)  # 0: none
    tables = []
    for after, labels in ((ours["tokens"], ours["labels"]), (theirs["input_ids"], theirs["labels"])):
        chosen = labels != -100
        assert bool((after[chosen] == MASK).all())
        assert not bool((chosen & ~inside).any())
        counted: Counter[tuple[int, bool]] = Counter()
        for numbers, taken in zip(word.tolist(), chosen.tolist(), strict=True):
            for number in set(numbers) - {0}:
                of_word = [t for n, t in zip(numbers, taken, strict=True) if n == number]
                assert len(set(of_word)) == 1, "a word is masked whole or not at all"
                counted[len(of_word), of_word[0]] += 1
        tables.append([counted[size, taken] for size in (1, 2, 3) for taken in (False, True)])
    assert min(tables[0]) > 300
    assert abs(two_samples_z(*tables)) < 4


# T5. The functions below say what text-to-text-transfer-transformer's `random_spans_noise_mask` and
# `random_spans_helper` do, in the form of transformers' examples/flax/language-modeling/run_t5_mlm_flax.py.


def published_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    noise = min(max(int(np.round(length * density)), 1), length - 1)
    return noise, max(int(np.round(min(noise, length - noise) / mean_span)), 1)


def published_mask(length: int, density: float, mean_span: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    noise, spans = published_counts(length, density, mean_span)

    def segments(items: int) -> Ints:
        """Lengths of `spans` segments of these items."""
        borders = np.arange(items - 1) < spans - 1
        rng.shuffle(borders)
        return np.unique(np.cumsum(np.pad(borders, (1, 0))), return_counts=True)[1]

    of_noise, of_rest = segments(noise), segments(length - noise)
    lengths = np.stack([of_rest, of_noise], 1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def published_ids(tokens: Ints, mask: npt.NDArray[np.bool_], first: int, end: int) -> list[int]:
    """What is left of the tokens where each run of the mask is one sentinel, from `first` downwards, then `end`."""
    starts = mask & ~np.pad(mask, (1, 0))[:-1]
    sentinels = first + 1 - np.cumsum(starts)
    return [*np.where(starts, sentinels, tokens)[~mask | starts].tolist(), end]


def published_lengths(inputs: int, density: float, mean_span: float) -> tuple[int, int]:
    """Tokens of a text, and of its targets, for so many inputs."""

    def both(length: int) -> tuple[int, int]:
        noise = round(length * density)
        spans = round(noise / mean_span)
        return length - noise + spans + 1, noise + spans + 1

    length = inputs
    while both(length + 1)[0] <= inputs:
        length += 1
    return length, both(length)[1]


SETTINGS = [(0.15, 3.0), (0.15, 8.0), (0.25, 5.0), (0.3, 2.0), (0.5, 3.0)]


@pytest.mark.parametrize(("density", "mean_span"), SETTINGS)
def test_as_many_tokens_go_in_as_many_spans_as_published(density: float, mean_span: float) -> None:
    lengths = torch.arange(2, 3000)
    noise, spans = CorruptSpans(99, density=density, mean_span=mean_span).counts(lengths)
    published = [published_counts(length, density, mean_span) for length in lengths.tolist()]
    assert list(zip(noise.tolist(), spans.tolist(), strict=True)) == published


@pytest.mark.parametrize(("density", "mean_span"), SETTINGS[:4])
@pytest.mark.parametrize("inputs", [64, 128, 512, 1024])
def test_rows_are_cut_as_long_as_published(density: float, mean_span: float, inputs: int) -> None:
    operation = CorruptSpans(99, density=density, mean_span=mean_span, closing=False)
    length = operation.row_length(inputs)
    assert (length, operation.sizes(length)[1]) == published_lengths(inputs, density, mean_span)


def test_t5s_own_numbers() -> None:
    operation = CorruptSpans(32099, closing=False)
    assert operation.row_length(512) == 568
    assert operation.sizes(568) == (512, 114)
    with pytest.raises(ConfigError, match=r"row_length\(1\): no row has as few inputs"):
        operation.row_length(1)


def corrupted(operation: CorruptSpans, length: int, count: int) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """The result for some rows of this length, the rows, and which of their tokens went."""
    tokens = torch.arange(count * length).reshape(count, length) % 5000 + 10
    batch = Batch({"tokens": tokens}, sample_keys=keys(count))
    params = operation.draw(keys(count))
    return operation.replay(batch, params), tokens, operation.spans(torch.full((count,), length), length, params)


@pytest.mark.parametrize("length", [2, 3, 7, 20, 114, 190, 568])
@pytest.mark.parametrize(("density", "mean_span"), SETTINGS)
def test_sentinels_stand_where_published(length: int, density: float, mean_span: float) -> None:
    """Of the same mask: inputs, labels and both widths, token by token."""
    operation = CorruptSpans(32099, density=density, mean_span=mean_span, closing=False)
    found, tokens, masks = corrupted(operation, length, 5)
    for row, mask in enumerate(masks.numpy()):
        assert (int(mask.sum()), int(np.diff(mask.astype(int)).clip(0).sum())) == published_counts(
            length, density, mean_span
        )
        assert found["tokens"][row].tolist() == published_ids(tokens[row].numpy(), mask, 32099, 1)
        assert found["labels"][row].tolist() == published_ids(tokens[row].numpy(), ~mask, 32099, 1)
    assert bool(found["attention_mask"].all())


def test_the_papers_figure_closes_labels_with_a_sentinel() -> None:
    """ "Thank you for inviting me to your party last week": <X> for inviting <Y> last <Z>."""
    open_labels = corrupted(CorruptSpans(32099, closing=False), 20, 5)[0]["labels"]
    closed = corrupted(CorruptSpans(32099), 20, 5)[0]["labels"]
    last = 32099 - 1
    assert closed.shape[1] == open_labels.shape[1] + 1
    assert closed[:, :-2].equal(open_labels[:, :-1])
    assert closed[:, -2:].tolist() == [[last, 1]] * 5


@pytest.mark.parametrize(("length", "density", "mean_span"), [(9, 0.4, 2.0), (12, 0.35, 1.5)])
def test_masks_are_drawn_as_published(length: int, density: float, mean_span: float) -> None:
    """Theirs are drawn one by one: fewer, and yet more than 60 of each of at most 63 ways."""
    count, rng = 20_000, np.random.default_rng(0)
    operation = CorruptSpans(99, density=density, mean_span=mean_span)
    lengths = torch.full((count,), length)
    ours = Counter(map(tuple, operation.spans(lengths, length, operation.draw(keys(count))).tolist()))
    theirs = Counter(tuple(published_mask(length, density, mean_span, rng).tolist()) for _ in range(count // 5))
    assert set(ours) == set(theirs)
    patterns = sorted(ours)
    assert abs(two_samples_z([ours[p] for p in patterns], [theirs[p] for p in patterns])) < 4
    assert abs(chi_squared_z([ours[p] for p in patterns], count / len(patterns))) < 4, "all ways alike"


@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=6),
    density=st.floats(0.05, 0.6),
    mean_span=st.floats(1, 8),
    closing=st.booleans(),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=60, deadline=None)
def test_any_corrupted_row_holds_what_t5_promises(
    lengths: list[int], density: float, mean_span: float, closing: bool, seed: int
) -> None:
    """After Raffel et al. and `random_spans_noise_mask`: exactly so many tokens go, in exactly so many spans, none of
    which is empty or touches another or the start; sentinels count down in inputs and labels alike; and the two make
    the text again."""
    size, first, end = 90, 32099, 1
    operation = CorruptSpans(first, density=density, mean_span=mean_span, closing=closing)
    rows = [[100 * number + i + 10 for i in range(length)] for number, length in enumerate(lengths)]
    tokens = torch.tensor([row + [0] * (size - len(row)) for row in rows])
    batch = Batch({"tokens": tokens, "tokens_length": torch.tensor(lengths)}, sample_keys=keys(len(rows), epoch=seed))
    found = operation(batch)
    for row, inputs, length, labels in zip(
        rows, found["tokens"].tolist(), found["tokens_length"].tolist(), found["labels"].tolist(), strict=True
    ):
        wanted = [token for token in labels if token != -100]
        assert set(labels[len(wanted) :]) <= {-100}
        assert set(inputs[length:]) <= {0}
        inputs = inputs[:length]
        if len(row) < 2:
            assert (inputs, wanted) == ([*row, *[end] * bool(row)], [])
            continue
        noise, spans = published_counts(len(row), density, mean_span)
        sentinels = [first - number for number in range(spans)]
        assert inputs[-1] == wanted[-1] == end
        assert [token for token in inputs[:-1] if token > 31000] == sentinels
        assert [token for token in wanted[:-1] if token > 31000] == [*sentinels, *[first - spans] * closing]
        places = [inputs.index(sentinel) for sentinel in sentinels]
        assert min(np.diff([-1, *places])) > 1, "something stays before each span"
        gone = {sentinel: spoken(wanted, sentinel) for sentinel in sentinels}
        assert sum(map(len, gone.values())) == noise
        assert all(gone.values()), "no span is empty"
        assert [token for each in inputs[:-1] for token in gone.get(each, [each])] == row


def spoken(labels: list[int], sentinel: int) -> list[int]:
    """The tokens that stand behind a sentinel."""
    rest = labels[labels.index(sentinel) + 1 : -1]
    return list(itertools.takewhile(lambda token: token < 31000, rest))


def test_labels_that_are_too_narrow_are_refused() -> None:
    """Length 190 is where single precision would take 29 tokens for round(28.5) = 28."""
    operation = CorruptSpans(32099)
    found, _, _ = corrupted(operation, 190, 3)
    assert found["labels"].shape[1] == 28 + 9 + 2
    assert bool((found["labels"][:, -1] == 1).all())
    with pytest.raises(ConfigError, match="labels=38: a full row of 190 tokens needs 39"):
        corrupted(CorruptSpans(32099, labels=38), 190, 3)


# BART. fairseq's DenoisingDataset.add_whole_word_mask with --mask-length span-poisson --replace-length 1, where every
# token is a word: runs are drawn until 30% of the tokens are covered, and begin at different tokens.


def fairseq_infilled(length: int, density: float, mean: float, rng: np.random.Generator) -> tuple[int, int, list[int]]:
    """Tokens hidden, masks, and lengths of the runs above 0 that were drawn."""
    budget = math.ceil(length * density)
    runs = rng.poisson(mean, budget)
    while runs.sum() < budget:
        runs = np.concatenate([runs, rng.poisson(mean, budget)])
    last = int(np.searchsorted(runs.cumsum(), budget))
    runs = runs[: last + 1]
    runs[last] = budget - runs[:last].sum()
    begins = runs[runs > 0]
    hidden = np.zeros(length, np.bool_)
    starts = rng.permutation(length)[: len(begins)]
    for start, run in zip(starts, begins, strict=True):
        hidden[start : start + run] = True
    return int(hidden.sum()), len(runs), begins.tolist()


@pytest.mark.parametrize("density", [0.15, 0.3])
def test_infilling_hides_as_much_as_fairseq(density: float) -> None:
    """fairseq covers ceil(0.3 T) tokens before runs meet; here the number of runs varies too, with the same mean. Both
    lose what meets: shares agree within 0.015, masks per token within 0.01."""
    count, length, rng = 4000, 100, np.random.default_rng(0)
    tokens = torch.arange(length).expand(count, -1) + 10
    found = InfillText(5, density=density)(Batch({"tokens": tokens}, sample_keys=keys(count)))
    kept = (found["tokens"] > 5).sum(1)
    masks = (found["tokens"] == 5).sum(1)
    theirs = [fairseq_infilled(length, density, 3.0, rng) for _ in range(count)]
    hidden = float(1 - kept.to(torch.float64).mean() / length)
    assert hidden == pytest.approx(np.mean([each[0] for each in theirs]) / length, abs=0.015)
    assert float(masks.to(torch.float64).mean()) / length == pytest.approx(
        np.mean([each[1] for each in theirs]) / length, abs=0.01
    )


def test_runs_are_poisson_as_fairseqs() -> None:
    """Of runs that nothing cuts short: one in rows of 60 tokens, far from the end."""
    count, length, rng = 60_000, 60, np.random.default_rng(0)
    tokens = torch.nn.functional.pad(torch.arange(length).expand(count, -1) + 10, (0, 4))  # room for runs of length 0
    batch = Batch({"tokens": tokens, "tokens_length": torch.full((count,), length)}, sample_keys=keys(count))
    found = InfillText(5, density=0.05)(batch)["tokens"]
    masks = found == 5
    alone = (masks.sum(1) == 1) & masks[:, : length // 2].any(1)
    ours = torch.bincount(length - (found[alone] > 5).sum(1), minlength=20)[:20]
    theirs = np.bincount(rng.poisson(3.0, int(ours.sum())), minlength=20)[:20]
    rare = 9  # this and above are counted together
    tables = [[*counts[:rare].tolist(), int(counts[rare:].sum())] for counts in (ours, theirs)]
    assert abs(two_samples_z(*tables)) < 4
    chance = np.array([math.exp(-3.0) * 3.0**k / math.factorial(k) for k in range(rare)])
    assert abs(chi_squared_z(tables[0], float(ours.sum()) * np.array([*chance, 1 - chance.sum()]))) < 4


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    density=st.floats(0.05, 0.9),
    mean_span=st.floats(1, 6),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=60, deadline=None)
def test_any_infilled_row_holds_what_bart_promises(
    lengths: list[int], density: float, mean_span: float, seed: int
) -> None:
    """After Lewis et al.: labels are the whole text; what is not masked stands in its order; and each run that was
    drawn is one mask, so that masks and what stays, with the runs that the masks stand for, are the text. What full
    rows lose at their end to masks of no token is the only exception."""
    size, mask = 60, 5
    operation = InfillText(mask, density=density, mean_span=mean_span)
    rows = [[100 * number + i + 10 for i in range(length)] for number, length in enumerate(lengths)]
    tokens = torch.tensor([row + [0] * (size - len(row)) for row in rows])
    given_keys = keys(len(rows), epoch=seed)
    batch = Batch({"tokens": tokens, "tokens_length": torch.tensor(lengths)}, sample_keys=given_keys)
    params = operation.draw(given_keys)
    found = operation.replay(batch, params)
    begins = operation.uniforms(params, 0, size) < density / mean_span
    runs = poisson(operation.uniforms(params, 1, size), mean_span)
    for number, row in enumerate(rows):
        expected, hidden_to = [], 0
        for place, token in enumerate(row):
            if bool(begins[number, place]):
                expected.append(mask)
                hidden_to = max(hidden_to, place + int(runs[number, place]))
            if place >= hidden_to:
                expected.append(token)
        length = int(found["tokens_length"][number])
        assert found["tokens"][number, :length].tolist() == expected[:size]
        assert not bool(found["tokens"][number, length:].any())
        assert found["labels"][number].tolist() == row + [-100] * (size - len(row))
        assert found["attention_mask"][number].tolist() == [place < length for place in range(size)]
