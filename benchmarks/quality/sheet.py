"""Contact sheets: a labelled grid of small pictures, written as one PNG.

python -m benchmarks.quality.sheet FOLDER PROMPTS.json -o sheet.png [--columns 8] [--scale 1]
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_PAPER = (250, 250, 250)
_INK = (25, 25, 25)
_GOOD = (30, 140, 60)
_BAD = (200, 30, 30)
_LINE = 11
_GAP = 6


def contact_sheet(
    images: Sequence[Image.Image],
    labels: Sequence[str],
    *,
    good: Sequence[bool] | None = None,
    columns: int = 8,
    scale: int = 1,
) -> Image.Image:
    """Lay pictures out in a grid with a wrapped label under each.

    All cells have the size of the largest picture times `scale`. `good`, when given, draws a
    green or a red bar above each picture. Raises ValueError when the sequences differ in length
    or there is nothing to show.
    """
    if not images:
        raise ValueError("no pictures: a contact sheet needs at least one")
    if len(images) != len(labels) or (good is not None and len(good) != len(images)):
        raise ValueError(
            f"{len(images)} pictures, {len(labels)} labels"
            + (f", {len(good)} marks" if good is not None else "")
            + ": give one of each for every picture"
        )
    font = ImageFont.load_default(size=10)
    width = max(image.width for image in images) * scale
    height = max(image.height for image in images) * scale
    wrapped = [_wrap(label, font, width) for label in labels]
    cell_height = height + _LINE * max(len(lines) for lines in wrapped) + 2 * _GAP
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    sheet = Image.new(
        "RGB", (columns * (width + _GAP) + _GAP, rows * (cell_height + _GAP) + _GAP), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for index, (image, lines) in enumerate(zip(images, wrapped, strict=True)):
        x = _GAP + index % columns * (width + _GAP)
        y = _GAP + index // columns * (cell_height + _GAP)
        if good is not None:
            draw.rectangle((x, y - 4, x + width - 1, y - 2), fill=_GOOD if good[index] else _BAD)
        shown = image.convert("RGB")
        if scale != 1:
            shown = shown.resize(
                (image.width * scale, image.height * scale), Image.Resampling.NEAREST
            )
        sheet.paste(shown, (x, y))
        for number, line in enumerate(lines):
            draw.text((x, y + height + 2 + number * _LINE), line, fill=_INK, font=font)
    return sheet


def _wrap(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a label (which may hold line ends) so that every line fits `width` pixels."""
    letters = max(6, int(width / max(1.0, font.getlength("n") * 0.95)))
    lines: list[str] = []
    for part in label.split("\n"):
        lines.extend(textwrap.wrap(part, letters) or [""])
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a sheet from a folder and a list of prompts; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument("prompts", type=Path, help='JSON list of {"prompt", "file"}')
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="index of the first picture shown")
    parser.add_argument("--count", type=int, default=64, help="number of pictures shown")
    chosen = parser.parse_args(arguments)
    entries = json.loads(chosen.prompts.read_text(encoding="utf-8"))
    entries = entries[chosen.first : chosen.first + chosen.count]
    images = [Image.open(chosen.folder / entry["file"]).convert("RGB") for entry in entries]
    labels = [entry["prompt"] for entry in entries]
    contact_sheet(images, labels, columns=chosen.columns, scale=chosen.scale).save(chosen.output)
    sys.stdout.write(f"{chosen.output}: {len(images)} pictures\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
