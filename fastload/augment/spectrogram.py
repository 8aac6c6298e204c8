"""Spectrograms on the batch's device, and SpecAugment on them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fastload.augment.operation import Operation, Params, check_p, tensor_of
from fastload.batch import LENGTH_SUFFIX, Batch

Tables = tuple[torch.Tensor, ...]
TOP_DECIBELS = 80.0  # torchaudio.transforms.MFCC's top_db


@dataclass(frozen=True)
class SpecAugment(Operation):
    """Time and frequency masks of spectrograms, several for each sample, in one pass (Park et al., "SpecAugment",
    2019, without warping).

    The widths are uniform below the greatest, and the places where a mask fits, as torchaudio's mask_along_axis_iid
    draws them. Time masks lie inside the sample's length where the batch has `<field>_length`: none goes to padding.
    Boundaries are computed in float32 whatever the spectrogram's dtype, in which half precision could not tell frames
    apart.

    Args:
        freq_masks, time_masks: how many.
        freq_width, time_width: most bands or frames of one mask.
        time_share: a time mask's width is also at most this fraction of the length: LibriSpeech's 1.0, or 0.05 for
            "adaptive" masks of long utterances.
        value: of masked cells. 0 is the mean of normalised features, and silence of a power spectrogram; in a logarithm
            that is not normalised, as MelSpectrogram gives, it is loud: pass "mean", each sample's own mean.
        p: probability that a sample is masked at all.
    """

    freq_masks: int = 2
    freq_width: int = 27
    time_masks: int = 2
    time_width: int = 100
    time_share: float = 1.0
    value: float | str = 0.0
    p: float = 1.0
    field: str = dataclasses.field(default="audio", kw_only=True)

    def __post_init__(self) -> None:
        check_p(self, self.p)
        counts = (self.freq_masks, self.freq_width, self.time_masks, self.time_width)
        self.check(min(counts) >= 0, "numbers and widths of masks must be at least 0")
        self.check(0 <= self.time_share <= 1, "time_share must be in [0, 1]")
        self.check(not isinstance(self.value, str) or self.value == "mean", "value must be a number or 'mean'")

    @property
    def draws(self) -> int:
        return 1 + 2 * (self.freq_masks + self.time_masks)

    def params(self, u: torch.Tensor) -> Params:
        """`chosen`: bool [B]; `freq` and `time`: float32 [B, masks, 2] in [0, 1), width and place of each mask as
        fractions of what is possible."""
        freq = u[:, 1 : 1 + 2 * self.freq_masks].unflatten(1, (self.freq_masks, 2))
        time = u[:, 1 + 2 * self.freq_masks :].unflatten(1, (self.time_masks, 2))
        return {"chosen": u[:, 0] < self.p, "freq": freq, "time": time}

    def apply(self, value: torch.Tensor, params: Params, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Spectrograms [B, ..., bands, frames] of any floating dtype; lengths in frames, integers [B]."""
        fits = value.ndim >= 3 and value.is_floating_point()
        self.check(fits, f"needs floats [B, ..., bands, frames], not {value.dtype} {list(value.shape)}")
        bands, frames = value.shape[-2:]
        whole = torch.full((len(value),), float(frames), dtype=torch.float32, device=value.device)
        limit = whole if lengths is None else lengths.to(torch.float32).clamp(max=frames)
        masked_bands = _covered(params["freq"], torch.full_like(whole, float(bands)), self.freq_width, 1.0, bands)
        masked_frames = _covered(params["time"], limit, self.time_width, self.time_share, frames)
        shape = [len(value), *[1] * (value.ndim - 3)]
        mask = masked_bands.reshape(*shape, bands, 1) | masked_frames.reshape(*shape, 1, frames)
        mask = mask & params["chosen"].reshape(*shape, 1, 1)
        return torch.where(mask, self._fill(value, limit, shape), value)

    def _fill(self, value: torch.Tensor, limit: torch.Tensor, shape: list[int]) -> torch.Tensor:
        if not isinstance(self.value, str):
            return torch.full((), self.value, dtype=value.dtype, device=value.device)
        inside = torch.arange(value.shape[-1], device=value.device) < limit.reshape(*shape, 1, 1)
        total = torch.where(inside, value.to(torch.float32), 0).flatten(1).sum(1)
        cells = limit.clamp(min=1) * (value[0].numel() // max(1, value.shape[-1]))
        return (total / cells).reshape(*shape, 1, 1).to(value.dtype)

    def replay(self, batch: Batch, params: Params) -> Batch:
        lengths = batch.get(self.field + LENGTH_SUFFIX)
        return batch.replaced({self.field: self.apply(tensor_of(batch, self), params, lengths)})


def _covered(fractions: torch.Tensor, limit: torch.Tensor, width: int, share: float, size: int) -> torch.Tensor:
    """bool [B, size]: what masks [B, masks, 2] of at most `width`, and of at most `share` of `limit` [B], cover.

    As in torchaudio: width = u * most, start = trunc(v * (limit - width)), end = start + trunc(width).
    """
    most = torch.trunc(limit * share).clamp(max=float(width))[:, None]
    wide = fractions[..., 0] * most
    start = torch.trunc(fractions[..., 1] * (limit[:, None] - wide))
    wide = torch.trunc(wide)
    at = torch.arange(size, device=limit.device)
    return ((at >= start[..., None]) & (at < (start + wide)[..., None])).any(1)


def mel_filters(frequencies: int, bands: int, highest: int) -> torch.Tensor:
    """float64 [frequencies, bands]: triangles that overlap by half, evenly spaced in HTK's mels from 0 to `highest` Hz:
    torchaudio.functional.melscale_fbanks."""
    mels = torch.linspace(0, 2595 * math.log10(1 + highest / 700), bands + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    width = corners.diff()
    apart = corners - torch.linspace(0, highest, frequencies, dtype=torch.float64)[:, None]
    return torch.minimum(-apart[:, :-2] / width[:-1], apart[:, 2:] / width[1:]).clamp(min=0)


def cosine_transform(bands: int, coefficients: int) -> torch.Tensor:
    """float64 [bands, coefficients]: the orthonormal DCT-II, torchaudio.functional.create_dct."""
    place = torch.arange(bands, dtype=torch.float64)[:, None] + 0.5
    cosines = torch.cos(math.pi / bands * place * torch.arange(coefficients)) * math.sqrt(2 / bands)
    cosines[:, 0] /= math.sqrt(2)
    return cosines


@dataclass(frozen=True)
class _Features(Operation):
    """Spectra of sound [B, C, T] in frames. torchaudio's transforms run neither compiled as one graph nor on short
    sounds or none."""

    sample_rate: int = 16000
    n_fft: int = 400
    hop: int = 160
    n_mels: int = 80
    field: str = dataclasses.field(default="audio", kw_only=True)
    out: str | None = dataclasses.field(default=None, kw_only=True)
    _tables: dict[torch.device, Tables] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False, kw_only=True
    )

    def __post_init__(self) -> None:
        self.check(min(self.sample_rate, self.n_fft, self.hop, self.n_mels) >= 1, "all numbers must be at least 1")
        with torch.device("cpu"):
            self._tables[torch.device("cpu")] = self.make()

    def params(self, u: torch.Tensor) -> Params:
        return {}

    def make(self) -> Tables:
        """The window float32 [n_fft] and the bands' filters float32 [n_fft // 2 + 1, n_mels]."""
        window = torch.hann_window(self.n_fft, dtype=torch.float64)
        filters = mel_filters(self.n_fft // 2 + 1, self.n_mels, self.sample_rate // 2)
        return window.to(torch.float32), filters.to(torch.float32)

    def tables(self, device: torch.device) -> Tables:
        found = self._tables.get(device)
        if found is None:
            found = tuple(each.to(device) for each in self._tables[torch.device("cpu")])
            if not torch.compiler.is_compiling():
                self._tables[device] = found
        return found

    def mel(self, value: torch.Tensor) -> torch.Tensor:
        """float32 [B, C, n_mels, T // hop + 1]: power in mel bands, as torchaudio.transforms.MelSpectrogram. Silence
        follows sound that is too short to be mirrored at its edges."""
        fits = value.ndim == 3 and value.is_floating_point()
        self.check(fits, f"needs floats [B, C, T], not {value.dtype} {list(value.shape)}; declare Audio(rate, seconds)")
        time, (window, filters, *_) = value.shape[-1], self.tables(value.device)
        sound = F.pad(value.to(torch.float32), (0, max(0, self.n_fft // 2 + 1 - time))).flatten(0, 1)
        empty = not len(sound)
        if empty:
            sound = sound.new_zeros(1, sound.shape[-1])
        with torch.autocast(value.device.type, enabled=False):
            spectra = torch.stft(sound, self.n_fft, self.hop, window=window, return_complex=True)
            power = spectra[..., : time // self.hop + 1].abs().square()  # [B * C, n_fft // 2 + 1, frames]
            bands = (power.transpose(1, 2) @ filters).transpose(1, 2)
        found: torch.Tensor = (bands[:0] if empty else bands).unflatten(0, value.shape[:2])
        return found

    def replay(self, batch: Batch, params: Params) -> Batch:
        name = self.out or self.field
        fields = {name: self.apply(tensor_of(batch, self), params)}
        lengths = batch.get(self.field + LENGTH_SUFFIX)
        if lengths is not None:  # frames are centred: one at the start, and one each hop
            frames = torch.div(lengths, self.hop, rounding_mode="floor") + 1
            fields[name + LENGTH_SUFFIX] = torch.where(lengths > 0, frames, 0)
        return batch.replaced(fields)

    def __call__(self, batch: Batch) -> Batch:
        return self.replay(batch, {})


@dataclass(frozen=True)
class MelSpectrogram(_Features):
    """Mel spectrograms, [B, C, T] -> float32 [B, C, n_mels, T // hop + 1], as torchaudio.transforms.MelSpectrogram.

    Args:
        sample_rate: in Hz.
        n_fft: samples of a window. hop: samples between windows. n_mels: bands.
        log: natural logarithm of the power, at least 1e-10 (as in Whisper, before its own scaling).
        out: name of the result's field; None replaces the sound. `<out>_length` counts frames.
    """

    log: bool = True

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        power = self.mel(value)
        return torch.log(power.clamp(min=1e-10)) if self.log else power


@dataclass(frozen=True)
class MFCC(_Features):
    """Mel-frequency cepstral coefficients, [B, C, T] -> float32 [B, C, n_mfcc, T // hop + 1], as
    torchaudio.transforms.MFCC: of decibels, those 80 below a sample's highest and less raised to that.

    Args:
        n_mfcc: coefficients, at most n_mels. Others: MelSpectrogram.
    """

    n_mfcc: int = 40

    def __post_init__(self) -> None:
        self.check(1 <= self.n_mfcc <= self.n_mels, f"n_mfcc must be from 1 to n_mels={self.n_mels}")
        super().__post_init__()

    def make(self) -> Tables:
        """Those of all, and the cosine transform float32 [n_mels, n_mfcc]."""
        cosines = cosine_transform(self.n_mels, self.n_mfcc)
        return (*super().make(), cosines.to(torch.float32))

    def apply(self, value: torch.Tensor, params: Params) -> torch.Tensor:
        decibels = 10 * torch.log10(self.mel(value).clamp(min=1e-10))
        decibels = torch.maximum(decibels, decibels.amax((1, 2, 3), keepdim=True) - TOP_DECIBELS)
        with torch.autocast(value.device.type, enabled=False):
            found: torch.Tensor = (decibels.transpose(2, 3) @ self.tables(value.device)[2]).transpose(2, 3)
        return found
