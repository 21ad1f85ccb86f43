"""Find what a source says about its use: licence files, model cards, metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sdlite_export.source.checkpoint import SourceLicence

MAX_BYTES = 1 << 20
"""A licence or card longer than this is not read."""
MAX_ID = 80
"""A longer identifier is a sentence."""
FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md", "COPYING")
HEADINGS = (
    (r"CreativeML Open RAIL\+\+-M", "openrail++"),
    (r"CreativeML Open RAIL-?M", "creativeml-openrail-m"),
    (r"Apache License\s+Version 2\.0", "apache-2.0"),
    (r"MIT License", "mit"),
    (r"CC0 1\.0", "cc0-1.0"),
)
"""Names licence texts call themselves by, for folders without a card."""
MODELS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""Suffixes of model files; a card beside several of them may belong to any."""
ID_KEYS = ("modelspec.license", "license", "licence")
"""Metadata entries of single files, most specific first."""


def folder_licence(folder: Path) -> SourceLicence:
    """Licence of a model folder: identifier from its card, text from its licence file.

    Never raises: a source without a readable licence is ``unknown``.
    """
    text = next((found for name in FILES if (found := _text(folder / name))), None)
    card = _text(folder / "README.md")
    identifier = card_licence(card) if card else None
    if identifier is None and text is not None:
        start = text[:2000]
        named = (name for heading, name in HEADINGS if re.search(heading, start, re.IGNORECASE))
        identifier = next(named, "other")
    return SourceLicence(identifier or "unknown", text)


def card_licence(card: str) -> str | None:
    """The ``license`` (or ``license_name``) of a model card's front matter; None without one.

    The front matter is YAML between two ``---`` lines; only plain ``key: value`` lines and one
    list are understood, which is all that cards use here.
    """
    lines = card.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    found: dict[str, str] = {}
    pending: str | None = None
    for line in lines[1:]:
        if line.strip() == "---":
            break
        item = re.fullmatch(r"\s*-\s+(.+)", line)
        if item and pending is not None:
            found.setdefault(pending, _clean(item[1]))
            continue
        pair = re.fullmatch(r"(license|license_name):(.*)", line)
        pending = pair[1] if pair else None
        if pair and _clean(pair[2]):
            found[pair[1]] = _clean(pair[2])
    identifier = found.get("license")
    if identifier in (None, "other"):
        identifier = found.get("license_name", identifier)
    return identifier


def file_licence(path: Path, metadata: Mapping[str, str]) -> SourceLicence:
    """Licence of a single file: what its header says, else what lies beside it.

    A card or licence file is believed only where the file is the one model of its folder.
    """
    stated = metadata_licence(metadata)
    if stated.id != "unknown":
        return stated
    try:
        alone = sum(item.suffix.lower() in MODELS for item in path.parent.iterdir()) == 1
    except OSError:
        return stated
    return folder_licence(path.parent) if alone else stated


def metadata_licence(metadata: Mapping[str, str]) -> SourceLicence:
    """Licence of a single file, from the ``__metadata__`` of its header."""
    for key in ID_KEYS:
        value = metadata.get(key, "").strip()
        if value:
            if len(value) <= MAX_ID and "\n" not in value:
                return SourceLicence(value)
            return SourceLicence("other", value)
    return SourceLicence()


def _clean(value: str) -> str:
    value = value.split(" #")[0].strip().strip("[]").split(",")[0].strip()
    return value.strip("'\"")[:MAX_ID]


def _text(path: Path) -> str | None:
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
