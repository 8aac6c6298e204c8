"""Pictures scaled down while they are packed: their size, how near they come, what stays exact, what is refused."""

from __future__ import annotations

import io
import json
import math
import random
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given
from hypothesis import strategies as st
from pack_sources import odd_photo, photo, scene, tree
from PIL import Image
from samples import grey_png
from typer.testing import CliRunner

import fastload
from fastload.cli import app
from fastload.decode.headers import image_size
from fastload.decode.image import ImageDecoder
from fastload.decode.seekable import read_layout
from fastload.errors import ConfigError, DecodeError, PackError
from fastload.pack import Prepare, pack
from fastload.pack.resizing import Resize, millidecibels
from fastload.verify import verify


def resized(raw: bytes, pixels: int = 64, quality: int = 95, mask: bool = False) -> Any:
    step = Resize(side="longer", pixels=pixels, quality=quality, mask=mask)
    return step(memoryview(raw), image_size(raw))


def opened(raw: bytes) -> Image.Image:
    return Image.open(io.BytesIO(raw))


def saved(picture: Image.Image, file_type: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_type, **options)
    return file.getvalue()


def psnr(a: Any, b: Any) -> float:
    return 10 * math.log10(255**2 / max(np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2), 1e-10))


def smooth(width: int = 200, height: int = 150, mode: str = "RGB") -> Image.Image:
    """A picture that JPEG keeps well."""
    y, x = np.mgrid[0:height, 0:width]
    planes = np.stack([x * 255 / width, y * 255 / height, 128 + 100 * np.sin(x / 30)], -1)
    return Image.fromarray(planes.astype(np.uint8)).convert(mode)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 3000), st.sampled_from(["longer", "shorter"]))
def test_sizes(width: int, height: int, pixels: int, side: Any) -> None:
    new = Resize(side=side, pixels=pixels, quality=90).size(width, height)
    of = max if side == "longer" else min
    assert of(new) == min(of(width, height), pixels)
    assert new[0] <= width
    assert new[1] <= height
    scale = of(new) / of(width, height)
    assert abs(new[0] - max(1, width * scale)) <= 0.5 + 1e-9
    assert abs(new[1] - max(1, height * scale)) <= 0.5 + 1e-9


def test_a_photo_is_what_pillow_and_torchvision_give() -> None:
    raw = saved(smooth(), "JPEG", quality=95)
    outcome = resized(raw)
    result = opened(outcome.data)
    assert (result.format, result.size) == ("JPEG", (64, 48))
    exact = opened(raw).resize((64, 48), Image.Resampling.LANCZOS)
    measured = outcome.sums["psnr_millidecibels"] / 1000
    assert abs(psnr(result, exact) - measured) < 0.001
    assert measured > 36
    reference = tv.resize(torch.from_numpy(np.array(opened(raw))).permute(2, 0, 1), [48, 64], antialias=True)
    assert psnr(result, reference.permute(1, 2, 0)) > 34
    assert outcome.sums["bytes_before"] == len(raw)
    assert outcome.sums["bytes_after"] == len(outcome.data)


def test_more_quality_comes_nearer() -> None:
    found = [resized(photo(1), quality=quality).sums["psnr_millidecibels"] for quality in (30, 60, 90)]
    assert found == sorted(found)
    assert found[0] < found[2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_type", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(orientation: int, file_type: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = saved(smooth(), file_type, exif=exif, **({"quality": 95} if file_type != "PNG" else {}))
    outcome = resized(raw)
    assert image_size(outcome.data) == ((64, 48) if orientation < 5 else (48, 64))
    shown = opened(outcome.data)
    assert 0x0112 not in shown.getexif()
    upright = fastload.Image(shown.size[::-1])
    expected = np.moveaxis(ImageDecoder(upright).decode(raw, 0), 0, 2)
    assert psnr(shown, expected) > 33


@pytest.mark.parametrize(
    ("mode", "file_type", "options"),
    [
        ("RGB", "PNG", {}), ("L", "PNG", {}), ("RGBA", "PNG", {}), ("LA", "PNG", {}),
        ("RGB", "BMP", {}), ("RGB", "TIFF", {}), ("RGB", "WEBP", {"lossless": True}),
    ],
)  # fmt: skip
def test_lossless_files_stay_exact(mode: str, file_type: str, options: dict[str, Any]) -> None:
    picture = smooth(mode=mode)
    outcome = resized(saved(picture, file_type, **options))
    result = opened(outcome.data)
    assert (result.format, result.mode) == (file_type, mode)
    np.testing.assert_array_equal(result, picture.resize((64, 48), Image.Resampling.LANCZOS))
    assert "psnr_pictures" not in outcome.sums


def test_lossy_webp_is_measured() -> None:
    outcome = resized(saved(smooth(), "WEBP", quality=95))
    assert opened(outcome.data).format == "WEBP"
    assert outcome.sums["psnr_millidecibels"] > 33_000


def test_palettes_become_colours() -> None:
    outcome = resized(saved(smooth().quantize(64), "PNG"))
    assert opened(outcome.data).mode == "RGB"
    transparent = smooth().quantize(64)
    outcome = resized(saved(transparent, "PNG", transparency=3))
    assert opened(outcome.data).mode == "RGBA"


def test_sixteen_bits_stay() -> None:
    values = (np.mgrid[0:150, 0:200][1] * 300).astype(np.uint16)
    outcome = resized(saved(Image.fromarray(values), "PNG"))
    result = np.asarray(opened(outcome.data))
    assert result.dtype == np.uint16
    exact = np.asarray(Image.fromarray(values.astype(np.float32)).resize((64, 48), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(result, np.rint(exact).clip(0, 65535).astype(np.uint16))


def test_profiles_are_kept_and_other_metadata_is_not() -> None:
    profile = bytes(range(100))
    for file_type in ("JPEG", "PNG", "WEBP", "TIFF"):
        raw = saved(smooth(), file_type, icc_profile=profile)
        assert opened(resized(raw).data).info["icc_profile"] == profile
    raw = saved(smooth(), "JPEG", comment=b"taken by someone")
    assert b"someone" not in resized(raw).data


def test_a_profile_of_several_segments_is_whole() -> None:
    profile = np.random.default_rng(0).bytes(150_000)
    assert opened(resized(saved(smooth(), "JPEG", icc_profile=profile)).data).info["icc_profile"] == profile


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # Pillow's own, of damaged TIFFs
@pytest.mark.parametrize("mask", [False, True])
def test_damaged_files_are_errors_of_the_file(mask: bool) -> None:
    choose, refused = random.Random(3), 0
    files = [odd_photo(2, exif=_turned(), icc_profile=bytes(300)), saved(smooth(), "PNG"), saved(smooth(), "WEBP")]
    files += [saved(smooth(), "BMP"), saved(smooth(mode="CMYK"), "TIFF"), saved(smooth().quantize(16), "PNG")]
    for raw in files:
        for _ in range(60):
            damaged = bytearray(raw)
            for _ in range(choose.randrange(1, 4)):
                damaged[choose.randrange(min(len(damaged), 600))] = choose.randrange(256)
            try:
                outcome = resized(bytes(damaged), mask=mask)
                assert outcome.data is None or max(image_size(outcome.data)) <= 64
            except DecodeError:
                refused += 1
    assert refused > 50


def test_inks_become_colours_as_in_a_loader() -> None:
    raw = saved(smooth(mode="CMYK"), "JPEG", icc_profile=bytes(100), quality=95)
    result = opened(resized(raw).data)
    assert result.mode == "RGB"
    assert "icc_profile" not in result.info
    assert psnr(result, opened(raw).convert("RGB").resize((64, 48), Image.Resampling.LANCZOS)) > 30


def test_grey_photos_stay_grey() -> None:
    assert opened(resized(photo(1, "Gray")).data).mode == "L"


def test_masks_keep_their_numbers() -> None:
    numbers = (scene(1, 200, 150)[..., 0] // 50).astype(np.uint8)
    grey = Image.fromarray(numbers)
    result = np.asarray(opened(resized(saved(grey, "PNG"), mask=True).data))
    np.testing.assert_array_equal(result, grey.resize((64, 48), Image.Resampling.NEAREST))
    assert set(np.unique(result)) <= set(np.unique(numbers))
    palette = Image.fromarray(numbers)
    palette.putpalette(bytes(range(256)) * 3)
    outcome = resized(saved(palette, "PNG"), mask=True)
    result = opened(outcome.data)
    assert result.mode == "P"
    np.testing.assert_array_equal(result, grey.resize((64, 48), Image.Resampling.NEAREST))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_keep_their_numbers(bits: int) -> None:
    numbers = np.arange(150 * 200).reshape(150, 200) % (1 << bits)
    data = resized(grey_png(numbers, bits), mask=True).data
    found = ImageDecoder(fastload.Image(mode="L", interpolation="nearest")).decode(data, 0)
    expected = Image.fromarray(numbers.astype(np.uint8)).resize((64, 48), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(found[0], expected)


def test_numbers_of_32_bits_are_resized_as_masks_alone() -> None:
    raw = saved(Image.fromarray(np.full((150, 200), 200, np.int32)), "TIFF")
    with pytest.raises(DecodeError, match="TIFF holds 32-bit numbers, not pixels"):
        resized(raw)
    found = ImageDecoder(fastload.Image(mode="L", interpolation="nearest")).decode(resized(raw, mask=True).data, 0)
    assert found.shape == (1, 48, 64)
    assert (found == 200).all()


def test_what_is_kept_is_counted_by_the_reason() -> None:
    assert resized(saved(smooth(60, 40), "PNG")).kept == "small enough"
    assert resized(saved(smooth(), "GIF")).kept.startswith("GIF")
    frames = [smooth(), smooth().rotate(90)]
    animation = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    assert resized(animation).kept == "several frames"


def test_psnr_is_a_whole_number_with_a_bound() -> None:
    grey = Image.new("L", (10, 10), 100)
    assert millidecibels(grey, grey) == 100_000
    assert millidecibels(grey, Image.new("L", (10, 10), 101)) == 48_131  # 20 log10 255


# Packed


def folder(tmp_path: Path) -> Path:
    files = {
        "photo0.jpg": photo(0), "photo1.jpg": photo(1, "444"), "small.jpg": photo(2, width=50, height=40),
        "drawing.png": saved(smooth(), "PNG"), "turned.jpg": odd_photo(3, exif=_turned()),
        "large.jpg": photo(4, width=600, height=400), "large2.jpg": photo(5, width=700, height=500),
    }  # fmt: skip
    for number, (name, content) in enumerate(files.items()):
        path = tmp_path / "source" / "ab"[number % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "source"


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_any_number_of_workers_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
    monkeypatch.setattr("fastload.pack.plan.RUN_BYTES", 30_000)
    source, prepare = folder(tmp_path), Prepare(resize_shorter=128, quality=80)
    for workers in (1, 2, 7):
        out = tmp_path / str(workers)
        index = pack(source, out, prepare=prepare, shard_size="30KiB", workers=workers, format=form, statistics=True)
        assert len(index.shards) > 2
    assert tree(tmp_path / "2") == tree(tmp_path / "7") == tree(tmp_path / "1")


class _Stop(Exception):
    pass


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    source, prepare, out = folder(tmp_path), Prepare(resize_shorter=128), tmp_path / "out"
    pack(source, tmp_path / "clean", prepare=prepare, shard_size="30KiB", workers=1)

    def stop(done: int, total: int, written: int) -> None:
        if len(list(out.rglob("*.tar"))) >= 2:
            raise _Stop

    with pytest.raises(_Stop):
        pack(source, out, prepare=prepare, shard_size="30KiB", workers=1, progress=stop)
    with pytest.raises(PackError, match="an unfinished pack with prepare"):
        pack(source, out, prepare=Prepare(resize_shorter=100), shard_size="30KiB", workers=1)
    pack(source, out, prepare=prepare, shard_size="30KiB", workers=2)
    assert tree(out) == tree(tmp_path / "clean")


def test_the_index_and_the_crops_are_of_what_is_stored(tmp_path: Path) -> None:
    prepare = Prepare(resize_longer=256, quality=95)
    index = pack(folder(tmp_path), tmp_path / "out", prepare=prepare, statistics=True)
    about = index.statistics["resize"]["train"]
    assert (about["resized"], about["kept"]) == (2, {"small enough": 5})
    assert about["bytes_after"] < about["bytes_before"]
    assert 15 < about["mean_psnr_db"] < 60
    assert index.packed["options"]["prepare"] == {"resize_longer": 256, "quality": 95}
    assert set(index.packed["libraries"]) == {"pillow"}
    data = fastload.IndexedDataset(tmp_path / "out", fields={"image": fastload.Image()})
    sizes = {data[i]["__key__"]: tuple(data[i]["image"].shape[:0:-1]) for i in range(len(data))}
    assert sizes["b/large"] == (256, 171)
    assert sizes["a/large2"] == (256, 183)
    assert sizes["a/turned"] == (150, 200)
    assert index.statistics["fields"]["train"]["image"]["width"]["max"] == 256
    channels = index.statistics["fields"]["train"]["image"]["channels"]
    pixels = np.concatenate([data[i]["image"].reshape(3, -1) for i in range(len(data))], 1) / 255
    assert channels["pixels"] == pixels.shape[1]
    np.testing.assert_allclose(channels["mean"], pixels.mean(1), rtol=1e-12)
    with tarfile.open(tmp_path / "out/train/shard-000000.tar") as tar:
        stored = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert read_layout(stored["b/large.jpg"]) is not None
    assert verify(tmp_path / "out", decode=True).ok


def test_pairs_of_pictures_and_masks(tmp_path: Path) -> None:
    numbers = (scene(1, 300, 200)[..., 0] // 50).astype(np.uint8)
    (tmp_path / "p.jpg").write_bytes(photo(1, width=300, height=200))
    (tmp_path / "m.png").write_bytes(saved(Image.fromarray(numbers), "PNG"))
    (tmp_path / "s.jsonl").write_text(json.dumps({"image": "p.jpg", "mask": "m.png"}) + "\n")
    with pytest.raises(ConfigError, match="say which are masks, whose pixels are class numbers"):
        pack(tmp_path / "s.jsonl", tmp_path / "out", prepare=Prepare(resize_longer=150))
    with pytest.raises(ConfigError, match="masks: 'label' is no picture field; those are 'image', 'mask'"):
        pack(tmp_path / "s.jsonl", tmp_path / "out", prepare=Prepare(resize_longer=150, masks=["label"]))
    pack(tmp_path / "s.jsonl", tmp_path / "out", prepare=Prepare(resize_longer=150, masks=["mask"]))
    sample = fastload.IndexedDataset(
        tmp_path / "out", fields={"image": fastload.Image(), "mask": fastload.Image(mode="L")}
    )[0]
    assert sample["image"].shape[1:] == sample["mask"].shape[1:] == (100, 150)
    np.testing.assert_array_equal(
        sample["mask"][0], Image.fromarray(numbers).resize((150, 100), Image.Resampling.NEAREST)
    )


# Refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize_longer": 10, "resize_shorter": 10}, "both given; pass one"),
        ({"resize_longer": 0}, "resize_longer=0: pass a whole number from 1 to 65536"),
        ({"resize_longer": True}, "resize_longer=True: pass a whole number"),
        ({"quality": 101}, "quality=101: pass a whole number from 1 to 100"),
        ({"quality": 80}, "quality=80 is of resized pictures: pass resize_longer or resize_shorter"),
        ({"masks": ["mask"]}, r"masks=\['mask'\] needs resize_longer or resize_shorter"),
        ({"masks": "mask", "resize_longer": 9}, "masks='mask': pass a list of fields"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prepare(**options)


def test_a_source_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a line\n")
    with pytest.raises(ConfigError, match=r"resizing needs pictures; the source has 'text' \(text\)"):
        pack(tmp_path / "t.txt", tmp_path / "out", prepare=Prepare(resize_longer=64))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"prepare=64: pass a fastload.Prepare"):
        pack(tmp_path / "t.txt", tmp_path / "out", prepare=64)  # type: ignore[arg-type]


def test_damage_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    source = folder(tmp_path)
    whole = photo(0, width=600, height=400)
    (source / "a/photo0.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    for workers in (1, 2):
        with pytest.raises(PackError, match=r"a/photo0.jpg: JPEG .*; remove or mend the file"):
            pack(source, tmp_path / "out", prepare=Prepare(resize_longer=256), workers=workers)
        assert not (tmp_path / "out").exists()


def test_a_mask_as_jpeg(tmp_path: Path) -> None:
    source = folder(tmp_path)
    with pytest.raises(PackError, match="a mask as JPEG is not exact before it is resized; store masks as PNG"):
        pack(source, tmp_path / "out", prepare=Prepare(resize_longer=64, masks=["image"]))


def test_the_command_says_what_it_saved(tmp_path: Path) -> None:
    command = ["pack", str(folder(tmp_path)), str(tmp_path / "out"), "--resize-longer", "256", "--quality", "80"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert re.search(r"; 2 pictures resized, \d+\.\d to \d+\.\d kB, mean PSNR \d+\.\d dB, ", done.stdout)
    assert " dB, 5 kept as they are; " in done.stdout
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out")]).stdout
    assert "\n2 pictures resized, " in shown
    found = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path / "out"), "--json"]).stdout)
    assert found["prepared"]["resize"]["train"]["resized"] == 2
    refused = CliRunner().invoke(app, ["pack", str(tmp_path / "source"), str(tmp_path / "o"), "--quality", "0"])
    assert refused.exit_code == 2
