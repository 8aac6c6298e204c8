"""Sound, [B, C, T] with `<field>_length` [B] where the batch has it: level, noise, shift, clipping, echo.

What lies beyond a sample's length is and stays silence. Arithmetic is in float32; the dtype that came in goes out.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass

import torch

from fastload.augment import keyed
from fastload.augment.operation import Operation, Params, check_p, span, tensor_of
from fastload.batch import LENGTH_SUFFIX, Batch


@dataclass(frozen=True)
class AudioOperation(Operation):
    """An operation on sound, left out with probability 1 - `p`."""

    p: float = dataclasses.field(default=1.0, kw_only=True)
    field: str = dataclasses.field(default="audio", kw_only=True)

    def __post_init__(self) -> None:
        check_p(self, self.p)

    @abstractmethod
    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [B, C, T] and int64 [B] to the same; T may change, by as much for any batch."""

    def apply(self, value: torch.Tensor, params: Params, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Sound [B, C, T], floats; `lengths` integers [B], or None if every sample fills its row."""
        return self.with_lengths(value, params, lengths)[0]

    def with_lengths(
        self, value: torch.Tensor, params: Params, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sound, and how long each sample is now, in samples."""
        fits = value.ndim == 3 and value.is_floating_point()
        remedy = "put it before what makes spectrograms" if value.ndim == 4 else "declare Audio(rate, seconds)"
        self.check(fits, f"needs floats [B, C, T], not {value.dtype} {list(value.shape)}; {remedy}")
        whole = torch.full((len(value),), value.shape[-1], dtype=torch.int64, device=value.device)
        known = whole if lengths is None else lengths.to(torch.int64)
        if not value.shape[-1]:
            return value, known
        with torch.autocast(value.device.type, enabled=False):
            if not len(value):
                return self._of_none(value), known
            sound, known = self.change(value.to(torch.float32), known, params)
        return sound.to(value.dtype), known

    def _of_none(self, value: torch.Tensor) -> torch.Tensor:
        """What a batch of no samples becomes, [0, C, T]: T is that of one sample."""
        one = torch.zeros(1, *value.shape[1:], dtype=torch.float32, device=value.device)
        draws = torch.zeros(1, self.draws, dtype=torch.float32, device=value.device)
        lengths = torch.full((1,), value.shape[-1], dtype=torch.int64, device=value.device)
        return self.change(one, lengths, self.params(draws))[0][:0].to(value.dtype)

    def replay(self, batch: Batch, params: Params) -> Batch:
        name = self.field + LENGTH_SUFFIX
        sound, lengths = self.with_lengths(tensor_of(batch, self), params, batch.get(name))
        return batch.replaced({self.field: sound, name: lengths} if name in batch else {self.field: sound})


def inside(sound: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """bool [B, 1, T]: within each sample's length."""
    return torch.arange(sound.shape[-1], device=sound.device) < lengths[:, None, None]


def power(sound: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """float32 [B]: the mean square within the lengths, over all channels."""
    total = torch.where(inside(sound, lengths), sound, 0).square().sum((1, 2))
    return total / (lengths.clamp(min=1) * sound.shape[1])


def decibels(value: torch.Tensor) -> torch.Tensor:
    """The factor on amplitudes that so many decibels are."""
    return torch.pow(10.0, value / 20)


@dataclass(frozen=True)
class RandomGain(AudioOperation):
    """Louder or quieter by decibels, lower and upper bound."""

    db: tuple[float, float] = (-12.0, 6.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        span(self, "db", self.db, None)

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`db`: float32 [B], 0 where `p` left a sample out."""
        return {"db": torch.where(u[:, 0] < self.p, keyed.between(u[:, 1], *self.db), 0.0)}

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        return sound * decibels(params["db"])[:, None, None], lengths


@dataclass(frozen=True)
class RandomPolarity(AudioOperation):
    """Turns the wave upside down with probability `p`."""

    p: float = dataclasses.field(default=0.5, kw_only=True)

    @property
    def draws(self) -> int:
        return 1

    def params(self, u: torch.Tensor) -> Params:
        """`sign`: float32 [B], 1 or -1."""
        return {"sign": 1 - 2 * (u[:, 0] < self.p).to(torch.float32)}

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        return sound * params["sign"][:, None, None], lengths


@dataclass(frozen=True)
class AddNoise(AudioOperation):
    """Adds noise at a signal-to-noise ratio, as torchaudio.functional.add_noise scales it; silence stays silent.

    Args:
        snr: in decibels, lower and upper bound.
        colour: power falls with frequency as 1 / f ** colour, drawn between two: 0 is white, 1 pink, 2 brown.
    """

    snr: tuple[float, float] = (5.0, 30.0)
    colour: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        span(self, "snr", self.snr, None)
        span(self, "colour", self.colour, None)

    @property
    def draws(self) -> int:
        return 5

    def params(self, u: torch.Tensor) -> Params:
        """`noise`: int64 [B], keys of the noise; `snr`: float32 [B]; `colour`: float32 [B]; `chosen`: bool [B]."""
        return {
            "noise": keyed.seeds(u),
            "chosen": u[:, 2] < self.p,
            "snr": keyed.between(u[:, 3], *self.snr),
            "colour": keyed.between(u[:, 4], *self.colour),
        }

    def noise(self, sound: torch.Tensor, params: Params) -> torch.Tensor:
        """float32 [B, C, T], before it is scaled."""
        channels, time = sound.shape[1:]
        white = keyed.normals(params["noise"], channels * time).reshape(sound.shape)
        if self.colour == (0.0, 0.0):
            return white
        spectrum = torch.fft.rfft(white)
        frequency = torch.arange(spectrum.shape[-1], device=sound.device).clamp(min=1)  # the constant as the lowest
        falling = torch.pow(frequency, -params["colour"][:, None, None] / 2)
        coloured: torch.Tensor = torch.fft.irfft(spectrum * falling, n=time)
        return coloured

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        noise = self.noise(sound, params)
        ratio = power(sound, lengths) / power(noise, lengths).clamp(min=1e-20)
        scale = torch.where(params["chosen"], torch.sqrt(ratio) * decibels(-params["snr"]), 0)
        return torch.where(inside(sound, lengths), sound + noise * scale[:, None, None], sound), lengths


@dataclass(frozen=True, eq=False)
class _FromBank(AudioOperation):
    """An operation with recordings of its own, float [N, L], kept on each device that it is used on."""

    bank: torch.Tensor = dataclasses.field(kw_only=True)
    _moved: dict[torch.device, torch.Tensor] = dataclasses.field(
        default_factory=dict, init=False, repr=False, kw_only=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        good = self.bank.ndim == 2 and self.bank.numel() > 0 and self.bank.is_floating_point()
        self.check(good, f"bank must be floats [N, L], not {self.bank.dtype} {list(self.bank.shape)}")

    def __repr__(self) -> str:
        shown = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.repr}
        shown["bank"] = list(self.bank.shape)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def recordings(self, device: torch.device) -> torch.Tensor:
        return keyed.moved(self.bank, torch.float32, device, self._moved)


@dataclass(frozen=True, eq=False, repr=False)
class AddBankNoise(_FromBank):
    """Adds a piece of a recorded noise at a signal-to-noise ratio, from a bank on the device.

    Args:
        bank: floats [N, L]; a recording shorter than the sound is repeated.
        snr: in decibels, lower and upper bound.
    """

    snr: tuple[float, float] = (5.0, 30.0)

    @property
    def draws(self) -> int:
        return 4

    def params(self, u: torch.Tensor) -> Params:
        """`recording`: int64 [B]; `start`: int64 [B], in samples; `snr`: float32 [B]; `chosen`: bool [B]."""
        return {
            "chosen": u[:, 0] < self.p,
            "snr": keyed.between(u[:, 1], *self.snr),
            "recording": keyed.below(u[:, 2], len(self.bank)),
            "start": keyed.below(u[:, 3], self.bank.shape[1]),
        }

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        at = (params["start"][:, None] + torch.arange(sound.shape[-1], device=sound.device)) % self.bank.shape[1]
        noise = self.recordings(sound.device)[params["recording"][:, None], at][:, None].expand(sound.shape)
        ratio = power(sound, lengths) / power(noise, lengths).clamp(min=1e-20)
        scale = torch.where(params["chosen"], torch.sqrt(ratio) * decibels(-params["snr"]), 0)
        return torch.where(inside(sound, lengths), sound + noise * scale[:, None, None], sound), lengths


@dataclass(frozen=True, eq=False, repr=False)
class RandomReverb(_FromBank):
    """Echo of a room: convolution with an impulse response, by FFT, cut to the sound's length.

    Args:
        bank: impulse responses, floats [N, L] at the sound's rate, the direct sound first.
        keep_level: the result is as loud as the sound was.
    """

    keep_level: bool = True

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`response`: int64 [B]; `chosen`: bool [B]."""
        return {"chosen": u[:, 0] < self.p, "response": keyed.below(u[:, 1], len(self.bank))}

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        time = sound.shape[-1]
        size = fast_size(time + self.bank.shape[1] - 1)
        responses = torch.fft.rfft(self.recordings(sound.device)[params["response"]], n=size)[:, None]
        wet = torch.fft.irfft(torch.fft.rfft(sound, n=size) * responses, n=size)[..., :time]
        if self.keep_level:
            level = torch.sqrt(power(sound, lengths) / power(wet, lengths).clamp(min=1e-20))
            wet = wet * level[:, None, None]
        return torch.where(params["chosen"][:, None, None] & inside(sound, lengths), wet, sound), lengths


def fast_size(size: int) -> int:
    """The least number from `size` on whose only factors are 2, 3 and 5, which FFTs are fast for."""
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1


@dataclass(frozen=True)
class RandomShift(AudioOperation):
    """Earlier or later by up to a fraction of the sample's length; what is pushed out is lost, or comes back in at the
    other end (`roll`)."""

    fraction: float = 0.1
    roll: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(0 <= self.fraction <= 1, "fraction must be in [0, 1]")

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`shift`: float32 [B], to the right, as a fraction of the length."""
        return {"shift": torch.where(u[:, 0] < self.p, keyed.between(u[:, 1], -self.fraction, self.fraction), 0.0)}

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        shift = (params["shift"] * lengths).round().to(torch.int64)
        at = torch.arange(sound.shape[-1], device=sound.device) - shift[:, None]  # [B, T]
        length = lengths[:, None]
        source = torch.where(length > 0, at % length.clamp(min=1), at) if self.roll else at
        moved = sound.gather(2, source.clamp(0, max(0, sound.shape[-1] - 1))[:, None].expand(sound.shape))
        good = (source >= 0) & (source < length)
        return torch.where(good[:, None] & inside(sound, lengths), moved, 0), lengths


@dataclass(frozen=True)
class RandomClipping(AudioOperation):
    """Cuts peaks off at a fraction of each sample's own peak, lower and upper bound."""

    level: tuple[float, float] = (0.3, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        span(self, "level", self.level, None, 0.0)

    @property
    def draws(self) -> int:
        return 2

    def params(self, u: torch.Tensor) -> Params:
        """`level`: float32 [B], 1 where `p` left a sample out."""
        return {"level": torch.where(u[:, 0] < self.p, keyed.between(u[:, 1], *self.level), 1.0)}

    def change(self, sound: torch.Tensor, lengths: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        limit = sound.abs().amax((1, 2), keepdim=True) * params["level"][:, None, None]
        return torch.clamp(sound, -limit, limit), lengths
