"""Pictures as Pillow and torchvision show them, in every format, mode and orientation; broken ones are named."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL import ImageFile, ImageOps
from samples import grey_png
from torchvision.transforms.functional import InterpolationMode, resized_crop

from fastload.decode import Spec, decoder_for
from fastload.decode.boxes import center_box, random_box
from fastload.errors import ConfigError, DecodeError
from fastload.fields import Image

FORMATS = ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"]
Pixels = npt.NDArray[Any]


def scene(width: int = 90, height: int = 60, seed: int = 0) -> Pixels:
    """uint8 [H, W, 3] with edges, slopes and texture, as photographs have them."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    waves = [127 + 90 * np.sin(x / 9 + c) * np.cos(y / 13 - c) for c in range(3)]
    picture = np.stack(waves, axis=2) + np.where((x // 25 + y // 20) % 2 > 0, 30, -30)[..., None]
    noise = np.random.default_rng(seed).normal(0, 4, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def encode(pixels: Pixels | PillowImage.Image, fmt: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = pixels if isinstance(pixels, PillowImage.Image) else PillowImage.fromarray(pixels)
    picture.save(file, fmt, **({"quality": 95} if fmt == "JPEG" else {}), **options)
    return file.getvalue()


def oriented(orientation: int) -> PillowImage.Exif:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    return exif


def pillow(raw: bytes, mode: str = "RGB") -> Pixels:
    """[H, W, C] as Pillow shows it, transparency dropped."""
    picture = ImageOps.exif_transpose(PillowImage.open(io.BytesIO(raw)))
    picture.info.pop("transparency", None)
    pixels = np.asarray(picture.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def shown(raw: bytes | memoryview, mode: Any = "RGB") -> Pixels:
    """[H, W, C] as fastload shows it, uncropped."""
    value = decoder_for(Image(mode=mode)).decode(raw, 0)
    assert isinstance(value, np.ndarray)
    return np.moveaxis(value, 0, 2)


def psnr(a: Pixels, b: Pixels, peak: float = 255) -> float:
    error = float(np.mean((a.astype(float) - b.astype(float)) ** 2))
    return 999.0 if error == 0 else 10 * np.log10(peak**2 / error)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_pillows(fmt: str, mode: str) -> None:
    raw = encode(scene(), fmt)
    ours, theirs = shown(raw, mode), pillow(raw, mode)
    assert ours.dtype == np.uint8
    # a JPEG's luma is taken as it stands; Pillow's convert("L") computes it back from rounded RGB
    assert np.abs(ours.astype(int) - theirs).max() <= (2 if (fmt, mode) == ("JPEG", "L") else 0)


def test_ragged_pictures_are_channels_first_views_of_channels_last_memory() -> None:
    value = decoder_for(Image()).decode(encode(scene(31, 17), "PNG"), 0)
    assert isinstance(value, np.ndarray)
    assert value.shape == (3, 17, 31)
    tensor = torch.from_numpy(value)[None]
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert decoder_for(Image()).spec == Spec(parallel=True)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(fmt: str, orientation: int) -> None:
    options = {"tiffinfo": {0x0112: orientation}} if fmt == "TIFF" else {"exif": oriented(orientation)}
    raw = encode(scene(), fmt, **options)
    upright = pillow(raw)
    np.testing.assert_array_equal(shown(raw), upright)
    for field in (Image((40, 24), crop="random"), Image((40, 24), crop="center"), Image((40, 24))):
        turned, straight = (decoder_for(field).decode(r, 5) for r in (raw, encode(upright, "PNG")))
        assert np.abs(np.asarray(turned).astype(int) - np.asarray(straight)).max() <= 1


def palette(transparency: Any) -> bytes:
    picture = PillowImage.fromarray(scene()).quantize(16)
    return encode(picture, "PNG", transparency=transparency)


def with_alpha(mode: str) -> Pixels:
    alpha = np.indices((60, 90)).sum(axis=0).astype(np.uint8)[..., None]
    return np.concatenate([scene() if mode == "RGBA" else scene()[..., :1], alpha], axis=2)


@pytest.mark.parametrize(
    "raw",
    [
        encode(PillowImage.fromarray(scene()[..., 0]), "JPEG"),
        encode(PillowImage.fromarray(scene()[..., 0]), "PNG"),
        encode(PillowImage.fromarray(scene()[..., 0] > 99), "PNG"),
        palette(None),
        palette(3),
        palette(bytes(range(0, 160, 10))),
        encode(PillowImage.fromarray(with_alpha("RGBA")), "PNG"),
        encode(PillowImage.fromarray(with_alpha("RGBA")), "WebP", lossless=True),
        encode(PillowImage.fromarray(with_alpha("RGBA")), "TIFF"),
        encode(PillowImage.fromarray(with_alpha("LA")), "PNG"),
        encode(PillowImage.fromarray(scene()), "GIF", save_all=True, append_images=[PillowImage.new("RGB", (90, 60))]),
        encode(PillowImage.fromarray(scene()), "JPEG", progressive=True),
        encode(PillowImage.fromarray(scene()), "JPEG", subsampling=0),
        encode(PillowImage.fromarray(scene()), "TIFF", compression="tiff_lzw"),
    ],
    ids=[
        "grey_jpeg",
        "grey_png",
        "bilevel",
        "palette",
        "palette_one",
        "palette_bytes",
        "rgba_png",
        "rgba_webp",
        "rgba_tiff",
        "la",
        "gif2",
        "progressive",
        "jpeg444",
        "lzw",
    ],
)
def test_colour_models_become_rgb_as_pillow_converts_them(raw: bytes) -> None:
    np.testing.assert_array_equal(shown(raw), pillow(raw))
    assert np.abs(shown(raw, "L").astype(int) - pillow(raw, "L")).max() <= 2


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg(adobe: bool) -> None:
    raw = encode(PillowImage.fromarray(scene()).convert("CMYK"), "JPEG")
    if not adobe:  # Pillow and libjpeg take the inks to be inverted without Adobe's marker, too
        at = raw.index(b"\xff\xee")
        raw = raw[:at] + raw[at + 2 + int.from_bytes(raw[at + 2 : at + 4]) :]
    np.testing.assert_array_equal(shown(raw), pillow(raw))
    assert np.abs(shown(raw, "L").astype(int) - pillow(raw, "L")).max() <= 1


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_sixteen_bits(fmt: str) -> None:
    grey = (scene()[..., 0].astype(np.uint16) << 8) + scene()[..., 1]
    raw = encode(grey, fmt)
    np.testing.assert_array_equal(shown(raw, "I;16")[..., 0], grey)
    np.testing.assert_array_equal(shown(raw, "L")[..., 0], grey >> 8)
    np.testing.assert_array_equal(shown(raw, "RGB"), np.repeat((grey >> 8)[..., None], 3, axis=2))
    resized = np.asarray(decoder_for(Image((30, 45), mode="I;16")).decode(raw, 0))
    assert (resized.dtype, resized.shape) == (np.uint16, (1, 30, 45))
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(grey.astype(np.float32))[None, None], size=(30, 45), mode="bilinear", antialias=True
    )
    assert np.abs(resized[0].astype(float) - reference[0, 0].numpy()).max() <= 1


def test_eight_bits_fill_sixteen() -> None:
    for fmt in ("PNG", "JPEG"):
        raw = encode(scene()[..., 0], fmt)
        np.testing.assert_array_equal(shown(raw, "I;16"), shown(raw, "L").astype(np.uint16) * 257)


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (1100, 700)])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_crops_match_torchvisions_antialiased_ones(size: tuple[int, int], fmt: str) -> None:
    raw = encode(scene(*size), fmt)
    picture = PillowImage.open(io.BytesIO(raw)).convert("RGB")
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    field = Image((224, 192), crop="random")
    decoder = decoder_for(field)
    assert decoder.spec == Spec(shape=(224, 192, 3), dtype=np.dtype("uint8"), channels_last=True, parallel=True)
    out = np.empty((224, 192, 3), np.uint8)
    for key in range(8):
        x, y, w, h = random_box(*size, field.scale, field.ratio, key)
        assert decoder.decode_into(raw, out, key) == 0
        for source in (picture, tensor):
            reference = resized_crop(source, y, x, h, w, [224, 192], InterpolationMode.BILINEAR, antialias=True)
            expected = reference.permute(1, 2, 0).numpy() if source is tensor else np.asarray(reference)
            assert psnr(out, expected) >= (50 if source is tensor else 45)


def test_center_and_whole_crops() -> None:
    picture = scene(200, 100)
    raw = encode(picture, "PNG")
    x, y, w, h = center_box(200, 100, 50, 50, 224 / 256)
    centre = np.asarray(decoder_for(Image(50, crop="center")).decode(raw, 0))
    reference = PillowImage.fromarray(picture).resize((50, 50), PillowImage.Resampling.BILINEAR, (x, y, x + w, y + h))
    assert psnr(np.moveaxis(centre, 0, 2), np.asarray(reference)) >= 45
    whole = np.asarray(decoder_for(Image((100, 200))).decode(raw, 0))
    np.testing.assert_array_equal(np.moveaxis(whole, 0, 2), picture)


def test_only_the_row_is_written_and_all_of_it() -> None:
    batch = np.full((3, 64, 64, 3), 7, np.uint8)
    white = encode(np.full((50, 80, 3), 255, np.uint8), "PNG", exif=oriented(6))
    decoder_for(Image(64, crop="random")).decode_into(memoryview(white), batch[1, ...], 3)
    assert (batch[1] == 255).all()
    assert (batch[[0, 2]] == 7).all()


def test_threads_do_not_disturb_each_other() -> None:
    raws = [encode(scene(seed=seed), fmt) for seed in range(4) for fmt in FORMATS]
    decoder = decoder_for(Image(48, crop="random"))
    alone = [np.asarray(decoder.decode(raw, key)) for key, raw in enumerate(raws)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            together = threads.map(decoder.decode, raws, range(len(raws)))
            for one, other in zip(alone, together, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (encode(scene(), "JPEG")[:2000], "JPEG ends after 2000 bytes, before its end marker"),
        (encode(scene(), "JPEG")[:-2], "JPEG ends after .* bytes, before its end marker"),
        (encode(scene(), "PNG")[:2000], "PNG ends after 2000 bytes, inside chunk b'IDAT'"),
        (encode(scene(), "WebP")[:500], "WEBP ends after 500 of "),
        (encode(scene(), "GIF")[:2000], "GIF of 2000 bytes does not decode"),
        (encode(scene(), "BMP")[:2000], "BMP of 2000 bytes does not decode: .*truncated"),
        (encode(scene(), "TIFF")[:-1], "TIFF ends after|TIFF of .* bytes does not decode"),
        (encode(np.zeros((4, 4), np.float32), "TIFF"), "TIFF holds float32 values .*; store it as .npy"),
        (encode(np.full((4, 4), 70_000, np.int32), "TIFF"), "TIFF holds int32 values from 70000 to 70000, not 16-bit"),
        (encode(np.full((4, 4), 200, np.int32), "TIFF"), "TIFF holds 32-bit numbers, not pixels: nothing says which"),
        (b"", "no bytes where a picture should be"),
        (b"hello", "not a JPEG, PNG, WebP, GIF, BMP or TIFF: 5 bytes that start with b'hello'"),
    ],
)
def test_broken_pictures_are_named(raw: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decoder_for(Image(32)).decode_into(raw, np.empty((32, 32, 3), np.uint8), 0)
    with pytest.raises(DecodeError, match=message):
        decoder_for(Image()).decode(raw, 0)


def test_jpeg_whose_data_is_corrupt_is_an_error_and_not_grey_rows() -> None:
    raw = encode(scene(), "JPEG")
    at = raw.index(b"\xff\xda") + 200
    with pytest.raises(DecodeError, match="does not decode: Corrupt JPEG data"):
        decoder_for(Image()).decode(raw[:at] + b"\xff\xd3" * 8 + raw[at + 16 :], 0)


def test_a_frame_that_contradicts_the_header_is_refused() -> None:
    gif = encode(scene(), "GIF")
    with pytest.raises(DecodeError, match="GIF holds 90 x 60 pixels, and says 8 x 8"):
        decoder_for(Image()).decode(gif[:6] + b"\x08\0\x08\0" + gif[10:], 0)


@pytest.mark.parametrize("fmt", FORMATS)
@given(position=st.integers(0, 3000), patch=st.binary(min_size=1, max_size=8), cut=st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_no_bytes_raise_or_warn_anything_else(fmt: str, position: int, patch: bytes, cut: int) -> None:
    whole = WHOLE[fmt]
    position %= len(whole)
    for raw in (whole[:position] + patch + whole[position + len(patch) :], whole[: cut % len(whole)]):
        with warnings.catch_warnings(action="error"):
            try:
                assert shown(raw).shape[2] == 3
            except DecodeError:
                continue


WHOLE = {
    fmt: encode(scene(30, 20), fmt, **({} if fmt in ("GIF", "BMP", "TIFF") else {"exif": oriented(6)}))
    for fmt in FORMATS
}


def test_pillow_and_torch_settings_are_left_alone() -> None:
    before = (
        PillowImage.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        torch.get_num_threads(),
        warnings.filters[:],
    )
    for fmt in FORMATS:
        decoder_for(Image(16)).decode(WHOLE[fmt], 0)
    after = (
        PillowImage.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        torch.get_num_threads(),
        warnings.filters[:],
    )
    assert after == before


# Class numbers.


def classes(dtype: Any = np.uint8) -> Pixels:
    """[60, 90] of the numbers 0, 7 and 200 (or 3, 300 and 70 in 16 bits)."""
    found = np.asarray([0, 7, 200] if dtype == np.uint8 else [3, 300, 70], dtype)
    y, x = np.mgrid[0:60, 0:90]
    return np.asarray(found[(x // 11 + y // 7 + (x * y) // 300) % 3])


@pytest.mark.parametrize("kind", ["L", "P", "I;16"])
@pytest.mark.parametrize("crop", ["random", "center", None])
@pytest.mark.parametrize("size", [24, (100, 131)])
def test_class_numbers_are_picked_as_pillow_does(kind: Any, crop: Any, size: Any) -> None:
    numbers = classes(np.uint16 if kind == "I;16" else np.uint8)
    picture = PillowImage.fromarray(numbers)
    if kind == "P":
        picture.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    mode: Any = "I;16" if kind == "I;16" else "L"
    field = Image(size, crop=crop, mode=mode, interpolation="nearest")
    height, width = field.height_width
    for key in range(8):
        box = {
            "random": random_box(90, 60, field.scale, field.ratio, key),
            "center": center_box(90, 60, width, height, field.center_fraction),
            None: (0, 0, 90, 60),
        }[crop]
        x, y, w, h = box
        found = decoder_for(field).decode(encode(picture, "PNG"), key)
        expected = PillowImage.fromarray(numbers).crop((x, y, x + w, y + h)).resize((width, height), 0)
        assert isinstance(found, np.ndarray)
        assert found.shape == (1, height, width)
        # where a centre lies between two pixels, Pillow's sums of fractions fall to either side
        rows, columns = ((2 * np.arange(n) + 1) * size % (2 * n) > 0 for n, size in ((height, h), (width, w)))
        assert min(rows.mean(), columns.mean()) > 0.6
        assert np.array_equal(found[0][rows][:, columns], np.asarray(expected)[rows][:, columns])
        assert set(found.flat) <= set(numbers.flat)


def test_class_numbers_come_as_they_are_stored() -> None:
    def found(raw: bytes, mode: Any, size: int | None = None) -> Pixels:
        value = decoder_for(Image(size, mode=mode, interpolation="nearest")).decode(raw, 0)
        assert isinstance(value, np.ndarray)
        return value

    eight, sixteen = encode(classes(), "PNG"), encode(classes(np.uint16), "PNG")
    assert np.array_equal(found(eight, "L")[0], classes())
    assert np.array_equal(found(eight, "I;16")[0], classes()), "8 bits are not scaled to 16"
    assert set(found(eight, "RGB", 31).flat) == {0, 7, 200}
    few = encode(np.minimum(classes(np.uint16), 255), "PNG")
    assert set(found(few, "L").flat) == {3, 70, 255}, "the lower byte, as no number needs the upper"
    with pytest.raises(DecodeError, match=r"holds numbers up to 300; declare Image\(mode='I;16'\)"):
        found(sixteen, "L", 24)
    for orientation in range(1, 9):
        turned = encode(classes(), "PNG", exif=oriented(orientation))
        expected = ImageOps.exif_transpose(PillowImage.open(io.BytesIO(turned))).resize((24, 24), 0)
        assert np.array_equal(found(turned, "L", 24)[0], np.asarray(expected))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_class_numbers_of_few_bits_are_not_spread_over_eight(bits: int) -> None:
    numbers = np.arange(60 * 91).reshape(60, 91) % (1 << bits)
    raw = grey_png(numbers, bits)
    assert shown(raw, "L").max() == 255, "as a picture, the largest is white"
    raws = [raw]
    if bits == 1:
        black_and_white = PillowImage.fromarray(numbers.astype(np.bool_))
        raws += [encode(black_and_white, fmt) for fmt in ("PNG", "TIFF", "BMP")]
    for one in raws:
        for mode in ("L", "I;16"):
            found = decoder_for(Image(mode=mode, interpolation="nearest")).decode(one, 0)  # type: ignore[arg-type]
            assert np.array_equal(np.asarray(found)[0], numbers)


def test_numbers_of_32_bits_are_no_grey() -> None:
    numbers = np.arange(20, dtype=np.int32).reshape(4, 5) * 50
    raw = encode(numbers, "TIFF")
    for mode in ("RGB", "L"):
        with pytest.raises(DecodeError, match=r"TIFF holds 32-bit numbers, not pixels: .*Image\(mode=.I;16.\)"):
            shown(raw, mode)
    assert np.array_equal(shown(raw, "I;16")[..., 0], numbers)
    small = decoder_for(Image(mode="L", interpolation="nearest")).decode(encode(numbers // 50, "TIFF"), 0)
    assert np.array_equal(np.asarray(small)[0], numbers // 50)


def test_an_unknown_interpolation_is_refused() -> None:
    wrong: Any = "cubic"
    with pytest.raises(ConfigError, match=r"Image\(interpolation='cubic'\): pass 'bilinear' or 'nearest'"):
        Image(24, interpolation=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.5, 1.0)}, r"Image\(scale=\(0.5, 1.0\), .*\): these are of crop='random'; pass that, or drop"),
        ({"crop": "center", "ratio": (1.0, 1.0)}, r"ratio=\(1.0, 1.0\)\): these are of crop='random'"),
        ({"crop": "random", "center_fraction": 1.0}, r"Image\(center_fraction=1.0\): this is of crop='center'"),
        ({"center_fraction": 1.0}, r"Image\(center_fraction=1.0\): this is of crop='center'; pass that, or drop it"),
    ],
)
def test_what_another_crop_goes_by_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Image(24, **options)
