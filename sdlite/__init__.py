"""Stable Diffusion on weak hardware, without PyTorch.

>>> import sdlite
>>> with sdlite.load("shapes") as pipe:
...     pipe.generate("a red circle on a blue background", seed=7).images[0].save("circle.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdlite.api import load
    from sdlite.controls import Control
    from sdlite.errors import (
        Cancelled,
        EngineError,
        NoPlan,
        OutOfMemory,
        OutputError,
        PackageError,
        RequestError,
        RuntimeUnavailable,
        SdliteError,
        SourceError,
        UnknownName,
    )
    from sdlite.loras import LoraUse
    from sdlite.package import Package
    from sdlite.pipeline import Pipeline
    from sdlite.planner import Plan
    from sdlite.types import Edit, Hires, Request, Result, SamplerState, Step

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "Control",
    "Edit",
    "EngineError",
    "Hires",
    "LoraUse",
    "NoPlan",
    "OutOfMemory",
    "OutputError",
    "Package",
    "PackageError",
    "Pipeline",
    "Plan",
    "Request",
    "RequestError",
    "Result",
    "RuntimeUnavailable",
    "SamplerState",
    "SdliteError",
    "SourceError",
    "Step",
    "UnknownName",
    "load",
]

_HOMES = {
    "load": "sdlite.api",
    "Package": "sdlite.package",
    "Pipeline": "sdlite.pipeline",
    "Plan": "sdlite.planner",
    "Control": "sdlite.controls",
    "Edit": "sdlite.types",
    "Hires": "sdlite.types",
    "LoraUse": "sdlite.loras",
    "Request": "sdlite.types",
    "Result": "sdlite.types",
    "SamplerState": "sdlite.types",
    "Step": "sdlite.types",
}


def __getattr__(name: str) -> object:
    # Imported on first use: `import sdlite` costs a few milliseconds, whatever a program needs.
    if name not in __all__:
        raise AttributeError(f"module 'sdlite' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "sdlite.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
