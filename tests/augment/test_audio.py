"""Sound: each operation against torchaudio, lengths, samples that stand alone, half precision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchaudio
import torchaudio.functional as reference
from conformance import chi_squared_z
from made import DEVICES, Counted, assert_no_loop_and_no_wait, assert_samples_stand_alone, keys

from fastload.augment import (
    MFCC,
    AddBankNoise,
    AddNoise,
    Compose,
    HighPass,
    LowPass,
    MelSpectrogram,
    PitchShift,
    RandomClipping,
    RandomGain,
    RandomPolarity,
    RandomReverb,
    RandomShift,
    SpeedPerturbation,
    TimeStretch,
    keyed,
)
from fastload.augment import operation as operations
from fastload.augment.audio import AudioOperation
from fastload.augment.rate import ratio_of, stretch
from fastload.augment.spectrogram import cosine_transform, mel_filters
from fastload.batch import Batch
from fastload.errors import ConfigError

RATE, COUNT, TIME = 8000, 6, 1600


def sounds(count: int = COUNT, time: int = TIME, channels: int = 1) -> torch.Tensor:
    """float32 [count, channels, time]: a few tones each, and a little noise."""
    generator = torch.Generator().manual_seed(time)
    t = torch.arange(time) / RATE
    pitch = 100 + 1500 * torch.rand(count, channels, 3, 1, generator=generator)
    tones = torch.sin(2 * math.pi * pitch * t + torch.rand(count, channels, 3, 1, generator=generator)).mean(2)
    return 0.5 * tones + 0.02 * torch.randn(count, channels, time, generator=generator)


def batch(count: int = COUNT) -> Batch:
    """Samples of different lengths, silent after them."""
    lengths = TIME - torch.arange(count) % 5 * 201
    sound = sounds(count)
    sound = torch.where(torch.arange(TIME) < lengths[:, None, None], sound, 0)
    return Batch({"audio": sound, "audio_length": lengths}, sample_keys=keys(count))


BANK = 0.1 * torch.randn(3, 1000, generator=torch.Generator().manual_seed(1))
ROOMS = torch.cat([torch.ones(2, 1), BANK[:2, :300] * torch.exp(-torch.arange(300) / 60)], 1)
OPERATIONS: dict[str, AudioOperation] = {
    "gain": RandomGain(p=0.7),
    "polarity": RandomPolarity(),
    "white": AddNoise((0, 20), p=0.8),
    "coloured": AddNoise((0, 20), (0, 2)),
    "bank": AddBankNoise(bank=BANK, snr=(0, 20)),
    "reverb": RandomReverb(bank=ROOMS, p=0.7),
    "shift": RandomShift(0.4),
    "roll": RandomShift(0.4, roll=True),
    "clipping": RandomClipping(p=0.8),
    "speed": SpeedPerturbation(),
    "many speeds": SpeedPerturbation(tuple(0.88 + i / 50 for i in range(13))),
    "stretch": TimeStretch(n_fft=256),
    "pitch": PitchShift(n_fft=256),
    "low": LowPass(RATE, (300, 3000), p=0.8),
    "high": HighPass(RATE),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_all_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = OPERATIONS[name]
    given = batch()
    before = given["audio"].clone()
    found = operation(given)
    assert given["audio"].equal(before)
    assert list(found) == ["audio", "audio_length"]
    assert found["audio_length"].dtype == torch.int64
    after = torch.arange(found["audio"].shape[-1]) >= found["audio_length"][:, None, None]
    assert float(torch.where(after, found["audio"].abs(), 0).max()) == 0, "silence after the end stays"
    assert not found["audio"][:, :, :TIME].equal(before)
    assert bool(found["audio"].isfinite().all())
    assert_samples_stand_alone(operation, sounds(), tolerance=2e-5)
    with monkeypatch.context() as patch:
        patch.setattr(operations, "by_rows", lambda sound: False)  # as on a GPU
        assert_no_loop_and_no_wait(operation, batch)
        assert torch.allclose(operation(given)["audio"], found["audio"], atol=1e-6)
    two = operation.apply(sounds(2, channels=2), operation.draw(keys(2)))
    assert two.shape[:2] == (2, 2)
    none = type(operation).__name__ in ("AddBankNoise", "RandomReverb")
    assert none or not operation.apply(torch.zeros(2, 1, TIME), operation.draw(keys(2))).any(), "silence stays silent"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_half_precision_is_rounded_once(name: str, dtype: torch.dtype, device: str) -> None:
    operation, sound = OPERATIONS[name], sounds().to(dtype)
    params = operation.draw(keys(COUNT).to(device))
    found = operation.apply(sound.to(device), params)
    exact = operation.apply(sound.float(), operation.draw(keys(COUNT)))
    assert found.dtype == dtype
    off = (found.cpu().float() - exact).abs() / exact.abs().clamp(min=0.05)
    assert float(off.max()) < {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]


# Against torchaudio, on the same parameters.


Expect = Callable[[torch.Tensor, dict[str, Any]], torch.Tensor]


def one_by_one(name: str, expect: Expect, device: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    operation, sound = OPERATIONS[name], sounds()
    params = operation.draw(keys(COUNT).to(device))
    found = operation.apply(sound.to(device), params).cpu()
    one = [{key: value[i].item() for key, value in params.items()} for i in range(COUNT)]
    return found, [expect(sound[i], one[i]) for i in range(COUNT)]


REFERENCES: dict[str, tuple[Callable[[torch.Tensor, dict[str, Any]], torch.Tensor], float]] = {
    "gain": (lambda x, p: reference.gain(x, p["db"]), 1e-5),
    "polarity": (lambda x, p: x * p["sign"], 0.0),
    "clipping": (lambda x, p: x.clamp(-p["level"] * x.abs().max(), p["level"] * x.abs().max()), 1e-6),
    "low": (lambda x, p: reference.lowpass_biquad(x, RATE, p["cutoff"]) if p["chosen"] else x, 1e-4),
    "high": (lambda x, p: reference.highpass_biquad(x, RATE, p["cutoff"]), 1e-3),
    "speed": (lambda x, p: reference.speed(x, 100, round(p["factor"], 2))[0], 1e-5),
    "many speeds": (lambda x, p: reference.speed(x, 100, round(p["factor"], 2))[0], 1e-4),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", REFERENCES)
def test_each_equals_torchaudio(name: str, device: str) -> None:
    expect, tolerance = REFERENCES[name]
    found, expected = one_by_one(name, expect, device)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours[..., : theirs.shape[-1]] - theirs).abs().max() <= tolerance
        assert not ours[..., theirs.shape[-1] :].any()


@pytest.mark.parametrize("device", DEVICES)
def test_noise_has_its_ratio_as_torchaudios(device: str) -> None:
    for name in ("white", "coloured"):
        operation, given = OPERATIONS[name], batch().to(device)
        params = operation.draw(given.sample_keys)  # type: ignore[arg-type]
        noise = operation.noise(given["audio"], params)  # type: ignore[attr-defined]
        lengths = given["audio_length"]
        expected = reference.add_noise(given["audio"], noise, params["snr"][:, None], lengths[:, None])
        expected = torch.where(params["chosen"][:, None, None], expected, given["audio"])
        inside = torch.arange(TIME, device=device) < lengths[:, None, None]
        found = operation.apply(given["audio"], params, lengths)
        assert torch.allclose(found, torch.where(inside, expected, 0), atol=2e-6)


def test_noise_is_apart_from_sample_to_sample_and_has_its_colour() -> None:
    for colour in (0.0, 1.0, 2.0):
        operation = AddNoise((0, 0), (colour, colour))
        noise = operation.noise(torch.zeros(64, 1, 4096), operation.draw(keys(64)))[:, 0]
        spectrum = torch.fft.rfft(noise).abs().square().mean(0)
        low, high = spectrum[16:32].mean(), spectrum[1024:2048].mean()  # 64 times the frequency
        assert float(torch.log2(low / high) / 6) == pytest.approx(colour, abs=0.1)
        assert (torch.corrcoef(noise) - torch.eye(64)).abs().max() < (0.1 if colour == 0 else 0.95)


def test_noise_of_a_bank_and_reverberation_equal_their_definition() -> None:
    sound = sounds()
    operation = OPERATIONS["bank"]
    params = operation.draw(keys(COUNT))
    found = operation.apply(sound, params)
    for i in range(COUNT):
        start, bank = int(params["start"][i]), BANK[int(params["recording"][i])]
        noise = torch.cat([bank] * 4)[start : start + TIME][None]
        expected = reference.add_noise(sound[i], noise, params["snr"][i : i + 1])
        assert torch.allclose(found[i], expected, atol=1e-5)
    operation = RandomReverb(bank=ROOMS, keep_level=False)
    params = operation.draw(keys(COUNT))
    found = operation.apply(sound, params)
    for i in range(COUNT):
        expected = reference.fftconvolve(sound[i], ROOMS[int(params["response"][i])][None])[:, :TIME]
        assert torch.allclose(found[i], expected, atol=1e-5)
    kept = RandomReverb(bank=ROOMS).apply(sound, params)
    assert torch.allclose(kept.square().mean(-1), sound.square().mean(-1), rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["bank", "reverb"])
def test_banks_are_held_on_the_device(name: str, device: str) -> None:
    """Copied there once, in single precision, however many batches come."""
    bank = torch.randn(3, 50, dtype=torch.float64)
    operation = AddBankNoise(bank=bank) if name == "bank" else RandomReverb(bank=bank)
    sound, params = sounds().to(device), operation.draw(keys(COUNT).to(device))
    first = operation.apply(sound, params)
    held = operation.recordings(sound.device)
    assert held.dtype == torch.float32
    assert held.device.type == device
    assert operation.apply(sound, params).equal(first)
    assert operation.recordings(sound.device) is held
    assert list(operation._moved) == [sound.device]


@pytest.mark.parametrize("device", DEVICES)
def test_stretching_is_torchaudios_phase_vocoder(device: str) -> None:
    n_fft, hop = 256, 64
    window = torch.hann_window(n_fft)
    advance = torch.linspace(0, math.pi * hop, n_fft // 2 + 1)[:, None]

    def expect(x: torch.Tensor, p: dict[str, float]) -> torch.Tensor:
        spectrum = torch.stft(x, n_fft, hop, window=window, return_complex=True)
        fast = reference.phase_vocoder(spectrum, p["rate"], advance)
        return torch.istft(fast, n_fft, hop, window=window, length=round(TIME / p["rate"]))

    found, expected = one_by_one("stretch", expect, device)
    for ours, theirs in zip(found, expected, strict=True):
        end = theirs.shape[-1] - n_fft  # the last window fades into silence here, and is divided by its weight there
        assert (ours[..., :end] - theirs[..., :end]).abs().max() < 2e-3


def test_phases_of_a_long_sound_stay_exact() -> None:
    """A sweep of 20 s, whose phases add up to thousands of turns. The noise leaves no band without a phase."""
    time, rate = torch.arange(20 * 16000, dtype=torch.float64) / 16000, 1.1
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sound = 0.5 * torch.sin(2 * math.pi * (300 + 30 * time) * time) + 0.05 * noise
    out, window = int(len(sound) / rate), torch.hann_window(512, dtype=torch.float64)
    found = stretch(sound.float()[None, None], torch.tensor([rate]), out, 512)[0, 0]
    spectrum = torch.stft(sound, 512, 128, window=window, return_complex=True)
    advance = torch.linspace(0, math.pi * 128, 257, dtype=torch.float64)[:, None]
    slower = reference.phase_vocoder(spectrum, float(torch.tensor(rate)), advance)
    expected = torch.istft(slower, 512, 128, window=window, length=out)
    end = slice(out - 32000, out - 16000)
    assert float((found[end] - expected[end]).norm() / expected[end].norm()) < 1e-3


def test_products_and_no_convolution_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN rounds those to 11 bits as torch sets it up."""
    given, operation = batch(), OPERATIONS["speed"]
    expected = operation(given)["audio"]
    monkeypatch.setattr(operations, "by_rows", lambda sound: False)
    with Counted() as counted:
        found = operation(given)["audio"]
    assert torch.allclose(found, expected, atol=1e-6)
    assert not any("convolution" in name for name in counted.names)


def test_pitch_is_shifted_as_torchaudio_shifts_it() -> None:
    sound = sounds(1)
    for steps in (-12.0, 12.0):  # of others torchaudio rounds the rate to whole Hz
        operation = PitchShift((steps, steps), n_fft=256)
        ours = operation.apply(sound, {"steps": torch.tensor([steps])})
        theirs = reference.pitch_shift(sound, RATE, steps, n_fft=256)  # type: ignore[arg-type]
        assert (ours - theirs)[..., : TIME - 256].abs().max() < 2e-3
    tone = torch.sin(2 * math.pi * 400 * torch.arange(8000) / RATE)[None, None]
    up = PitchShift((12, 12)).apply(tone, PitchShift((12, 12)).draw(keys(1)))
    assert int(torch.fft.rfft(up[0, 0]).abs().argmax()) == pytest.approx(800, abs=4)


# Lengths and draws.


def test_lengths_follow_the_speed() -> None:
    given = batch()
    for operation, name in ((OPERATIONS["speed"], "factor"), (OPERATIONS["stretch"], "rate")):
        factor = operation.draw(keys(COUNT))[name].double()
        found = operation(given)
        exact = [round(int(n) / round(float(f), 6), 3) for n, f in zip(given["audio_length"], factor, strict=True)]
        assert found["audio_length"].tolist() == [math.ceil(length) for length in exact]
        assert int(found["audio_length"].max()) <= found["audio"].shape[-1]
    assert OPERATIONS["speed"](given)["audio"].shape[-1] == math.ceil(TIME / 0.9)
    assert SpeedPerturbation((2.0,))(given)["audio"].shape[-1] == TIME, "p may leave samples at their speed"
    gone = Batch(
        {"audio": torch.zeros(1, 1, TIME), "audio_length": torch.zeros(1, dtype=torch.int64)}, sample_keys=keys(1)
    )
    for operation in OPERATIONS.values():
        assert operation(gone)["audio_length"].tolist() == [0]


def test_speed_of_different_factors_is_resampled_without_aliasing() -> None:
    tone = torch.sin(2 * math.pi * 3700 * torch.arange(8000) / RATE)[None, None]
    fast = SpeedPerturbation((1.6,)).apply(tone, {"factor": torch.tensor([1.6])})
    assert float(fast[..., 1000:4000].abs().max()) < 0.01, "3700 Hz would become 5920, above half the rate"


@pytest.mark.parametrize("factor", [1.004, 0.997, math.pi / 3])
@pytest.mark.parametrize("rows", [True, False])
def test_a_fine_factor_is_taken_exactly(factor: float, rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "by_rows", lambda sound: rows)
    tone = torch.sin(2 * math.pi * 400 * torch.arange(16000) / RATE)[None, None]
    given = Batch({"audio": tone, "audio_length": torch.tensor([16000])}, sample_keys=keys(1))
    found = SpeedPerturbation((factor,))(given)
    length = math.ceil(16000 / factor)
    assert found["audio_length"].tolist() == [length]
    expected = torch.sin(2 * math.pi * 400 * factor * torch.arange(length) / RATE)
    assert (found["audio"][0, 0, :length] - expected)[20:-20].abs().max() < 0.01
    assert ratio_of(factor) is None
    assert ratio_of(1.1) == (11, 10)


def test_shifts() -> None:
    sound = torch.arange(1.0, 11)[None, None]
    lengths = torch.tensor([8])
    for share, roll, expected in (
        (0.25, False, [0, 0, 1, 2, 3, 4, 5, 6, 0, 0]),
        (-0.25, False, [3, 4, 5, 6, 7, 8, 0, 0, 0, 0]),
        (0.25, True, [7, 8, 1, 2, 3, 4, 5, 6, 0, 0]),
    ):
        found = RandomShift(roll=roll).apply(sound, {"shift": torch.tensor([share])}, lengths)
        assert found.flatten().tolist() == expected


def test_draws_are_distributed_as_asked() -> None:
    many = keys(20_000)
    for values, (low, high) in (
        (RandomGain((-6, 3)).draw(many)["db"], (-6, 3)),
        (AddNoise((3, 9)).draw(many)["snr"], (3, 9)),
        (PitchShift((-2, 5)).draw(many)["steps"], (-2, 5)),
        (LowPass(RATE, (100, 4000)).draw(many)["cutoff"], (100, 4000)),
    ):
        assert abs(chi_squared_z(torch.histc(values, 20, low, high), 1000.0)) < 4
    factors = SpeedPerturbation((0.8, 1.0, 1.3), p=0.9).draw(many)["factor"]
    counts = [int((factors == f).sum()) for f in torch.tensor([0.8, 1.0, 1.3])]
    assert abs(chi_squared_z(counts, [6000.0, 8000.0, 6000.0])) < 4
    starts = AddBankNoise(bank=BANK).draw(many)
    assert abs(chi_squared_z(torch.bincount(starts["recording"]), 20_000 / 3)) < 4


def test_shifts_clipping_polarity_and_rates_are_distributed_as_asked() -> None:
    many = keys(20_000)
    for values, (low, high) in (
        (RandomShift(0.3).draw(many)["shift"], (-0.3, 0.3)),
        (RandomClipping((0.2, 0.9)).draw(many)["level"], (0.2, 0.9)),
        (TimeStretch((0.7, 1.6)).draw(many)["rate"], (0.7, 1.6)),
    ):
        assert low <= float(values.min())
        assert float(values.max()) < high
        assert abs(chi_squared_z(torch.histc(values, 20, low, high), 1000.0)) < 4
    for share, left_out in (
        ((RandomShift(p=0.3).draw(many)["shift"] == 0), 0.7),
        ((RandomClipping(p=0.3).draw(many)["level"] == 1), 0.7),
        ((TimeStretch(p=0.3).draw(many)["rate"] == 1), 0.7),
        ((RandomPolarity(p=0.2).draw(many)["sign"] == 1), 0.8),
        ((RandomPolarity().draw(many)["sign"] == -1), 0.5),
    ):
        count, expected = int(share.sum()), left_out * len(many)
        assert abs(count - expected) < 4 * math.sqrt(expected * (1 - left_out))


# Whatever the shape and the settings of torch.


FEATURES: dict[str, Any] = {"mel": MelSpectrogram(RATE, 256, 80, 20), "mfcc": MFCC(RATE, 256, 80, 20, n_mfcc=13)}
ALL: dict[str, Any] = {**OPERATIONS, **FEATURES}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("time", [0, 1, 100, 128, TIME])
@pytest.mark.parametrize("count", [0, 2])
def test_any_length_and_any_number_of_samples(name: str, time: int, count: int) -> None:
    operation, sound = ALL[name], sounds(2, time)
    params = operation.draw(keys(2))
    found = operation.apply(sound[:count], {key: value[:count] for key, value in params.items()})
    whole = operation.apply(sound, params)
    assert found.shape == (count, *whole.shape[1:])
    assert bool(found.isfinite().all())
    if name in FEATURES:
        assert whole.shape[-1] == time // 80 + 1
    elif name not in ("speed", "many speeds", "stretch"):
        assert whole.shape[-1] == time


@pytest.mark.parametrize("name", ALL)
def test_settings_of_torch_change_nothing(name: str) -> None:
    operation, sound, given = ALL[name], sounds(), keys(COUNT)
    expected = operation.apply(sound, operation.draw(given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = operation.apply(sound, operation.draw(given))
    assert found.dtype == torch.float32
    assert found.equal(expected)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            fresh = dataclasses.replace(operation)
            found = fresh.apply(sound, fresh.draw(given))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_each_is_one_graph_when_compiled(name: str) -> None:
    operation, sound = ALL[name], sounds()
    params = operation.draw(keys(COUNT))
    torch.compiler.reset()
    found = torch.compile(operation.apply, backend="eager", fullgraph=True)(sound, params)
    assert torch.allclose(found, operation.apply(sound, params), atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_chain_replays(name: str) -> None:
    chain = Compose([RandomGain(), ALL[name]])
    given = batch()
    once, again = chain(given), chain.replay(given, chain.draw(keys(COUNT)))
    assert list(once) == list(again)
    assert all(once[field].equal(again[field]) for field in once)
    assert not once["audio"].equal(ALL[name](given)["audio"])


# Features.


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_features_of_half_precision_are_those_of_the_rounded_sound(name: str, dtype: torch.dtype) -> None:
    sound = sounds().to(dtype)
    found = FEATURES[name].apply(sound, {})
    assert found.dtype == torch.float32
    assert found.equal(FEATURES[name].apply(sound.float(), {}))
    off = (found - FEATURES[name].apply(sounds(), {})).abs()
    mean, most = {"mel": (0.06, 2.0), "mfcc": (0.5, 10.0)}[name]
    assert float(off.mean()) < mean
    assert float(off.max()) < most


@pytest.mark.parametrize("make", [RandomReverb, AddBankNoise])
def test_of_a_bank_only_what_was_drawn_is_computed_with(make: Any) -> None:
    operation, sound = make(bank=BANK[:1, :64].repeat(500, 1)), sounds(2)
    params = operation.draw(keys(2))
    operation.apply(sound, params)  # the bank is moved once
    with Counted() as counted:
        operation.apply(sound, params)
    assert counted.rows
    assert 500 not in counted.rows


def test_speeds_may_be_a_tensor() -> None:
    given, factors = batch(), torch.tensor([0.5, 1.0, 1.25])
    operation = SpeedPerturbation(factors)  # type: ignore[arg-type]
    found, kept = operation(given), len(keyed._constants)
    assert found["audio"].equal(SpeedPerturbation([0.5, 1, 1.25])(given)["audio"])
    assert operation(given)["audio"].equal(found["audio"])
    assert len(keyed._constants) == kept


def test_banks_print_their_settings() -> None:
    assert repr(AddBankNoise(bank=BANK, snr=(0, 9), p=0.5)) == (
        "AddBankNoise(field='audio', p=0.5, bank=[3, 1000], snr=(0, 9))"
    )


def test_features_are_torchaudios_and_lengths_count_frames() -> None:
    given = batch()
    mel = MelSpectrogram(RATE, 256, 80, 20, log=False, out="mel")
    found = mel(given)
    expected = torchaudio.transforms.MelSpectrogram(RATE, n_fft=256, hop_length=80, n_mels=20)(given["audio"])
    assert torch.allclose(found["mel"], expected, rtol=1e-4)
    assert found["mel"].shape[-1] == TIME // 80 + 1
    assert found["mel_length"].tolist() == [int(n) // 80 + 1 for n in given["audio_length"]]
    assert found["audio"] is given["audio"]
    logs = MelSpectrogram(RATE, 256, 80, 20)(given)["audio"]
    assert torch.allclose(logs, expected.clamp(min=1e-10).log(), atol=1e-4)
    mfcc = MFCC(RATE, 256, 80, 20, n_mfcc=13)(given)["audio"]
    arguments = {"n_fft": 256, "hop_length": 80, "n_mels": 20}
    theirs = torchaudio.transforms.MFCC(RATE, n_mfcc=13, melkwargs=arguments)(given["audio"])
    assert torch.allclose(mfcc, theirs, atol=1e-4)
    filters = torchaudio.functional.melscale_fbanks(201, 0, 8000, 80, 16000)
    assert torch.allclose(mel_filters(201, 80, 8000).float(), filters, atol=1e-5)
    assert torch.allclose(
        cosine_transform(80, 40).float(), torchaudio.functional.create_dct(40, 80, "ortho"), atol=1e-5
    )
    assert mel.tables(torch.device("cpu")) is mel.tables(torch.device("cpu"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomGain((3, 1)), r"db=\(3, 1\): needs"),
        (lambda: RandomGain(p=2), r"p=2: must be in \[0, 1\]"),
        (lambda: AddBankNoise(bank=torch.zeros(3)), r"bank must be floats \[N, L\], not torch.float32 \[3\]"),
        (lambda: SpeedPerturbation(()), "factors must be above 0"),
        (lambda: SpeedPerturbation(1.1), "pass them as a list, e.g."),  # type: ignore[arg-type]
        (lambda: TimeStretch(n_fft=6), "n_fft must be a multiple of 4"),
        (lambda: LowPass(8000, (10, 5000)), "cutoff must be at most half the sample rate"),
        (lambda: RandomShift(2), r"fraction must be in \[0, 1\]"),
        (lambda: MFCC(n_mels=20, n_mfcc=21), "n_mfcc must be from 1 to n_mels=20"),
        (
            lambda: MelSpectrogram().apply(torch.zeros(2, 5), {}),
            r"needs floats \[B, C, T\], not torch.float32 \[2, 5\]",
        ),
        (lambda: MelSpectrogram(0), "all numbers must be at least 1"),
        (
            lambda: RandomGain().apply(torch.zeros(2, 1, 5, 5), {}),
            r"needs floats \[B, C, T\], not torch.float32 \[2, 1, 5, 5\]; put it before what makes spectrograms",
        ),
        (lambda: RandomGain().apply(torch.zeros(2, 5), {}), r"needs floats \[B, C, T\], not torch.float32 \[2, 5\]"),
    ],
)
def test_what_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
