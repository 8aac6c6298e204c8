"""What outliers are judged by: facts of contents, and what is made of two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pack_sources import jpeg, png, wav
from test_rules import clean, said

from fastload.errors import ConfigError
from fastload.pack.table import Inline, Table
from fastload.shards.index import FieldInfo, Kind


def table_of(kinds: dict[str, Kind], **columns: Sequence[bytes]) -> Table:
    """Samples s0, s1, ... of files."""
    return Table(
        keys=[f"s{i}" for i in range(len(next(iter(columns.values()))))],
        columns={name: Inline(contents=contents) for name, contents in columns.items()},
        fields={name: FieldInfo(kind=kind) for name, kind in kinds.items()},
    )


def test_the_aspect_of_pictures_is_their_width_by_their_height() -> None:
    pictures = [png(0, 8, 4), jpeg(1, 32, 32), png(2, 4, 8), png(3, 90, 30)]
    table = table_of({"image": "image"}, image=pictures)
    assert said(clean(table, ranges="aspect=0.6..2")) == [
        ("s2", "range", "image.aspect=0.5 is not in 0.6..2"),
        ("s3", "range", "image.aspect=3 is not in 0.6..2"),
    ]
    masks = table_of({"image": "image", "mask": "image"}, image=pictures, mask=[png(i, 4, 4) for i in range(4)])
    assert [note[0] for note in said(clean(masks, ranges="mask.aspect=1..1"))] == []
    assert [note[0] for note in said(clean(masks, ranges="image.aspect=1..1"))] == ["s0", "s2", "s3"]


def test_the_seconds_of_sounds_are_their_frames_by_their_rate() -> None:
    sounds = [wav(4000), wav(4000, 16000), *[wav(8000 + i) for i in range(12)], wav(80_000)]
    table = table_of({"audio": "audio"}, audio=sounds)
    assert said(clean(table, ranges="seconds=0.5..2")) == [
        ("s1", "range", "audio.seconds=0.25 is not in 0.5..2"),
        ("s14", "range", "audio.seconds=10 is not in 0.5..2"),
    ]
    ((key, reason, detail),) = said(clean(table, zscores="seconds=3"))
    assert (key, reason) == ("s14", "zscore")
    assert detail.startswith("audio.seconds=10 is +3.7 standard deviations from 1.5")


@pytest.mark.parametrize(
    "options",
    [{"ranges": "seconds=1.."}, {"zscores": "text.aspect=3"}, {"ranges": "sound.seconds=1.."}],
)
def test_measures_that_no_content_has_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be measured"):
        clean(table_of({"text": "text"}, text=[b"a", b"b"]), **options)
