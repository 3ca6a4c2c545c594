"""The annotated page: every line boxed where it stands, its text beside it, figures below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gslice.demo.ocr import Line

# Everything is drawn at twice its size and reduced at the end, which smooths the slanted lines.
OVERSAMPLING = 2
SCALE = 3 * OVERSAMPLING  # the page is small; enlarged, its boxes and letters are easy to see
MARGIN = 48 * OVERSAMPLING
GUTTER = 96 * OVERSAMPLING  # between page and text, where the connectors run
TEXT_WIDTH = 900 * OVERSAMPLING
HEADER_HEIGHT = 128 * OVERSAMPLING
LINE_HEIGHT = 60 * OVERSAMPLING  # at least, of a recognised line
ROW_HEIGHT = 46 * OVERSAMPLING  # of the table of figures
STROKE = 2 * OVERSAMPLING

TITLE_SIZE = 40 * OVERSAMPLING
LINE_SIZE = 30 * OVERSAMPLING
FIGURE_SIZE = 24 * OVERSAMPLING
SMALL_SIZE = 21 * OVERSAMPLING

INK = (27, 31, 40)
FAINT = (120, 127, 140)
RULE = (222, 225, 231)
PAPER = (250, 250, 252)
COLOURS = (
    (37, 99, 235),
    (13, 148, 136),
    (217, 119, 6),
    (219, 39, 119),
    (124, 58, 237),
    (22, 163, 74),
    (220, 38, 38),
)


@dataclass(frozen=True)
class Figures:
    """A small table under the page.

    Attributes:
        heads: Column titles; the first column is aligned to the left, the others to the right.
        rows: Cells, as text.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def draw(
    page: NDArray[np.uint8], lines: Sequence[Line], title: str, subtitle: str, figures: Figures
) -> Image.Image:
    """Draws the annotated page.

    Args:
        page: BGR pixels, shape (height, width, 3).
        lines: What was read, from top to bottom.
        title: First line of the header.
        subtitle: Second line of the header.
        figures: Shown under the page.

    Returns:
        An RGB image.
    """
    page_height, page_width = (SCALE * side for side in page.shape[:2])
    body_height = max(page_height, LINE_HEIGHT * len(lines))
    table_height = ROW_HEIGHT * (len(figures.rows) + 1) + MARGIN
    width = MARGIN + page_width + GUTTER + TEXT_WIDTH + MARGIN
    height = HEADER_HEIGHT + body_height + MARGIN + table_height
    canvas = Image.new("RGB", (width, height), PAPER)

    _draw_header(canvas, title, subtitle)
    origin = (MARGIN, HEADER_HEIGHT + (body_height - page_height) // 2)
    _draw_page(canvas, page, lines, origin)
    _draw_lines(canvas, lines, origin, page_width, body_height)
    _draw_figures(canvas, figures, HEADER_HEIGHT + body_height + MARGIN)
    return canvas.reduce(OVERSAMPLING)


def write(image: Image.Image, path: Path) -> None:
    """Writes an image as PNG, whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    try:
        image.save(partial, format="PNG", optimize=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _draw_header(canvas: Image.Image, title: str, subtitle: str) -> None:
    draw = ImageDraw.Draw(canvas)
    baseline = HEADER_HEIGHT * 0.45
    draw.text((MARGIN, baseline), title, fill=INK, font=_font(TITLE_SIZE), anchor="ls")
    baseline = HEADER_HEIGHT * 0.75
    draw.text((MARGIN, baseline), subtitle, fill=FAINT, font=_font(SMALL_SIZE), anchor="ls")


def _draw_page(
    canvas: Image.Image,
    page: NDArray[np.uint8],
    lines: Sequence[Line],
    origin: tuple[int, int],
) -> None:
    photo = Image.fromarray(np.ascontiguousarray(page[:, :, ::-1]))
    photo = photo.resize((photo.width * SCALE, photo.height * SCALE), Image.Resampling.LANCZOS)
    tint = Image.new("RGBA", photo.size)
    pen = ImageDraw.Draw(tint)
    for index, line in enumerate(lines):
        colour = _colour(index)
        corners = [(float(x) * SCALE, float(y) * SCALE) for x, y in line.box]
        pen.polygon(corners, fill=(*colour, 36))
        pen.line([*corners, corners[0]], fill=(*colour, 255), width=STROKE, joint="curve")
    canvas.paste(Image.alpha_composite(photo.convert("RGBA"), tint).convert("RGB"), origin)
    edge = (origin[0] - 1, origin[1] - 1, origin[0] + photo.width, origin[1] + photo.height)
    ImageDraw.Draw(canvas).rectangle(edge, outline=RULE)


def _draw_lines(
    canvas: Image.Image,
    lines: Sequence[Line],
    origin: tuple[int, int],
    page_width: int,
    body_height: int,
) -> None:
    draw = ImageDraw.Draw(canvas)
    page_right = origin[0] + page_width
    left = page_right + GUTTER
    pitch = body_height / max(1, len(lines))
    for index, line in enumerate(lines):
        colour = _colour(index)
        middle = HEADER_HEIGHT + pitch * (index + 0.5)
        # From the box's right edge over a bend in the gutter to the text beside it.
        start = (origin[0] + _right(line, 0) * SCALE, origin[1] + _right(line, 1) * SCALE)
        bends = (page_right + GUTTER * 0.15, start[1]), (left - GUTTER * 0.25, middle)
        dot = (left - GUTTER * 0.1, middle)
        draw.line([start, *bends, dot], fill=colour, width=STROKE, joint="curve")
        draw.circle(dot, 2 * STROKE, fill=colour)

        font = _fit(line.text, LINE_SIZE, TEXT_WIDTH * 0.87)
        draw.text((left + GUTTER * 0.1, middle), line.text, fill=INK, font=font, anchor="lm")
        score = f"{100 * line.score:.1f} %"
        right = left + TEXT_WIDTH
        draw.text((right, middle), score, fill=colour, font=_font(SMALL_SIZE), anchor="rm")


def _draw_figures(canvas: Image.Image, figures: Figures, top: int) -> None:
    draw = ImageDraw.Draw(canvas)
    right = canvas.width - MARGIN
    column = (right - MARGIN) / len(figures.heads)
    draw.line([(MARGIN, top), (right, top)], fill=RULE, width=STROKE)
    for number, row in enumerate((figures.heads, *figures.rows)):
        colour, size = (FAINT, SMALL_SIZE) if number == 0 else (INK, FIGURE_SIZE)
        middle = top + ROW_HEIGHT * (number + 0.6)
        for cell, text in enumerate(row):
            x, anchor = (MARGIN, "lm") if cell == 0 else (MARGIN + column * (cell + 1), "rm")
            draw.text((x, middle), text, fill=colour, font=_font(size), anchor=anchor)


def _right(line: Line, axis: int) -> float:
    """The middle of a box's right edge, in page pixels."""
    return float(line.box[1:3, axis].mean())


def _colour(index: int) -> tuple[int, int, int]:
    return COLOURS[index % len(COLOURS)]


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Pillow carries one: the same picture on any machine


def _fit(text: str, size: float, room: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font, up to `size`, in which a text is no wider than `room` pixels."""
    return _font(min(size, size * room / max(1.0, _font(size).getlength(text))))
