"""Batches and the memory they live in.

A batch that was handed over is never written again: its buffers go back to the pool only when nobody holds any of its
tensors.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from fastload.decode import Spec

KEY = "__key__"
LENGTH_SUFFIX = "_length"
_FEW = 8  # items: pairs, triples and the like are looked through, and lists of one value a sample begin alike


class Batch(dict[str, Any]):
    """One batch: field name -> tensor [B, ...] or list of B values; `__key__` -> list of B str.

    Attributes:
        valid: bool [B]; False on padding and on rows masked by on_error="mask". None on a batch made by hand.
        sample_keys: int64 [B]: each sample's 64-bit key of (seed, epoch, sample), what keyed augmentation draws from.
        state: what `load_state_dict` needs to go on after this batch.
    """

    def __init__(
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        valid: torch.Tensor | npt.NDArray[np.bool_] | None = None,
        sample_keys: torch.Tensor | npt.NDArray[np.uint64] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(fields or {})
        self._valid = valid
        self._sample_keys = sample_keys
        self.state = state
        self._host_keys: tuple[torch.Tensor, torch.Tensor] | None = None  # sample_keys, and the same on the CPU

    @property
    def host_keys(self) -> torch.Tensor | None:
        """`sample_keys` on the CPU: without waiting for the GPU where the batch was moved there by `to`."""
        if self.sample_keys is None or self.sample_keys.device.type == "cpu":
            return self.sample_keys
        if self._host_keys is None or self._host_keys[0] is not self.sample_keys:
            self._host_keys = self.sample_keys, self.sample_keys.cpu()
        return self._host_keys[1]

    # Arrays become tensors when they are asked for, which is 3 us each that most batches need not spend.

    @property
    def valid(self) -> torch.Tensor | None:
        if isinstance(self._valid, np.ndarray):
            self._valid = torch.from_numpy(self._valid)
        return self._valid

    @valid.setter
    def valid(self, valid: torch.Tensor | None) -> None:
        self._valid = valid

    @property
    def sample_keys(self) -> torch.Tensor | None:
        if isinstance(self._sample_keys, np.ndarray):
            self._sample_keys = torch.from_numpy(self._sample_keys.view(np.int64))
        return self._sample_keys

    @sample_keys.setter
    def sample_keys(self, sample_keys: torch.Tensor | None) -> None:
        self._sample_keys = sample_keys

    @property
    def rows(self) -> int:
        """Number of rows B, padding included."""
        return rows_of(self)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with all tensors on `device`, those in lists, tuples and dicts too; all else stays.

        Tensors that are there already are not copied.
        """

        def move(value: Any) -> Any:
            if isinstance(value, torch.Tensor | Batch):
                return value.to(device, non_blocking=non_blocking)
            if not _holds_tensors(value):
                return value
            if isinstance(value, dict):
                moved = copy(value)  # of its own class
                moved.update({name: move(item) for name, item in value.items()})
                return moved
            items = [move(item) for item in value]
            return items if isinstance(value, list) else type(value)(*items) if _is_named(value) else tuple(items)

        moved = self.replaced(
            {name: move(v) for name, v in self.items()}, valid=move(self.valid), keys=move(self.sample_keys)
        )
        if self.sample_keys is not None and moved.sample_keys is not None and self.sample_keys.device.type == "cpu":
            moved._host_keys = moved.sample_keys, self.sample_keys
        return moved

    def replaced(
        self, fields: Mapping[str, Any], *, valid: torch.Tensor | None = None, keys: torch.Tensor | None = None
    ) -> Batch:
        """A new batch with some fields replaced or added, all else shared."""
        batch = Batch(
            {**self, **fields},
            valid=self.valid if valid is None else valid,
            sample_keys=self.sample_keys if keys is None else keys,
            state=self.state,
        )
        batch._host_keys = self._host_keys
        return batch

    def complete(self, source: Batch) -> None:
        """Take what this batch, made by hand of `source`, lacks: the state and, if it has as many rows, their keys and
        which are valid."""
        self.state = source.state if self.state is None else self.state
        if self is source or self.rows != source.rows:
            return
        if self.sample_keys is None:
            self.sample_keys, self._host_keys = source.sample_keys, source._host_keys
        if self.valid is None:
            self.valid = source.valid

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (dict(self), self.valid, self.sample_keys, self.state))

    def copy(self) -> Self:
        return type(self)(self, valid=self.valid, sample_keys=self.sample_keys, state=self.state)


def rows_of(batch: Batch) -> int:
    """`batch.rows`. Python calls a function in a third of the time that it takes to ask for a property, which counts
    where batches are made in a tenth of a millisecond."""
    if batch._valid is not None:
        return len(batch._valid)
    return next((len(v) for v in batch.values() if isinstance(v, list | tuple) or getattr(v, "ndim", 0) > 0), 0)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a batch, or of what stands in one of its fields."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Batch):
        for field in (*value.values(), value.valid, value.sample_keys):
            yield from tensors_in(field)
    elif _holds_tensors(value):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def _holds_tensors(value: Any) -> bool:
    """Whether it has tensors inside, as what others' samples are collated to may have at any depth. Not every number of
    every JSON value is looked at for it: of a long list that has no tensors itself, only the first items."""
    if isinstance(value, dict):
        return any(isinstance(item, torch.Tensor) or _holds_tensors(item) for item in value.values())
    if not isinstance(value, list | tuple):
        return False
    return any(isinstance(item, torch.Tensor) for item in value) or any(map(_holds_tensors, value[:_FEW]))


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _rebuild(fields: dict[str, Any], valid: Any, sample_keys: Any, state: Any) -> Batch:
    return Batch(fields, valid=valid, sample_keys=sample_keys, state=state)


class BufferPool:
    """Arrays that are used again once nobody else holds them, so that a 38 MB batch does not fault in 9,000 pages each
    time.

    A tensor made by `torch.from_numpy` keeps its array alive for as long as any view of its storage lives; an array
    whose only reference is the pool's own is therefore free. Pinned memory is left to torch's caching allocator, which
    does the same.

    Args:
        pinned: arrays in pinned memory.
        limit: arrays of one shape and dtype that are remembered. Of more, which is to say where the user keeps
            batches, the oldest are forgotten, and their memory goes with the batches.
    """

    def __init__(self, *, pinned: bool = False, limit: int = 8) -> None:
        self.pinned, self._limit, self._pid = pinned, limit, os.getpid()
        self._lock = threading.Lock()
        self._arrays: dict[tuple[tuple[int, ...], str], list[npt.NDArray[Any]]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array with any content."""
        if self.pinned:
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return torch.empty(shape, dtype=kind, device="cpu", pin_memory=True).numpy()
        if self._pid != os.getpid():  # forked: a thread that stayed behind may have the lock, and arrays
            self.__init__(limit=self._limit)  # type: ignore[misc]
        with self._lock:
            arrays = self._arrays.setdefault((shape, dtype.str), [])
            unused = _first_unused(arrays)
            if unused is not None:
                return unused
            fresh: npt.NDArray[Any] = np.empty(shape, dtype)
            arrays.append(fresh)
            del arrays[: -self._limit]
            return fresh


def _first_unused(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    for array in arrays:
        if sys.getrefcount(array) == _UNUSED:
            return array
    return None


def _references(objects: list[npt.NDArray[Any]]) -> int:
    """References to an object that only a list holds, counted where `_first_unused` looks."""
    for one in objects:
        return sys.getrefcount(one)
    raise AssertionError("an empty list")


_UNUSED = _references([np.empty(0)])  # 3 in Python 3.11; measured, because interpreters differ


class Column:
    """One field of a batch being filled: an array [B, ...] or a list of B, and the true lengths where the kind has
    them.

    The array is taken from the pool when the first row is about to be written: until then a batch that is planned ahead
    takes no memory, and by then the consumer has let go of an older one.
    """

    __slots__ = ("_array", "_lock", "_pool", "_size", "lengths", "spec", "values")

    def __init__(self, spec: Spec, size: int, pool: BufferPool) -> None:
        self.spec, self._size, self._pool = spec, size, pool
        self._array: npt.NDArray[Any] | None = None
        self._lock = threading.Lock()  # several threads may write the first row
        self.values: list[Any] = [None] * size if spec.shape is None else []
        self.lengths = np.zeros(size, np.int64) if spec.has_length else None

    @property
    def array(self) -> npt.NDArray[Any] | None:
        """[B, ...]; None for a list."""
        if self._array is None and self.spec.shape is not None:
            with self._lock:
                if self._array is None:
                    assert self.spec.dtype is not None
                    self._array = self._pool.take((self._size, *self.spec.shape), self.spec.dtype)
        return self._array

    def blank(self, start: int, stop: int) -> None:
        """Fill rows [start, stop) as padding: `spec.fill`, None in lists, length 0."""
        array = self.array
        if array is not None:
            array[start:stop] = self.spec.fill
        else:
            self.values[start:stop] = [None] * (stop - start)
        if self.lengths is not None:
            self.lengths[start:stop] = 0

    def finish(self) -> torch.Tensor | list[Any]:
        """What the user gets; images are a channels-last view [B, C, H, W] of the buffer [B, H, W, C]."""
        array = self.array
        if array is None:
            if isinstance(next((v for v in self.values if v is not None), None), np.ndarray):  # all are of one kind
                return [torch.from_numpy(v) if v is not None else None for v in self.values]
            return self.values
        tensor = torch.from_numpy(array)
        return tensor.permute(0, 3, 1, 2) if self.spec.channels_last else tensor
