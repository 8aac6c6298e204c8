"""Token numbers, int64 [B, T] with `<field>_length` [B] where the batch has it: masking, corruption, infilling, noise.

Every operation is a few sorts and gathers over the whole batch; T stays, or is known beforehand. Batches get, where it
makes sense, `attention_mask` (bool [B, T], True on tokens) and `labels` (int64, -100 where nothing is to be learned, as
torch's cross entropy ignores it).
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastload.augment import keyed
from fastload.augment.operation import Operation, Params, check_p, keys_of, tensor_of
from fastload.batch import LENGTH_SUFFIX, Batch
from fastload.errors import ConfigError

IGNORE = -100  # torch.nn.CrossEntropyLoss's ignore_index


@dataclass(frozen=True)
class TokenOperation(Operation):
    """An operation on tokens.

    Attributes:
        pad: what fills a row after its tokens.
        special: token numbers that are left alone (beginning, end, separators).
    """

    pad: int = dataclasses.field(default=0, kw_only=True)
    special: Sequence[int] = dataclasses.field(default=(), kw_only=True)
    field: str = dataclasses.field(default="tokens", kw_only=True)

    def params(self, u: torch.Tensor) -> Params:
        """`key`: int64 [B]; what each token draws comes from it and the token's place."""
        return {"key": keyed.seeds(u)}

    @property
    def draws(self) -> int:
        return 2

    @abstractmethod
    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        """The new fields, by name ("" stands for the operation's own field, "length" for its lengths)."""

    def apply(self, value: torch.Tensor, params: Params, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens int64 [B, T] to the same; `lengths` int64 [B], or None if rows are full."""
        return self.changed(value, params, lengths)[""]

    def changed(
        self, value: torch.Tensor, params: Params, lengths: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """All that the operation makes, see `change`."""
        fits = value.ndim == 2 and not value.is_floating_point()
        self.check(fits, f"needs integers [B, T], not {value.dtype} {list(value.shape)}; declare Tokens(length)")
        full = torch.full((len(value),), value.shape[1], dtype=torch.int64, device=value.device)
        return self.change(value.to(torch.int64), full if lengths is None else lengths.to(torch.int64), params)

    def replay(self, batch: Batch, params: Params) -> Batch:
        name = self.field + LENGTH_SUFFIX
        fields = self.changed(tensor_of(batch, self), params, batch.get(name))
        return batch.replaced({{"": self.field, "length": name}.get(key, key): value for key, value in fields.items()})

    def uniforms(self, params: Params, number: int, size: int) -> torch.Tensor:
        """float32 [B, size]: draw `number` of each place."""
        return keyed.uniforms(params["key"], number, size)

    def free(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """bool [B, T]: tokens that may be changed."""
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        if not self.special:
            return inside
        special = keyed.constant(tuple(self.special), torch.int64, tokens.device)
        return inside & ~(tokens[..., None] == special).any(-1)


def starts_within(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """bool [B, size]: the attention mask of these lengths."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def pack(tokens: torch.Tensor, kept: torch.Tensor, out: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The kept tokens of each row, in order, at its beginning: int64 [B, out], padded or cut; how many, int64 [B]."""
    place = torch.where(kept, kept.cumsum(1) - 1, out).clamp_(max=out)  # what goes is written behind the end
    packed = torch.full((len(tokens), out + 1), pad, dtype=torch.int64, device=tokens.device)
    return packed.scatter_(1, place, tokens)[:, :out], kept.sum(1).clamp_(max=out)


@dataclass(frozen=True, eq=False)
class MaskTokens(TokenOperation):
    """BERT's masking: of the tokens chosen with probability `p`, 80% become `mask`, 10% any token, 10% stay; `labels`
    hold the chosen ones (Devlin et al., "BERT", 2018).

    Args:
        mask: number of the mask token. vocabulary: how many tokens there are; random ones are drawn from [0, this).
        p: probability of each token.
        split: shares that become the mask and another token.
        continues: bool [vocabulary], True for a token that continues a word ("##ing"): words are chosen whole
            (whole-word masking). None chooses tokens.
    """

    mask: int
    vocabulary: int
    p: float = 0.15
    split: tuple[float, float] = (0.8, 0.1)
    continues: torch.Tensor | None = dataclasses.field(default=None, repr=False)
    _moved: dict[torch.device, torch.Tensor] = dataclasses.field(
        default_factory=dict, init=False, repr=False, kw_only=True
    )

    def __post_init__(self) -> None:
        check_p(self, self.p)
        self.check(min(self.split) >= 0 and sum(self.split) <= 1 + 1e-9, "split must be two shares of at most 1")
        self.check(0 <= self.mask < self.vocabulary, "mask must be a number below vocabulary")
        good = self.continues is None or self.continues.shape == (self.vocabulary,)
        self.check(good, f"continues must be a tensor [{self.vocabulary}], an entry for each token number")

    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        size = tokens.shape[1]
        free, u = self.free(tokens, lengths), self.uniforms(params, 0, size)
        if self.continues is not None:
            if tokens.device not in self._moved:
                self._moved[tokens.device] = self.continues.to(tokens.device, torch.bool)
            inner = self._moved[tokens.device][tokens]
            word = (~(inner & free)).cumsum(1) - 1  # a word is numbered by its first token's place among first tokens
            u = u.gather(1, word.clamp(min=0))
        chosen = free & (u < self.p)
        fate = self.uniforms(params, 1, size)
        other = keyed.below(self.uniforms(params, 2, size), self.vocabulary)
        changed = torch.where(fate < self.split[0], self.mask, torch.where(fate < sum(self.split), other, tokens))
        return {
            "": torch.where(chosen, changed, tokens),
            "labels": torch.where(chosen, tokens, IGNORE),
            "attention_mask": starts_within(lengths, size),
        }


@dataclass(frozen=True)
class ReplaceTokens(TokenOperation):
    """Each token becomes a random one of [0, vocabulary) with probability `p`."""

    vocabulary: int
    p: float = 0.1

    def __post_init__(self) -> None:
        check_p(self, self.p)
        self.check(self.vocabulary >= 1, "vocabulary must be at least 1")

    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        chosen = self.free(tokens, lengths) & (self.uniforms(params, 0, tokens.shape[1]) < self.p)
        other = keyed.below(self.uniforms(params, 1, tokens.shape[1]), self.vocabulary)
        return {"": torch.where(chosen, other, tokens)}


@dataclass(frozen=True)
class DeleteTokens(TokenOperation):
    """Each token goes with probability `p`; the rest move up, lengths follow."""

    p: float = 0.1

    def __post_init__(self) -> None:
        check_p(self, self.p)

    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        size = tokens.shape[1]
        gone = self.free(tokens, lengths) & (self.uniforms(params, 0, size) < self.p)
        kept, length = pack(tokens, starts_within(lengths, size) & ~gone, size, self.pad)
        return {"": kept, "length": length}


@dataclass(frozen=True)
class InsertTokens(TokenOperation):
    """A random token of [0, vocabulary) before each token with probability `p`. The tensor stays as wide: a full row
    loses as many at its end."""

    vocabulary: int
    p: float = 0.1

    def __post_init__(self) -> None:
        check_p(self, self.p)
        self.check(self.vocabulary >= 1, "vocabulary must be at least 1")

    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        size = tokens.shape[1]
        chosen = self.free(tokens, lengths) & (self.uniforms(params, 0, size) < self.p)
        new = keyed.below(self.uniforms(params, 1, size), self.vocabulary)
        pairs = torch.stack([new, tokens], 2).flatten(1)  # [B, 2 T]: before each token, what may be inserted
        kept = torch.stack([chosen, starts_within(lengths, size)], 2).flatten(1)
        changed, length = pack(pairs, kept, size, self.pad)
        return {"": changed, "length": length}


@dataclass(frozen=True)
class SwapTokens(TokenOperation):
    """Neighbours change places, each pair (first and second, third and fourth, or shifted by one) with probability
    `p`."""

    p: float = 0.1

    def __post_init__(self) -> None:
        check_p(self, self.p)

    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        size = tokens.shape[1]
        place = torch.arange(size, device=tokens.device)
        offset = (self.uniforms(params, 1, 1) < 0.5).to(torch.int64)  # [B, 1]: which pairs
        first = (place + offset) % 2 == 0
        other = torch.where(first, place + 1, place - 1)  # [B, T]
        good = (other >= 0) & (other < size)
        other = other.clamp(0, size - 1)
        free = self.free(tokens, lengths)
        leader = torch.where(first, place, other)
        chosen = self.uniforms(params, 0, size).gather(1, leader) < self.p
        swap = good & chosen & free & free.gather(1, other)
        return {"": torch.where(swap, tokens.gather(1, other), tokens)}


@dataclass(frozen=True)
class _Spans(TokenOperation):
    """Operations on runs of tokens."""

    density: float = dataclasses.field(default=0.15, kw_only=True)
    mean_span: float = dataclasses.field(default=3.0, kw_only=True)

    def __post_init__(self) -> None:
        self.check(0 < self.density < 1, "density must be between 0 and 1")
        self.check(self.mean_span >= 1, "mean_span must be at least 1 token")

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
    that stays. Rows of fewer than two tokens stay.

    Args:
        sentinel: number of the first sentinel; the others count down, as T5's <extra_id_0> = 32099 does.
        density: share of tokens that go. mean_span: their mean run in tokens.
        end: token after inputs and labels; None for none.
        labels: width of the labels; None is what a full row needs at most.
    """

    sentinel: int
    end: int | None = 1
    labels: int | None = None

    def counts(self, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 [B]: tokens that go, and spans that they make."""
        most = (lengths - 1).clamp(min=0)
        noise = torch.minimum((lengths * self.density).round().to(torch.int64).clamp(min=1), most)
        spans = torch.minimum((noise / self.mean_span).round().to(torch.int64).clamp(min=1), noise)
        return noise, torch.minimum(spans, lengths - noise)

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
        gone, inside = self.spans(lengths, size, params), starts_within(lengths, size)
        begins, continues = _first_of_runs(gone), _first_of_runs(inside & ~gone)
        spans = begins.sum(1, keepdim=True)
        noise = max(1, round(size * self.density))
        width = self.labels or noise + max(1, round(noise / self.mean_span)) + 2
        # inputs: what stays, and a sentinel where a span went; labels: the other way round, and a last sentinel
        given = torch.where(begins, self.sentinel - (begins.cumsum(1) - 1), tokens)
        wanted = torch.where(continues, self.sentinel - (continues.cumsum(1) - 1), tokens)
        end, full = torch.full_like(spans, self.end or 0), (lengths > 0)[:, None]
        ends = full & (self.end is not None)
        inputs, length = pack(
            torch.cat([given, end], 1), torch.cat([inside & ~gone | begins, ends], 1), size + 1, self.pad
        )
        some = spans > 0
        labels, label_length = pack(
            torch.cat([wanted, self.sentinel - spans, end], 1),
            torch.cat([some & (gone | continues), some, some & ends], 1),
            width,
            self.pad,
        )
        labels = torch.where(starts_within(label_length, width), labels, IGNORE)
        mask = starts_within(length, size + 1)
        return {"": inputs, "length": length, "attention_mask": mask, "labels": labels}


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

    Runs begin at places chosen so that about `density` of all tokens go; where two meet, they stay two.

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
        return {"": found, "length": new, "attention_mask": starts_within(new, size), "labels": labels}


def poisson(u: torch.Tensor, mean: float) -> torch.Tensor:
    """int64 Poisson draws from uniform ones, by the distribution function up to where it is 1 in 24 bits."""
    table: list[float] = []
    chance, total = math.exp(-mean), 0.0
    while total < 1 - 2.0**-24 and len(table) < 10 * mean + 50:
        total += chance
        table.append(min(total, 1.0))
        chance *= mean / len(table)
    return torch.searchsorted(keyed.constant(tuple(table), torch.float32, u.device), u.contiguous(), right=True)


@dataclass(frozen=True)
class MakeAttentionMask(Operation):
    """Adds `attention_mask`, bool [B, T]: True within `<field>_length`."""

    field: str = dataclasses.field(default="tokens", kw_only=True)

    def params(self, u: torch.Tensor) -> Params:
        return {}

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        return value

    def __call__(self, batch: Batch) -> Batch:
        tokens = tensor_of(batch, self)
        keys_of(batch, self, tokens)
        lengths = tensor_of(batch, self, self.field + LENGTH_SUFFIX)
        return batch.replaced({"attention_mask": starts_within(lengths, tokens.shape[1])})
