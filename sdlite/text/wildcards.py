"""Wildcards: ``__name__`` in a prompt becomes a line of ``name.txt``, chosen by the seed."""

from __future__ import annotations

import random
import re
from pathlib import Path

from sdlite.errors import RequestError, UnknownName

MAX_DEPTH = 20
"""Wildcards within the lines of wildcards; more is a circle."""
MAX_CHARACTERS = 1_000_000
_WILDCARD = re.compile(r"__([^\W_](?:[\w\-./ ]*?[^\W_])?)__")


def has_wildcards(text: str) -> bool:
    """Whether anything in a text would be replaced."""
    return _WILDCARD.search(text) is not None


def expand_wildcards(text: str, folder: Path, seed: int) -> str:
    """Replace each wildcard, and those in what replaces it.

    The lines come from Python's ``random.Random(seed)`` in the order the wildcards stand there: the
    same seed and files give the same prompt. Blank lines and lines that begin with # do not count.

    Args:
        text: a prompt.
        folder: where the files are; ``__animals/birds__`` is ``animals/birds.txt`` in it.
        seed: of the picture.

    Raises:
        UnknownName: there is no such file.
        RequestError: a file cannot be read or has no lines, or wildcards contain each other.
    """
    source = random.Random(seed)
    files: dict[str, list[str]] = {}

    def expand(text: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise RequestError(f"wildcards in {folder} contain each other: {text[:60]!r}")

        def line(match: re.Match[str]) -> str:
            name = match[1]
            if name not in files:
                files[name] = _lines(folder, name)
            return expand(source.choice(files[name]), depth + 1)

        expanded = _WILDCARD.sub(line, text)
        if len(expanded) > MAX_CHARACTERS:
            raise RequestError(f"wildcards make a prompt of more than {MAX_CHARACTERS} characters")
        return expanded

    return expand(text, 0)


def _lines(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.txt"
    inside = ".." not in path.relative_to(folder).parts
    if not inside or not path.is_file():
        known = sorted(
            found.relative_to(folder).with_suffix("").as_posix() for found in folder.rglob("*.txt")
        )
        raise UnknownName(f"wildcard in {folder}", name, known)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: {error.reason}") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise RequestError(f"{path} has no lines to choose from")
    return lines
