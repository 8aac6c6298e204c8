"""`pack`: source -> table -> plan -> shards -> index.json."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

from fastload.decode import native
from fastload.errors import ConfigError, FastloadError, PackError
from fastload.pack.cleaning import Cleaning
from fastload.pack.cluster import RayPool
from fastload.pack.encode import Encoder
from fastload.pack.forecast import source_size
from fastload.pack.indexing import make_index
from fastload.pack.inputs import SourceKind, open_source
from fastload.pack.journal import Journal, refuse_foreign, unwritable
from fastload.pack.jpeg import JpegMode
from fastload.pack.lists import write_lists
from fastload.pack.manifest import Columns, parse_columns
from fastload.pack.missing import STRICT, Lenience
from fastload.pack.objects import Samples
from fastload.pack.plan import Plan, make_plan
from fastload.pack.prepare import Prepare, prepared
from fastload.pack.rows import Sequences
from fastload.pack.rules import Cleaned, apply_rules, questions
from fastload.pack.sameness import digests, in_memory, refuse_categories
from fastload.pack.sequences import Joined, join_documents
from fastload.pack.splitting import Sharing, Splitting, parse_splitting, share_out
from fastload.pack.spool import spool
from fastload.pack.streams import Stream
from fastload.pack.survey import survey
from fastload.pack.surveyor import Questions
from fastload.pack.table import Table
from fastload.pack.target import Target, target_of
from fastload.pack.telling import OnProgress, telling
from fastload.pack.workers import Carrier, LocalPool, Pool, ProcessPool
from fastload.pack.writing import write_shards
from fastload.remote.settings import Remote
from fastload.shards.index import IndexFile, ShardFormat
from fastload.sizes import parse_size

Engine = Literal["local", "ray"]
DEFAULT_SHARD_SIZE = "256MiB"  # large enough that a remote store's latency does not count, small enough to fetch ahead


def pack(
    source: str | Path | Samples,
    out: str | Path,
    *,
    format: ShardFormat = "tar",
    shard_size: int | str = DEFAULT_SHARD_SIZE,
    split: str | Mapping[str, float] | Splitting | None = None,
    clean: Cleaning | None = None,
    seed: int = 0,
    shuffle: bool = True,
    workers: int | None = None,
    columns: Columns | None = None,
    label_regex: str | None = None,
    label_level: int | None = None,
    kind: SourceKind | None = None,
    jpeg: JpegMode = "seekable",
    prepare: Prepare | None = None,
    statistics: bool = False,
    engine: Engine = "local",
    address: str | None = None,
    scratch: str | Path | None = None,
    remote: Remote | None = None,
    progress: bool | OnProgress = False,
) -> IndexFile:
    """Pack a source into shards with an index: OUT/<split>/shard-000000.tar or part-000000.parquet, and OUT/index.json.

    The result depends on the source and the options alone, not on the number of workers or on interruptions. A run that
    was stopped in any way goes on when it is started again with the same source and options; shards that it finished
    are kept. index.json is written last: without it the folder is not a data set.

    Args:
        source: a folder of images, sounds or .txt files, whose class is the folder on the first level, or whose samples
            have several files (`joined.py`); a manifest (.csv, .tsv, .jsonl, .ndjson, .parquet); text, documents,
            arrays, medical pictures, shards of any kind (`inputs.py`); or a data set of Python's: a list, an iterable
            or a map-style Dataset of dicts or tuples (`objects.py`). What is no folder of files, manifest or .txt file
            is read once before packing, into a file in `out` that is deleted again: it takes the space of all contents
            once more. A run that goes on reads it again, and keeps the shards whose contents are the same; nothing
            tells it whether an object is the one that it was.
        out: a new or empty folder, or one with an unfinished run of the same source and options. Or the URL of a place
            in an object store, such as "s3://bucket/data".
        format: "tar" (WebDataset) or "parquet".
        shard_size: most bytes of a shard, as a number or like "256MiB"; counted before JPEGs are made crop-seekable,
            which adds 1 to 4% to theirs; with `prepare`, about what the samples become, judged by 64 of them.
        split: share of each split, as {"train": 0.9, "val": 0.1} or "train=0.9,val=0.1"; None: the source's own, if its
            folders or shards are named for such (train, val, valid, validation, dev, test), else all in "train". Which
            one a sample goes to depends on its content and the seed alone, so that copies are on one side; files are
            read once more for that. Or a `Splitting`: stratified, by groups, by ranges of dates or numbers, by a
            column, in folds; which also says what becomes of copies that ranges, a column or the source put apart.
        seed: of the shuffle and the split.
        shuffle: spread samples over the shards; False keeps the source's order.
        workers: processes; None: one per processor that this one may use; 1: this process alone. Each holds one run of
            samples (4 MiB, or one sample if that is larger) in memory; up to six where JPEGs are made crop-seekable.
            With Ray: most shards at a time; None: as many as the cluster has processors for.
        columns: of a manifest: field -> column, or "column:kind"; or as text "image:path,label,caption:text". Of a
            folder: field -> folder in it. Of dicts and whatever else has fields: field -> name in the source. Of
            tuples: the names of their parts, in order.
        label_regex: of a folder: the first group, searched in the file name, is the class.
        label_level: of a folder: the class is the path of the first so many folders: 1 "dog", 2 "dog/poodle"; 0 the
            path of all folders that a file is in. None: 1, below folders that are named for splits.
        kind: of a folder with several kinds of files, or of a file whose ending does not tell.
        clean: what to leave out: samples that cannot be read, values that are missing, outliers, duplicates, doubtful
            labels. OUT/rejected.parquet lists what was left out and why, OUT/suspects.parquet what was only reported.
            None: nothing, and a content that cannot be read stops the run.
        jpeg: "seekable" rewrites JPEGs, without any change to a pixel, so that crops can be cut out of their bytes
            (`fastload.decode.seekable`); metadata other than orientation and colour profile is dropped. Those that
            cannot be copied exactly, or are too small to gain by it, are kept; index.json counts them by reason. It
            takes about 4 ms a file of 110 kB. "keep" stores all bytes as they are.
        prepare: what is done to samples while they are packed: pictures scaled down, sounds brought to one rate and
            format, texts tokenized, one by one or joined into rows (`Prepare`). index.json says what came of it.
        statistics: also sum up the pixels of all pictures, for the mean and standard deviation of each channel
            (`augment.Normalize.from_index`). Each picture is decoded for it: 1.5 ms for one of 500 x 375 pixels, which
            adds about a third to the time of packing. Sizes, lengths and classes are counted always.
        engine: "ray" hands whole shards to the processors of a Ray cluster, and hands them out again when a machine
            is lost. Source and `out` must then be in a folder that all its machines share (a network file system, not
            an object store), and fastload of this version be installed on each. The bytes are those of "local", and
            either goes on with what the other began.
        address: of the Ray cluster; None: the one that is connected to, else RAY_ADDRESS, else one that runs on this
            machine, else a new one for this run.
        scratch: with a URL: a local folder, new or empty, in which shards are made before they go there, and that a run
            goes on by; None: one below `remote.cache_dir`. With Ray all machines must share it.
        remote: with a URL: credentials and the like (`Remote.options`), and how long to try.
        progress: True for a bar on standard error, or a function of (samples done, samples in all, bytes done); first
            of those that were looked at, if cleaning or splits need contents, and tokenized, if documents are joined,
            then of those that were packed.

    Returns: what index.json says.

    Raises:
        ConfigError: an argument out of range, or one that does not fit the source.
        PackError: the source is faulty (which file or row, and why), the folder or URL is another run's, the disk is
            full, or the Ray cluster is not there or does not share the folder.
        SourceError: the object store refuses, or does not answer.
        MissingExtraError: engine="ray", and Ray is not installed.
    """
    source = Path(source) if isinstance(source, str | os.PathLike) else source
    target = target_of(out, scratch, remote, engine)
    out = Path(out) if target is None else target.scratch
    if format not in get_args(ShardFormat):
        raise ConfigError(f"format={format!r}: pass 'tar' or 'parquet'")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigError(f"seed={seed!r}: pass an integer")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ConfigError(f"workers={workers!r}: pass at least 1, or None for one per processor")
    if jpeg not in get_args(JpegMode):
        raise ConfigError(f"jpeg={jpeg!r}: pass 'seekable' or 'keep'")
    prepare = prepare or Prepare()
    if not isinstance(prepare, Prepare):
        raise ConfigError(f"prepare={prepare!r}: pass a fastload.Prepare")
    if not isinstance(statistics, bool):
        raise ConfigError(f"statistics={statistics!r}: pass True or False")
    if engine not in get_args(Engine):
        raise ConfigError(f"engine={engine!r}: pass 'local' or 'ray'")
    if address is not None and engine != "ray":
        raise ConfigError(f"address={address!r} is that of a Ray cluster; pass engine='ray' too")
    if clean is not None and not isinstance(clean, Cleaning):
        raise ConfigError(f"clean={clean!r}: pass a fastload.Cleaning")
    size, splitting = parse_size(shard_size), parse_splitting(split)
    if isinstance(source, Path):
        _refuse_overlap(source, out)
    refuse_foreign(out)
    if target is not None:
        target.refuse_existing()
    lenience = STRICT if clean is None else clean.lenience
    opened = open_source(
        source,
        kind=kind,
        columns=columns,
        label_regex=label_regex,
        label_level=label_level,
        lenience=lenience,
    )
    options: dict[str, Any] = {
        "format": format,
        "shard_size": size,
        **splitting.to_json(),
        "seed": seed,
        "shuffle": shuffle,
        "columns": parse_columns(columns),
        "label_regex": label_regex,
        **({} if label_level is None else {"label_level": label_level}),
        "kind": kind,
        "jpeg": jpeg,
        "prepare": prepare.to_json(),
        "statistics": statistics,
        **({} if clean is None else {"clean": clean.to_json()}),
    }
    place, name = _origin(source)
    vocabulary = prepare.vocabulary()
    made_with: dict[str, Any] = {"jpeg_kernel": _counts_kernel(opened, jpeg), "libraries": prepare.libraries()}
    if vocabulary is not None:
        made_with["tokens"] = vocabulary.to_json()
    with Journal(out, {"source": place, **options, **made_with}) as journal, _held(target, journal):
        keep_splits = not splitting.asked
        table = opened if isinstance(opened, Table) else _read(opened, journal, lenience, keep_splits, progress)
        lookers = workers if engine == "local" and workers else len(os.sched_getaffinity(0))
        rules, apart = clean or Cleaning(), splitting.apart
        looked_at = rules.compare is not None or not in_memory(table)  # else `digests` is enough
        separates = splitting.separates(table)
        if separates and clean is None:
            share_out(table, splitting, seed=seed)  # what is wrong is said before contents are read
        by_content = (splitting.by_content or separates) and looked_at
        decoded = prepare.decodes or statistics
        asked = questions(table, rules, digests=by_content, apart=apart, decoded=decoded)
        cleaned = _clean(table, rules, asked, splitting, journal, out, lookers, progress)
        contents = cleaned.contents
        if splitting.by_content and contents is None:
            contents = digests(table, cleaned.rows, apart)
        if contents is not None and splitting.by_content and not splitting.grouped and rules.compare is None:
            refuse_categories(table, cleaned.rows, contents, apart)
        own_splits = table.splits is not None
        sharing = share_out(table, splitting, seed=seed, rows=cleaned.rows, contents=contents)
        sequences = None if vocabulary is None else prepare.sequences(vocabulary)
        rows = None if sequences is None else _joined(table, sharing, sequences, journal, lookers, progress)
        if rows is not None:
            table, sharing, vocabulary = rows.table, rows.sharing, None
        table, recipes = prepared(table, prepare, vocabulary, jpeg=jpeg, pixels=statistics)
        if prepare.to_json():
            size = source_size(size, table, sharing.rows, recipes, format)
        plan = make_plan(table, sharing, shard_format=format, shard_size=size, seed=seed, shuffle=shuffle)
        origin = opened.origin if isinstance(opened, Stream) else None
        about: dict[str, Any] = {"source": origin or name, "options": options}
        if own_splits:
            about["source_splits"] = "kept" if keep_splits else "joined"
        if jpeg == "seekable" and table.pictures:
            about["jpeg_kernel"] = native.available()
        about |= {name: made_with[name] for name in ("libraries", "tokens") if made_with.get(name)}
        with telling(progress, "packing", len(plan.order)) as tell:
            try:
                encoder = Encoder(plan, out, recipes)
                if engine == "ray":
                    pool: Pool = RayPool(encoder, prepare, owner=journal.owner, workers=workers, address=address)
                else:
                    pool = _local_pool(encoder, plan.tasks, workers, journal)
                in_place = not any(recipe.steps for recipe in recipes.values())
                shards = write_shards(plan, out, journal, pool=pool, in_place=in_place, tell=tell, target=target)
                counted: dict[str, Any] = {}
                if rows is not None:
                    counted["tokens"], about["left_out_fields"] = rows.counts, list(rows.left_out)
                if clean is not None or separates:
                    write_lists(out, cleaned)
                    counted["cleaning"] = cleaned.counts()
                index = make_index(plan, shards, recipes, counted, about)
                index.save(out)
                if target is not None:
                    target.finish()
            except FastloadError:
                raise
            except OSError as error:
                raise _output_error(error, out, len(journal.finished), plan) from error
            finally:
                journal.remove_leftovers()
        journal.remove()
    if target is not None:
        target.clear()
    return index


def _held(target: Target | None, journal: Journal) -> AbstractContextManager[None]:
    return nullcontext() if target is None else target.held(journal)


def _origin(source: Path | Samples) -> tuple[str, str]:
    """What tells sources apart when a run goes on, and what index.json calls this one."""
    if isinstance(source, Path):
        return os.path.abspath(source), source.resolve().name
    kind = type(source)
    return f"{kind.__module__}.{kind.__qualname__}", kind.__qualname__


def _counts_kernel(opened: Table | Stream, jpeg: JpegMode) -> bool | None:
    """Whether the kernel is there, where the result depends on it: with JPEGs, or what may turn out to have some."""
    matters = jpeg == "seekable" and (isinstance(opened, Stream) or bool(opened.pictures))
    return native.available() if matters else None


def _read(
    stream: Stream, journal: Journal, lenience: Lenience, keep_splits: bool, progress: bool | OnProgress
) -> Table:
    """A stream as a table. How long it is comes out at its end, so that only a bar is told of it, no function."""
    with telling(progress is True, "reading", None) as tell:
        return spool(stream, journal.spool, tell, lenience, keep_splits=keep_splits)


def _joined(
    table: Table, sharing: Sharing, sequences: Sequences, journal: Journal, workers: int, progress: bool | OnProgress
) -> Joined:
    """The documents of a table as rows of one length."""
    with telling(progress, "tokenizing", len(sharing.rows)) as tell:
        try:
            return join_documents(
                table,
                sharing,
                sequences,
                path=journal.rows,
                open_pool=lambda tokenizer, pieces: _local_pool(tokenizer, pieces, workers, journal),
                tell=tell,
            )
        except FastloadError:
            raise
        except OSError as error:
            raise PackError(
                f"{journal.rows} cannot be written ({error.strerror or error}): rows of tokens are made there first,"
                " and take their space twice; make space and run the same command again"
            ) from error


def _local_pool(carrier: Carrier, pieces: int, workers: int | None, journal: Journal) -> Pool:
    """Processes, no more than there are pieces of work."""
    workers = min(workers or len(os.sched_getaffinity(0)), pieces)
    return LocalPool(carrier) if workers == 1 else ProcessPool(carrier, workers, (journal.lock_descriptor,))


def _clean(
    table: Table,
    clean: Cleaning,
    asked: Questions | None,
    splitting: Splitting,
    journal: Journal,
    out: Path,
    workers: int,
    progress: bool | OnProgress,
) -> Cleaned:
    """What is left of a table; looks at its contents for what is asked."""
    findings = None
    if asked is not None:
        with telling(progress, "looking", len(table.keys)) as tell:
            try:
                held = (journal.lock_descriptor,)
                findings = survey(table, asked, journal.folder, workers=workers, keep_open=held, tell=tell)
            except FastloadError:
                raise
            except OSError as error:
                raise unwritable(error, out, "what was found out is kept") from error
    return apply_rules(table, clean, findings, asked, splitting=splitting)


def _refuse_overlap(source: Path, out: Path) -> None:
    inner, outer = os.path.realpath(out), os.path.realpath(source)
    if source.is_dir() and (inner + os.sep).startswith(outer + os.sep):
        raise PackError(f"{out} is inside the source {source}, and would become part of it; choose a folder elsewhere")


def _output_error(error: OSError, out: Path, finished: int, plan: Plan) -> PackError:
    kept = f"{finished} of {len(plan.shards)} shards are finished and kept" if finished else "no shard was finished"
    need = sum(shard.bytes for shard in plan.shards)
    return unwritable(error, out, kept, f": all shards take about {need / 1e6:,.1f} MB")
