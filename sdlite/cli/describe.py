"""Finished pictures and plans as ``--json`` prints them; docs/cli.md describes it."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdlite.planner import Plan
    from sdlite.types import Result


def describe_picture(path: Path, seed: int, result: Result) -> dict[str, Any]:
    """One finished picture."""
    request = _plain(result.request)
    del request["seed"], request["images"]
    return {
        "path": str(path.absolute()),
        "seed": seed,
        **request,
        "seconds": round(result.seconds, 4),
        "peak_bytes": result.peak_bytes,
        "phases": [_rounded(asdict(phase)) for phase in result.phases],
        "notes": list(result.notes),
    }


def _plain(value: Any) -> dict[str, Any]:
    """A request or part of one as JSON can say it: pictures by their size."""
    found: dict[str, Any] = {}
    for item in fields(value):
        part = getattr(value, item.name)
        if hasattr(part, "__dataclass_fields__"):
            part = _plain(part)
        elif isinstance(part, tuple):
            part = [_value(inner) for inner in part]
        elif hasattr(part, "getpixel"):
            part = {"width": part.width, "height": part.height}
        found[item.name] = str(part) if isinstance(part, Path) else part
    return found


def _value(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return _plain(value)
    return str(value) if isinstance(value, Path) else value


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in fields.items()
    }


def describe_plan(plan: Plan) -> dict[str, Any]:
    """A plan without the tensor lists of its graphs."""
    return {
        "memory_mode": plan.memory_mode,
        "call_batch": plan.call_batch,
        "resident": plan.resident,
        "private_bytes": plan.private_bytes,
        "peak_bytes": plan.peak_bytes,
        "reasons": list(plan.reasons),
        "placements": [
            {
                "component": placement.component,
                "runtime": placement.device.runtime,
                "device": placement.device.name,
                "variant": placement.artifacts[0].variant,
                "weights": placement.artifacts[0].precision,
                "precision": placement.options.precision,
                "parts": len(placement.artifacts),
                "tiles": placement.tiles,
                "private_bytes": placement.private_bytes,
                "mapped_bytes": placement.mapped_bytes,
            }
            for placement in plan.placements
        ],
    }
