from typing import Any

Buffer = Any

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
        /,
    ) -> None: ...

def keys(shards: list[Shard], rows: list[int], /) -> list[str]: ...
def read(
    shards: list[Shard], rows: list[int], bytes_below: int, /
) -> tuple[list[str], list[list[Any]], list[tuple[int, int]], int]: ...

class Crew:
    def __init__(self, threads: int, /) -> None: ...
    def close(self) -> None: ...

class Task:
    def result(self) -> tuple[list[str], list[int]]: ...

def fill(
    crew: Crew | None,
    shards: list[Shard],
    rows: list[int],
    field: int,
    head: bytes,
    stored: str,
    out: Buffer,
    wanted: str,
    exact: bool,
    /,
) -> Task: ...
def builds() -> list[str]: ...
def use(name: str, /) -> None: ...
