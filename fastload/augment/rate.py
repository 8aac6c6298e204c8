"""Sound at another speed or pitch, each sample by its own factor, and filters with each sample its own cutoff.

Results of different lengths share one tensor as long as the longest that can be drawn; `<field>_length` says where each
one ends.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F

from fastload.augment import keyed, operation
from fastload.augment.audio import AudioOperation, fast_size, inside
from fastload.augment.operation import Params, span

# Up to so many factors, each is one convolution of the whole batch, and samples take theirs; more, and those that are
# no simple fractions, are resampled by gathering, which costs as much for any number of them.
MOST_CONVOLUTIONS = 12
MOST_PHASES = 100  # of one convolution, whose rate must be a fraction with at most this denominator
RATIO_TOLERANCE = 1e-6  # of that fraction: a sixth of a sample in 10 s at 16 kHz
ZERO_CROSSINGS, ROLLOFF = 6, 0.99  # of torchaudio.functional.resample: a sinc under a Hann window
_TURN = 1 << 32  # steps of a turn in which phases are summed up


def resample_by(sound: torch.Tensor, rate: torch.Tensor, out: int, highest: float) -> torch.Tensor:
    """Sound played `rate` times as fast, band-limited: torchaudio.functional.resample's kernel at any rate, and at
    another one for each sample.

    Args:
        sound: float32 [B, C, T].
        rate: float [B], input samples per output sample; above 0.
        out: samples of the result.
        highest: at least the largest rate; it sets how many neighbours are weighed.

    Returns:
        float32 [B, C, out].
    """
    band = ROLLOFF / rate.to(torch.float64).clamp(min=1)[:, None]  # [B, 1]
    at = torch.arange(out, dtype=torch.float64, device=sound.device) * rate.to(torch.float64)[:, None]  # [B, out]
    first = at.floor()
    ahead = (at - first).to(torch.float32)
    index, band = first.to(torch.int64), band.to(torch.float32)
    reach = math.ceil(ZERO_CROSSINGS * max(1.0, highest) / ROLLOFF)
    padded = F.pad(sound, (1, 1))  # what lies outside is the silence at either end
    total = torch.zeros(*sound.shape[:2], out, dtype=torch.float32, device=sound.device)
    for tap in range(-reach, reach + 2):
        t = ((tap - ahead) * band).clamp_(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        weight = torch.sinc(t) * torch.cos(t * (math.pi / 2 / ZERO_CROSSINGS)).square() * band  # [B, out]
        source = (index + (tap + 1)).clamp_(0, sound.shape[-1] + 1)
        total = torch.addcmul(total, padded.gather(2, source[:, None].expand(total.shape)), weight[:, None])
    return total


_kernels: dict[tuple[int, int, torch.device], tuple[torch.Tensor, int]] = {}


def _kernel(step: int, phases: int, device: torch.device) -> tuple[torch.Tensor, int]:
    """The kernel float32 [phases, 1, taps] of `phases` samples out for `step` samples in, and how far it reaches. Kept,
    but as `keyed.constant` keeps."""
    found = _kernels.get((step, phases, device))
    if found is None:
        band = min(1.0, phases / step) * ROLLOFF
        reach = math.ceil(ZERO_CROSSINGS / band)
        phase = torch.arange(phases, dtype=torch.float64, device="cpu")[:, None] * (step / phases)
        t = ((torch.arange(-reach, reach + step, device="cpu") - phase) * band).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        weight = torch.sinc(t) * torch.cos(t * (math.pi / 2 / ZERO_CROSSINGS)).square() * band
        found = weight[:, None].to(device, torch.float32), reach
        if not torch.compiler.is_compiling() and type(found[0]) is torch.Tensor:
            _kernels[step, phases, device] = found
    return found


def ratio_of(rate: float) -> tuple[int, int] | None:
    """Samples in for samples out, in least numbers; None for a rate that is no fraction of MOST_PHASES."""
    ratio = Fraction(rate).limit_denominator(MOST_PHASES)
    if not ratio or abs(float(ratio) / rate - 1) > RATIO_TOLERANCE:
        return None
    return ratio.numerator, ratio.denominator


def filled_by(time: int, ratio: tuple[int, int]) -> int:
    """Samples that `time` of them become: ceil(time / ratio)."""
    return -(-time * ratio[1] // ratio[0])


def resample_all(sound: torch.Tensor, ratio: tuple[int, int], out: int) -> torch.Tensor:
    """All samples resampled as one convolution: torchaudio.functional.resample, cut or padded to `out`.

    Args:
        ratio: see `ratio_of`.
    """
    step, phase_count = ratio
    kernel, reach = _kernel(step, phase_count, sound.device)
    padded = F.pad(sound.flatten(0, 1), (reach, reach + step))
    if operation.by_rows(sound):
        phases = F.conv1d(padded[:, None], kernel, stride=step).transpose(1, 2)  # [B * C, steps, phases]
    else:  # torch lets cuDNN's convolutions round to 11 bits (TF32) unless told otherwise, and products only if told
        phases = padded.unfold(1, kernel.shape[2], step) @ kernel[:, 0].T
    joined = phases.flatten(1)
    joined = joined[:, : min(out, filled_by(sound.shape[-1], ratio))]
    if joined.shape[1] < out:
        joined = F.pad(joined, (0, out - joined.shape[1]))
    return joined.reshape(*sound.shape[:2], out)


def stretch(sound: torch.Tensor, rate: torch.Tensor, out: int, n_fft: int) -> torch.Tensor:
    """Sound `rate` times as fast at the same pitch, by a phase vocoder with each sample its own rate.

    torchaudio.functional.phase_vocoder between torch.stft and the inverse; hop n_fft // 4, a Hann window.

    Args:
        sound: float32 [B, C, T]; silence follows one that is shorter than half a window.
        rate: float32 [B]. out: samples of the result.
    """
    batch, channels, time = sound.shape
    sound = F.pad(sound, (0, max(0, n_fft // 2 + 1 - time)))  # as much as can be mirrored at its edges
    hop, window = n_fft // 4, torch.hann_window(n_fft, dtype=torch.float32, device=sound.device)
    frames = torch.stft(sound.flatten(0, 1), n_fft, hop, window=window, return_complex=True)  # [B * C, F, N]
    count = frames.shape[-1]
    speed = rate.to(torch.float64).repeat_interleave(channels)[:, None]
    steps = torch.arange(out // hop + 2, device=sound.device) * speed
    below = steps.floor()
    share = (steps - below)[:, None].to(torch.float32)
    padded = F.pad(frames, (0, 2))  # silence after the end
    index = below.to(torch.int64).clamp_(max=count)[:, None].expand(-1, frames.shape[1], -1)
    one, other = padded.gather(2, index), padded.gather(2, index + 1)
    # A hop is a quarter of a window, so that a band's own advance is so many quarter turns, of which whole turns are
    # left out; sums of angles grow to where float32 knows no hundredths. They are summed up as integers, alike in any
    # order: of floats that is an error on CUDA where torch is told to be deterministic.
    advance = torch.arange(frames.shape[1], device=sound.device)[:, None] % 4 * (math.pi / 2)
    turn = other.angle() - one.angle() - advance
    turn = turn - 2 * math.pi * torch.round(turn / (2 * math.pi)) + advance
    angles = torch.cat([frames[..., :1].angle(), turn[..., :-1]], -1).to(torch.float64)
    summed = angles.mul_(_TURN / (2 * math.pi)).round_().to(torch.int64).cumsum(-1) & (_TURN - 1)
    phase = (summed.to(torch.float64) * (2 * math.pi / _TURN)).to(torch.float32)
    stretched = torch.polar(share * other.abs() + (1 - share) * one.abs(), phase)
    return _overlap(stretched, window, hop, out).reshape(batch, channels, out)


def _overlap(frames: torch.Tensor, window: torch.Tensor, hop: int, out: int) -> torch.Tensor:
    """The inverse of torch.stft with centred frames: [R, F, N] to [R, out]. torch.istft itself makes the host wait, to
    check the window."""
    n_fft, count = len(window), frames.shape[-1]
    pieces = torch.fft.irfft(frames, n=n_fft, dim=1) * window[:, None]
    length = n_fft + hop * (count - 1)
    fold = {"output_size": (1, length), "kernel_size": (1, n_fft), "stride": (1, hop)}
    joined = F.fold(pieces, **fold)[:, 0, 0]
    weight = F.fold(window.square()[None, :, None].expand(1, -1, count), **fold)[:, 0, 0]
    start = n_fft // 2
    return F.pad((joined / weight.clamp(min=1e-11))[:, start : start + out], (0, max(0, out - (length - start))))


@dataclass(frozen=True)
class SpeedPerturbation(AudioOperation):
    """Faster or slower, pitch and all, by one of `factors`, each sample its own (Ko et al., "Audio augmentation for
    speech recognition", 2015).

    A factor above 1 makes the sound shorter. The tensor gets ceil(T / least factor) samples, whatever was drawn.
    """

    factors: Sequence[float] = (0.9, 1.0, 1.1)
    _ratios: dict[float, tuple[int, int]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False, kw_only=True
    )  # of 1 and the factors, where each is resampled by a convolution; else empty

    def __post_init__(self) -> None:
        super().__post_init__()
        good = hasattr(self.factors, "__len__") and len(self.factors) > 0 and min(self.factors) > 0
        self.check(good, "factors must be above 0; pass them as a list, e.g. (0.9, 1.0, 1.1)")
        # tensors are no keys to find constants by
        object.__setattr__(self, "factors", tuple(float(each) for each in self.factors))
        ratios = {each: ratio_of(each) for each in (1.0, *self.factors)}
        if None not in ratios.values() and len(self.factors) <= MOST_CONVOLUTIONS:
            self._ratios.update({each: ratio for each, ratio in ratios.items() if ratio is not None})

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`factor`: float32 [B]."""
        factors = keyed.constant(tuple(self.factors), torch.float32, u.device)
        return {"factor": torch.where(u[:, 0] < self.p, factors[keyed.below(u[:, 1], len(factors))], 1.0)}

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        factor, out = params["factor"], math.ceil(sound.shape[-1] / min((*self.factors, 1.0)) - 1e-6)
        new = shorter(lengths, factor)
        if operation.by_rows(sound) and self._ratios:
            changed = self._by_rows(sound, factor, out)
            full = bool((lengths >= sound.shape[-1]).all())  # then what lies behind the end is silence already
            return changed if full else torch.where(inside(changed, new), changed, 0), new
        changed = F.pad(sound, (0, out - sound.shape[-1]))
        if not self._ratios:
            resampled = resample_by(sound, factor, out, max(self.factors))
            changed = torch.where((factor == 1)[:, None, None], changed, resampled)
        else:
            for each, ratio in self._ratios.items():
                if each != 1:
                    chosen = factor == torch.full((), each, dtype=factor.dtype, device=factor.device)
                    changed = torch.where(chosen[:, None, None], resample_all(sound, ratio, out), changed)
        return torch.where(inside(changed, new), changed, 0), new

    def _by_rows(self, sound: torch.Tensor, factor: torch.Tensor, out: int) -> torch.Tensor:
        """[B, C, out]: each factor on the rows that drew it, silence behind what they fill."""
        time = sound.shape[-1]
        changed = torch.zeros(*sound.shape[:2], out, dtype=torch.float32, device=sound.device)
        for each, ratio in self._ratios.items():
            rows = (factor == torch.full((), each, dtype=factor.dtype, device=factor.device)).nonzero()[:, 0]
            if len(rows):
                filled = min(out, filled_by(time, ratio))
                part = sound.index_select(0, rows)
                found = part if each == 1 else resample_all(part, ratio, filled)
                changed[:, :, :filled].index_copy_(0, rows, found)
        return changed


def shorter(lengths: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """ceil(length / factor), int64 [B]; a factor's own rounding does not add a sample."""
    return torch.ceil(lengths.to(torch.float64) / factor.to(torch.float64) * (1 - 1e-7)).to(torch.int64)


@dataclass(frozen=True)
class TimeStretch(AudioOperation):
    """Faster or slower at the same pitch, by a phase vocoder.

    Args:
        rate: lower and upper bound; above 1 is faster and shorter.
        n_fft: samples of a window.
    """

    rate: tuple[float, float] = (0.8, 1.25)
    n_fft: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        span(self, "rate", self.rate, None, 1e-3)
        self.check(self.n_fft >= 4 and self.n_fft % 4 == 0, "n_fft must be a multiple of 4")

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`rate`: float32 [B], 1 where `p` left a sample out."""
        return {"rate": torch.where(u[:, 0] < self.p, keyed.between(u[:, 1], *self.rate), 1.0)}

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        out = math.ceil(sound.shape[-1] / min(self.rate[0], 1.0))
        changed = stretch(sound, params["rate"], out, self.n_fft)
        changed = torch.where((params["rate"] == 1)[:, None, None], F.pad(sound, (0, out - sound.shape[-1])), changed)
        new = shorter(lengths, params["rate"])
        return torch.where(inside(changed, new), changed, 0), new


@dataclass(frozen=True)
class PitchShift(AudioOperation):
    """Higher or lower at the same speed: stretched in time, then resampled, as torchaudio.functional.pitch_shift.

    Args:
        steps: semitones, lower and upper bound.
        n_fft: samples of a window.
    """

    steps: tuple[float, float] = (-4.0, 4.0)
    n_fft: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        span(self, "steps", self.steps, None)
        self.check(self.n_fft >= 4 and self.n_fft % 4 == 0, "n_fft must be a multiple of 4")

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`steps`: float32 [B], semitones, 0 where `p` left a sample out."""
        return {"steps": torch.where(u[:, 0] < self.p, keyed.between(u[:, 1], *self.steps), 0.0)}

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        time, highest = sound.shape[-1], 2 ** (max(0.0, self.steps[1]) / 12)
        up = torch.exp2(params["steps"] / 12)
        longer = stretch(sound, 1 / up, math.ceil(time * highest), self.n_fft)
        changed = resample_by(longer, up, time, highest)
        changed = torch.where((params["steps"] == 0)[:, None, None], sound, changed)
        return torch.where(inside(changed, lengths), changed, 0), lengths


@dataclass(frozen=True)
class LowPass(AudioOperation):
    """A second-order low-pass with each sample its own cutoff: the biquad of torchaudio.functional.lowpass_biquad, run
    as a product of spectra, since a recursion in time would be a loop over T.

    The sound is padded with as much silence as it is long, in which the filter rings out.

    Args:
        sample_rate: in Hz. cutoff: in Hz, lower and upper bound. q: quality; 0.707 has no resonance.
    """

    sample_rate: int = 16000
    cutoff: tuple[float, float] = (1000.0, 7000.0)
    q: float = 0.707

    def __post_init__(self) -> None:
        super().__post_init__()
        span(self, "cutoff", self.cutoff, None, 1e-3)
        self.check(self.cutoff[1] <= self.sample_rate / 2, "cutoff must be at most half the sample rate")
        self.check(self.q > 0, "q must be above 0")

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`cutoff`: float32 [B] in Hz; `chosen`: bool [B]."""
        return {"chosen": u[:, 0] < self.p, "cutoff": keyed.between(u[:, 1], *self.cutoff)}

    def zeros(self, cos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """b0, b1, b2 of the biquad, from the cosine of its cutoff."""
        return (1 - cos) / 2, 1 - cos, (1 - cos) / 2

    def response(self, cutoff: torch.Tensor, size: int) -> torch.Tensor:
        """complex64 [B, size // 2 + 1]: the filter at each frequency of an FFT of `size`, computed in double: near 0 Hz
        a low cutoff leaves a small difference of large numbers."""
        angle = (2 * math.pi / self.sample_rate) * cutoff.to(torch.float64)[:, None]
        alpha, cos = torch.sin(angle) / (2 * self.q), torch.cos(angle)
        turn = torch.arange(size // 2 + 1, dtype=torch.float64, device=cutoff.device) * (-2 * math.pi / size)
        z = torch.polar(torch.ones_like(turn), turn)
        b0, b1, b2 = self.zeros(cos)
        found = (b0 + b1 * z + b2 * z * z) / (1 + alpha - 2 * cos * z + (1 - alpha) * z * z)
        return found.to(torch.complex64)

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        time = sound.shape[-1]
        size = 2 * fast_size(time)
        spectrum = torch.fft.rfft(sound, n=size) * self.response(params["cutoff"], size)[:, None]
        filtered = torch.fft.irfft(spectrum, n=size)[..., :time]
        return torch.where(params["chosen"][:, None, None] & inside(sound, lengths), filtered, sound), lengths


@dataclass(frozen=True)
class HighPass(LowPass):
    """A second-order high-pass with each sample its own cutoff; see LowPass."""

    cutoff: tuple[float, float] = (50.0, 1000.0)

    def zeros(self, cos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return (1 + cos) / 2, -1 - cos, (1 + cos) / 2
