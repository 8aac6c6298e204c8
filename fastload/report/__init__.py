"""What pages and pictures share: HTML in one file, figures of matplotlib, pixels and sound as data URIs.

page.py      a page of HTML: no other file, no script; readable on a phone and in print
pictures.py  figures and their colours; pixels and sound as bytes that a page holds itself

Needs the extra `report` (jinja2, matplotlib), imported when used.
"""

from __future__ import annotations
