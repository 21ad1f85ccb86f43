"""Styles: named pieces of prompts in a ``styles.csv`` as A1111 keeps them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdlite.errors import RequestError, UnknownName

PLACE = "{prompt}"


@dataclass(frozen=True)
class Style:
    """A named piece of a prompt and of a negative prompt."""

    name: str
    """What ``--style`` takes."""
    prompt: str
    """Added to the end of a prompt, or put around it where it says ``{prompt}``."""
    negative_prompt: str
    """The same for the negative prompt."""


def read_styles(path: Path) -> dict[str, Style]:
    """The styles of a file by name; of two with one name the later counts.

    The file is CSV with the columns ``name``, ``prompt`` and ``negative_prompt`` (or ``text`` for
    the prompt, as old versions wrote).

    Raises:
        RequestError: the file cannot be read, or has no such columns.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True))
    except OSError as error:
        raise RequestError(f"cannot read styles from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"styles in {path} are not UTF-8: {error.reason}") from error
    except csv.Error as error:
        raise RequestError(f"{path} is no CSV file: {error}") from error
    styles = {}
    for row in rows:
        if "name" not in row or not ("prompt" in row or "text" in row):
            raise RequestError(
                f"{path} has no columns name and prompt; its first line must be "
                "name,prompt,negative_prompt"
            )
        prompt = row["prompt"] if "prompt" in row else row["text"]
        style = Style(row["name"] or "", prompt or "", row.get("negative_prompt") or "")
        if style.name:
            styles[style.name] = style
    return styles


def find_styles(names: Sequence[str], styles: Mapping[str, Style]) -> list[Style]:
    """The styles of these names, in this order; raises ``UnknownName``."""
    for name in names:
        if name not in styles:
            raise UnknownName("style", name, list(styles))
    return [styles[name] for name in names]


def apply_styles(prompt: str, negative_prompt: str, styles: Sequence[Style]) -> tuple[str, str]:
    """Prompt and negative prompt with styles applied one after the other."""
    for style in styles:
        prompt = _merge(style.prompt, prompt)
        negative_prompt = _merge(style.negative_prompt, negative_prompt)
    return prompt, negative_prompt


def _merge(style: str, prompt: str) -> str:
    if PLACE in style:
        return style.replace(PLACE, prompt)
    if not style.strip():
        return prompt
    return ", ".join(part for part in (prompt.strip(), style.strip()) if part)
