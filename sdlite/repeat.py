"""Jobs of several runs done again, as a picture's parameters say: outpainting, drawing larger."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from sdlite.choices import MAX_SIDE
from sdlite.errors import RequestError, UnknownName
from sdlite.metadata import Parameters
from sdlite.outpaint import SEAM, Margins, outpaint
from sdlite.pipeline import Pipeline
from sdlite.settings import real, whole
from sdlite.tiled import MOST_SCALE, OVERLAP, draw_larger
from sdlite.types import Request, Result, Step
from sdlite.upscalers.enlarge import RESAMPLING
from sdlite.upscalers.files import find_named

OUTPAINT, LARGER = "Outpaint", "SD upscale"
SIDES = ("left", "top", "right", "bottom")


Draw: TypeAlias = Callable[[Pipeline, Request, Callable[[Step], object], threading.Event], Result]
"""``(pipe, request, on_step, cancel) -> Result``."""


@dataclass(frozen=True)
class _Again:
    """One of the functions that take a pipeline and a request, with what else it takes."""

    function: Callable[..., Result]
    settings: dict[str, Any]
    window: tuple[int, int] | None
    content: str | None = None

    def __call__(
        self,
        pipe: Pipeline,
        request: Request,
        on_step: Callable[[Step], object],
        cancel: threading.Event,
    ) -> Result:
        if self.window is not None and request.width is None and request.height is None:
            request = replace(request, width=self.window[0], height=self.window[1])
        if self.content is not None and request.edit is not None:
            request = replace(request, edit=replace(request.edit, mask_content=self.content))
        return self.function(pipe, request, **self.settings, on_step=on_step, cancel=cancel)


def repeat_runs(
    found: Parameters, picture: tuple[int, int], begun: tuple[int, int]
) -> tuple[Draw | None, tuple[str, ...]]:
    """How to draw a picture that was made in several runs, and what will differ.

    Args:
        found: what the picture carries.
        picture: its width and height.
        begun: those of the picture it was made from.

    Returns:
        None for a picture of one run.

    Raises:
        RequestError: a parameter has a value that cannot be.
    """
    if OUTPAINT in found.fields:
        return _outpainting(found), ()
    if any(name.startswith(LARGER) for name in found.fields):
        return _larger(found, picture, begun)
    return None, ()


def _outpainting(found: Parameters) -> Draw:
    given: dict[str, int] = {}
    for part in found.fields[OUTPAINT].split(","):
        side, _, pixels = part.strip().partition(" ")
        if side not in SIDES:
            raise RequestError(f"the picture's parameter {OUTPAINT} names no side: {part!r}")
        given[side] = whole(0, MAX_SIDE)(f"the picture's parameter {OUTPAINT} {side}", pixels)
    seam = _read(found, f"{OUTPAINT} seam", whole(0, MAX_SIDE))
    settings = {"margins": Margins(**given), "seam": SEAM if seam is None else seam}
    content = found.fields.get(f"{OUTPAINT} content")
    return _Again(outpaint, settings, _size(found, f"{OUTPAINT} window"), content)


def _larger(
    found: Parameters, picture: tuple[int, int], begun: tuple[int, int]
) -> tuple[Draw, tuple[str, ...]]:
    scale = _read(found, LARGER, real(1, MOST_SCALE))
    if scale is None:  # A1111 does not write it.
        scale = picture[0] / begun[0]
    problems: tuple[str, ...] = ()
    upscaler = found.fields.get(f"{LARGER} upscaler", "Lanczos")
    try:
        upscaler = upscaler if upscaler in RESAMPLING else find_named(upscaler).name
    except UnknownName:
        problems = (f"its upscaler {upscaler} is not there; Lanczos is taken",)
        upscaler = "Lanczos"
    overlap = _read(found, f"{LARGER} overlap", whole(0, MAX_SIDE))
    settings = {
        "scale": scale,
        "upscaler": upscaler,
        "overlap": OVERLAP if overlap is None else overlap,
    }
    return _Again(draw_larger, settings, _size(found, f"{LARGER} tile")), problems


def _read(found: Parameters, name: str, parse: Callable[[str, str], Any]) -> Any:
    text = found.fields.get(name)
    return None if text is None else parse(f"the picture's parameter {name}", text)


def _size(found: Parameters, name: str) -> tuple[int, int] | None:
    """Width and height, which ``metadata.parse`` takes apart."""
    sides = [_read(found, f"{name}-{number}", whole(1, MAX_SIDE)) for number in (1, 2)]
    return None if None in sides else (sides[0], sides[1])
