"""Parts that come with an extra: imported when a command needs them, and said how to get."""

from __future__ import annotations

import importlib
from types import ModuleType

from sdlite.errors import RuntimeUnavailable

OPTIONAL = {
    "export": frozenset({"onnx", "huggingface_hub"}),
    "mcp": frozenset({"mcp", "mcp_types"}),
    "server": frozenset({"starlette", "uvicorn", "pydantic", "python_multipart", "anyio"}),
}
"""What extras install."""


def export_part(name: str) -> ModuleType:
    """A module of ``sdlite_export``; raises ``RuntimeUnavailable`` when its extra is missing."""
    return _part(f"sdlite_export.{name}", "export")


def server_part(name: str) -> ModuleType:
    """A module of ``sdlite.server``; raises ``RuntimeUnavailable`` when its extra is missing."""
    return _part(f"sdlite.server.{name}", "server")


def mcp_part(name: str) -> ModuleType:
    """A module of ``sdlite.server.mcp``; raises ``RuntimeUnavailable`` without its extra."""
    server_part("app")
    return _part(f"sdlite.server.mcp.{name}", "mcp")


def _part(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in OPTIONAL[extra]:
            raise
        raise RuntimeUnavailable(
            f"this command needs {missing}, which is not installed",
            f'Install it with: pip install "sdlite[{extra}]"',
        ) from error
