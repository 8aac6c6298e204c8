"""MP3: how long a file is, by its first frame or by all of them.

libsndfile goes by the number of frames that the first one gives (Xing, Info). Without it, it takes the bytes, tags and
pictures of covers among them, for frames of the first one's size: more samples than there are, and reading fails at the
end, or less, and the end is lost. So frames are counted by their headers, which is far quicker than decoding them.
Layout: ISO 11172-3, 2.4.1.3; ISO 13818-3, 2.4.2.3 (lower sample rates); id3.org, ID3v2.4.0, 3.1.
"""

from __future__ import annotations

import struct

import numpy as np

from fastload.decode.base import Raw

_INFO_WITHIN = 4 + 2 + 32 + 4 + 12  # header, checksum, side information, the name itself, three numbers
_HAS_FRAMES, _HAS_BYTES = 1, 2

# Of the 32 bits of a frame's header:
_LAYER_3, _LAYER_MASK = 0xFFE20000, 0xFFE60000  # 11 of sync, and the layer
_SHARED = 0xFFFE0C00  # sync, version, layer and sample rate: all frames of a file have the same
_MPEG1, _RESERVED = 3, 1  # versions
_HERTZ = (44_100, 48_000, 32_000)  # of MPEG-1; MPEG-2 has half of them, MPEG-2.5 a quarter
_KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_TAGS_BEHIND = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")
_MOST_PADDING = 12  # times the bytes of a file: more is not from an encoder


def mp3_end(raw: Raw) -> int:
    """Where the first frame says that the file ends: past any end where it gives frames alone, 0 where it is silent."""
    start = _first_frame(raw)
    found = _info(raw, start)
    if found is not None:
        flags, _, size_bytes = found
        return start + size_bytes if flags & _HAS_BYTES else len(raw) + (flags & _HAS_FRAMES)
    head = bytes(raw[start : start + _INFO_WITHIN])
    if (at := head.find(b"VBRI")) > 0:
        return start + int.from_bytes(raw[start + at + 10 : start + at + 14], "big")
    return 0


def has_frame_count(raw: Raw) -> bool:
    """Whether the first frame gives the number of frames as libsndfile reads it."""
    found = _info(raw, _first_frame(raw))
    return found is not None and bool(found[0] & _HAS_FRAMES) and found[1] > 0


def counted(raw: Raw) -> tuple[bytes, int] | None:
    """The whole frames of a file that does not give their number, without tags, and their samples per channel. Zeros
    are behind them where libsndfile would else take them for fewer.

    None for a file that gives the number, and where it cannot be counted: of other layers or free bitrates, with
    something else than a tag between frames or behind them, or if the first is many times as long as the others.
    """
    start = _first_frame(raw)
    head = int.from_bytes(bytes(raw[start : start + 4]), "big")
    version, rate = head >> 19 & 3, head >> 10 & 3
    if head & _LAYER_MASK != _LAYER_3 or version == _RESERVED or rate == len(_HERTZ) or has_frame_count(raw):
        return None
    sizes = _frame_sizes(version, rate)

    def size_at(position: int) -> int:
        """Bytes of the frame that begins here, 0 if none does."""
        found = int.from_bytes(bytes(raw[position : position + 4]), "big")
        return sizes[found >> 8 & 0xFF] if found & _SHARED == head & _SHARED else 0

    if _info(raw, start) is not None:
        start += size_at(start)  # it has no sound, and decoders skip it
    end, frames = _frames(raw, start, head, sizes)
    rest = bytes(raw[end:])  # if a frame begins in it, the file was cut off inside of that
    if not frames or not (size_at(end) or rest.startswith(_TAGS_BEHIND) or not rest.strip(b"\0")):
        return None
    taken_bytes = (frames + 1) * (size_at(start) + 1)  # sizes are rounded down
    if taken_bytes > _MOST_PADDING * len(raw):
        return None
    zeros = bytes(max(0, taken_bytes - (end - start)))
    return b"".join((raw[start:end], zeros)), frames * (1152 if version == _MPEG1 else 576)


def _frames(raw: Raw, start: int, head: int, sizes: list[int]) -> tuple[int, int]:
    """Where the whole frames end that follow one another from `start` on, and how many they are.

    An hour has 138,000, and the interpreter would be busy with them for 0.15 s. So all places that look like a header
    are found at once, and only those in the middle of a frame, which are few, are taken one by one.
    """
    content = np.frombuffer(raw, np.uint8)
    at = np.flatnonzero(content[:-3] == 0xFF)
    for byte, shift in ((1, 16), (2, 8)):  # the fourth is of no interest
        mask = _SHARED >> shift & 0xFF
        at = at[content[at + byte] & mask == head >> shift & mask]
    ends = at + np.array(sizes)[content[at + 2]]
    whole = (ends > at) & (ends <= len(content))
    at, ends = at[whole], ends[whole]
    # rows of frames, each of which ends where the next begins
    last_of_row = np.flatnonzero(np.append(ends[:-1] != at[1:], True))
    end, frames = start, 0
    while (first := int(np.searchsorted(at, end))) < len(at) and at[first] == end:
        last = int(last_of_row[np.searchsorted(last_of_row, first)])
        end, frames = int(ends[last]), frames + last + 1 - first
    return end, frames


def _frame_sizes(version: int, rate: int) -> list[int]:
    """By the third byte of its header: bytes of a frame of layer III; 0 for a bitrate that has none."""
    hertz, kbits = (_HERTZ[rate], _KBITS_1) if version == _MPEG1 else (_HERTZ[rate] >> (2 - version // 2), _KBITS_2)
    scale = 144_000 if version == _MPEG1 else 72_000  # samples of a frame, over 8 bits a byte, times 1000
    return [scale * kbits[n >> 4] // hertz + (n >> 1 & 1) if kbits[n >> 4] else 0 for n in range(256)]


def _first_frame(raw: Raw) -> int:
    """Where the tags in front end."""
    start = 0
    while bytes(raw[start : start + 3]) == b"ID3" and len(raw) >= start + 10:
        size_bytes = 0
        for byte in raw[start + 6 : start + 10]:
            size_bytes = size_bytes << 7 | byte & 0x7F
        start += 10 + size_bytes + (10 if raw[start + 5] & 0x10 else 0)
    return start


def _info(raw: Raw, start: int) -> tuple[int, int, int] | None:
    """Flags, frames and bytes that the first frame gives, 0 where it leaves them out; None if it is one of sound."""
    head = bytes(raw[start : start + _INFO_WITHIN])
    for name in (b"Xing", b"Info"):
        if (at := head.find(name)) > 0:
            flags, first, second = struct.unpack(">3I", head[at + 4 : at + 16].ljust(12, b"\0"))
            frames = first if flags & _HAS_FRAMES else 0
            size_bytes = (second if flags & _HAS_FRAMES else first) if flags & _HAS_BYTES else 0
            return int(flags), int(frames), int(size_bytes)
    return None
