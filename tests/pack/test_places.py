"""Places come back as they were put in, whatever they are, and cost little."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from fastload.pack.places import Places

texts = st.text(st.one_of(st.characters(), st.sampled_from("\udc80\udcff, ")), max_size=12)


@given(st.lists(texts, max_size=20), st.data())
def test_places_come_back(texts: list[str], data: st.DataObject) -> None:
    places = pickle.loads(pickle.dumps(Places(texts)))
    assert [places[row] for row in range(len(places))] == texts
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1))) if texts else []
    taken = places.take(rows)
    assert [taken[at] for at in range(len(taken))] == [texts[row] for row in rows]


def test_a_file_is_kept_once() -> None:
    places = Places(f"/a/long/way/to/the/corpus/part-{row // 5000:05d}.jsonl.zst, line {row}" for row in range(10_000))
    assert places[7] == "/a/long/way/to/the/corpus/part-00000.jsonl.zst, line 7"
    assert len(pickle.dumps(places)) < 25 * 10_000
