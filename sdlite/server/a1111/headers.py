"""What headers of LoRAs and embeddings say, read once a file."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdlite.errors import SourceError
from sdlite.tensors.safetensors import SafetensorsFile, open_safetensors

FILES = 1024
"""Files of each kind whose facts are remembered."""
LONGEST = 1 << 16
"""Characters of a value that is told; training writes the words of every picture into some."""
FACTS = ("step", "sd_checkpoint", "sd_checkpoint_name", "shape", "vectors")


def lora_metadata(path: Path) -> dict[str, Any]:
    """What training wrote into a LoRA, objects read as such; empty where there is nothing, or the
    file is of a kind that would have to be unpickled."""
    return _metadata(path, _changed(path))


def embedding_facts(path: Path) -> dict[str, int | str | None]:
    """What A1111 tells of an embedding; None for what its header does not say."""
    return _facts(path, _changed(path))


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _header(path: Path) -> SafetensorsFile | None:
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        return open_safetensors(path)
    except SourceError:
        return None


@lru_cache(FILES)
def _metadata(path: Path, changed: int) -> dict[str, Any]:
    header = _header(path)
    found: dict[str, Any] = {}
    for name, text in header.metadata.items() if header else ():
        if len(text) > LONGEST:
            continue
        found[name] = text
        if text.startswith("{"):
            try:
                found[name] = json.loads(text)
            except ValueError:
                continue
    return found


@lru_cache(FILES)
def _facts(path: Path, changed: int) -> dict[str, int | str | None]:
    facts: dict[str, int | str | None] = dict.fromkeys(FACTS)
    header = _header(path)
    shapes = [] if header is None else [info.shape for info in header.infos().values()]
    if shapes and len(shapes[0]) == 2:
        facts["vectors"], facts["shape"] = shapes[0]
    return facts
