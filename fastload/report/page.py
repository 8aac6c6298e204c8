"""Pages of HTML in one file: the frame, the style, and jinja2 with escaping on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastload.errors import missing_extra

# Colours, text, tables: the same on every page. A page adds its own rules after these.
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 46rem; }
h1 { font-size: 1.35rem; line-height: 1.3; margin: .25rem 0 .75rem; overflow-wrap: anywhere; }
h1::first-letter { text-transform: uppercase; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p, figcaption { margin: .25rem 0; } .quiet { color: #596373; font-size: .875rem; }
.numbers { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: .5rem 0 1rem; }
.numbers b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
th, td { text-align: left; padding: .3rem .5rem .3rem 0; border-bottom: 1px solid #e2e5ea; vertical-align: top; }
th { font-weight: 600; } th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.scroll { overflow-x: auto; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } section { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s</title><style>%s</style></head><body>
%s
</body></html>
"""


def templates() -> Any:
    """The module jinja2; also for who has something long to do before there is a page.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise missing_extra("jinja2", "report", "an HTML report") from None
    return jinja2


def render_page(title: str, body: str, values: Mapping[str, Any], *, style: str = "", macros: str = "") -> str:
    """A page from jinja2 templates. Values are escaped; a name that `values` lacks is an error.

    Args:
        title, body: templates.
        style: rules of this page, after those that all pages share.
        macros: what the templates use.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = templates()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page: str = environment.from_string(macros + _FRAME % (title, STYLE + style, body)).render(values)
    return page
