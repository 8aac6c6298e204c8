"""A cache folder that two users of a machine share, or that one of them may not write. To be two users takes root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import samples
import xxhash
from webserver import Server

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
SIZE = 100_000

# One user: a line of JSON in, a line of JSON out. What it needs is imported while it may read all that root may.
PROGRAM = """
import json, os, sys
import obstore.store
import fastload
from fastload.remote.cache import Cache
from fastload.remote.fetch import Blob
from fastload.remote.settings import Remote
from fastload.shards.open import open_index
uid = int(sys.argv[1])
try:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
except OSError as error:
    print(json.dumps(f"cannot be user {uid}: {error}"), flush=True)
    sys.exit()
os.umask(0o077)
print("null", flush=True)

def do(cache_dir, limit, blobs, index):
    remote = Remote(cache_dir=cache_dir, cache_size=limit, give_up_seconds=0.3)
    if index:
        return [open_index(index, remote=remote).samples]
    cache = Cache(remote)
    cache.prepare()
    return [cache.open(Blob(url=url, size=100_000, xxh3=digest))[0] for url, digest in blobs]

for line in sys.stdin:
    try:
        answer = do(*json.loads(line))
    except fastload.FastloadError as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
"""


class User:
    """A process of another user."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def begin(
        self, cache: Path, server: Server, numbers: Sequence[int], *, limit: int | None = None, index: str | None = None
    ) -> None:
        """Have objects opened, or an index."""
        digests = [xxhash.xxh3_64_hexdigest(bytes([number]) * SIZE) for number in numbers]
        blobs = [(f"{server.url}/{number}.tar", digest) for number, digest in zip(numbers, digests, strict=True)]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(cache), limit, blobs, index]) + "\n")
        self.process.stdin.flush()

    def open(self, *arguments: Any, **options: Any) -> Any:
        self.begin(*arguments, **options)
        return self.answer()


@pytest.fixture(scope="module")
def users() -> Iterator[list[User]]:
    found = [User(65534), User(65533)]
    refused = [reason for reason in [user.answer() for user in found] if reason is not None]
    if not refused:
        yield found
    for user in found:
        user.process.communicate(timeout=60)
    if refused:
        pytest.skip(refused[0])


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that all may reach, which those of pytest are not."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for number in range(6):
        (tmp_path / f"{number}.tar").write_bytes(bytes([number]) * SIZE)
    with Server(tmp_path) as running:
        yield running


def folder(root: Path, mode: int, owner: int = 0) -> Path:
    path = root / "cache"
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def kept(cache: Path) -> dict[str, int]:
    """Names, and whose they are."""
    return {path.name[33:]: path.stat().st_uid for path in sorted((cache / "remote").iterdir())}


@pytest.mark.parametrize("mode", [0o777, 0o1777], ids=oct)
def test_each_reads_what_the_other_fetched(users: list[User], root: Path, server: Server, mode: int) -> None:
    """C16: whatever their umasks."""
    (one, other), cache = users, folder(root, mode)
    assert one.open(cache, server, [0, 1]) == [0, 1]
    assert other.open(cache, server, [0, 1, 2]) == [0, 1, 2]
    assert one.open(cache, server, [2, 0]) == [2, 0]
    assert set(server.gets().values()) == {1}
    assert kept(cache) == {"0.tar": one.uid, "1.tar": one.uid, "2.tar": other.uid}


@pytest.mark.parametrize("mode", [0o777, 0o1777], ids=oct)
def test_who_fetch_the_same_at_once_both_have_it(users: list[User], root: Path, server: Server, mode: int) -> None:
    cache = folder(root, mode)
    server.bytes_per_second = 500_000
    for user in users:
        user.begin(cache, server, [3])
    assert [user.answer() for user in users] == [[3], [3]]
    assert list(kept(cache)) == ["3.tar"]


def test_the_index_of_a_foreign_shard_is_shared(users: list[User], root: Path, server: Server) -> None:
    made = samples.make(server.folder / "d", "tar", [5])
    for path in (*made.glob("train/*.idx"), made / "index.json"):
        path.unlink()
    cache = folder(root, 0o1777)
    for user in users:
        assert user.open(cache, server, [], index=f"{server.url}/d/train/shard-000000.tar") == [5]
    assert server.gets()["d/train/shard-000000.tar"] == 1


def test_a_damaged_file_of_another_user(users: list[User], root: Path, server: Server) -> None:
    """C10: replaced where that is allowed, and named where it is not."""
    (one, other), cache = users, folder(root, 0o777)
    one.open(cache, server, [4])
    samples.flip_byte(next((cache / "remote").iterdir()), 77_777)
    (cache / "remote").chmod(0o1777)
    os.chown(cache / "remote", 0, 0)
    message = other.open(cache, server, [4])
    assert "remote cannot be used: Operation not permitted (" in message
    assert "-4.tar); pass another cache_dir" in message
    (cache / "remote").chmod(0o777)
    assert other.open(cache, server, [4]) == [4]
    assert kept(cache) == {"4.tar": other.uid}


def test_room_that_only_another_user_can_make(users: list[User], root: Path, server: Server) -> None:
    (one, other), cache = users, folder(root, 0o777)
    one.open(cache, server, [0])
    (cache / "remote").chmod(0o1777)
    os.chown(cache / "remote", 0, 0)
    one.open(cache, server, [1])
    message = other.open(cache, server, [2], limit=2 * SIZE)
    assert "is full and all 200000 bytes in it are in use or other users'; raise cache_size" in message
    (cache / "remote").chmod(0o777)
    assert other.open(cache, server, [2], limit=2 * SIZE) == [2]
    assert kept(cache) == {"1.tar": one.uid, "2.tar": other.uid}


def test_a_folder_that_another_user_may_not_write(users: list[User], root: Path, server: Server) -> None:
    (one, other), cache = users, folder(root, 0o755, owner=users[0].uid)
    one.open(cache, server, [0])
    message = other.open(cache, server, [0])
    assert message.endswith("cache/remote cannot be used: it cannot be written; pass another cache_dir")
    assert kept(cache) == {"0.tar": one.uid}
    (cache / "remote").chmod(0o777)
    (cache / "index").chmod(0o755)
    message = other.open(cache, server, [0])
    assert message.endswith("cache/remote cannot be used: it cannot be written (index); pass another cache_dir")
