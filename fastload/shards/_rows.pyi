from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Buffer = Any
Ints = npt.NDArray[np.int64]
Result = TypeVar("Result", covariant=True)

class Shard:
    def __init__(
        self,
        view: memoryview,
        offsets: Buffer,
        sizes: Buffer,
        digests: Buffer,
        key_bounds: Buffer,
        key_text: Buffer,
        spans: tuple[tuple[Buffer, Buffer], ...],
        scalars: tuple[Buffer, ...],
        /,
    ) -> None: ...

class Crew:
    def __init__(self, threads: int, /) -> None: ...
    def close(self) -> None: ...

class Task(Generic[Result]):
    def result(self) -> Result: ...

def keys(shards: list[Shard], rows: Ints, /) -> list[str]: ...
def numbers(shards: list[Shard], rows: Ints, field: int, out: Ints | npt.NDArray[np.float64], /) -> bool: ...
def read(
    crew: Crew | None, shards: list[Shard], rows: Ints, bytes_below: int, /
) -> Task[tuple[list[str], list[list[Any]], list[tuple[int, int]], int]]: ...
def fill(
    crew: Crew | None,
    shards: list[Shard],
    rows: Ints,
    field: int,
    head: bytes,
    stored: str,
    out: Buffer,
    wanted: str,
    exact: bool,
    lengths: Ints | None,
    /,
) -> Task[tuple[list[str], list[int], int]]: ...
def builds() -> list[str]: ...
def use(name: str, /) -> None: ...
