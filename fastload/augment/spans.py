"""Runs of tokens replaced by one: T5's span corruption and BART's text infilling, on int64 [B, T]."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from fastload.augment import keyed
from fastload.augment.operation import Params
from fastload.augment.text import IGNORE, LABELS, MASK, TokenOperation, pack, starts_within
from fastload.errors import ConfigError


@dataclass(frozen=True)
class _Spans(TokenOperation):
    """Operations on runs of tokens."""

    moves = True

    density: float = dataclasses.field(default=0.15, kw_only=True)
    mean_span: float = dataclasses.field(default=3.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(0 < self.density < 1, "density must be between 0 and 1")
        self.check(self.mean_span >= 1, "mean_span must be at least 1 token")
        object.__setattr__(self, "mean_span", float(self.mean_span))  # its table is found by value

    def plain(self, tokens: torch.Tensor, lengths: torch.Tensor) -> None:
        if self.special:
            raise ConfigError(f"{self!r}: spans take no special tokens; add those afterwards")


@dataclass(frozen=True)
class CorruptSpans(_Spans):
    """T5's span corruption: runs of tokens are replaced by one sentinel each; `labels` hold each sentinel and the
    tokens it stands for, then a last sentinel and `end` (Raffel et al., "Exploring the Limits of Transfer Learning",
    2019).

    As in T5's `random_spans_noise_mask`: round(length * density) tokens go, at least 1, in round(that / mean_span)
    spans, the lengths of spans and of what lies between them both uniform over all partitions; a row begins with a span
    that stays. Rows of fewer than two tokens stay. Inputs become as wide as a full row needs.

    Args:
        sentinel: number of the first sentinel; the others count down, as T5's <extra_id_0> = 32099 does.
        density: share of tokens that go. mean_span: their mean run in tokens.
        end: token after inputs and labels; None for none.
        labels: width of the labels, at least what a full row needs, which None stands for.
        closing: a last sentinel that stands for nothing, as in the paper's figure. T5's own code and
            transformers' run_t5_mlm_flax.py have none.
        sentinels: how many sentinels the vocabulary has, T5's 100.

    Raises (when applied):
        ConfigError: a full row needs more sentinels than that, or wider labels.
    """

    sentinel: int
    end: int | None = 1
    labels: int | None = None
    closing: bool = True
    sentinels: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        good = 1 <= self.sentinels <= self.sentinel + 1
        self.check(good, f"sentinels={self.sentinels} count down from sentinel={self.sentinel}: they must not pass 0")

    def parts(self, length: int) -> tuple[int, int]:
        """Tokens that go of a row of this length, and spans that they make: `counts` of one row."""
        noise = min(max(1, round(length * self.density)), max(0, length - 1))
        fewer = min(noise, length - noise)
        return noise, min(max(1, round(fewer / self.mean_span)), fewer)

    def sizes(self, length: int) -> tuple[int, int]:
        """Tokens that a row of this length has in inputs and in labels, `end` and sentinels included. Neither falls
        when the length grows."""
        noise, spans = self.parts(length)
        ends = int(self.end is not None)
        labels = noise + spans + int(self.closing) + ends if spans else 0
        return length - noise + spans + ends, labels

    def row_length(self, inputs: int) -> int:
        """The longest row whose inputs have at most this many tokens: what to cut texts into, 568 for 512
        (T5's `random_spans_helper`).

        Raises:
            ConfigError: fewer inputs than the shortest row has.
        """
        self.check(inputs >= self.sizes(1)[0], f"row_length({inputs}): no row has as few inputs")
        length = max(1, int((inputs - 2) / (1 - self.density + self.density / self.mean_span)) - 4)
        length = length if self.sizes(length)[0] <= inputs else 1
        while self.sizes(length + 1)[0] <= inputs:
            length += 1
        return length

    def counts(self, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 [B]: tokens that go, and spans that they make."""
        most = (lengths - 1).clamp(min=0)
        share = lengths.to(torch.float64) * self.density  # single precision would round 28.5 to another side
        noise = torch.minimum(share.round().to(torch.int64).clamp(min=1), most)
        fewer = torch.minimum(noise, lengths - noise)
        spans = (fewer.to(torch.float64) / self.mean_span).round().to(torch.int64).clamp(min=1)
        return noise, torch.minimum(spans, fewer)

    def spans(self, lengths: torch.Tensor, size: int, params: Params) -> torch.Tensor:
        """bool [B, T]: tokens that go."""
        noise, spans = self.counts(lengths)
        gone = _partition(self.uniforms(params, 0, size), noise, spans)  # [B, T]: which span each noise token is in
        stay = _partition(self.uniforms(params, 1, size), lengths - noise, spans)
        # a token's place in the row: all of its own kind before it, and all spans of the other kind up to its own
        place = torch.arange(size, device=lengths.device)
        after = torch.searchsorted(stay, gone, right=True)
        target = torch.where(place < noise[:, None], place + after, size)
        found = torch.zeros(len(lengths), size + 1, dtype=torch.bool, device=lengths.device)
        return found.scatter_(1, target, True)[:, :size]

    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        self.plain(tokens, lengths)
        size = tokens.shape[1]
        most = self.parts(size)[1] + int(self.closing)
        self.check(most <= self.sentinels, f"a full row of {size} tokens needs {most} sentinels; pass shorter rows")
        gone, inside = self.spans(lengths, size, params), starts_within(lengths, size)
        begins, continues = _first_of_runs(gone), _first_of_runs(inside & ~gone)
        spans = begins.sum(1, keepdim=True)
        input_width, label_width = self.sizes(size)
        width = label_width if self.labels is None else self.labels
        self.check(width >= label_width, f"labels={width}: a full row of {size} tokens needs {label_width}")
        # inputs: what stays, and a sentinel where a span went; labels: the other way round, and a last sentinel
        given = torch.where(begins, self.sentinel - (begins.cumsum(1) - 1), tokens)
        wanted = torch.where(continues, self.sentinel - (continues.cumsum(1) - 1), tokens)
        end, full = torch.full_like(spans, self.end or 0), (lengths > 0)[:, None]
        ends = full & (self.end is not None)
        inputs, length = pack(
            torch.cat([given, end], 1), torch.cat([inside & ~gone | begins, ends], 1), input_width, self.pad
        )
        some = spans > 0
        labels, label_length = pack(
            torch.cat([wanted, self.sentinel - spans, end], 1),
            torch.cat([some & (gone | continues), some & self.closing, some & ends], 1),
            width,
            self.pad,
        )
        labels = torch.where(starts_within(label_length, width), labels, IGNORE)
        mask = starts_within(length, input_width)
        return {"": inputs, "length": length, MASK: mask, LABELS: labels}


def _first_of_runs(chosen: torch.Tensor) -> torch.Tensor:
    """bool [B, T]: chosen, and the one before is not."""
    return chosen & ~torch.nn.functional.pad(chosen, (1, 0))[:, :-1]


def _partition(u: torch.Tensor, items: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """int64 [B, T]: which of `parts` each of the first `items` is in, no part being empty, all ways alike: of the
    items - 1 borders the parts - 1 with the least draws. What lies beyond `items` has the number T, above all parts."""
    place = torch.arange(u.shape[1], device=u.device)
    border = (place >= 1) & (place < items[:, None])
    rank = torch.where(border, u, 2.0).argsort(dim=1, stable=True).argsort(1)
    cut = border & (rank < parts[:, None] - 1)
    return torch.where(place < items[:, None], cut.cumsum(1), u.shape[1])


@dataclass(frozen=True)
class InfillText(_Spans):
    """BART's text infilling: runs of tokens, their lengths Poisson-distributed, are replaced by one `mask` each; a run
    of length 0 inserts one. `labels` are the whole text (Lewis et al., "BART", 2019).

    Runs begin at places chosen so that about `density` of all tokens go; where two meet, they stay two. The tensor
    stays as wide: a full row loses as many tokens at its end as runs of length 0 insert.

    Args:
        mask: number of the mask token.
        density: share of tokens that go. mean_span: Poisson mean of a run.
    """

    mask: int
    density: float = dataclasses.field(default=0.3, kw_only=True)

    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        size = tokens.shape[1]
        free = self.free(tokens, lengths)
        length = poisson(self.uniforms(params, 1, size), self.mean_span)
        begins = free & (self.uniforms(params, 0, size) < self.density / self.mean_span)
        place = torch.arange(size, device=tokens.device)
        reach = torch.where(begins, place + length, 0).cummax(1)[0]  # where the runs begun so far end
        covered = free & (place < reach)
        # each token: the mask of a run that begins here, then itself unless a run covers it
        pairs = torch.stack([torch.full_like(tokens, self.mask), tokens], 2).flatten(1)
        kept = torch.stack([begins, starts_within(lengths, size) & ~covered], 2).flatten(1)
        found, new = pack(pairs, kept, size, self.pad)
        labels = torch.where(starts_within(lengths, size), tokens, IGNORE)
        return {"": found, "length": new, MASK: starts_within(new, size), LABELS: labels}


def poisson(u: torch.Tensor, mean: float) -> torch.Tensor:
    """int64 Poisson draws from uniform ones, by the distribution function up to where it is 1 in 24 bits."""
    table: list[float] = []
    chance, total = math.exp(-mean), 0.0
    while total < 1 - 2.0**-24 and len(table) < 10 * mean + 50:
        total += chance
        table.append(min(total, 1.0))
        chance *= mean / len(table)
    return torch.searchsorted(keyed.constant(tuple(table), torch.float32, u.device), u.contiguous(), right=True)
