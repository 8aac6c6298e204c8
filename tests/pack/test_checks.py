"""What the look at a content takes, its decoder reads; what the one refuses, the other would refuse too."""

from __future__ import annotations

import pytest

from fastload.decode import decoder_for
from fastload.errors import DecodeError
from fastload.fields import Json
from fastload.pack.checks import inspector

DOCUMENT = '{"a": "ü"}'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json_is_utf8_with_or_without_a_byte_order_mark(encoding: str) -> None:
    raw = memoryview(DOCUMENT.encode(encoding))
    assert inspector("json")(raw) == ()
    assert decoder_for(Json()).decode(raw, 0) == {"a": "ü"}


@pytest.mark.parametrize(
    "content",
    [
        DOCUMENT.encode("utf-16"),
        DOCUMENT.encode("utf-16-le"),
        DOCUMENT.encode("utf-32"),
        '"\ud800"'.encode("utf-8", "surrogatepass"),
        b"[" * 100_000,
        b"{",
    ],
    ids=["utf-16", "utf-16-le", "utf-32", "surrogate", "deep", "cut"],
)
def test_json_that_its_decoder_refuses_is_refused(content: bytes) -> None:
    raw = memoryview(content)
    with pytest.raises(DecodeError) as read:
        decoder_for(Json()).decode(raw, 0)
    with pytest.raises(DecodeError) as looked:
        inspector("json")(raw)
    assert looked.value.message == read.value.message
