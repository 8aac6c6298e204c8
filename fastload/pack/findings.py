"""What was found out about the contents of some samples, as arrays; and as bytes, so that a run can go on with them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of n samples.

    Attributes:
        faults: number of the sample -> why it cannot be read; its other values are zeros.
        values: name -> [n, ...]. "digest": XXH3-128 of the compared contents, uint8 [n, 16]; "<field>.<fact>": int64
            [n], as the index has them, and "<field>.characters"; "<field>.phash": uint64 [n], "<field>.thumbnail":
            uint8 [n, 48] (`likeness.picture_likeness`); "signature": uint32 [n, 128] (`likeness.text_signature`).
        passing: one of the faults is that of a read (a right that is lacking, a server that is away), and no word on
            the content: another time it may be none.
    """

    faults: Mapping[int, str]
    values: Mapping[str, Array]
    passing: bool = False

    def to_bytes(self, about: str) -> bytes:
        """As a NumPy archive; `about` says what of, and is checked when it is read again."""
        file = io.BytesIO()
        texts = {"about": about, "faults": json.dumps(self.faults)}
        np.savez(file, **{f"v:{name}": value for name, value in self.values.items()}, **texts)  # type: ignore[arg-type]
        return file.getvalue()

    @staticmethod
    def from_bytes(data: bytes, about: str) -> Findings | None:
        """None for bytes of something else, or damaged ones."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                if str(archive["about"]) != about:
                    return None
                faults = {int(row): why for row, why in json.loads(str(archive["faults"])).items()}
                return Findings(
                    faults=faults, values={name[2:]: archive[name] for name in archive.files if name[:2] == "v:"}
                )
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            return None

    @staticmethod
    def joined(parts: Iterable[Findings]) -> Findings:
        """Findings of samples one after the other; all of the same names."""
        listed, faults, start = list(parts), {}, 0
        for part in listed:
            faults.update({start + row: why for row, why in part.faults.items()})
            start += len(part.values["digest"])
        names = listed[0].values
        return Findings(
            faults=faults,
            values={name: np.concatenate([part.values[name] for part in listed]) for name in names},
            passing=any(part.passing for part in listed),
        )
