"""Contact sheets: one PNG file for each field that can be drawn, before above after."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastload.previews.cells import Bands, Cell, Picture, Sound, Words
from fastload.previews.changes import Mark, Piece, shortened
from fastload.previews.pixels import Pixels, bands_pixels, sound_pixels
from fastload.previews.shown import Shown
from fastload.report.pictures import INK, LINE, LOSSLESS_SIDE, MUTED, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 6
CELL_INCHES = 1.5
TITLE_CHARACTERS = 21  # over a cell
LEFT, ACROSS = 11, 118  # of a text, in characters: what stands at the left, and a line
LINE_WORDS = 60  # of a text that are shown
TEXT_DPI, TEXT_POINTS = 138, 7.0
CHARACTER_INCHES = 8 / TEXT_DPI  # DejaVu Sans Mono of 7 points; Agg draws whole pixels
LINE_INCHES, TITLE_INCHES, TITLE_LINE_INCHES = 0.19, 0.4, 0.25
# Of what DejaVu has no glyphs for, as far as they are installed.
FALLBACKS = (
    "Noto Sans Mono CJK SC", "Noto Sans Mono CJK JP", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC",
    "WenQuanYi Zen Hei Mono", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "MS Gothic",
    "Malgun Gothic", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "Unifont", "Noto Emoji", "Symbola",
    "Segoe UI Emoji",
)  # fmt: skip
_INKS: dict[Mark, tuple[str, str | None]] = {
    "same": (INK, None),
    "deleted": ("#a3262a", "#fbe3e2"),
    "inserted": ("#17663a", "#dcf3e3"),
    "masked": ("#6b4a00", "#ffe9a8"),
}

Steps = Sequence[tuple[str, Cell]]  # what a cell is called, and it


def drawn(cell: Cell, peak: float) -> Pixels | None:
    """Pixels of a picture or sound; None of anything else.

    Args:
        peak: the amplitude of a sound that fills the height.
    """
    match cell:
        case Picture():
            return cell.pixels
        case Sound():
            return sound_pixels(cell, peak)
        case Bands():
            return bands_pixels(cell)
    return None


def loudest(steps: Steps) -> float:
    """The peak of the sounds among them: what all of one sample are drawn by."""
    return max((cell.peak for _, cell in steps if isinstance(cell, Sound)), default=0.0)


def save_sheets(found: Shown, folder: Path) -> list[Path]:
    """Write <field>.png for each field of pictures, sounds or text; returns what was written."""
    written = []
    for name in found.fields:
        rows = [sample.steps(name) for sample in found.samples]
        cells = [cell for row in rows for _, cell in row]
        title = f"{name} before and after augmentation" if any(len(row) > 1 for row in rows) else name
        path = folder / f"{name.replace('/', '_')}.png"
        if any(isinstance(cell, Picture | Sound | Bands) for cell in cells):
            _pictures(rows, [sample.title("\n") for sample in found.samples], title, path)
        elif any(isinstance(cell, Words) for cell in cells):
            _texts(rows, [sample.title() for sample in found.samples], title, path)
        else:
            continue
        written.append(path)
    return written


def _pictures(rows: Sequence[Steps], titles: Sequence[str], title: str, path: Path) -> None:
    """Samples side by side, each a column of before and after."""
    headings = [what for what, _ in max(rows, key=len)]
    columns = min(COLUMNS, len(rows))
    blocks, lines = -(-len(rows) // columns), 1 + max(title.count("\n") for title in titles)
    pixels = [[drawn(cell, loudest(row)) for _, cell in row] for row in rows]
    aspect = max(each.shape[0] / each.shape[1] for row in pixels for each in row if each is not None)
    height = CELL_INCHES * min(1.5, max(0.5, aspect))
    figure = new_figure(
        CELL_INCHES * columns + 0.4, blocks * (len(headings) * height + TITLE_LINE_INCHES * lines) + 0.4
    )
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    grid = figure.subplots(blocks * len(headings), columns, squeeze=False)
    for cell in grid.ravel():
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    for number, (row, name) in enumerate(zip(pixels, titles, strict=True)):
        top, column = number // columns * len(headings), number % columns
        grid[top, column].set_title(
            "\n".join(map(_cut, name.split("\n"))), fontsize=8, color=INK, pad=3, parse_math=False
        )
        if column == 0:
            for step, what in enumerate(headings):
                grid[top + step, 0].set_ylabel(what, fontsize=8, color=MUTED)
        for step, each in enumerate(row):
            if each is not None:
                smooth = "nearest" if max(each.shape) <= LOSSLESS_SIDE else "antialiased"
                grid[top + step, column].imshow(each, interpolation=smooth)
    figure.savefig(path)


def _cut(text: str) -> str:
    return text if len(text) <= TITLE_CHARACTERS else text[: TITLE_CHARACTERS - 1] + "…"


def _texts(rows: Sequence[Steps], titles: Sequence[str], title: str, path: Path) -> None:
    """Samples below each other, words in the colour of what became of them."""
    lines: list[tuple[str, list[Piece]]] = []  # what stands at the left, and the line
    for row, heading in zip(rows, titles, strict=True):
        lines.append((heading, []))
        for what, cell in row:
            lines += [(what if number == 0 else "", line) for number, line in enumerate(_wrapped(cell))]
    width = (LEFT + ACROSS) * CHARACTER_INCHES
    height = LINE_INCHES * (len(lines) + 1)
    page = (width + 0.2, height + TITLE_INCHES)
    figure = new_figure(*page)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, y=1 - 0.1 / page[1], ha="left", va="top")
    figure.set_layout_engine("none")  # the axes are as wide as the characters need
    axes = figure.add_axes((0.1 / page[0], 0, width / page[0], height / page[1]))
    axes.set(xlim=(-LEFT, ACROSS), ylim=(len(lines) + 1, 0))
    axes.axis("off")
    families = _families()
    style: dict[str, Any] = {"fontsize": 8, "va": "center", "parse_math": False}
    for number, (left, line) in enumerate(lines):
        if line:
            axes.text(-LEFT, number + 0.5, left, color=MUTED, **style)
            _line(axes, line, number, families)
        else:
            axes.axhline(number + 0.1, color=LINE, linewidth=0.8)
            axes.text(-LEFT, number + 0.6, left, color=INK, **style)
    with warnings.catch_warnings():  # of characters that no font here has: they are boxes on the sheet
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(path, dpi=TEXT_DPI)


def _families() -> list[str]:
    """Fonts of words, in the order of asking."""
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return ["monospace", *(name for name in FALLBACKS if name in installed)]


def _line(axes: Axes, line: Sequence[Piece], number: int, families: Sequence[str]) -> None:
    at = 0
    for piece in line:
        ink, paper = _INKS[piece.mark]
        box = None if paper is None else {"facecolor": paper, "edgecolor": "none", "pad": 0.8}
        style: dict[str, Any] = {"fontsize": TEXT_POINTS, "family": families, "va": "center", "parse_math": False}
        axes.text(at, number + 0.5, piece.text, color=ink, bbox=box, **style)
        wide = width_of(piece.text)
        if piece.mark == "deleted":
            axes.plot([at, at + wide], [number + 0.5] * 2, color=ink, linewidth=0.8, zorder=4)
        at += wide + 1


def width_of(text: str) -> int:
    """Columns of a fixed-width font that a text takes: two for a wide character, none for one on top of another."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut_to_lines(word: str) -> Iterator[str]:
    """A word in parts that fit into a line: of languages without spaces, a text is one word."""
    begin = columns = 0
    for end, character in enumerate(word):
        columns += width_of(character)
        if columns > ACROSS:
            yield word[begin:end]
            begin, columns = end, width_of(character)
    yield word[begin:]


def _wrapped(cell: Cell) -> Iterator[list[Piece]]:
    """Lines of at most ACROSS columns, pieces cut at words; one at least."""
    pieces, more = shortened(cell.pieces, LINE_WORDS) if isinstance(cell, Words) else ((), 0)
    line: list[Piece] = []
    room = ACROSS
    for piece in (*pieces, *([Piece("...")] if more else [])):
        for word in (part for whole in piece.text.split(" ") for part in _cut_to_lines(whole)):
            wide = width_of(word)
            if wide > room:
                yield line
                line, room = [], ACROSS
            if line and line[-1].mark == piece.mark:
                line[-1] = Piece(f"{line[-1].text} {word}", piece.mark)
            else:
                line.append(Piece(word, piece.mark))
            room -= wide + 1
    yield line or [Piece("")]
