"""What becomes of each field on its way into a shard, from the options of packing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import PIL

from fastload.errors import ConfigError
from fastload.pack.jpeg import CropSeekable, JpegMode
from fastload.pack.resizing import Resize
from fastload.pack.rows import LastRow, Sequences
from fastload.pack.sequences import needs_end
from fastload.pack.sounds import AudioFormat, ConvertSound, sndfile_version
from fastload.pack.steps import Recipe, Step
from fastload.pack.table import Files, Spans, Table
from fastload.pack.tokenizing import Tokenize, text_field, with_tokens
from fastload.pack.vocabulary import BYTES, Vocabulary, library_version, load_vocabulary
from fastload.shards.members import content_extension, member_prefixes

DEFAULT_QUALITY = 90  # FFCV's. ImageNet at 256 pixels: 32 dB in 11.7 kB at 75, 35 dB in 18.7 at 90, 37 dB in 25.9 at 95
MAX_SAMPLE_RATE = 655_350  # FLAC's


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """What is done to samples once, while they are packed, instead of in every epoch.

    Attributes:
        resize_longer: pictures whose longer side has more pixels are scaled down to it, as shown (EXIF orientation is
            applied), with an antialiased Lanczos filter. None: as they are.
        resize_shorter: the same for the shorter side.
        quality: of JPEGs and lossy WebPs that are resized, 1 to 100; PNG, BMP and TIFF stay lossless. index.json says
            what was saved, and how near the result came (mean PSNR).
        masks: picture fields whose pixels are class numbers: each new pixel is the nearest old one, exactly. To be
            given, empty if there are none, where a source has several picture fields.
        sample_rate: of sounds, in Hz. None: each keeps its own.
        mono: sounds of several channels become one, their mean.
        audio_format: "flac" or "wav", of 16 bits, or 24 where the source has more. None: "flac" if the rate or the
            channels are to be changed, else files stay as they are.
        tokenizer: a tokenizer.json of Hugging Face (or a folder with one): texts become rows of token numbers, the
            field "text" becomes "tokens", uint16 where the vocabulary fits and else int32. "bytes": the bytes of UTF-8
            are the tokens. None: texts stay as they are.
        text: the field that is tokenized; None: "text", or the only one.
        sequence_length: documents are joined, with an end of text after each, and cut into rows of so many tokens, to
            be read as `Tokens(sequence_length)`. A row's key is that of the document it begins with, and a number;
            documents of two splits are never in one row; fields other than the tokens are left out. Takes the space of
            all rows once more while it runs. None: one row a document, without an end of text.
        end_of_text: the token after each document, such as "<|endoftext|>"; None: the one that the tokenizer has under
            one of the usual names.
        last_row: the last tokens of a split, fewer than a row, are left out ("drop"), or filled up with ends of text
            ("pad"); index.json says how many.

    Raises:
        ConfigError: values out of range, or that exclude each other.
    """

    resize_longer: int | None = None
    resize_shorter: int | None = None
    quality: int = DEFAULT_QUALITY
    masks: Sequence[str] | None = None
    sample_rate: int | None = None
    mono: bool = False
    audio_format: AudioFormat | None = None
    tokenizer: str | os.PathLike[str] | None = None
    text: str | None = None
    sequence_length: int | None = None
    end_of_text: str | None = None
    last_row: LastRow = "drop"

    def __post_init__(self) -> None:
        if self.resize_longer is not None and self.resize_shorter is not None:
            raise ConfigError("resize_longer and resize_shorter are both given; pass one")
        for name, most in (
            ("resize_longer", 1 << 16),
            ("resize_shorter", 1 << 16),
            ("quality", 100),
            ("sample_rate", MAX_SAMPLE_RATE),
            ("sequence_length", 1 << 30),
        ):
            _check_integer(name, getattr(self, name), most)
        if not isinstance(self.mono, bool):
            raise ConfigError(f"mono={self.mono!r}: pass True or False")
        if self.audio_format not in (None, *get_args(AudioFormat)):
            raise ConfigError(f"audio_format={self.audio_format!r}: pass 'flac' or 'wav'")
        if isinstance(self.masks, str):
            raise ConfigError(f"masks={self.masks!r}: pass a list of fields")
        if self.last_row not in get_args(LastRow):
            raise ConfigError(f"last_row={self.last_row!r}: pass 'drop' or 'pad'")
        for name, needed in (
            ("text", "tokenizer"),
            ("sequence_length", "tokenizer"),
            ("end_of_text", "sequence_length"),
        ):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise ConfigError(f"{name}={getattr(self, name)!r} needs {needed}")
        if self.last_row != "drop" and self.sequence_length is None:
            raise ConfigError(f"last_row={self.last_row!r} needs sequence_length")
        if self.quality != DEFAULT_QUALITY and self._resize is None:
            raise ConfigError(f"quality={self.quality} is of resized pictures: pass resize_longer or resize_shorter")
        if self.masks is not None and self._resize is None:
            raise ConfigError(f"masks={self.masks!r} needs resize_longer or resize_shorter")

    def to_json(self) -> dict[str, Any]:
        """What was asked for, without what was not; empty if nothing was."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        given = {option.name for option in fields(self) if values[option.name] != option.default}
        values["masks"] = None if self.masks is None else list(self.masks)
        values["tokenizer"] = None if self.tokenizer is None else os.fspath(self.tokenizer)
        return {name: value for name, value in values.items() if name in given}

    def vocabulary(self) -> Vocabulary | None:
        """The tokenizer, read; None if texts stay as they are.

        Raises: as `load_vocabulary`; ConfigError for rows without an end of text.
        """
        if self.tokenizer is None:
            return None
        vocabulary = load_vocabulary(self.tokenizer, self.end_of_text)
        if self.sequence_length is not None:
            needs_end(vocabulary)
        return vocabulary

    def sequences(self, vocabulary: Vocabulary) -> Sequences | None:
        """The rows that documents are joined into; None if each text is a row."""
        if self.sequence_length is None:
            return None
        return Sequences(vocabulary=vocabulary, length=self.sequence_length, last=self.last_row, text=self.text)

    def libraries(self) -> dict[str, str]:
        """Versions of what encodes: another one may give other bytes, so a run cannot go on with it."""
        found = {}
        if self._resize is not None:
            found["pillow"] = PIL.__version__
        if self._sound is not None and self._sound.format == "flac":
            found["libsndfile"] = sndfile_version()
        if self.tokenizer not in (None, BYTES):
            found["tokenizers"] = library_version()
        return found

    @property
    def decodes(self) -> bool:
        """Whether pictures or sounds are decoded, so that what is damaged behind its header is found."""
        return self._resize is not None or self._sound is not None

    @property
    def _resize(self) -> Resize | None:
        if self.resize_longer is not None:
            return Resize(side="longer", pixels=self.resize_longer, quality=self.quality)
        if self.resize_shorter is not None:
            return Resize(side="shorter", pixels=self.resize_shorter, quality=self.quality)
        return None

    @property
    def _sound(self) -> ConvertSound | None:
        if self.sample_rate is None and not self.mono and self.audio_format is None:
            return None
        return ConvertSound(sample_rate=self.sample_rate, mono=self.mono, format=self.audio_format or "flac")

    def picture_steps(self, table: Table) -> Iterator[tuple[str, Step]]:
        """Each picture field with the step that resizes it.

        Raises: ConfigError where the source has no pictures, other masks, or it is not clear which fields are masks.
        """
        resize, pictures = self._resize, table.pictures
        if resize is None:
            return
        if not pictures:
            raise ConfigError(f"resizing needs pictures; the source has {_fields(table)}")
        for name in self.masks or ():
            if name not in pictures:
                raise ConfigError(f"masks: {name!r} is no picture field; those are {', '.join(map(repr, pictures))}")
        if len(pictures) > 1 and self.masks is None:
            raise ConfigError(
                f"resizing {', '.join(map(repr, pictures))}: say which are masks, whose pixels are class numbers and"
                " must not be mixed: masks=['mask'], or masks=[] if none is"
            )
        for name in pictures:
            yield name, replace(resize, mask=name in (self.masks or ()))

    def sound_steps(self, table: Table) -> Iterator[tuple[str, ConvertSound]]:
        """Each sound field with the step that converts it.

        Raises: ConfigError where the source has none.
        """
        step = self._sound
        if step is None:
            return
        sounds = [name for name, info in table.fields.items() if info.kind == "audio"]
        if not sounds:
            raise ConfigError(f"sample_rate, mono and audio_format need sounds; the source has {_fields(table)}")
        for name in sounds:
            yield name, step


def prepared(
    table: Table, prepare: Prepare, vocabulary: Vocabulary | None, *, jpeg: JpegMode, pixels: bool
) -> tuple[Table, dict[str, Recipe]]:
    """The table of what will be stored, and by field, what becomes of its contents.

    Fields that are stored as they are have no recipe.

    Args:
        table: the samples as they are in the source.
        prepare: what was asked for.
        vocabulary: of texts that become a row each; None: they stay as they are.
        jpeg: "seekable" makes JPEGs crop-seekable where that can be done.
        pixels: whether the pixels of pictures are summed up.

    Raises: ConfigError for options that do not fit the table.
    """
    steps: dict[str, tuple[Step, ...]] = {}
    for name, step in prepare.picture_steps(table):
        steps[name] = (step,)
    if jpeg == "seekable":
        for name in table.pictures:
            steps[name] = (*steps.get(name, ()), CropSeekable())
    for name, sound in prepare.sound_steps(table):
        steps[name] = (sound,)
        table = _with_type(table, name, sound.format)
    kinds = {name: info.kind for name, info in table.fields.items()}  # in the source
    if vocabulary is not None:
        name = text_field(table, prepare.text)
        table, tokens = with_tokens(table, name, vocabulary)
        steps[tokens] = (Tokenize(vocabulary=vocabulary),)
        kinds[tokens] = "text"
    if pixels and not table.pictures:
        raise ConfigError(f"statistics=True sums up pixels; the source has {_fields(table)}; leave it out")
    summed = table.pictures if pixels else ()
    names = [name for name in table.fields if name in steps or name in summed]
    recipes = {name: Recipe(kind=kinds[name], steps=steps.get(name, ()), pixels=name in summed) for name in names}
    return table, recipes


def _with_type(table: Table, name: str, file_type: str) -> Table:
    """The table with all contents of one field stored as files of a type."""
    column, info = table.columns[name], table.fields[name]
    if isinstance(column, Files | Spans):
        column = replace(column, types=file_type)
    ending = member_prefixes(table.fields)[name] + content_extension(info, file_type)
    info = replace(info, extension=ending)
    return replace(table, columns={**table.columns, name: column}, fields={**table.fields, name: info})


def _fields(table: Table) -> str:
    return ", ".join(f"{name!r} ({info.kind})" for name, info in table.fields.items())


def _check_integer(name: str, value: object, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{name}={value!r}: pass a whole number from 1 to {most}")
