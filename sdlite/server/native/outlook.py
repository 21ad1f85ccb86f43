"""How long a request will take, and what would make it faster."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdlite import home
from sdlite.errors import SdliteError

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline
    from sdlite.server.jobs import Order
    from sdlite.server.state import Server
    from sdlite.types import Request

WORTH = 0.85
"""A change is told when it takes at most this share of the time."""
GRID = 64
"""Sides of smaller pictures are multiples of this, as models were trained, where they can be."""
FEW_STEPS = 8
"""Fewer steps than this are not proposed: what comes out is unfinished."""


def planned(server: Server, order: Order) -> dict[str, Any]:
    """What an order would take, and why; opens a model of its own, without its weights."""
    with server.open_model(order.model) as pipe:
        plan = pipe.plan(order.requests[0])
        seconds, faster = outlook(server, pipe, order)
    return {
        "model": order.model,
        "memory_mode": plan.memory_mode,
        "private_bytes": plan.private_bytes,
        "peak_bytes": plan.peak_bytes,
        "reasons": list(plan.reasons),
        "explanation": plan.explain(),
        "seconds": seconds,
        "faster": faster,
        "waiting": len(server.room.waiting()),
    }


def outlook(
    server: Server, pipe: Pipeline, order: Order
) -> tuple[float | None, list[dict[str, Any]]]:
    """Seconds of an order, None as long as nobody can tell, and changes with their seconds."""
    (request,) = order.requests
    seconds = _seconds(server, pipe, order, request)
    if seconds is None:
        return None, []
    found = []
    for kind, change in _changes(order, request):
        try:
            less = _seconds(server, pipe, order, replace(request, **change))
        except SdliteError:
            continue
        if less is not None and less <= WORTH * seconds:
            found.append({"kind": kind, "change": change, "seconds": round(less, 3)})
    return round(seconds, 3), found


def _changes(order: Order, request: Request) -> list[tuple[str, dict[str, Any]]]:
    from sdlite.profiles import PROFILES

    steps, images = request.steps or 1, request.images
    found: list[tuple[str, dict[str, Any]]] = []
    if order.margins is None:
        names = list(PROFILES)
        for name in names[names.index(request.profile) + 1 : names.index("fast") + 1]:
            found.append(("profile", {"profile": name}))
    if images > 1:
        found.append(("images", {"images": 1}))
    if steps >= 2 * FEW_STEPS and request.sigmas is None:
        found.append(("steps", {"steps": max(steps // 2, FEW_STEPS)}))
    if request.edit is None and order.margins is None:
        size = smaller(request.width or 0), smaller(request.height or 0)
        if size != (request.width, request.height):
            found.append(("size", {"width": size[0], "height": size[1]}))
    return found


def smaller(side: int) -> int:
    """About three quarters of a side."""
    grid = GRID if side > 4 * GRID else 8
    return max(side * 3 // 4 // grid * grid, grid)


def _seconds(server: Server, pipe: Pipeline, order: Order, request: Request) -> float | None:
    """By what its calls took before, else by how fast its model was so far."""
    from sdlite.forecast import forecast, read
    from sdlite.server.jobs import work_of

    work = work_of(request)
    asked = work_of(order.requests[0])
    # Windows of an outpainting are counted in the order's work only.
    paced = replace(order, work=order.work * work / asked if asked else 0.0)
    by_pace = server.room.forecast(paced)
    if order.margins is not None or request.hires is not None:
        return by_pace
    found = forecast(pipe.plan(request), request, pipe.package.manifest, read(home.folders().cache))
    runs = [row.run_seconds for row in found.rows]
    if by_pace is not None and any(run is None for run in runs):
        return by_pace
    if order.model in server.open_models():
        return by_pace if None in runs else sum(run for run in runs if run is not None)
    return found.seconds()
