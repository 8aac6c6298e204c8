"""Tokens: masking, corruption, infilling and noise, by their properties and golden values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conformance import chi_squared_z
from made import DEVICES, assert_no_loop_and_no_wait, keys

from fastload.augment import (
    Compose,
    CorruptSpans,
    DeleteTokens,
    InfillText,
    InsertTokens,
    MakeAttentionMask,
    MaskTokens,
    ReplaceTokens,
    SwapTokens,
    keyed,
)
from fastload.augment.chain import make_chain
from fastload.augment.spans import poisson
from fastload.augment.text import TokenOperation
from fastload.batch import Batch
from fastload.errors import ConfigError

COUNT, WIDTH, VOCABULARY, FIRST = 200, 40, 1000, 10
SPECIAL = (1, 2)


def batch(count: int = COUNT, special: bool = True) -> Batch:
    """Rows of 0 to 40 tokens of [10, 990); with special ones at either end."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(FIRST, VOCABULARY - 10, (count, WIDTH), generator=generator)
    lengths = (torch.arange(count) * 7) % (WIDTH + 1)
    if special:
        tokens[:, 0] = 1
        tokens = torch.where(torch.arange(WIDTH) == lengths[:, None] - 1, 2, tokens)
    tokens = torch.where(torch.arange(WIDTH) < lengths[:, None], tokens, 0)
    return Batch({"tokens": tokens, "tokens_length": lengths}, sample_keys=keys(count))


def rows(fields: Batch, name: str = "tokens") -> list[list[int]]:
    return [row[:length] for row, length in zip(fields[name].tolist(), fields["tokens_length"].tolist(), strict=True)]


MASK = MaskTokens(5, VOCABULARY, special=SPECIAL)
OPERATIONS: dict[str, TokenOperation] = {
    "mask": MASK,
    "words": MaskTokens(5, VOCABULARY, continues=torch.arange(VOCABULARY) % 2 == 1, special=SPECIAL),
    "replace": ReplaceTokens(VOCABULARY, 0.3, special=SPECIAL),
    "delete": DeleteTokens(0.3, special=SPECIAL),
    "insert": InsertTokens(VOCABULARY, 0.3, special=SPECIAL),
    "swap": SwapTokens(0.5, special=SPECIAL),
    "infill": InfillText(5, special=SPECIAL),
    "spans": CorruptSpans(999),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_all_hold(name: str, device: str) -> None:
    operation, given = OPERATIONS[name], batch()
    found = operation(given.to(device)).to("cpu")
    again = operation(given)
    assert all(found[key].equal(again[key]) for key in found), "the same on every device, and every time"
    assert given["tokens"].equal(batch()["tokens"])
    part = Batch({key: value[20:30] for key, value in given.items()}, sample_keys=keys(COUNT)[20:30])
    alone = operation(part)
    assert all(alone[key].equal(found[key][20:30]) for key in found), "a sample stands alone"
    assert not found["tokens"][:, :WIDTH].equal(given["tokens"])
    lengths = found["tokens_length"]
    padding = torch.arange(found["tokens"].shape[1]) >= lengths[:, None]
    assert not bool(found["tokens"][padding].any()), "padding stays padding"
    assert int(lengths[0]) == 0
    if "attention_mask" in found:
        assert found["attention_mask"].equal(~padding)
        assert found["labels"].dtype == torch.int64
        assert bool((found["labels"][0] == -100).all())
    if operation.special:
        for before, after in zip(rows(given), rows(found), strict=True):
            if before and len(after) < WIDTH:
                assert after[0] == before[0] or name == "infill"
                assert after[-1] == 2 or len(before) == 1
    assert_no_loop_and_no_wait(operation, batch)


# BERT.


def test_bert_masks_in_its_shares_and_labels_what_it_chose() -> None:
    given = batch(5000)
    found = MASK(given)
    free = (given["tokens"] >= FIRST) & (torch.arange(WIDTH) < given["tokens_length"][:, None])
    chosen = found["labels"] != -100
    assert not bool((chosen & ~free).any())
    assert found["labels"][chosen].equal(given["tokens"][chosen])
    assert found["tokens"][~chosen].equal(given["tokens"][~chosen])
    total = int(free.sum())
    assert abs(chi_squared_z([int(chosen.sum()), total - int(chosen.sum())], [0.15 * total, 0.85 * total])) < 4
    masked = found["tokens"][chosen] == 5
    same = found["tokens"][chosen] == given["tokens"][chosen]
    counts = [int(masked.sum()), int(same.sum()), int((~masked & ~same).sum())]
    assert abs(chi_squared_z(counts, [share * sum(counts) for share in (0.8, 0.1, 0.1)])) < 4
    other = found["tokens"][chosen][~masked & ~same]
    assert abs(chi_squared_z(torch.histc(other.float(), 10, 0, VOCABULARY), len(other) / 10)) < 4
    places = chosen[given["tokens_length"] == WIDTH].sum(0)[1:-1]
    assert abs(chi_squared_z(places, float(places.sum()) / len(places))) < 4


def test_whole_words_are_masked_together() -> None:
    given, operation = batch(3000), OPERATIONS["words"]
    found = operation(given)
    chosen = (found["labels"] != -100).tolist()
    words = whole = 0
    for row, length, taken in zip(given["tokens"].tolist(), given["tokens_length"].tolist(), chosen, strict=True):
        at = 1
        while at < length - 1:
            end = at + 1
            while end < length - 1 and row[end] % 2 == 1:
                end += 1
            if row[at] % 2 == 0:  # the first may continue nothing
                assert len(set(taken[at:end])) == 1
                words, whole = words + 1, whole + taken[at]
            at = end
    assert words > 20_000
    assert abs(whole - 0.15 * words) < 4 * math.sqrt(0.15 * 0.85 * words)


# T5.


def test_t5_inputs_and_labels_make_the_text_again() -> None:
    given = batch(2000, special=False)
    found = CorruptSpans(999, end=3)(given)
    assert found["tokens"].shape == (2000, WIDTH - 6 + 2 + 1)
    inputs, labels = rows(found), [[t for t in row if t != -100] for row in found["labels"].tolist()]
    spans = gone = 0
    for text, row, wanted in zip(rows(given), inputs, labels, strict=True):
        if len(text) < 2:
            assert row == text + [3] * bool(text)
            assert wanted == []
            continue
        assert row[-1] == wanted[-1] == 3
        pieces: dict[int, list[int]] = {}
        for token in wanted[:-1]:
            if token > 900 and token >= 999 - len(pieces):
                pieces[token] = []
            else:
                pieces[list(pieces)[-1]].append(token)
        assert list(pieces) == list(range(999, 999 - len(pieces), -1))
        assert pieces.popitem()[1] == [], "a last sentinel"
        rebuilt = [t for token in row[:-1] for t in (pieces.get(token, [token]))]
        assert rebuilt == text
        noise = min(max(1, round(len(text) * 0.15)), len(text) - 1)
        assert sum(map(len, pieces.values())) == noise
        assert len(pieces) == max(1, round(noise / 3))
        assert row[0] == text[0], "a row begins with what stays"
        assert all(pieces.values())
        spans, gone = spans + len(pieces), gone + noise
    assert gone > 5000
    assert found["labels"].shape[1] == 6 + 2 + 2


def test_t5_spans_are_uniform_over_all_ways() -> None:
    operation = CorruptSpans(999, density=0.5, mean_span=1.5)
    lengths = torch.full((12_000,), 6)
    masks = operation.spans(lengths, 6, operation.draw(keys(12_000)))  # 3 of 6 in 2 spans: 2 x 2 ways
    seen: dict[tuple[bool, ...], int] = {}
    for row in masks.tolist():
        seen[tuple(row)] = seen.get(tuple(row), 0) + 1
    assert len(seen) == 4
    assert all(row[0] is False and row[-1] is True and sum(row) == 3 for row in seen)
    assert abs(chi_squared_z(list(seen.values()), 3000.0)) < 4


def test_golden_values() -> None:
    given = Batch(
        {"tokens": torch.arange(100, 116)[None], "tokens_length": torch.tensor([16])}, sample_keys=torch.tensor([42])
    )
    found = CorruptSpans(999, density=0.3, mean_span=2.0)(given)
    assert found["tokens"].tolist() == GOLDEN["inputs"]
    assert found["labels"].tolist() == GOLDEN["labels"]
    assert MaskTokens(5, 1000, p=0.4)(given)["tokens"].tolist() == GOLDEN["mask"]
    assert InfillText(5)(given)["tokens"].tolist() == GOLDEN["infill"]


GOLDEN = {
    "inputs": [[100, 101, 999, 106, 107, 108, 109, 110, 111, 112, 113, 114, 998, 1]],
    "labels": [[999, 102, 103, 104, 105, 998, 115, 997, 1]],
    "mask": [[100, 101, 102, 103, 104, 5, 106, 107, 5, 5, 5, 111, 112, 5, 5, 115]],
    "infill": [[100, 101, 102, 103, 104, 105, 106, 107, 108, 5, 112, 113, 114, 115, 0, 0]],
}


# BART.


def test_bart_hides_runs_of_poisson_length_behind_one_mask_each() -> None:
    given = batch(4000, special=False)
    found = InfillText(5)(given)
    hidden = total = masks = 0
    for text, row, labels in zip(rows(given), rows(found), found["labels"].tolist(), strict=True):
        assert [t for t in labels if t != -100] == text
        kept = iter(text)
        assert all(token in kept for token in row if token != 5), "what stays is in its order"
        if len(row) < WIDTH:
            hidden += len(text) - sum(token != 5 for token in row)
            total, masks = total + len(text), masks + row.count(5)
    assert 0.2 < hidden / total < 0.3, "a little less than density, where runs meet or meet the end"
    assert masks / total == pytest.approx(0.1, abs=0.01)


def test_poisson_draws() -> None:
    u = (torch.arange(100_000) + 0.5) / 100_000
    for mean in (0.5, 3.0, 10.0):
        drawn = poisson(u, mean)
        assert float(drawn.float().mean()) == pytest.approx(mean, rel=1e-3)
        assert float(drawn.float().var()) == pytest.approx(mean, rel=5e-3)
        assert float((drawn == 2).float().mean()) == pytest.approx(math.exp(-mean) * mean**2 / 2, abs=1e-4)


# Noise.


def test_deleted_inserted_replaced_and_swapped_tokens() -> None:
    given = batch(3000)
    texts = rows(given)
    free = sum(max(0, len(text) - 2) for text in texts)

    def share(count: int) -> None:
        assert abs(count - 0.3 * free) < 5 * math.sqrt(0.21 * free)

    shorter = rows(OPERATIONS["delete"](given))
    share(sum(map(len, texts)) - sum(map(len, shorter)))
    for text, row in zip(texts, shorter, strict=True):
        left = iter(text)
        assert all(token in left for token in row)
    other = OPERATIONS["replace"](given)["tokens"]
    share(int((other != given["tokens"]).sum() * VOCABULARY / (VOCABULARY - 1)))
    longer = rows(OPERATIONS["insert"](given))
    for text, row in zip(texts, longer, strict=True):
        left = iter(row)
        assert len(row) == WIDTH or all(token in left for token in text)
    assert sum(map(len, longer)) > sum(map(len, texts)) * 1.1
    swapped = OPERATIONS["swap"](given)
    moved = 0
    for text, row in zip(texts, rows(swapped), strict=True):
        assert sorted(row) == sorted(text)
        assert all(token in text[max(0, i - 1) : i + 2] for i, token in enumerate(row))
        moved += row != text
    assert moved > 2000


def test_attention_masks_alone() -> None:
    found = MakeAttentionMask()(batch())
    assert found["attention_mask"].sum(1).equal(found["tokens_length"])
    assert found["tokens"] is not None


@pytest.mark.parametrize("name", ["delete", "insert", "swap", "infill", "spans"])
def test_an_attention_mask_follows_the_lengths(name: str) -> None:
    found = Compose([MakeAttentionMask(), OPERATIONS[name]])(batch())
    size = found["tokens"].shape[1]
    assert found["attention_mask"].equal(torch.arange(size) < found["tokens_length"][:, None])


def test_tokens_do_not_move_away_from_the_labels_of_their_places() -> None:
    for name in ("delete", "insert", "swap", "infill", "spans"):
        with pytest.raises(ConfigError, match=r"moves tokens away from the labels of MaskTokens\(.*put it before that"):
            Compose([MASK, OPERATIONS[name]])
    with pytest.raises(ConfigError, match="moves tokens away"):
        make_chain([MASK, OPERATIONS["swap"]], {})
    found = Compose([OPERATIONS["delete"], MASK])(batch())
    deleted = OPERATIONS["delete"](batch())["tokens"]
    chosen = found["labels"] != -100
    assert found["labels"][chosen].equal(deleted[chosen])
    noisy = Compose([InfillText(5), DeleteTokens(0.3), SwapTokens()])(batch())  # whose labels are the whole text
    assert noisy["labels"].equal(InfillText(5)(batch())["labels"])
    assert noisy["attention_mask"].sum(1).equal(noisy["tokens_length"])


def test_labels_that_are_there_are_not_lost() -> None:
    given = batch(4).replaced({"labels": torch.arange(4)})
    for operation in (MASK, InfillText(5), CorruptSpans(999)):
        with pytest.raises(ConfigError, match="a field 'labels' already, which would be lost; give it another name"):
            operation(given)
    assert DeleteTokens()(given)["labels"].equal(given["labels"])


def test_two_fields_have_masks_and_labels_of_their_own() -> None:
    one = batch()
    both = Batch(
        {"source": one["tokens"], "source_length": one["tokens_length"], "target": one["tokens"].flip(0)},
        sample_keys=one.sample_keys,
    )
    found = Compose([MaskTokens(5, VOCABULARY, field=name) for name in ("source", "target")])(both)
    assert found["source_attention_mask"].sum(1).equal(one["tokens_length"])
    assert bool(found["target_attention_mask"].all())
    for name in ("source", "target"):
        chosen = found[f"{name}_labels"] != -100
        assert found[f"{name}_labels"][chosen].equal(both[name][chosen])
    assert "labels" not in found
    plain = MaskTokens(5, VOCABULARY, field="input_ids")(Batch({"input_ids": one["tokens"]}, sample_keys=keys(COUNT)))
    assert list(plain) == ["input_ids", "labels", "attention_mask"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_chain_replays(name: str) -> None:
    chain = Compose([MakeAttentionMask(), ReplaceTokens(VOCABULARY), OPERATIONS[name], ReplaceTokens(VOCABULARY)])
    given = batch()
    once, again = chain(given), chain.replay(given, chain.draw(keys(COUNT)))
    assert list(once) == list(again)
    assert all(once[field].equal(again[field]) for field in once)
    assert not once["tokens"].equal(OPERATIONS[name](given)["tokens"])


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_is_one_graph_when_compiled(name: str) -> None:
    operation, given = OPERATIONS[name], batch()
    torch.compiler.reset()

    def call(fields: dict[str, Any], drawn_from: torch.Tensor) -> dict[str, Any]:
        return dict(operation(Batch(fields, sample_keys=drawn_from)))

    found = torch.compile(call, backend="eager", fullgraph=True)(dict(given), given.sample_keys)
    expected = operation(given)
    assert found.keys() == expected.keys()
    for field, value in expected.items():
        assert found[field].dtype == value.dtype, field
        assert found[field].equal(value), field


def test_nothing_is_kept_that_was_made_while_torch_compiles() -> None:
    operation = MaskTokens(5, VOCABULARY, continues=torch.arange(VOCABULARY) % 2 == 1)
    tokens, params = batch()["tokens"], operation.draw(keys(COUNT))
    torch.compiler.reset()
    found = torch.compile(operation.apply, backend="eager")(tokens, params)
    assert operation._moved == {}
    assert operation.apply(tokens, params).equal(found)
    assert list(operation._moved) == [tokens.device]


def test_special_tokens_may_be_a_tensor() -> None:
    given, operation = batch(), MaskTokens(5, VOCABULARY, special=torch.tensor(SPECIAL))  # type: ignore[arg-type]
    found, kept = operation(given), len(keyed._constants)
    assert found["tokens"].equal(MASK(given)["tokens"])
    assert operation(given)["tokens"].equal(found["tokens"])
    assert len(keyed._constants) == kept


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskTokens(5, 4), "mask must be a number below vocabulary"),
        (lambda: MaskTokens(1, 4, split=(0.8, 0.3)), "split must be two shares"),
        (lambda: MaskTokens(1, 4, continues=torch.ones(3)), r"continues must be a tensor \[4\]"),
        (lambda: SwapTokens(special=5), "special=5: pass a list of token numbers"),
        (lambda: DeleteTokens(2), r"p=2: must be in \[0, 1\]"),
        (lambda: InsertTokens(0), "vocabulary must be at least 1"),
        (lambda: CorruptSpans(9, density=1), "density must be between 0 and 1"),
        (lambda: CorruptSpans(3), "sentinels=100 count down from sentinel=3: they must not pass 0"),
        (
            lambda: CorruptSpans(3, sentinels=4, density=0.5, mean_span=1)(batch(special=False)),
            "a full row of 40 tokens needs 21 sentinels; pass shorter rows",
        ),
        (lambda: InfillText(9, mean_span=0.5), "mean_span must be at least 1 token"),
        (lambda: CorruptSpans(999, special=(1,))(batch()), "spans take no special tokens"),
        (lambda: DeleteTokens().apply(torch.zeros(2, 3), {}), r"needs integers \[B, T\], not torch.float32 \[2, 3\]"),
    ],
)
def test_what_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
