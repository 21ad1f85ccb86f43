"""Pictures in terminals."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from sdlite.cli import terminal


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class AsciiScreen(Screen):
    encoding = "ascii"


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}, "blocks"),
        ({"TERM": "xterm-256color", "TMUX": "/tmp/x", "TERM_PROGRAM": "iTerm.app"}, "blocks"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({}, "blocks"),
        ({"TERM": "dumb"}, None),
    ],
)
def test_what_a_terminal_can(environ: dict[str, str], protocol: str | None) -> None:
    assert terminal.detect(Screen(), environ) == protocol


def test_no_terminal_no_picture() -> None:
    assert terminal.detect(io.StringIO(), {"TERM": "xterm-kitty"}) is None
    assert terminal.detect(AsciiScreen(), {"TERM": "xterm"}) is None


@pytest.fixture(autouse=True)
def size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "40")


def test_cells_keep_the_shape() -> None:
    assert terminal.cells(64, 64) == (48, 24)
    assert terminal.cells(64, 32) == (48, 12)
    assert terminal.cells(32, 64) == (24, 24)
    assert terminal.cells(1000, 1) == (48, 1)


def test_half_blocks_hold_two_pixels_each() -> None:
    image = Image.new("RGB", (48, 48), (255, 0, 0))
    image.paste((0, 0, 255), (0, 24, 48, 48))
    text = terminal.draw(image, "blocks")
    lines = text.split("\n")
    assert len(lines) == 25
    assert lines[-1] == ""
    assert lines[0].count("▀") == 48
    assert lines[0].startswith("\x1b[38;2;255;0;0m\x1b[48;2;255;0;0m▀")
    assert lines[23].startswith("\x1b[38;2;0;0;255m\x1b[48;2;0;0;255m▀")
    assert all(line.endswith("\x1b[0m") for line in lines[:-1])
    assert terminal.draw(image, "blocks", again=True) == "\x1b[24A\r" + text


def test_kitty_gets_a_png_in_pieces() -> None:
    image = Image.effect_noise((200, 200), 90).convert("RGB")
    text = terminal.draw(image, "kitty")
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(pieces) > 1
    assert all(len(data) <= 4096 for _, data in pieces)
    assert "a=T,f=100" in pieces[0][0]
    assert [keys[-1] for keys, _ in pieces] == ["1"] * (len(pieces) - 1) + ["0"]
    data = base64.b64decode("".join(data for _, data in pieces))
    assert Image.open(io.BytesIO(data)).size == (200, 200)
    again = terminal.draw(image, "kitty", again=True)
    assert again.startswith("\x1b[24A\r\x1b_G")
    assert text.count("\n") == 48
    assert again.count("\n") == 24


def test_iterm_gets_a_png() -> None:
    text = terminal.draw(Image.new("RGB", (8, 8)), "iterm")
    match = re.fullmatch(r"\x1b]1337;File=inline=1;width=48;height=24;[^:]*:(.*)\x07\n", text)
    assert match is not None
    assert base64.b64decode(match[1]).startswith(b"\x89PNG")
