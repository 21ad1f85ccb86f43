"""Parts that come with an extra: imported when a command needs them, and said how to get."""

from __future__ import annotations

import importlib
from types import ModuleType

from sdlite.errors import RuntimeUnavailable

OPTIONAL = frozenset({"onnx", "huggingface_hub"})
"""What the extra ``[export]`` installs."""


def export_part(name: str) -> ModuleType:
    """A module of ``sdlite_export``; raises ``RuntimeUnavailable`` when its extra is missing."""
    try:
        return importlib.import_module(f"sdlite_export.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in OPTIONAL:
            raise
        raise RuntimeUnavailable(
            f"this command needs {missing}, which is not installed",
            'Install it with: pip install "sdlite[export]"',
        ) from error
