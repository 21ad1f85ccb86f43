"""LoRAs and embeddings in the model folders, found by their names.

The folders of A1111 and ComfyUI are known: add their root with ``sdlite models --add``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdlite import home
from sdlite.errors import SourceError, UnknownName
from sdlite.tensors.safetensors import open_safetensors

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin", ".pth")
DEPTH = 4
"""Levels of subfolders searched."""
MAX_FILES = 20_000
PLACES = {
    "LoRA": ("models/Lora", "models/LyCORIS", "models/loras", "Lora", "LyCORIS", "loras"),
    "embedding": ("embeddings", "models/embeddings"),
    "ControlNet": (
        *("models/ControlNet", "models/controlnet", "models/t2i_adapter"),
        *("ControlNet", "controlnet", "t2i_adapter"),
    ),
}
"""Where A1111 and ComfyUI keep them, from their root or ``models``; also below our own folder."""


@dataclass(frozen=True)
class Asset:
    """A file with a name."""

    name: str
    """Its name without ending."""
    path: Path
    """Where it is."""


def assets(kind: str) -> tuple[Asset, ...]:
    """Every ``LoRA``, ``embedding`` or ``ControlNet`` file there is, the first of each name."""
    found: dict[str, Asset] = {}
    seen: set[Path] = set()
    for folder in home.search_folders():
        # A1111 has its embeddings at the root and everything else in ``models``.
        for place in (*PLACES[kind], *(f"../{p}" for p in PLACES[kind] if folder.name == "models")):
            for path in _files(folder / place, seen):
                found.setdefault(path.stem, Asset(path.stem, path))
    return tuple(found.values())


def find_asset(kind: str, name: str) -> Path:
    """The file of a name, in any case, or of the name its training gave it (``ss_output_name``).

    Raises ``UnknownName``, which offers the nearest.
    """
    there = assets(kind)
    exact = {asset.name: asset.path for asset in there}
    if name in exact:
        return exact[name]
    folded = {asset.name.casefold(): asset.path for asset in reversed(there)}
    if name.casefold() in folded:
        return folded[name.casefold()]
    if kind == "LoRA":
        for asset in there:
            if _alias(asset.path) == name:
                return asset.path
    raise UnknownName(kind, name, sorted(exact))


def _alias(path: Path) -> str | None:
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        return open_safetensors(path).metadata.get("ss_output_name")
    except SourceError:
        return None


def _files(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if not folder.is_dir():
        return
    base = len(folder.parts)
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if len(here.parts) - base >= DEPTH:
            folders.clear()
        for name in sorted(names):
            path = here / name
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                place = path.resolve()
                if place not in seen and len(seen) < MAX_FILES:
                    seen.add(place)
                    yield path
