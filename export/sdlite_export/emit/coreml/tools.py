"""coremltools, imported when it is needed, and how its programs become packages on disk."""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

from sdlite.errors import RuntimeUnavailable

FIX = 'Install it with: pip install "sdlite[export,coreml]"'
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights"
BLOB = f"{WEIGHTS}/weight.bin"
INDEX = "Manifest.json"
AUTHOR = "com.apple.CoreML"


def coremltools() -> ModuleType:
    """The library; raises ``RuntimeUnavailable`` when it is missing."""
    # It tells of every part that only macOS has.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    try:
        import coremltools as found
    except ImportError as error:
        raise RuntimeUnavailable(
            f"exporting for Core ML needs coremltools, which cannot be imported ({error})", FIX
        ) from error
    return found  # type: ignore[no-any-return]


def save(program: Any, folder: Path, description: str, licence: str) -> None:
    """Write a MIL program as the package ``folder``, a new folder named ``*.mlpackage``.

    Weights go straight to their file. The same program gives the same bytes.
    """
    coremltools()
    from coremltools import target
    from coremltools.converters.mil.backend.mil.load import load

    (folder / WEIGHTS).mkdir(parents=True)
    model = load(program, str(folder / WEIGHTS), specification_version=target.iOS16.value)
    model.description.metadata.shortDescription = description
    model.description.metadata.license = licence
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    items = {
        "model.mlmodel": "CoreML Model Specification",
        "weights": "CoreML Model Weights",
    }
    names = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, f"sdlite:{name}")) for name in items}
    index = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            names[name]: {
                "author": AUTHOR,
                "description": text,
                "name": name,
                "path": f"{AUTHOR}/{name}",
            }
            for name, text in items.items()
        },
        "rootModelIdentifier": names["model.mlmodel"],
    }
    (folder / INDEX).write_text(
        json.dumps(index, indent=4, sort_keys=True) + "\n", encoding="utf-8"
    )
