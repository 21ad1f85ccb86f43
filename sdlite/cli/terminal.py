"""Pictures in a terminal: kitty's and iTerm2's protocols, or half blocks in 24-bit colour."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from PIL.Image import Image

Protocol = Literal["kitty", "iterm", "blocks"]

ESCAPE = "\x1b"
HALF_BLOCK = "▀"
MAX_COLUMNS = 48
MAX_ROWS = 24
KITTY_CHUNK = 4096
KITTY_IMAGE = 7411
"""An id of our own: sending it again replaces the picture."""


def detect(stream: TextIO, environ: Mapping[str, str]) -> Protocol | None:
    """What the terminal behind ``stream`` can show; None when there is none that can."""
    term = environ.get("TERM", "")
    if not stream.isatty() or term == "dumb":
        return None
    program = environ.get("TERM_PROGRAM", "")
    inside = term.startswith(("screen", "tmux")) or "TMUX" in environ  # these swallow pictures
    if not inside:
        if term == "xterm-kitty" or "KITTY_WINDOW_ID" in environ or program == "ghostty":
            return "kitty"
        if program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2":
            return "iterm"
    try:
        HALF_BLOCK.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return None
    return "blocks"


def cells(width: int, height: int) -> tuple[int, int]:
    """Columns and rows for a picture; a cell is about twice as high as wide."""
    terminal = shutil.get_terminal_size()
    columns = max(2, min(MAX_COLUMNS, terminal.columns - 1))
    rows = max(1, min(MAX_ROWS, terminal.lines - 3))
    scale = min(columns / width, 2 * rows / height)
    return max(1, round(width * scale)), max(1, round(height * scale / 2))


def draw(image: Image, protocol: Protocol, again: bool = False) -> str:
    """What to write to show a picture from the start of a line; ``again`` redraws in its place."""
    columns, rows = cells(*image.size)
    up = f"{ESCAPE}[{rows}A\r" if again else ""
    if protocol == "blocks":
        return up + _blocks(image, columns, rows)
    if protocol == "kitty":
        # The picture does not move the cursor (C=1): lines under it are made first, once.
        room = "" if again else "\n" * rows + f"{ESCAPE}[{rows}A"
        return up + room + _kitty(image, columns, rows) + "\n" * rows
    return up + _iterm(image, columns, rows) + "\n"


def _blocks(image: Image, columns: int, rows: int) -> str:
    small = image.convert("RGB").resize((columns, 2 * rows))
    data = small.tobytes()
    lines = []
    for row in range(rows):
        line = []
        for column in range(columns):
            upper = 3 * (2 * row * columns + column)
            lower = upper + 3 * columns
            red, green, blue = data[upper : upper + 3]
            line.append(f"{ESCAPE}[38;2;{red};{green};{blue}m")
            red, green, blue = data[lower : lower + 3]
            line.append(f"{ESCAPE}[48;2;{red};{green};{blue}m{HALF_BLOCK}")
        lines.append("".join(line) + f"{ESCAPE}[0m\n")
    return "".join(lines)


def _kitty(image: Image, columns: int, rows: int) -> str:
    text = _png(image)
    pieces = [text[at : at + KITTY_CHUNK] for at in range(0, len(text), KITTY_CHUNK)]
    out = []
    for index, piece in enumerate(pieces):
        keys = f"m={int(index + 1 < len(pieces))}"
        if index == 0:
            keys = f"a=T,f=100,i={KITTY_IMAGE},p=1,c={columns},r={rows},C=1,q=2,{keys}"
        out.append(f"{ESCAPE}_G{keys};{piece}{ESCAPE}\\")
    return "".join(out)


def _iterm(image: Image, columns: int, rows: int) -> str:
    keys = f"inline=1;width={columns};height={rows};preserveAspectRatio=1"
    return f"{ESCAPE}]1337;File={keys}:{_png(image)}\x07"


def _png(image: Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
