"""A real server on loopback: files of a folder, with Range and ETag, and faults on purpose. It takes PUTs as S3 does.

with Server(folder) as server:
    server.url                                   http://127.0.0.1:PORT
    server.faults["a.tar"] = ["reset", "503"]    the next requests for it, one after the other
    server.always["a.tar"] = "hang"              every request for it
    server.chance = (0.2, seed)                  of every request, one of the faults that pass
    server.latency_seconds                       before every answer
    Server(folder, most_at_a_time=3)             503 at once while so many wait for their answers
    server.bytes_per_second                      of each connection; all_bytes_per_second: of all together
    server.requests                              (method, path, first byte, bytes sent) of each
    server.key = "new"                           403 to what is signed with another access key
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

PASSING = ("reset", "short", "503", "429", "slow", "refuse")  # faults that a second try may mend


class Server:
    """Serves a folder until the block ends."""

    def __init__(
        self, folder: Path, *, ranges: bool = True, etags: bool = True, most_at_a_time: int | None = None
    ) -> None:
        self.folder, self.ranges, self.etags = folder, ranges, etags
        self.faults: dict[str, list[str]] = {}
        self.always: dict[str, str] = {}
        self.chance: tuple[float, random.Random] | None = None
        self.heads = True
        self.key: str | None = None
        self.conditions = "kept"  # If-None-Match of PUT; or "ignored", or refused with "501"
        self.parts: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str, int, int]] = []
        self.bytes_per_second = self.all_bytes_per_second = self.latency_seconds = 0.0
        self.free_at = 0.0  # when what all connections were given is sent
        self.turns = None if most_at_a_time is None else threading.Semaphore(most_at_a_time)
        self.closing = threading.Event()
        self.answering: dict[threading.Thread, socket.socket] = {}
        self.lock = threading.Lock()
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def gets(self) -> Counter[str]:
        """How many GETs there were of each path, from its first byte on."""
        with self.lock:
            return Counter(path for method, path, first, _ in self.requests if method == "GET" and first == 0)

    def sent(self) -> int:
        """Bytes of files sent."""
        with self.lock:
            return sum(sent for *_, sent in self.requests)

    def fault_for(self, path: str) -> str | None:
        with self.lock:
            if self.faults.get(path):
                return self.faults[path].pop(0)
            if path in self.always:
                return self.always[path]
            if self.chance is not None and self.chance[1].random() < self.chance[0]:
                return self.chance[1].choice(PASSING)
            return None

    def turn(self, size: int) -> float:
        """Seconds until so many bytes more are sent, where all connections together have a limit."""
        with self.lock:
            now = time.monotonic()
            self.free_at = max(self.free_at, now) + size / self.all_bytes_per_second
            return self.free_at - now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        with self.lock:
            answering = list(self.answering.items())
        for thread, connection in answering:  # which clients keep open; beside threads no test could fork workers
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # a body waits 40 ms for its head to be acknowledged

        def setup(self) -> None:
            super().setup()
            with server.lock:
                server.answering[threading.current_thread()] = self.connection

        def finish(self) -> None:
            with server.lock:
                del server.answering[threading.current_thread()]
            with contextlib.suppress(OSError):  # it was shut down
                super().finish()

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_PUT(self) -> None:
            """An object, or a part of one, as S3 takes them."""
            path, _, query = unquote(self.path).lstrip("/").partition("?")
            content = self.rfile.read(int(self.headers["Content-Length"]))
            fault = server.fault_for(path)
            if fault is not None:
                return self._plain(int(fault)) if fault.isdigit() else self._cut()
            part = re.search(r"partNumber=(\d+)", query)
            with server.lock:
                server.requests.append(("PUT", path, 0, len(content)))
                taken = server.conditions == "kept" and (server.folder / path).exists()
                if self.headers["If-None-Match"] == "*" and (taken or server.conditions == "501"):
                    return self._plain(412 if taken else 501, told=True)
                if part is not None:
                    server.parts.setdefault(path, {})[int(part[1])] = content
                else:
                    self._keep(path, content)
            return self._xml("")

        def do_POST(self) -> None:
            """The begin and the end of an object in parts; or objects to delete."""
            path, _, query = unquote(self.path).lstrip("/").partition("?")
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if query.startswith("delete"):
                keys = re.findall("<Key>(.*?)</Key>", content.decode())
                for key in keys:
                    (server.folder / path / key).unlink(missing_ok=True)
                deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
                return self._xml(f"<DeleteResult>{deleted}</DeleteResult>")
            if query.startswith("uploads"):
                return self._xml(
                    "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
                )
            with server.lock:
                parts = server.parts.pop(path)
                self._keep(path, b"".join(parts[number] for number in sorted(parts)))
            return self._xml("<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>")

        def _keep(self, path: str, content: bytes) -> None:
            file = server.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

        def _xml(self, text: str) -> None:
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def _answer(self, *, with_body: bool) -> None:
            if server.turns is not None and not server.turns.acquire(blocking=False):
                self._plain(503)
                return
            server.closing.wait(server.latency_seconds)
            if server.turns is not None:
                server.turns.release()
            try:
                self._send(with_body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _send(self, with_body: bool) -> None:
            path = unquote(self.path.partition("?")[0]).lstrip("/")
            fault = server.fault_for(path)
            if server.key is not None and f"Credential={server.key}/" not in self.headers.get("Authorization", ""):
                return self._plain(403)
            if self.command == "HEAD" and not server.heads:
                return self._plain(405)
            if fault is not None and fault.isdigit():
                return self._plain(int(fault))
            if fault == "refuse":
                return self._cut()
            if fault == "hang":
                server.closing.wait(60)
                return self._cut()
            file = server.folder / path
            if not file.is_file():
                return self._plain(404)
            content = file.read_bytes()
            etag = hashlib.sha256(content).hexdigest()[:16]
            if fault == "wrong":
                content = bytes([content[0] ^ 1]) + content[1:]
            span = self._span(len(content))
            if span is None:
                return self._plain(416)
            first, stop = span
            part = stop - first < len(content)
            self.send_response(206 if part else 200)
            self.send_header("Content-Length", str(stop - first))
            if server.etags:
                self.send_header("ETag", f'"{etag}"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            if part:
                self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{len(content)}")
            self.end_headers()
            body = content[first:stop] if with_body else b""
            with server.lock:
                server.requests.append((self.command, path, first, len(body)))
            return self._body(body, fault)

        def _span(self, size: int) -> tuple[int, int] | None:
            """The bytes that are asked for, [first, stop)."""
            asked = self.headers.get("Range")
            if asked is None or not server.ranges:
                return 0, size
            first, _, last = asked.removeprefix("bytes=").partition("-")
            return (int(first), min(size, int(last) + 1) if last else size) if int(first) < size else None

        def _body(self, body: bytes, fault: str | None) -> None:
            if fault in ("short", "reset") and body:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if fault == "reset":
                    return self._cut()
                self.close_connection = True
                return None
            if fault == "stall" and body:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                server.closing.wait(60)
                return self._cut()
            if fault == "slow":
                time.sleep(0.05)
            rate = server.bytes_per_second or server.all_bytes_per_second
            step = len(body) if not rate else max(1, int(rate / 50))
            for at in range(0, len(body), max(1, step)):
                if server.all_bytes_per_second:
                    server.closing.wait(server.turn(min(step, len(body) - at)))
                self.wfile.write(body[at : at + step])
                if server.bytes_per_second:
                    self.wfile.flush()
                    if server.closing.wait(0.02):
                        return self._cut()
            return None

        def _plain(self, status: int, told: bool = False) -> None:
            if not told:
                with server.lock:
                    server.requests.append((self.command, unquote(self.path).lstrip("/"), 0, 0))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _cut(self) -> None:
            """Reset the connection."""
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    return Handler
