"""Small files of a source folder, read with a limit and with errors that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdlite.errors import SourceCorrupt, SourceError, SourceHostile

MAX_TEXT_BYTES = 64 << 20
"""Vocabularies are about 1 MB, tokenizer.json about 4 MB; beyond this a file is no text of ours."""


def read_bytes(path: Path) -> bytes:
    """A whole small file; raises ``SourceError`` when it is missing or absurdly large."""
    try:
        size = path.stat().st_size
        if size > MAX_TEXT_BYTES:
            raise SourceCorrupt(f"{path}: {size} bytes, at most {MAX_TEXT_BYTES} make sense here")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SourceError(
            f"{path} is missing; the model folder is incomplete, get it again"
        ) from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small file; raises ``SourceCorrupt`` when it is none."""
    return parse_json(read_bytes(path), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object from bytes; raises ``SourceCorrupt``, naming ``path``."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SourceCorrupt(f"{path}: not JSON ({error}); get the file again") from error
    if not isinstance(value, dict):
        raise SourceCorrupt(f"{path}: holds a {type(value).__name__}, not a JSON object")
    return value


def plain_name(folder: Path, name: object) -> Path:
    """A file of ``folder`` named by some other file; raises ``SourceHostile`` for paths."""
    if not isinstance(name, str) or not name or name in (".", ".."):
        raise SourceCorrupt(f"{folder}: {name!r} is not a file name")
    if any(letter in name for letter in "/\\:\0"):
        raise SourceHostile(f"{folder}: file name {name!r} leads outside the folder; refused")
    return folder / name
