"""Token numbers, int64 [B, T] with `<field>_length` [B] where the batch has it: masking, corruption, infilling, noise.

Every operation is a few sorts and gathers over the whole batch; T stays, or is known beforehand. Batches get, where it
makes sense, `attention_mask` (bool [B, T], True on tokens) and `labels` (int64, -100 where nothing is to be learned, as
torch's cross entropy ignores it). Those of a field of another name than "tokens" or "input_ids" are
`<field>_attention_mask` and `<field>_labels`. A mask that is there already follows the lengths.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from fastload.augment import keyed
from fastload.augment.operation import Operation, Params, check_p, tensor_of
from fastload.batch import LENGTH_SUFFIX, Batch

IGNORE = -100  # torch.nn.CrossEntropyLoss's ignore_index
MASK, LABELS = "attention_mask", "labels"
PLAIN_FIELDS = ("tokens", "input_ids")  # whose masks and labels are called MASK and LABELS, as models call them


def name_beside(field: str, what: str) -> str:
    """What the mask or the labels of a field of tokens are called."""
    return what if field in PLAIN_FIELDS else f"{field}_{what}"


@dataclass(frozen=True)
class TokenOperation(Operation):
    """An operation on tokens.

    Attributes:
        pad: what fills a row after its tokens.
        special: token numbers that are left alone (beginning, end, separators).
        moves: whether tokens may stand at other places afterwards.
    """

    moves: ClassVar[bool] = False

    pad: int = dataclasses.field(default=0, kw_only=True)
    special: Sequence[int] = dataclasses.field(default=(), kw_only=True)
    field: str = dataclasses.field(default="tokens", kw_only=True)

    def __post_init__(self) -> None:
        self.check(hasattr(self.special, "__len__"), f"special={self.special!r}: pass a list of token numbers")
        # tensors are no keys to find constants by
        object.__setattr__(self, "special", tuple(int(each) for each in self.special))

    def params(self, u: torch.Tensor) -> Params:
        """`key`: int64 [B]; what each token draws comes from it and the token's place."""
        return {"key": keyed.seeds(u)}

    @property
    def draws(self) -> int:
        return 2

    @abstractmethod
    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        """The new fields: "" is the operation's own, "length" its lengths; MASK and LABELS go by `name_beside`."""

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
        """
        Raises:
            ConfigError: the operation makes labels, and the batch has a field of that name.
        """
        length = self.field + LENGTH_SUFFIX
        mask, labels = name_beside(self.field, MASK), name_beside(self.field, LABELS)
        names = {"": self.field, "length": length, MASK: mask, LABELS: labels}
        fields = self.changed(tensor_of(batch, self), params, batch.get(length))
        taken = LABELS in fields and labels in batch
        self.check(not taken, f"the batch has a field {labels!r} already, which would be lost; give it another name")
        if "length" in fields and mask in batch:
            fields.setdefault(MASK, starts_within(fields["length"], fields[""].shape[1]))
        return batch.replaced({names[key]: value for key, value in fields.items()})

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
            (whole-word masking). None chooses tokens. transformers' whole_word_mask is split=(1, 0).
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
        super().__post_init__()
        check_p(self, self.p)
        self.check(min(self.split) >= 0 and sum(self.split) <= 1 + 1e-9, "split must be two shares of at most 1")
        self.check(0 <= self.mask < self.vocabulary, "mask must be a number below vocabulary")
        good = self.continues is None or self.continues.shape == (self.vocabulary,)
        self.check(good, f"continues must be a tensor [{self.vocabulary}], an entry for each token number")

    def _continuing(self, device: torch.device) -> torch.Tensor:
        """`continues` on this device."""
        assert self.continues is not None
        return keyed.moved(self.continues, torch.bool, device, self._moved)

    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        size = tokens.shape[1]
        free, u = self.free(tokens, lengths), self.uniforms(params, 0, size)
        if self.continues is not None:
            inner = self._continuing(tokens.device)[tokens]
            word = (~(inner & free)).cumsum(1) - 1  # a word is numbered by its first token's place among first tokens
            u = u.gather(1, word.clamp(min=0))
        chosen = free & (u < self.p)
        fate = self.uniforms(params, 1, size)
        other = keyed.below(self.uniforms(params, 2, size), self.vocabulary)
        changed = torch.where(fate < self.split[0], self.mask, torch.where(fate < sum(self.split), other, tokens))
        return {
            "": torch.where(chosen, changed, tokens),
            LABELS: torch.where(chosen, tokens, IGNORE),
            MASK: starts_within(lengths, size),
        }


def check_order(operations: Iterable[object]) -> None:
    """Raises ConfigError where a chain moves tokens after MaskTokens, whose labels belong to places."""
    masked: dict[str, MaskTokens] = {}
    for each in operations:
        if isinstance(each, TokenOperation) and each.moves and each.field in masked:
            each.check(False, f"moves tokens away from the labels of {masked[each.field]!r}; put it before that")
        if isinstance(each, MaskTokens):
            masked[each.field] = each


@dataclass(frozen=True)
class ReplaceTokens(TokenOperation):
    """Each token becomes a random one of [0, vocabulary) with probability `p`."""

    vocabulary: int
    p: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_p(self, self.p)
        self.check(self.vocabulary >= 1, "vocabulary must be at least 1")

    def change(self, tokens: torch.Tensor, lengths: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        chosen = self.free(tokens, lengths) & (self.uniforms(params, 0, tokens.shape[1]) < self.p)
        other = keyed.below(self.uniforms(params, 1, tokens.shape[1]), self.vocabulary)
        return {"": torch.where(chosen, other, tokens)}


@dataclass(frozen=True)
class DeleteTokens(TokenOperation):
    """Each token goes with probability `p`; the rest move up, lengths follow."""

    moves = True
    p: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
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

    moves = True
    vocabulary: int
    p: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
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

    moves = True
    p: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
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
class MakeAttentionMask(Operation):
    """Adds `attention_mask`, bool [B, T]: True within `<field>_length`. Operations after it keep it so."""

    field: str = dataclasses.field(default="tokens", kw_only=True)

    def params(self, u: torch.Tensor) -> Params:
        return {}

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        return value

    def replay(self, batch: Batch, params: Params) -> Batch:
        tokens, lengths = tensor_of(batch, self), tensor_of(batch, self, self.field + LENGTH_SUFFIX)
        return batch.replaced({name_beside(self.field, MASK): starts_within(lengths, tokens.shape[1])})

    def __call__(self, batch: Batch) -> Batch:
        return self.replay(batch, {})
