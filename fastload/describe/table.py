"""The numbers of packed data as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fastload.inspect import size_text

TOP_CLASSES = 20
BLOCKS = "▁▂▃▄▅▆▇█"
BAR_CELLS = 24


def render(about: Mapping[str, Any]) -> RenderableType:
    """What `describe` found, as tables."""
    version = f", version {about['version']}" if about["version"] > 1 else ""
    parts: list[RenderableType] = [Text(f"{about['data']}  ({about['shard_format']}{version})", style="bold")]
    for split, found in about["splits"].items():
        head = f"{split}: {found['samples']:,} samples in {found['files']:,} files, {size_text(found['bytes'])}"
        parts += [Text(f"\n{head}", style="bold"), _fields(found), *_numbers(found), *_classes(found)]
    return Group(*parts)


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at < left else "right")
    return table


def _fields(found: Mapping[str, Any]) -> Table:
    table = _table("field", "kind", "samples", "lacking", "bytes", "mean", "least", "most", "by size", left=2)
    table.columns[-1].justify = "left"
    for name, about in found["fields"].items():
        lacking, size = found["samples"] - about["present"], about.get("bytes", {})
        cells = [escape(name), about["kind"], f"{about['present']:,}", f"{lacking:,}" if lacking else ""]
        cells.append(size_text(size["sum"]) if size else "")
        cells += [size_text(round(size[what])) if what in size else "" for what in ("mean", "min", "max")]
        table.add_row(*cells, sparkline(trimmed(size.get("histogram", []))))
    return table


def _numbers(found: Mapping[str, Any]) -> Iterator[Table]:
    table = _table("numbers", "least", "5%", "median", "95%", "most", "mean", "std", "spread")
    table.columns[-1].justify = "left"
    for name, about in found["fields"].items():
        for what, numbers in about.get("numbers", {}).items():
            values = [number(numbers[key]) for key in ("min", "p5", "median", "p95", "max", "mean", "std")]
            label = name if what == "value" else f"{name}.{what}"
            table.add_row(escape(label), *values, sparkline(numbers["histogram"]["counts"]))
        for at, colour in enumerate(("red", "green", "blue") if about.get("channels") else ()):
            mean, std = (about["channels"][what][at] for what in ("mean", "std"))
            table.add_row(escape(f"{name}, {colour}"), *[""] * 5, number(mean), number(std), "")
    if table.row_count:
        yield table


def _classes(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    for name, about in found["fields"].items():
        if "classes" in about:
            yield Text(f"{name}: {balance_text(about['balance'])}")
            yield _class_table(about["classes"])


def _class_table(counts: Mapping[str, int]) -> Table:
    total, most = max(1, sum(counts.values())), max(1, *counts.values())
    table = _table("class", "samples", "share", "")
    table.columns[-1].justify = "left"
    for name, count in list(counts.items())[:TOP_CLASSES]:
        bar = "█" * round(BAR_CELLS * count / most)
        table.add_row(escape(name), f"{count:,}", f"{count / total:.1%}", bar)
    rest = list(counts.values())[TOP_CLASSES:]
    if rest:
        table.add_row(f"{len(rest):,} more", f"{sum(rest):,}", f"{sum(rest) / total:.1%}", "")
    return table


def balance_text(balance: Mapping[str, Any]) -> str:
    """The balance of classes in a line."""
    count, least, most = (balance[name] for name in ("classes", "least", "most"))
    if count == 1:
        return f"one class of {most:,} samples"
    each = f"{most:,} sample{'s' * (most != 1)} each"
    sizes = each if least == most else f"{least:,} to {most:,} samples"
    return f"{count:,} classes of {sizes}, evenness {balance['evenness']:.2f}"


def trimmed(counts: Sequence[int]) -> list[int]:
    """A histogram from its first bin that has something."""
    first = next((at for at, count in enumerate(counts) if count), len(counts))
    return list(counts[first:])


def sparkline(counts: Sequence[int]) -> str:
    """A histogram as a row of blocks; a bin without anything is blank."""
    most = max(counts, default=0)
    return "".join(BLOCKS[max(0, -(-count * len(BLOCKS) // most) - 1)] if count else " " for count in counts)


def number(value: float) -> str:
    """A number as short as it stays readable."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"
