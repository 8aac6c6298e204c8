"""Fields as a line of text."""

from __future__ import annotations

import pytest
from samples import FIELDS

from fastload.errors import ConfigError
from fastload.fields import Audio, Bytes, Image, Scalar, Tensor, Text, Tokens
from fastload.profile.spec import parse_fields
from fastload.shards.index import Index

INDEX = Index(shard_format="tar", fields=FIELDS, files=(), paths=())


def test_fields_are_of_the_kind_that_the_data_has() -> None:
    assert parse_fields("image:224:random, label", INDEX) == {"image": Image(224, crop="random"), "label": Scalar()}
    assert parse_fields("image:192x256,tokens:1024", INDEX) == {"image": Image((192, 256)), "tokens": Tokens(1024)}
    assert parse_fields("audio:16000:2.5:center", INDEX) == {"audio": Audio(16000, 2.5, crop="center")}
    numbers = Image(224, crop="random", mode="L", interpolation="nearest")
    assert parse_fields("image:224:random:L:nearest", INDEX) == {"image": numbers}
    assert parse_fields("bytes:900", INDEX) == {"bytes": Bytes(900)}
    assert parse_fields("image:224:I;16", INDEX) == {"image": Image(224, mode="I;16")}
    assert parse_fields("image,text,tensor", INDEX) == {
        "image": Image(),
        "text": Text(),
        "tensor": Tensor((3,), "float32"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture:224", "--fields 'picture:224': no field 'picture' in the data; it has 'image', 'audio',"),
        ("image:big", "--fields 'image:big': 'image' is image; write it as image:224, image:192x256 or"),
        ("image:224:random:center", "'image' is image; write it as image:224"),
        ("image:224:random:more", "'image' is image; write it as image:224"),
        ("image:224:middle", "'image' is image; write it as image:224, image:192x256 or image:224:random"),
        (
            "image:0",
            r"--fields 'image:0': Image\(size=0\): height and width must be at least 1 pixel; 'image' is image",
        ),
        ("tokens:1:2", "'tokens' is tokens; write it as tokens:1024"),
        ("audio:16000", "'audio' is audio; write it as audio:16000:2.5"),
        ("bytes:0", r"Bytes\(length=0\): must be at least 1; 'bytes' is bytes; write it as bytes:1024"),
        ("label:3", "--fields 'label:3': 'label' is scalar; it takes no arguments"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_fields(text, INDEX)
