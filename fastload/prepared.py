"""What was done to samples while they were packed, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MEAN = "mean_"  # how numbers that follow from others begin


def prepared_texts(statistics: Mapping[str, Any]) -> list[str]:
    """What was done to samples, over all splits, a phrase for each step, from `IndexFile.statistics`."""
    found = []
    for step, say in _SAID.items():
        splits = list(statistics.get(step, {}).values())
        if splits:
            names = dict.fromkeys(name for split in splits for name in split if name != "kept")
            found.append(say({name: sum(split.get(name, 0) for split in splits) for name in names}, splits))
    return found


def with_means(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of one step, with the means that follow from its sums: they cannot be added up, the sums can."""
    found = {name: value for name, value in counts.items() if not name.startswith(MEAN)}
    pictures = found.get("psnr_pictures")
    return found | ({f"{MEAN}psnr_db": round(found["psnr_millidecibels"] / pictures / 1000, 3)} if pictures else {})


def _resized(total: Mapping[str, Any], splits: Sequence[Mapping[str, Any]]) -> str:
    text = f"{total['resized']:,} pictures resized{_bytes(total)}"
    if total.get("psnr_pictures"):
        text += f", mean PSNR {with_means(total)['mean_psnr_db']:.1f} dB"
    return text + _kept(splits)


def _converted(total: Mapping[str, Any], splits: Sequence[Mapping[str, Any]]) -> str:
    cut = f", {total['cut_values']:,} values beyond [-1, 1] cut" if total.get("cut_values") else ""
    return f"{total['converted']:,} sounds converted{_bytes(total)}{cut}{_kept(splits)}"


def _tokenized(total: Mapping[str, Any], splits: Sequence[Mapping[str, Any]]) -> str:
    if "tokenized" in total:
        return f"{total['tokenized']:,} texts tokenized, {total['tokens']:,} tokens"
    text = f"{total['documents']:,} documents of {total['tokens']:,} tokens joined into {total['rows']:,} rows"
    dropped, padding = total["dropped_tokens"], total["padding_tokens"]
    text += f", {dropped:,} tokens dropped" if dropped else ""
    return text + (f", {padding:,} tokens of padding" if padding else "")


def _bytes(total: Mapping[str, Any]) -> str:
    if "bytes_before" not in total:
        return ""
    unit, name = (1e6, "MB") if total["bytes_before"] >= 1e7 else (1e3, "kB")
    return f", {total['bytes_before'] / unit:,.1f} to {total['bytes_after'] / unit:,.1f} {name}"


def _kept(splits: Sequence[Mapping[str, Any]]) -> str:
    kept = sum(count for split in splits for count in split["kept"].values())
    return f", {kept:,} kept as they are" if kept else ""


_SAID = {"resize": _resized, "audio": _converted, "tokens": _tokenized}
STEPS = tuple(_SAID)  # their names in the statistics of an index
