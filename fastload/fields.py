"""What a field becomes in a batch: its kind, shape and dtype, known before the first sample is read.

    kind     with a size: one tensor               without: a list, one entry per sample
    Image    uint8 [B, C, H, W], channels last     uint8 [C, H, W]
    Audio    float32 [B, C, T] + `<name>_length`   float32 [C, T]
    Tokens   dtype [B, length] + `<name>_length`   dtype [T]
    Tensor   dtype [B, *shape]                     dtype [...]
    Scalar   dtype [B]
    Bytes    uint8 [B, length] + `<name>_length`   bytes
    Text, Json                                     str, object

Declarations are frozen values: they take part in nothing but comparison. Decoding is in `fastload.decode`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fastload.errors import ConfigError

Crop = Literal["random", "center"]

# torchvision.transforms.RandomResizedCrop's own defaults
DEFAULT_SCALE = (0.08, 1.0)
DEFAULT_RATIO = (3 / 4, 4 / 3)
# torchvision's evaluation recipe: Resize(256), CenterCrop(224)
DEFAULT_CENTER_FRACTION = 224 / 256
IMAGE_CHANNELS = {"RGB": 3, "L": 1, "I;16": 1}


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF; EXIF orientation is applied.

    Args:
        size: output height and width in pixels, or one integer for both. None: each picture in its own size, as a list.
        crop: what is resized to `size`. "random": torchvision's RandomResizedCrop box, drawn from (seed, epoch,
        sample);
            "center": the centred box of the output's aspect that covers `center_fraction` of the shorter side;
            None: the whole picture, its aspect not kept. Needs a size.
        mode: "RGB" (uint8, 3 channels), "L" (uint8, 1 channel) or "I;16" (uint16, 1 channel; 8-bit sources are scaled
        by 257).
        scale: area of a random crop as a fraction of the picture's, lower and upper bound.
        ratio: width/height of a random crop, lower and upper bound.
        center_fraction: see `crop`. 224/256 is the field's usual evaluation recipe.
        interpolation: "bilinear" blends pixels, antialiased; "nearest" is for pictures that hold class numbers, such as
            segmentation masks: it takes one pixel each, and the numbers as they are stored: those of a palette and not
            its colours, fewer bits not scaled to 8 or 16. A random crop is that of the sample's other pictures of the
            same size.

    Raises:
        ConfigError: a size below 1, an unknown crop, mode or interpolation, a crop without a size, or an option of
            another crop.
    """

    size: int | tuple[int, int] | None = None
    crop: Crop | None = None
    mode: Literal["RGB", "L", "I;16"] = "RGB"
    scale: tuple[float, float] = DEFAULT_SCALE
    ratio: tuple[float, float] = DEFAULT_RATIO
    center_fraction: float = DEFAULT_CENTER_FRACTION
    interpolation: Literal["bilinear", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if self.crop not in (None, "random", "center"):
            raise ConfigError(f"Image(crop={self.crop!r}): pass 'random', 'center' or None")
        if self.mode not in IMAGE_CHANNELS:
            raise ConfigError(f"Image(mode={self.mode!r}): pass one of {', '.join(map(repr, IMAGE_CHANNELS))}")
        if self.interpolation not in ("bilinear", "nearest"):
            raise ConfigError(f"Image(interpolation={self.interpolation!r}): pass 'bilinear' or 'nearest'")
        if self.size is None:
            if self.crop is not None:
                raise ConfigError(f"Image(crop={self.crop!r}) needs a size, e.g. Image(224, crop={self.crop!r})")
        elif min(self.height_width) < 1:
            raise ConfigError(f"Image(size={self.size!r}): height and width must be at least 1 pixel")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"Image(scale={self.scale!r}): needs 0 < lower <= upper")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"Image(ratio={self.ratio!r}): needs 0 < lower <= upper")
        if not 0 < self.center_fraction <= 1:
            raise ConfigError(f"Image(center_fraction={self.center_fraction!r}): needs a value in (0, 1]")
        if self.crop != "random" and (tuple(self.scale), tuple(self.ratio)) != (DEFAULT_SCALE, DEFAULT_RATIO):
            what = f"Image(scale={self.scale!r}, ratio={self.ratio!r})"
            raise ConfigError(f"{what}: these are of crop='random'; pass that, or drop them")
        if self.crop != "center" and self.center_fraction != DEFAULT_CENTER_FRACTION:
            what = f"Image(center_fraction={self.center_fraction!r})"
            raise ConfigError(f"{what}: this is of crop='center'; pass that, or drop it")

    @property
    def height_width(self) -> tuple[int, int]:
        """Output height and width; only with a size."""
        assert self.size is not None
        return (self.size, self.size) if isinstance(self.size, int) else (int(self.size[0]), int(self.size[1]))

    @property
    def channels(self) -> int:
        return IMAGE_CHANNELS[self.mode]

    @property
    def numbers(self) -> bool:
        """Whether pixels are class numbers, which nothing may blend or scale."""
        return self.interpolation == "nearest"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint16 if self.mode == "I;16" else np.uint8)


@dataclass(frozen=True, slots=True)
class Audio:
    """An encoded sound: WAV, or FLAC, OGG and MP3 with the extra `audio`; samples are float32 in [-1, 1].

    Args:
        sample_rate: output rate in Hz; other rates are resampled. None: each clip at its own rate.
        seconds: output duration. Shorter clips are padded with zeros at the end, their true length in samples is kept
        in
            `<name>_length`; longer ones are cropped. None: each clip in its own length, as a list. Needs a sample_rate.
        crop: which part of a longer clip: "random", drawn from (seed, epoch, sample), "center", or None for its start.
        mono: True averages the channels into one: [B, 1, T]. False gives two: [B, 2, T]; one channel is doubled, and
        more
            than two are an error of that sample.

    Raises:
        ConfigError: a rate or duration that is not positive, a duration without a rate, an unknown crop.
    """

    sample_rate: int | None = None
    seconds: float | None = None
    crop: Crop | None = None
    mono: bool = True

    def __post_init__(self) -> None:
        if self.sample_rate is not None and self.sample_rate < 1:
            raise ConfigError(f"Audio(sample_rate={self.sample_rate!r}): must be at least 1 Hz")
        if self.seconds is not None:
            if self.sample_rate is None:
                raise ConfigError("Audio(seconds=...) needs a sample_rate, e.g. Audio(16000, seconds=1.0)")
            if not self.seconds > 0 or self.samples < 1:
                raise ConfigError(f"Audio(seconds={self.seconds!r}): must be longer than one sample")
        if self.crop not in (None, "random", "center"):
            raise ConfigError(f"Audio(crop={self.crop!r}): pass 'random', 'center' or None for the start")
        if self.crop is not None and self.seconds is None:
            raise ConfigError(f"Audio(crop={self.crop!r}) needs seconds")

    @property
    def samples(self) -> int:
        """Output length in samples; only with `seconds`."""
        assert self.sample_rate is not None and self.seconds is not None
        return round(self.sample_rate * self.seconds)

    @property
    def channels(self) -> int:
        return 1 if self.mono else 2


@dataclass(frozen=True, slots=True)
class Text:
    """UTF-8 text, as a list of str."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token numbers (a one-dimensional integer array), as dtype [B, length].

    Args:
        length: longer rows are cut, shorter ones padded; the true length, at most `length`, is in `<name>_length`.
            None: int64 [T] each, as a list.
        pad: the number to pad with.
        dtype: output dtype, an integer one. "int64" is what torch's losses take; "int32" is what most shards store,
            half the memory, and enough for embeddings.
    """

    length: int | None = None
    pad: int = 0
    dtype: str = "int64"

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ConfigError(f"Tokens(length={self.length!r}): must be at least 1")
        _check_dtype(self, self.dtype)
        dtype = np.dtype(self.dtype)
        if dtype.kind not in "iu" or not np.iinfo(dtype).min <= self.pad <= np.iinfo(dtype).max:
            raise ConfigError(f"Tokens(pad={self.pad!r}, dtype={self.dtype!r}): pass an integer dtype that holds pad")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array stored as .npy.

    Args:
        shape: the shape that every sample must have. None: each its own, as a list.
        dtype: output dtype; stored values are cast if that loses nothing ("same_kind"). None: as the index says,
            or float32 where it says nothing.
    """

    shape: tuple[int, ...] | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.shape is not None and any(d < 0 for d in self.shape):
            raise ConfigError(f"Tensor(shape={self.shape!r}): dimensions must not be negative")
        _check_dtype(self, self.dtype)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number per sample: a label, a length, a weight. Taken from the index where it is there, so that it costs no
    read.

    Args:
        dtype: output dtype. None: int64 for integers and booleans, float32 for floats, as the index says.
    """

    dtype: str | None = None

    def __post_init__(self) -> None:
        _check_dtype(self, self.dtype)


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON document, as a list of what json.loads gives."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """The stored bytes, undecoded, as uint8 [B, length] or as a list.

    Args:
        length: longer contents are cut, shorter ones padded with zeros; the true length, at most `length`, is in
            `<name>_length`. One tensor is what byte-level models take and what is moved to a GPU, and a little faster
            to make than many objects, where it is the only stored field of tars. None: bytes of any length, as a list.

    Raises:
        ConfigError: a length below 1.
    """

    length: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ConfigError(f"Bytes(length={self.length!r}): must be at least 1")


Field = Image | Audio | Text | Tokens | Tensor | Scalar | Json | Bytes


def _check_dtype(field: object, dtype: str | None) -> None:
    if dtype is None:
        return
    try:
        np.dtype(dtype)
    except TypeError as error:
        raise ConfigError(f"{type(field).__name__}(dtype={dtype!r}): not a numpy dtype name such as 'int64'") from error
