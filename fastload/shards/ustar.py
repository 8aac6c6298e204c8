"""Tar headers as arithmetic: built for many members at once from one template, and parsed one at a time.

Layout of the 512 bytes: POSIX.1-1988 "ustar"; names that do not fit and sizes from 8 GiB come in a PAX record before it
(POSIX.1-2001, `pax`, "Extended header").

    name 0:100  mode 100:108  uid 108:116  gid 116:124  size 124:136  mtime 136:148  checksum 148:156  type 156
    link 157:257  magic 257:265  uname 265:297  gname 297:329  device 329:345  prefix 345:500
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 512
END_MARKER = bytes(2 * BLOCK)
SIZE_LIMIT = 8**11  # sizes from here on do not fit into 11 octal digits
NAME_BYTES, PREFIX_BYTES = 100, 155
PAX_NAME = b"././@PaxHeader"  # as Python's tarfile writes it

Blocks = npt.NDArray[np.uint8]  # [n, 512]
Int64s = npt.NDArray[np.int64]


def _template() -> npt.NDArray[np.uint8]:
    header = bytearray(BLOCK)
    header[100:108] = b"0000644\0"
    header[108:116] = header[116:124] = b"0000000\0"
    header[135:136] = b"\0"
    header[136:148] = b"00000000000\0"
    header[148:156] = b"        "  # the checksum counts its own field as spaces
    header[156:157] = b"0"
    header[257:265] = b"ustar\00000"
    header[329:337] = header[337:345] = b"0000000\0"
    return np.frombuffer(bytes(header), np.uint8)


_TEMPLATE = _template()
_TEMPLATE_SUM = int(_TEMPLATE.sum())
_SIZE_SHIFTS = np.arange(30, -1, -3)
_CHECKSUM_SHIFTS = np.arange(15, -1, -3)


def padded(sizes: Int64s) -> Int64s:
    """Sizes rounded up to whole blocks."""
    return -(-sizes // BLOCK) * BLOCK


def fits(name: bytes) -> bool:
    """Whether a name needs neither prefix nor PAX record."""
    return len(name) <= NAME_BYTES and name.isascii()


def headers(names: Sequence[bytes], sizes: Int64s) -> Blocks:
    """One header each for regular files, uint8 [n, 512]. Every name must fit and every size be below `SIZE_LIMIT`."""
    count = len(names)
    blocks = np.empty((count, BLOCK), np.uint8)
    blocks[:] = _TEMPLATE
    blocks[:, :NAME_BYTES] = np.array(names, f"S{NAME_BYTES}").view(np.uint8).reshape(count, NAME_BYTES)
    blocks[:, 124:135] = ((sizes[:, None] >> _SIZE_SHIFTS) & 7) + ord("0")  # [n, 11] octal digits
    changed = blocks[:, :NAME_BYTES].sum(axis=1, dtype=np.int64) + blocks[:, 124:135].sum(axis=1, dtype=np.int64)
    _put_checksums(blocks, changed + _TEMPLATE_SUM)
    return blocks


def long_header(name: bytes, size: int) -> bytes:
    """Header blocks of a member of any name (UTF-8) and size: with a prefix if that does, else after PAX records."""
    if size < SIZE_LIMIT and name.isascii():
        if len(name) <= NAME_BYTES:
            return headers([name], np.array([size])).tobytes()
        split = _split(name)
        if split is not None:
            return _with_prefix(*split, size)
    record = b"" if fits(name) else _pax_record(b"path", name)
    record += b"" if size < SIZE_LIMIT else _pax_record(b"size", str(size).encode())
    short = name.decode("ascii", "replace").replace("\ufffd", "?").encode()[:NAME_BYTES]
    extended = bytearray(headers([PAX_NAME], np.array([len(record)])).tobytes())
    extended[156:157] = b"x"
    block = np.frombuffer(extended, np.uint8).reshape(1, BLOCK)
    block[:, 148:156] = ord(" ")
    _put_checksums(block, block.sum(axis=1, dtype=np.int64))
    last = headers([short], np.array([size if size < SIZE_LIMIT else 0])).tobytes()
    return bytes(extended) + record + bytes(-len(record) % BLOCK) + last


def _put_checksums(blocks: Blocks, sums: Int64s) -> None:
    blocks[:, 148:154] = ((sums[:, None] >> _CHECKSUM_SHIFTS) & 7) + ord(
        "0"
    )  # [n, 6] octal digits, then NUL and a space
    blocks[:, 154] = 0


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name as ustar joins them with a slash; None if no cut makes both fit."""
    start = max(0, len(name) - NAME_BYTES - 1)
    cut = name.find(b"/", start)
    return (name[:cut], name[cut + 1 :]) if 0 < cut <= PREFIX_BYTES and cut + 1 < len(name) else None


def _with_prefix(prefix: bytes, name: bytes, size: int) -> bytes:
    block = headers([name], np.array([size]))
    block[0, 345 : 345 + len(prefix)] = np.frombuffer(prefix, np.uint8)
    block[:, 148:156] = ord(" ")
    _put_checksums(block, block.sum(axis=1, dtype=np.int64))
    return block.tobytes()


def _pax_record(keyword: bytes, value: bytes) -> bytes:
    """ "<length> <keyword>=<value>\\n", where the length counts its own digits."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def pax_records(content: bytes) -> dict[str, bytes]:
    """The records of an extended header. Raises ValueError where they are malformed."""
    records, at = {}, 0
    while at < len(content) and content[at] != 0:
        space = content.index(b" ", at)
        end = at + int(content[at:space])
        keyword, separator, value = content[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(content) or not separator or content[end - 1 : end] != b"\n":
            raise ValueError("a PAX record is malformed")
        records[keyword.decode()] = value
        at = end
    return records


def number(field: bytes) -> int:
    """A numeric header field: octal digits, or GNU's base 256. Raises ValueError for anything else."""
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        return value if field[0] == 0x80 else value - (1 << (8 * (len(field) - 1)))
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def checksum_fits(header: bytes) -> bool:
    """Whether the header's checksum is that of its bytes, added unsigned (POSIX) or signed (some old writers)."""
    try:
        stored = number(header[148:156])
    except ValueError:
        return False
    spaces = 8 * ord(" ")
    total = sum(header) - sum(header[148:156]) + spaces
    if total == stored:
        return True
    signed: np.ndarray[Any, Any] = np.frombuffer(header, np.int8).astype(np.int64)
    return int(signed.sum() - signed[148:156].sum()) + spaces == stored


def member_name(header: bytes) -> bytes:
    """Name with prefix, as stored."""
    name = header[:NAME_BYTES].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name
