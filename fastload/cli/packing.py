"""fastload pack | index | convert: shards are made."""

from __future__ import annotations

import sys
import time
from collections import Counter
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from fastload.cli.app import Format, Quiet, app, bar, contents, say
from fastload.errors import ConfigError
from fastload.prepared import prepared_texts

if TYPE_CHECKING:
    from fastload.shards.index import IndexFile

SPLITS = partial(typer.Option, rich_help_panel="Splits")
PREPARE = partial(typer.Option, rich_help_panel="Prepared once, instead of in every epoch")
CLEANING = partial(typer.Option, rich_help_panel="Cleaning (what is left out is listed in OUT/rejected.parquet)")


class SourceKind(StrEnum):
    image = "image"
    audio = "audio"
    text = "text"
    tensor = "tensor"
    manifest = "manifest"
    paragraphs = "paragraphs"
    documents = "documents"
    medical = "medical"
    shards = "shards"


class Engine(StrEnum):
    local = "local"
    ray = "ray"


class AudioFormat(StrEnum):
    flac = "flac"
    wav = "wav"


class LastRow(StrEnum):
    drop = "drop"
    pad = "pad"


class OnError(StrEnum):
    stop = "raise"
    skip = "skip"


class Depth(StrEnum):
    headers = "headers"
    full = "full"


class Verdict(StrEnum):
    ignore = "ignore"
    report = "report"
    drop = "drop"


class Straddling(StrEnum):
    drop = "drop"
    keep = "keep"


class Jpeg(StrEnum):
    seekable = "seekable"
    keep = "keep"


@app.command()
def pack(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of images, sounds or texts (subfolders: classes); .csv .jsonl .parquet; tars; .npy; "
            "DICOM, NIfTI."
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(
            help="The folder to make, or a URL such as s3://bucket/data. Run again to go on after an interruption."
        ),
    ],
    format: Annotated[Format, typer.Option(help="tar (WebDataset) or parquet (Hugging Face datasets).")] = Format.tar,
    shard_size: Annotated[str, typer.Option(help="Largest size of a shard, such as 256MiB or 1GB.")] = "256MiB",
    split: Annotated[
        str | None, typer.Option(help="Shares of splits, such as train=0.9,val=0.1; with --split-by, ranges.")
    ] = None,
    stratify: Annotated[
        str | None, SPLITS(help="Field whose every class has the shares. Needs --split or --folds.")
    ] = None,
    group_by: Annotated[
        str | None, SPLITS(help="Field, such as patient: all of one value on one side. Needs --split or --folds.")
    ] = None,
    group_regex: Annotated[
        str | None,
        SPLITS(help="As --group-by, by the first group found in the key (path without ending): '(patient[0-9]+)_'"),
    ] = None,
    folds: Annotated[int | None, SPLITS(help="Splits fold-0, fold-1, ... of equal shares.")] = None,
    split_by: Annotated[
        str | None,
        SPLITS(help="Field of dates or numbers. Needs --split with ranges: train=..2023-12-31,val=2024-01-01.."),
    ] = None,
    split_column: Annotated[str | None, SPLITS(help="Field whose values are the splits' names.")] = None,
    straddling: Annotated[
        Straddling | None,
        SPLITS(
            help="Copies in several splits. drop: they stay in the smallest of these; default with --split-by and "
            "--split-column. keep: default for the source's own splits."
        ),
    ] = None,
    drop_missing: Annotated[
        bool, CLEANING("--drop-missing", help="Leave out rows and samples that lack a value.")
    ] = False,
    fill: Annotated[list[str] | None, CLEANING(help="As age=0: what stands for a missing value instead.")] = None,
    on_error: Annotated[
        OnError, CLEANING(help="raise: stop at a missing, empty, cut or misnamed file. skip: leave it out.")
    ] = OnError.stop,
    max_errors: Annotated[
        int | None, CLEANING(help="With --on-error skip: most files to leave out; default: any number.")
    ] = None,
    decode: Annotated[Depth, CLEANING(help="full: decode every picture and sound to find faults.")] = Depth.headers,
    ranges: Annotated[
        list[str] | None, CLEANING("--range", help="As width=32.. or seconds=0.5..30, of bytes, aspect, any number.")
    ] = None,
    zscores: Annotated[
        list[str] | None, CLEANING("--zscore", help="As age=3: at most 3 standard deviations from the mean.")
    ] = None,
    duplicates: Annotated[Verdict, CLEANING(help="Samples of the same bytes as an earlier one.")] = Verdict.ignore,
    near_duplicates: Annotated[Verdict, CLEANING(help="Pictures and texts that are nearly equal.")] = Verdict.ignore,
    near_bits: Annotated[
        int, CLEANING(help="For --near-duplicates: how many of 64 bits of pictures' hashes may differ (0 to 11).")
    ] = 6,
    near_text: Annotated[float, CLEANING(help="For --near-duplicates: how similar texts have to be (0.5 to 1).")] = 0.8,
    compare: Annotated[str | None, CLEANING(help="Fields that make duplicates, as image,caption.")] = None,
    label_noise: Annotated[
        Verdict, CLEANING(help="One content under two labels; the only sample of a class.")
    ] = Verdict.ignore,
    label_field: Annotated[str, CLEANING(help="For --label-noise: the field of classes.")] = "label",
    seed: Annotated[int, typer.Option(help="Of the shuffle and the splits.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one per core.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="FIELD[:COLUMN[:KIND]],... as image:path,label:class:label; of a folder, FIELD:FOLDER,..."),
    ] = None,
    label_regex: Annotated[str | None, typer.Option(help="Its first group in a file's name is the class.")] = None,
    label_level: Annotated[int | None, typer.Option(help="Folders that name the class: 1, 2, ...; 0: all.")] = None,
    kind: Annotated[SourceKind | None, typer.Option(help="What the source is, where its files do not tell.")] = None,
    jpeg: Annotated[
        Jpeg,
        typer.Option(
            help="seekable: same pixels, most metadata dropped; crops read half the bytes. keep: files as they are."
        ),
    ] = Jpeg.seekable,
    resize_longer: Annotated[int | None, PREPARE(help="Most pixels of the longer side of pictures.")] = None,
    resize_shorter: Annotated[int | None, PREPARE(help="Most pixels of the shorter side of pictures.")] = None,
    quality: Annotated[int, PREPARE(help="Of JPEGs that are resized. Needs --resize-longer or --resize-shorter.")] = 90,
    masks: Annotated[
        str | None,
        PREPARE(
            help="Picture fields whose pixels are class numbers: mask,depth; '' for none. Needs --resize-longer or "
            "--resize-shorter."
        ),
    ] = None,
    sample_rate: Annotated[int | None, PREPARE(help="Of sounds, in Hz.")] = None,
    mono: Annotated[bool, PREPARE("--mono", help="One channel: the mean of all.")] = False,
    audio_format: Annotated[AudioFormat | None, PREPARE(help="Of sounds, 16 or 24 bits.")] = None,
    tokenizer: Annotated[str | None, PREPARE(help="A tokenizer.json, or bytes: texts become tokens.")] = None,
    text: Annotated[str | None, PREPARE(help="The field that is tokenized; default: text, or the only one.")] = None,
    sequence_length: Annotated[
        int | None, PREPARE(help="Join documents, and cut them into rows of so many tokens. Needs --tokenizer.")
    ] = None,
    end_of_text: Annotated[
        str | None, PREPARE(help="Token between documents, such as '<|endoftext|>'. Needs --sequence-length.")
    ] = None,
    last_row: Annotated[
        LastRow, PREPARE(help="What becomes of the last tokens, fewer than a row. Needs --sequence-length.")
    ] = LastRow.drop,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Also the mean and deviation of all pixels; decodes every picture.")
    ] = False,
    shuffle: Annotated[bool, typer.Option("--shuffle/--no-shuffle", help="Mix samples over the shards.")] = True,
    engine: Annotated[
        Engine, typer.Option(help="ray: on the machines of a Ray cluster; source and out in a folder that they share.")
    ] = Engine.local,
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster; default: RAY_ADDRESS, or this machine.")
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(help="With a URL: the local folder that shards are made in; default: below the cache."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Pack raw samples into shards and their index."""
    from fastload.pack import Prepare
    from fastload.pack import pack as run
    from fastload.pack.cleaning import Cleaning
    from fastload.pack.splitting import Splitting

    started = time.perf_counter()
    cleaning = Cleaning(
        drop_missing=drop_missing,
        fill=_pairs(fill or []),
        on_error="skip" if on_error is OnError.skip else "raise",
        max_errors=max_errors,
        decode=decode.value,
        ranges=",".join(ranges or ()) or {},
        zscores=",".join(zscores or ()) or {},
        duplicates=duplicates.value,
        near_duplicates=near_duplicates.value,
        near_bits=near_bits,
        near_text=near_text,
        compare=None if compare is None else tuple(name.strip() for name in compare.split(",")),
        label=label_field,
        label_noise=label_noise.value,
    )
    pack_into = partial(
        run,
        source,
        out,
        format=format.value,
        shard_size=shard_size,
        split=Splitting(
            shares=split if split_by is None else None,
            ranges=split if split_by is not None else None,
            by=split_by,
            stratify=stratify,
            group_by=group_by,
            group_regex=group_regex,
            folds=folds,
            column=split_column,
            straddling=None if straddling is None else straddling.value,
        ),
        clean=cleaning if cleaning.to_json() else None,
        seed=seed,
        shuffle=shuffle,
        workers=workers,
        columns=columns,
        label_regex=label_regex,
        label_level=label_level,
        kind=None if kind is None else kind.value,
        jpeg=jpeg.value,
        prepare=Prepare(
            resize_longer=resize_longer,
            resize_shorter=resize_shorter,
            quality=quality,
            masks=None if masks is None else tuple(filter(None, masks.split(","))),
            sample_rate=sample_rate,
            mono=mono,
            audio_format=None if audio_format is None else audio_format.value,
            tokenizer=tokenizer,
            text=text,
            sequence_length=sequence_length,
            end_of_text=end_of_text,
            last_row=last_row.value,
        ),
        statistics=statistics,
        engine=engine.value,
        address=address,
        scratch=scratch,
        progress=not quiet and sys.stderr.isatty(),
    )
    try:
        index = pack_into()
    except KeyboardInterrupt:
        text = f"interrupted; the same command goes on with what is finished in {out}"
        Console(stderr=True, highlight=False).print(Text(text), soft_wrap=True)
        raise typer.Exit(130) from None
    if not quiet:
        done = "".join(f"; {text}" for text in prepared_texts(index.statistics))
        done += jpegs(index) + cleaned(index) + passed_over(index)
        say(f"packed {contents(index)} into {out}, {time.perf_counter() - started:.1f} s{done}")


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Tar or Parquet files; subfolders are splits.")],
    quiet: Quiet = False,
) -> None:
    """Make the index of shards that other tools wrote, or make a damaged one again."""
    from fastload.shards.open import index_folder

    started = time.perf_counter()
    made = index_folder(folder)
    if not quiet:
        say(f"indexed {contents(made)} in {folder}, {time.perf_counter() - started:.1f} s")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Shards: packed, of WebDataset, in Parquet, or of MDS or LitData.")],
    out: Annotated[Path, typer.Argument(help="The folder to make. Run again to go on after an interruption.")],
    format: Annotated[Format, typer.Option(help="tar (WebDataset) or parquet (Hugging Face datasets).")] = Format.tar,
    shard_size: Annotated[
        str | None, typer.Option(help="Largest size of a shard, such as 256MiB; default: one for each of the source.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Convert shards: tar to Parquet and back, to other sizes, or from MosaicML Streaming or LitData."""
    from fastload.pack.convert import convert as run

    started = time.perf_counter()
    with bar("converting", shown=not quiet) as advance:
        made = run(source, out, format=format.value, shard_size=shard_size, progress=advance)
    if not quiet:
        say(f"converted {contents(made)} into {out}, {time.perf_counter() - started:.1f} s")


def jpegs(index: IndexFile) -> str:
    """What became of the JPEGs of all splits; empty if there are none, or they were to be kept."""
    from fastload.inspect import jpeg_text

    splits = index.statistics.get("jpeg", {}).values()
    kept: Counter[str] = Counter()
    for split in splits:
        kept.update(split["kept"])
    counts = {"seekable": sum(split["seekable"] for split in splits), "kept": dict(sorted(kept.items()))}
    return f"; {jpeg_text(counts)}" if splits else ""


def passed_over(index: IndexFile) -> str:
    """Files that are no samples, and what became of splits that the source had; empty if there are neither."""
    endings = index.packed.get("ignored_endings", {})
    total, texts = sum(endings.values()), []
    if endings:
        named = ", ".join(f"{'.' + ending if ending else 'none'} {count:,}" for ending, count in endings.items())
        texts.append(f"{total:,} {'files' if total > 1 else 'file'} of other kinds ignored ({named})")
    match index.packed.get("source_splits"):
        case "kept":
            texts.append("splits are those of the source (--split train=1 makes them one)")
        case "joined":
            texts.append("the source's own splits are joined and shared out anew")
    return "".join(f"; {text}" for text in texts)


def _pairs(options: list[str]) -> dict[str, str]:
    """`["age=0", "name="]` as a mapping."""
    pairs = {}
    for option in options:
        name, mark, value = option.partition("=")
        if not mark or not name.strip():
            raise ConfigError(f"--fill {option}: write field=value")
        pairs[name.strip()] = value
    return pairs


def cleaned(index: IndexFile) -> str:
    """What cleaning left out and reported; empty if there was none."""
    from fastload.inspect import cleaning_text

    counts = index.statistics.get("cleaning")
    return "" if counts is None else f"; {cleaning_text(counts)}"
