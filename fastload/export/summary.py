"""Where the time went, as one line: what the loader logs at the end of an epoch, at level INFO of `fastload.loader`."""

from __future__ import annotations

from fastload.meter import Stats


def rates(stats: Stats) -> dict[str, float]:
    """What there is to look at of some stretch of a run (`later - earlier` of two stats), by name.

    Returns:
        samples_per_second; waiting, the share of the consumer's time that went to waiting for batches and putting them
        together, 0 to 1; and `<stage>_ms` of each stage: busy time a batch, summed over threads.
    """
    batches, wall = max(1, stats.batches), max(stats.consumer_seconds, 1e-9)
    return {
        "samples_per_second": stats.samples / wall,
        "waiting": stats.waiting_seconds / wall,
        **{f"{name}_ms": 1e3 * stage.busy_seconds / batches for name, stage in stats.stages.items()},
    }


def line(stats: Stats) -> str:
    """One line for a person: `1,563 batches, 100,032 samples in 61.2 s: 1,634 samples/s, 12% waiting; ms a batch: read
    0.2, decode 75.1, ...`"""
    found = rates(stats)
    stages = ", ".join(f"{name} {found[f'{name}_ms']:.3g}" for name in stats.stages)
    return (
        f"{stats.batches:,} batches, {stats.samples:,} samples in {stats.consumer_seconds:.1f} s: "
        f"{found['samples_per_second']:,.0f} samples/s, {found['waiting']:.0%} waiting; ms a batch: {stages}"
    )
