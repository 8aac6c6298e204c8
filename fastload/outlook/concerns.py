"""What will hurt a run, and what to do about it. Each concern has a name of its own that stays."""

from __future__ import annotations

from collections.abc import Iterator

from fastload.errors import FastloadError
from fastload.inspect import many, size_text
from fastload.outlook.findings import Concern, Outlook, Severity
from fastload.remote.pace import kept_share

PADDING_SHARE = 0.05  # of the rows of an epoch: what a mean over rows, taken without `valid`, is off by at most
DOMINANT_TIMES = 5.0  # the mean shard: it then alone makes up the batches of most of its window
DOMINANT_SHARE = 2 / 3  # of all samples
FEW_SHARDS = 16.0  # in a batch: with fewer, samples that were stored side by side meet in most batches
MIXES_MORE = 1.25  # times as many shards by a wider window: less is not worth its memory
UNEVEN_LANES = 1.2  # the largest lane in shards over the smallest
MEMORY_SHARE = 0.5  # of the machine's, for one rank's loader: the model and the page cache want the rest
FIRST_SECONDS = 10.0  # for a first batch of a server: as long as one waits without wondering


def concerns(outlook: Outlook, *, threads_help: bool) -> list[Concern]:
    """All that apply.

    Args:
        threads_help: threads make reading or decoding faster.
    """
    if not outlook.data.samples:
        return [_concern("no-samples", "the data has no samples", "pack some, or name another split", "error")]
    found = [*_epoch(outlook), *_shards(outlook), *_window(outlook), *_lanes(outlook)]
    found += [*_workers(outlook, threads_help), *_cache(outlook), *_disk(outlook), *_first_batch(outlook)]
    return [*found, *_memory(outlook)]


def refused(error: FastloadError) -> Concern:
    """The loader would not start."""
    return _concern("refused", f"the loader refuses this: {error}", "change the arguments that it names", "error")


def unreadable(error: FastloadError) -> Concern:
    """The first batch could not be read."""
    remedy = "run `fastload verify --decode` on the data"
    return _concern("unreadable", f"the first batch cannot be read: {error}", remedy, "error")


def _concern(name: str, what: str, remedy: str, severity: Severity = "warning") -> Concern:
    return Concern(name=name, severity=severity, what=what, remedy=remedy)


def _epoch(outlook: Outlook) -> Iterator[Concern]:
    epoch, samples, ranks = outlook.epoch, outlook.data.samples, outlook.plan.world_size
    if samples < epoch.global_batch:
        what = f"{samples:,} samples are fewer than a global batch of {epoch.global_batch:,}"
        remedy = f"a batch_size of at most {samples // ranks:,}" + (", or fewer ranks" if ranks > 1 else "")
        if samples < ranks:
            what += f", and {ranks - samples:,} of {ranks:,} ranks get none"
            remedy = f"at most {many(samples, 'rank')}"
        yield _concern("small-epoch", what, remedy)
        return
    rows = epoch.batches * epoch.global_batch
    if epoch.padded and epoch.padded > PADDING_SHARE * rows:
        yield _concern(
            "padding",
            f"{epoch.padded:,} of the {rows:,} rows of an epoch are padding ({epoch.padded / rows:.0%}), all in the "
            "last batch",
            "weight by batch.valid, or pass last_batch='drop' or 'wrap'",
        )
    if epoch.dropped and epoch.dropped > PADDING_SHARE * samples:
        yield _concern(
            "dropping",
            f"{epoch.dropped:,} of {samples:,} samples are left out of each epoch ({epoch.dropped / samples:.0%})",
            "last_batch='pad' or 'wrap', or a smaller batch_size",
        )


def _shards(outlook: Outlook) -> Iterator[Concern]:
    data = outlook.data
    times = data.largest_share * data.shards
    if data.shards > 1 and (times > DOMINANT_TIMES or data.largest_share >= DOMINANT_SHARE):
        yield _concern(
            "dominant-shard",
            f"{data.largest} holds {data.largest_share:.0%} of all samples, {times:.1f} times the mean of "
            f"{data.shards:,} shards; batches drawn while it is in the window are mostly from it",
            "pack again with shards of equal size",
        )


def _window(outlook: Outlook) -> Iterator[Concern]:
    mixing = outlook.window.mixing
    if mixing is None or mixing.window_allows is None:
        return
    allowed = mixing.window_allows
    if allowed < FEW_SHARDS and mixing.most > MIXES_MORE * allowed:
        yield _concern(
            "small-window",
            f"a global batch draws from {allowed:.1f} shards, where all shards together would give {mixing.most:.1f}: "
            f"window={outlook.plan.window} keeps neighbours together",
            "a larger window, smaller shards, or window='all'",
        )


def _lanes(outlook: Outlook) -> Iterator[Concern]:
    plan, (fewest, most) = outlook.plan, outlook.window.lane_shards
    if plan.lanes == 1:
        return
    if plan.world_size % plan.lanes:
        yield _concern(
            "lanes-and-ranks",
            f"lanes={plan.lanes} does not divide world_size={plan.world_size}: ranks read from several lanes, and "
            "no node has shards of its own",
            "lanes that divide the world size: the number of nodes",
        )
    if outlook.data.shards < plan.lanes:
        what = f"{many(outlook.data.shards, 'shard')} for lanes={plan.lanes}: several lanes read the same shard"
        yield _concern("few-shards", what, "fewer lanes, or smaller shards")
    elif most > UNEVEN_LANES * fewest:
        yield _concern(
            "uneven-lanes",
            f"of lanes={plan.lanes}, one has {fewest} shards and another {most}, for shards differ in size: they mix "
            "differently, and their nodes fetch different amounts",
            "pack again with shards of equal size, or fewer lanes",
        )


def _workers(outlook: Outlook, threads_help: bool) -> Iterator[Concern]:
    plan = outlook.plan
    if plan.num_workers > plan.cores:
        yield _concern(
            "workers-above-cores",
            f"num_workers={plan.num_workers} threads on {plan.cores} cores; decoding gains nothing beyond them",
            f"num_workers of at most {plan.cores} over the ranks of a node; more only where reads wait for a network",
        )
    if plan.num_workers and not threads_help:
        yield _concern(
            "idle-workers",
            f"num_workers={plan.num_workers}: nothing in these fields gains from threads, and none will be started",
            "num_workers=0 says the same",
        )


def _cache(outlook: Outlook) -> Iterator[Concern]:
    plan, cache, window, data = outlook.plan, outlook.plan.cache_bytes, outlook.window, outlook.data
    if cache is None:
        return
    least = size_text(max(window.room, 2 * window.bytes))  # this window and the next
    if cache < window.room:
        yield _concern(
            "cache-below-window",
            f"the loader refuses a cache of {size_text(cache)}{'' if data.remote else ' for shards behind URLs'}: the "
            f"largest that window={plan.window} mixes at a time, and the next, take {size_text(window.room)}",
            f"a cache of at least {least}, or a smaller window",
            "error" if data.remote else "warning",
        )
    elif cache < window.bytes:
        one = window.shards == 1
        what = "the shard that is read" if one else f"the {window.shards:,} shards that are mixed"
        yield _concern(
            "cache-below-window",
            f"a cache of {size_text(cache)} is smaller than {what} at a time, "
            f"{size_text(window.bytes)}: shards are fetched again and again inside an epoch",
            f"a cache of at least {least}, or a smaller window",
        )
    elif cache < _needed(outlook):
        yield _concern(
            "cache-below-data",
            f"a cache of {size_text(cache)} is smaller than {_again(outlook, cache)}",
            f"a larger cache{_or_lanes(outlook)}",
        )


def _parts(outlook: Outlook) -> int:
    """Of the data, of which a node reads one in each epoch."""
    plan = outlook.plan
    return 1 if plan.world_size % plan.lanes else plan.lanes


def _needed(outlook: Outlook) -> int:
    """Bytes to keep for no epoch to fetch any again: where shards are shuffled, lanes have others in each epoch."""
    data = outlook.data.bytes
    return data if outlook.plan.window else data // _parts(outlook)


def _again(outlook: Outlook, room: int) -> str:
    """What a cache of so many bytes is too small for, and what follows."""
    plan, parts = outlook.plan, _parts(outlook)
    share = 1 - kept_share(room, outlook.data.bytes, shuffled=plan.window > 0, parts=parts)
    size = size_text(_needed(outlook))
    what, whose = f"a node's part of the data, {size}", "of it"
    if plan.window and parts > 1:
        what, whose = f"the data, {size}, of which a node has other shards in every epoch", "of a node's part"
    return f"{what}: every epoch fetches what it lacks again, {share:.0%} {whose}"


def _or_lanes(outlook: Outlook) -> str:
    """A further remedy, where it is not at work."""
    several = outlook.plan.world_size > 1 and _parts(outlook) == 1
    return ", or one lane a node, which then fetches no more than its part" if several else ""


def _disk(outlook: Outlook) -> Iterator[Concern]:
    room = outlook.plan.disk_bytes
    if room is not None and room < _needed(outlook):
        yield _concern(
            "disk-below-data",
            f"the disk of the cache has room for {size_text(room)}, less than {_again(outlook, room)}",
            f"cache_dir on a larger disk{_or_lanes(outlook)}",
        )


def _first_batch(outlook: Outlook) -> Iterator[Concern]:
    first, plan = outlook.first_batch, outlook.plan
    if first is None or not first.objects or first.seconds < FIRST_SECONDS:
        return
    less = "smaller shards" + (" or a smaller window" if plan.window > 1 else "")
    yield _concern(
        "slow-first-batch",
        f"the first batch comes after {first.seconds:.0f} s: {many(first.objects, 'object')} of a server, "
        f"{size_text(first.fetched_bytes)}, are fetched for it",
        f"{less}; if the server is slow to answer (`fastload profile` tells), remote=fastload.Remote(downloads=16)",
    )


def _memory(outlook: Outlook) -> Iterator[Concern]:
    plan, memory = outlook.plan, outlook.memory
    if memory is None or memory.bytes <= MEMORY_SHARE * plan.machine_bytes:
        return
    yield _concern(
        "memory",
        f"the loader of one rank holds about {size_text(memory.bytes)}, of {size_text(plan.machine_bytes)} that this "
        "machine has",
        "a smaller batch_size, prefetch_factor or window",
    )
