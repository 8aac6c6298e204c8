"""Which kind of file some bytes are, from the magic at their start."""

from __future__ import annotations

from fastload.decode.base import Raw

_STARTS = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"ID3", "mp3"),
    (b"\x93NUMPY", "npy"),
)


def sniff(raw: Raw) -> str | None:
    """The container that `raw` starts like; None if it is none of those known.

    Returns: "jpeg", "png", "webp", "gif", "bmp", "tiff", "wav", "flac", "ogg", "mp3" or "npy".
    """
    head = bytes(raw[:12])
    for magic, kind in _STARTS:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    return "mp3" if _is_mpeg_frame(head) else None


def _is_mpeg_frame(head: bytes) -> bool:
    """MPEG audio without an ID3 tag: 11 bits of sync, then no reserved layer, bitrate or sample rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    return bool(head[1] & 0x06) and head[2] >> 4 != 0b1111 and head[2] & 0x0C != 0x0C


def beginning(raw: Raw) -> str:
    """How `raw` begins, for error messages: at most 8 bytes."""
    return repr(bytes(raw[:8]))
