"""What is behind URLs is fetched ahead of its use: the plan is walked a second time, in front of the one that is
followed, and says which shards come next.

    followed   step k            -> a batch
    walked     steps k, k+1, ... -> shards in the order of first use -> `engine.Readahead`

The walk goes as far as it takes to keep all downloads busy, and no further: what is fetched ahead is held until it is
used, and other jobs share the cache. It stops at the end of the epoch, for another may not come. What the cache has no
room for is not fetched ahead, so that nothing that was is removed before it is used.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

import numpy as np

from fastload.assemble import Recipe
from fastload.engine import Readahead
from fastload.order.cursor import Step
from fastload.remote.cache import Cached

Made = TypeVar("Made")
Yielded = TypeVar("Yielded", covariant=True)


class Closable(Protocol[Yielded]):
    """An iterator that can be closed, as a generator."""

    def __iter__(self) -> Iterator[Yielded]: ...

    def __next__(self) -> Yielded: ...

    def close(self) -> None: ...


# Of cache_size: the rest is for indexes of shards, whose sizes are not known beforehand, and what is in use elsewhere.
ROOM = 0.8
MOST_OBJECTS = 256  # two blocks of 64 tars, each with its index
MOST_ROWS = 1 << 20  # walked ahead: 0.1 s of planning
KEPT_STEPS = 4  # a batch may be in work for so long after its step was drawn
REVIEW_STEPS = 4  # what is not needed any longer is looked for so often: 50 us each
NEAR_STEPS = 32  # what these need is fetched in any case, and as many shards more as keep downloads busy
FAR_DOWNLOADS = 2  # shards beyond that for each download at a time: one on its way, one that waits for its turn
WALK_STEPS = 64  # at a time, so that the first batch does not wait for the whole walk


def fetched_ahead(made: Closable[Made], recipe: Recipe, walk: Iterator[Step]) -> Closable[Made]:
    """What follows a plan, with its shards fetched ahead.

    Args:
        made: one thing for each step of the plan.
        recipe: how batches are made; it knows the shards of a step.
        walk: the same steps.

    Returns: `made`, as it is if all shards are local; else an iterator whose close() also ends what is under way. At
    the end of `made` it goes on fetching what the last steps need, until it is closed or dropped.
    """
    return _FetchedAhead(made, recipe, walk) if recipe.index.caches else made


class _FetchedAhead(Generic[Made]):
    """See `fetched_ahead`."""

    def __init__(self, made: Closable[Made], recipe: Recipe, walk: Iterator[Step]) -> None:
        caches = recipe.index.caches
        self._made, self._number = made, 0
        self._walk = _Walk(recipe, walk)
        self._threads = max(cache.remote.downloads for cache in caches)
        self._readahead: Readahead[Cached] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Made]:
        return self

    def __next__(self) -> Made:
        if not self._closed:
            self._look()
        self._number += 1
        return next(self._made)

    def _look(self) -> None:
        if self._readahead is None:  # at the first step: what is never iterated starts no threads
            self._readahead = Readahead(Cached.fetch, self._threads)
            for cache in self._walk.recipe.index.caches:
                cache.holders.add(self._readahead)
        wanted = self._walk.ahead_of(self._number)
        if wanted is not None:
            self._readahead.want(wanted)
            for cache in self._walk.recipe.index.caches if self._walk.dropped else ():
                if cache.limit is not None:  # what is not needed any longer makes room for what is to come
                    cache.close_readers()

    def close(self) -> None:
        """Stop fetching."""
        self._closed = True
        if self._readahead is not None:
            self._readahead.close()
        self._made.close()


class _Walk:
    """Which objects are needed from some step on, as far as there is room."""

    def __init__(self, recipe: Recipe, steps: Iterator[Step]) -> None:
        self.recipe, self._steps = recipe, steps
        self._walked, self._size, self._ended = 0, 0, False
        self._last_use = np.full(len(recipe.index.sizes), -1)  # int64 [shards]: the step walked last that needs it
        self._objects: dict[int, tuple[Cached, ...]] = {}  # of the shards needed, in the order of first use
        self._first_use: dict[int, int] = {}  # of the same shards: the step
        limits = [cache.limit for cache in recipe.index.caches if cache.limit is not None]
        self._most_bytes = int(min(limits) * ROOM) if limits else 1 << 62
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_objects = MOST_OBJECTS if files == resource.RLIM_INFINITY else min(MOST_OBJECTS, files // 6)
        self._most_far = FAR_DOWNLOADS * max(cache.remote.downloads for cache in recipe.index.caches)
        self.dropped = False  # the last call found shards that are not needed any longer

    def ahead_of(self, number: int) -> list[Cached] | None:
        """The objects needed from step `number` on, in the order of use; None if they are those of the last call."""
        while self._walked < number and not self._ended:  # where there was no room for long
            self._step()
        self.dropped = number % REVIEW_STEPS == 0 and self._drop_used(number - KEPT_STEPS)
        found = False
        for _ in range(WALK_STEPS):
            if self._ended or (self._walked > number + NEAR_STEPS and self._is_far_enough(number)):
                break
            found = self._walk_on() or found
        return self._within_room(number) if self.dropped or found else None

    def _drop_used(self, before: int) -> bool:
        """Forget shards that no step walked from `before` on needs."""
        used = [shard for shard in self._objects if self._last_use[shard] < before]
        for shard in used:
            del self._objects[shard], self._first_use[shard]
        return bool(used)

    def _is_far_enough(self, number: int) -> bool:
        far = sum(first > number + NEAR_STEPS for first in self._first_use.values())
        return far >= self._most_far or (self._walked - number) * self._size > MOST_ROWS

    def _step(self) -> Step | None:
        step = next(self._steps, None)
        if step is None:
            self._ended = True
            return None
        self._walked, self._size = self._walked + 1, step.size
        return step

    def _walk_on(self) -> bool:
        """Walk one step; whether it needs a shard that was not needed."""
        step = self._step()
        if step is None:
            return False
        shards = self.recipe.shards(step)
        self._last_use[shards] = self._walked - 1
        new = [shard for shard in dict.fromkeys(shards.tolist()) if shard not in self._objects]
        for shard in new:
            self._objects[shard] = self.recipe.index.objects(shard)
            self._first_use[shard] = self._walked - 1
        return bool(new)

    def _within_room(self, number: int) -> list[Cached]:
        """The objects as far as there is room, those of batches that may still be in work last."""
        to_come = [shard for shard in self._objects if self._last_use[shard] >= number]
        in_work = [shard for shard in self._objects if self._last_use[shard] < number]
        found: dict[Cached, None] = {}
        total = 0
        for shard in (*to_come, *in_work):
            for each in self._objects[shard]:
                if each in found:
                    continue
                total += each.blob.size or 0
                if total > self._most_bytes or len(found) >= self._most_objects:
                    return list(found)
                found[each] = None
        return list(found)
