"""What ranges and standard deviations are taken of: numbers of the source, sizes, and facts of contents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.pack.findings import Findings
from fastload.pack.table import Int64s, Table, Values

Numbers = npt.NDArray[np.generic]


def measure(table: Table, findings: Findings | None, name: str, rows: Int64s) -> dict[str, Numbers]:
    """The values of a measure at some rows, [m], by what to call them: one for each field that has it.

    Args:
        table: the samples.
        findings: of all of its contents; None where none were read.
        name: a field of numbers; or "bytes" of all contents of a sample, "width", "height", "aspect", "seconds",
            "characters", ... of each content that has it; or of one field, as "image.width".
        rows: int64 [m].

    Raises: ConfigError for a name that is none of these.
    """
    column = table.columns.get(name)
    if isinstance(column, Values) and table.fields[name].classes is None:
        return {name: column.values[rows]}
    field, _, what = name.rpartition(".")
    contents = [one for one, column in table.columns.items() if not isinstance(column, Values)]
    if what == "bytes" and not field and contents:
        return {name: np.sum([table.columns[one].sizes[rows].clip(0) for one in contents], axis=0)}
    found = {}
    for one in [field] if field in contents else [] if field else contents:
        values = _of_content(table, findings, one, what, rows)
        if values is not None:
            found[f"{one}.{what}"] = values
    if not found:
        numbers = [one for one, column in table.columns.items() if isinstance(column, Values)]
        raise ConfigError(
            f"{name!r} cannot be measured: the source has the numbers {', '.join(map(repr, numbers)) or '(none)'}; of"
            f" contents ({', '.join(map(repr, contents)) or 'none'}) there are bytes, of pictures width, height and"
            " aspect, of sounds seconds, of texts characters"
        )
    return found


def _of_content(table: Table, findings: Findings | None, field: str, what: str, rows: Int64s) -> Numbers | None:
    if what == "bytes":
        return table.columns[field].sizes[rows]
    values = {} if findings is None else findings.values

    def fact(name: str) -> Numbers | None:
        found = values.get(f"{field}.{name}")
        return None if found is None or name in ("phash", "thumbnail") else found[rows]

    pair = {"aspect": ("width", "height"), "seconds": ("frames", "sample_rate")}.get(what)
    if pair is None:
        return fact(what)
    upper, lower = fact(pair[0]), fact(pair[1])
    return None if upper is None or lower is None else upper / lower  # type: ignore[operator]
