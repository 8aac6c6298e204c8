"""How reports put numbers."""

from __future__ import annotations

from dataclasses import replace

from fastload.inspect import size_text
from fastload.profile.advice import Advice
from fastload.profile.findings import Findings
from fastload.profile.model import Model
from fastload.profile.verdict import Verdict

QUEUED_WORTH_SAYING = 0.2  # of the time that threads could have run; below, figures are of the program alone
FIRST_WORTH_SAYING = 1.0  # seconds that the first batch waits for a server
_MOVED = 1.5  # times the ceiling: what is measured above it moves bytes all the same, from nearer caches; beyond, none


def rate(value: float) -> str:
    """Samples/s: 12345.6 -> "12,346"; small ones with their decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ms(value: float) -> str:
    """Milliseconds: three digits; what rounds to nothing has no sign."""
    value = 0.0 if abs(value) < 0.005 else value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def speed(value: float | None) -> str:
    """Bytes/s."""
    return f"{size_text(value)}/s" if value else ""


def gain(value: float) -> str:
    """A factor of throughput: 1.8 -> "x 1.8"; 1 is no gain."""
    return "same speed" if value == 1.0 else f"× {value:.3g}"


def predicted(verdict: Verdict, advice: Advice) -> tuple[str, str]:
    """The gain of an advice and its samples/s; empty where the figures are no predictions."""
    if verdict.doubt:
        return "", ""
    most = "at most " if advice.bound else ""
    return most + gain(advice.gain), most + rate(advice.samples_per_second)


def untried(advice: Advice) -> str:
    """Why an advice was not tried: a profile is of one device, and of the data as it is."""
    return "not tried: " + (f"another {', '.join(advice.setting)}" if advice.setting else "no argument of the loader")


def calm(found: Findings) -> list[str]:
    """What says whether figures can be believed, and threads have room."""
    said = []
    if found.verdict.again is not None and "ran again" not in found.verdict.doubt:
        said.append(f"when the loader ran again, a batch took × {found.verdict.again:.2f} as long")
    if found.stats.thread_seconds:
        idle = max(0.0, found.stats.idle_seconds / found.stats.thread_seconds)  # less: they worked between loops
        said.append(f"threads were idle {idle:.0%} of the time")
    return said


def on_gpu(found: Findings) -> list[str]:
    """What the GPU's own clock says; nothing without one."""
    said = []
    if found.between_share is not None:
        said.append(
            f"On the GPU, {found.between_share:.0%} of the time lies between steps: copies waited for, augmentation, "
            "or nothing to do"
        )
    for each in found.capacities:
        if each.queue_ms is not None and each.device_ms is not None:
            slow = ": it waits for the host" if each.waits_for_host else ""
            said.append(
                f"{each.stage}: {ms(each.device_ms)} ms a batch on the GPU, {ms(each.queue_ms)} ms to queue{slow}"
            )
    hidden = hidden_share(found)
    if hidden is not None:
        said.append(f"at least {hidden:.0%} of copying goes on while the GPU works on the batch before")
    return said


def hidden_share(found: Findings) -> float | None:
    """How much of copying to the GPU other work of the GPU hides, 0 to 1: what lies between two steps is the batch's
    augmentation, waiting for its copy, and waiting for anything else, so that it is at least what is left of the copy
    beyond that. None without a GPU."""
    on_device = {each.stage: each.device_ms for each in found.capacities if each.device_ms is not None}
    copying = on_device.get("copy", 0.0)
    if found.between_share is None or not copying:
        return None
    between = found.between_share * found.model.batch_ms
    waited = max(0.0, between - on_device.get("augment", 0.0))
    return max(0.0, 1 - waited / copying)


def of_server(found: Findings) -> list[str]:
    """What a server gives, and what later epochs and the first batch have of it; nothing where nothing is fetched."""
    network, model = found.network, found.model
    if network is None:
        return []
    pace, number = network.pace, network.at_a_time()
    speed = pace.bytes_per_second(number)
    enough = 1e3 * model.rows / max(network.fetch_ms(model.rows), 1e-9)
    first = (
        f"The server takes {ms(1e3 * pace.latency_seconds)} ms for a request, and gives "
        f"{size_text(round(pace.connection_bytes_per_second))}/s over a connection; {number} objects at a time are "
        f"{size_text(round(speed))}/s, which is {rate(enough)} samples/s ({network.missing:.0%} of the bytes were not "
        "in the cache)"
    )
    local = rate(replace(model, fetch_ms=0.0).measured_rate)
    said = [first]
    if network.window is None:  # an epoch of a mixture goes on where the last one left its sources
        said.append(f"Once they are in the cache it is {local} samples/s")
    elif network.missing_later == 0:
        said.append(f"From the second epoch on the cache has them all: {local} samples/s")
    else:
        said.append(
            f"Once they are in the cache it is {local} samples/s; in {size_text(round(network.room_bytes))} it has "
            f"{1 - network.missing_later:.0%} of them from the epoch before"
        )
    if network.first_seconds >= FIRST_WORTH_SAYING:
        fewer = f", which a window smaller than {network.window} makes fewer" if (network.window or 0) > 1 else ""
        said.append(
            f"The first batch waited {network.first_seconds:.1f} s for {network.first_objects:,} objects{fewer}"
        )
    return said


def measured(found: Findings) -> str:
    """What the rate of a verdict is."""
    return "samples/s as the server gives them" if found.model.fetch_limits else "samples/s measured"


def of_ceiling(found: Findings) -> dict[str, tuple[float, str]]:
    """Stages whose bytes are counted: what share of the most that one thread does a thread of theirs reaches alone, and
    what that is.

    A stage that decompresses or checks as it reads cannot reach it; one far below has something else to do than to move
    bytes. One far above it moves none, as where rows are handed on where they lie in memory: it has no share. What is a
    little above has one of more than 1.
    """
    bus, memory = found.ceilings.bus, found.ceilings.memory_copy
    most = {
        "read": (found.ceilings.file_read, "reading a file from the page cache does"),
        "copy": (bus, "copying pinned memory to the GPU does") if bus else (memory, "copying memory does"),
    }
    shares = {}
    for each in found.capacities:
        best, what = most.get(each.stage, (None, ""))
        share = each.bytes_per_second / each.threads[-1] / best if best else 0.0
        if 0 < share <= _MOVED:
            shares[each.stage] = share, what
    return shares


def adds(found: Findings, what: str) -> str:
    """What a rung adds; the step's rung adds nothing where there is no step."""
    return "no step" if what == "your step" and not found.stepped else what


def about(found: Findings) -> str:
    """Data set, machine and time in a line."""
    what, data = found.about, found.about["data"]
    name = data if isinstance(data, str) else ", ".join(f"{name}: {place}" for name, place in data.items())
    fields = "".join(f", {name}={kind}" for name, kind in what["fields"].items())
    stored = (
        f" in {what['shards']:,} shard{'s' * (what['shards'] != 1)} of {size_text(what['bytes'])}"
        if what.get("shards")
        else ""
    )
    return (
        f"{name}, {what['samples']:,} samples{stored}{fields}; {what['cpu']}, Python {what['python']}, {what['time']}"
    )


def queued(model: Model) -> str:
    """What a machine that others use does to a profile."""
    return (
        f"Threads that were ready to run waited for a processor {model.queued_share:.0%} of that time: other programs, "
        "or more threads than processors. Figures and predictions are of the machine as it was; gains that such waits "
        "may eat are told as bounds."
    )
