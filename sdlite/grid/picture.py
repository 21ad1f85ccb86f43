"""The picture of a grid: its cells in rows and columns, with what differs written beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from sdlite.grid.axes import Axis
from sdlite.image.source import MAX_PIXELS

PAPER, INK = (255, 255, 255), (20, 20, 20)
LEAST_TEXT = 11
"""Smallest height of letters in pixels."""
LINES = 6
"""Most lines of a label; the rest is cut off."""
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def compose(pictures: Mapping[tuple[int, ...], Image.Image], axes: Sequence[Axis]) -> Image.Image:
    """Lay pictures out: the first axis across, the second down, the third in grids of their own.

    Args:
        pictures: by the index of their value along each axis; those that are missing stay white.
        axes: one to three.

    A grid of more pixels than a picture may have is made smaller.
    """
    width = max((image.width for image in pictures.values()), default=64)
    height = max((image.height for image in pictures.values()), default=64)
    counts = [len(axis.values) for axis in axes] + [1] * (3 - len(axes))
    cells = counts[0] * counts[1] * counts[2]
    share = min((0.6 * MAX_PIXELS / (cells * width * height)) ** 0.5, 1.0)
    width, height = max(int(width * share), 1), max(int(height * share), 1)
    text = max(LEAST_TEXT, min(width, height) // 16)
    font = ImageFont.load_default(size=text)
    gap = max(text // 3, 2)
    across = [_wrapped(label, font, width) for label in axes[0].labels]
    down = [_wrapped(label, font, width) for label in axes[1].labels] if len(axes) > 1 else [[]]
    titles = (
        [_wrapped(label, font, counts[0] * width) for label in axes[2].labels]
        if (len(axes) > 2)
        else [[]]
    )
    line = text + gap
    top = max(map(len, across)) * line + gap
    left = max((int(font.getlength(words)) + 2 * gap for rows in down for words in rows), default=0)
    title = max(map(len, titles)) * line + (gap if len(axes) > 2 else 0)
    block = (left + counts[0] * (width + gap) + gap, title + top + counts[1] * (height + gap) + gap)
    sheet = Image.new("RGB", (block[0], block[1] * counts[2]), PAPER)
    pen = ImageDraw.Draw(sheet)
    for z in range(counts[2]):
        y0 = z * block[1]
        _write(pen, titles[z], block[0] // 2, y0 + title // 2, line, font)
        for x in range(counts[0]):
            middle = left + gap + x * (width + gap) + width // 2
            _write(pen, across[x], middle, y0 + title + top // 2, line, font)
        for y in range(counts[1]):
            upper = y0 + title + top + gap + y * (height + gap)
            _write(pen, down[y], left // 2, upper + height // 2, line, font)
            for x in range(counts[0]):
                image = pictures.get((x, y, z)[: len(axes)])
                if image is None:
                    continue
                if share < 1:
                    size = (max(int(image.width * share), 1), max(int(image.height * share), 1))
                    image = image.resize(size, Image.Resampling.LANCZOS)
                place = (
                    left + gap + x * (width + gap) + (width - image.width) // 2,
                    upper + (height - image.height) // 2,
                )
                sheet.paste(image.convert("RGB"), place)
    return sheet


def _write(
    pen: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, line: int, font: Font
) -> None:
    """Lines of text around a point."""
    for index, words in enumerate(lines):
        place = (x, y + round((index - (len(lines) - 1) / 2) * line))
        pen.text(place, words, INK, font, anchor="mm")


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """A label in lines that fit; words too long for one are broken."""
    lines: list[str] = []
    for word in text.split() or [""]:
        while word:
            both = f"{lines[-1]} {word}" if lines else word
            if lines and font.getlength(both) <= width:
                lines[-1], word = both, ""
            elif font.getlength(word) <= width or len(word) == 1:
                lines.append(word)
                word = ""
            else:
                fits = max(
                    (n for n in range(1, len(word)) if font.getlength(word[:n]) <= width), default=1
                )
                lines.append(word[:fits])
                word = word[fits:]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1][:-1] + "..."]
    return lines
