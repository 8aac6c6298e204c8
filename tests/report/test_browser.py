"""The pages that commands write, in a browser as wide as a phone: no error, no request to elsewhere, nothing wider."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import fastload
from fastload.bench import Results, Rounds, compare
from fastload.bench.report import changes_to_html, to_html
from fastload.describe.page import save_page
from fastload.profile import profile

PHONE_WIDTH = 390  # CSS pixels, of a common phone held upright
FIELDS = ("image", "audio", "text", "tokens", "label")
# what comes before each page; whatever the policy refuses is a request to elsewhere
WATCH = """<script>
const told = [];
addEventListener("error", e => told.push("error: " + (e.message || e.target.outerHTML)), true);
addEventListener("unhandledrejection", e => told.push("error: " + e.reason));
addEventListener("securitypolicyviolation", e => told.push("asked for: " + e.blockedURI));
for (const level of ["error", "warn"]) console[level] = (...what) => told.push(level + ": " + what.join(" "));
</script>"""
POLICY = "default-src 'unsafe-inline' data: blob:"
TELL = """<script>
addEventListener("load", () => {
  const found = {};
  const seen = each => each.getBoundingClientRect().width > 20 && each.getBoundingClientRect().height > 10;
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument;
    found[frame.name] = {
      told: frame.contentWindow.eval("told"),
      width: page.documentElement.scrollWidth,
      text: page.body.innerText.length,
      pictures: [...page.querySelectorAll("figure img")].filter(seen).length,
      charts: [...page.querySelectorAll("svg:has(rect)")].filter(seen).length,
    };
  }
  document.body.textContent = JSON.stringify(found);
});
</script>"""


@contextmanager
def served(pages: dict[str, str]) -> Iterator[str]:
    """Pages on loopback, watched; "/" shows them all, and says in the end what it saw."""
    frames = "".join(f'<iframe name="{n}" src="/{n}" width={PHONE_WIDTH} height=800></iframe>' for n in pages)
    shown = {n: re.sub("<head>|<html[^>]*>", lambda tag: tag[0] + WATCH, page, count=1) for n, page in pages.items()}
    assert all(WATCH in page for page in shown.values())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = shown.get(self.path[1:], f"<!doctype html><body>{frames}{TELL}").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            if self.path[1:] in shown:
                self.send_header("Content-Security-Policy", POLICY + "; script-src 'unsafe-inline' 'unsafe-eval'")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.02))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(name="browser")
def _browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium is installed")
    return found


def seen(browser: str, pages: dict[str, str], folder: Path) -> dict[str, Any]:
    """What a browser says of some pages: what they reported, their width in CSS pixels, characters of text, and how
    many pictures and charts can be seen."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--window-size=1200,900"]
    with served(pages) as url:
        command = [browser, *options, "--virtual-time-budget=5000", "--dump-dom", url]
        environment = {**os.environ, "HOME": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    body = re.search(r"<body>(\{.*\})\s*</body>", done.stdout, re.DOTALL)
    assert body is not None, done.stdout[-2000:] + done.stderr[-2000:]
    return dict(json.loads(unescape(body[1])))


def bench_pages() -> tuple[str, str]:
    """Of results and of their comparison, with names as long as tests have them."""
    names = ["rate, 1 thread", "rate, 2 threads", "benchmarks/bench_of_pictures.py::test_crops_of_large_ones[seekable]"]
    rounds = {n: Rounds(name=n, unit="samples", items=10, seconds=(1.0, 1.1, 1.2)) for n in names}
    first = Rounds(name="first batch", unit="times", items=1, seconds=(0.1, 0.1, 0.2))
    results = Results(rounds=rounds | {"first batch": first}, machine={"cores": 2}, setting={"data": "/data/" * 20})
    return to_html(results), changes_to_html(compare(results, results))


def test_pages_are_whole_in_a_browser(browser: str, packed: Callable[..., Path], tmp_path: Path) -> None:
    data = packed("tar", [24], FIELDS)
    save_page(data, tmp_path / "inspect.html")
    fields: dict[str, Any] = {"image": fastload.Image(16), "label": fastload.Scalar()}
    fastload.preview(data).save(tmp_path / "preview")
    bench, compared = bench_pages()
    profile(fastload.DataLoader(data, batch_size=4, fields=fields, num_workers=1), seconds=0.3).save_html(
        tmp_path / "profile.html"
    )
    broken = (
        "<html><head></head><body>"
        f"<p style='width: {PHONE_WIDTH + 10}px'>x</p><script>nothing()</script>"
        "<img src='https://example.org/a.png'></body></html>"
    )
    files = {"inspect": "inspect.html", "preview": "preview/index.html", "profile": "profile.html"}
    pages = {n: (tmp_path / p).read_text() for n, p in files.items()}
    pages |= {"bench": bench, "compared": compared, "broken": broken}
    found = seen(browser, pages, tmp_path / "user")
    told = found.pop("broken")  # what the watching is worth
    assert told["width"] > PHONE_WIDTH
    assert any("nothing is not defined" in each for each in told["told"])
    assert any("example.org" in each for each in told["told"])
    for name, page in found.items():
        assert page["told"] == [], name
        assert page["width"] <= PHONE_WIDTH, name
        assert page["text"] > 200, name
    assert found["inspect"]["pictures"] == 2 * 24, "a picture and a sound of each sample on the contact sheet"
    assert found["inspect"]["charts"] > 0, "histograms"
