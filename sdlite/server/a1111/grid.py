"""A1111's script "X/Y/Z plot": the same request over values of settings, and a picture of all."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sdlite.server.a1111.schema import Drawing, Img2Img
from sdlite.server.problem import Refused, unsupported

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdlite.grid.axes import Axis, Cell
    from sdlite.types import Request, Result

NAMES = ("x/y/z plot", "x/y/z", "xyz_grid")
"""What clients call it."""
NOTHING = "Nothing"
TEXT, IMAGE = 1, 2
"""Kinds of axes only one of the two ways to draw has."""
AXES: tuple[tuple[str, str | None, int], ...] = (
    (NOTHING, None, 0),
    ("Seed", "seed", 0),
    ("Var. seed", "variation-seed", 0),
    ("Var. strength", "variation-strength", 0),
    ("Steps", "steps", 0),
    ("Hires steps", "hires-steps", TEXT),
    ("CFG Scale", "guidance", 0),
    ("Image CFG Scale", "image-guidance", IMAGE),
    ("Prompt S/R", "replace", 0),
    ("Prompt order", None, 0),
    ("Sampler", "sampler", TEXT),
    ("Hires sampler", "hires-sampler", TEXT),
    ("Sampler", "sampler", IMAGE),
    ("Checkpoint name", None, 0),
    ("Negative Guidance minimum sigma", None, 0),
    ("Sigma Churn", "s-churn", 0),
    ("Sigma min", "s-tmin", 0),
    ("Sigma max", "s-tmax", 0),
    ("Sigma noise", "s-noise", 0),
    ("Schedule type", "schedule", 0),
    ("Schedule min sigma", None, 0),
    ("Schedule max sigma", None, 0),
    ("Schedule rho", None, 0),
    ("Eta", "eta", 0),
    ("Clip skip", "clip-skip", 0),
    ("Denoising", "strength", 0),
    ("Initial noise multiplier", None, 0),
    ("Extra noise", None, 0),
    ("Hires upscaler", "hires-upscaler", TEXT),
    ("Cond. Image Mask Weight", None, IMAGE),
    ("VAE", None, 0),
    ("Styles", None, 0),
    ("UniPC Order", None, 0),
    ("Face restore", None, 0),
    ("Token merging ratio", None, 0),
    ("Token merging ratio high-res", None, 0),
    ("Always discard next-to-last sigma", None, 0),
    ("SGM noise multiplier", None, 0),
    ("Refiner checkpoint", None, 0),
    ("Refiner switch at", None, 0),
    ("RNG source", "rng", 0),
    ("FP8 mode", None, 0),
    ("Size", "size", 0),
)
"""A1111's list in its order, as clients name an axis by its number; the setting, None for those
that are not there; and which way to draw has it, 0 for both."""


@dataclass(frozen=True)
class Grid:
    """What the script was asked for."""

    axes: tuple[Axis, ...]
    """One to three."""
    cells: tuple[Cell, ...]
    """A picture each."""
    alone: bool
    """Whether the single pictures are wanted too."""

    def requests(self) -> list[Request]:
        """A request a cell."""
        return [cell.request for cell in self.cells]

    def sheet(self, results: Sequence[Result]) -> Image:
        """The picture of all; cells that were not drawn stay white."""
        from sdlite.grid.picture import compose

        drawn = zip(self.cells, results, strict=False)
        return compose({cell.place: result.images[0] for cell, result in drawn}, self.axes)


def wanted(name: str | None) -> bool:
    """Whether this script is meant."""
    return name is not None and name.strip().casefold() in NAMES


def read_grid(body: Drawing, request: Request) -> Grid:
    """The grid of a body; ``request`` has its seed.

    ``script_args`` are A1111's: for each of x, y and z the axis (number or name), its values as
    text and as a list, then whether to draw a legend, include lone images, include sub grids and
    leave seeds alone.

    Raises:
        Refused: an axis is not there, or no axis is named.
        RequestError: a value cannot be used.
    """
    from sdlite.grid.axes import cells

    given = [*body.script_args, *([None] * 13)]
    if request.images != 1:
        raise unsupported("X/Y/Z plot with batch_size above 1")
    if given[12]:
        raise unsupported("X/Y/Z plot with another random seed in each picture")
    axes = []
    for letter, place in (("X", 0), ("Y", 3), ("Z", 6)):
        axis = _axis(letter, *given[place : place + 3], image=isinstance(body, Img2Img))
        if axis is not None:
            axes.append(axis)
    if not axes:
        raise Refused(422, "X/Y/Z plot without an axis: script_args names none", "missing_axis")
    return Grid(tuple(axes), cells(replace(request, images=1), axes), bool(given[10]))


def _axis(letter: str, kind: Any, text: Any, listed: Any, *, image: bool) -> Axis | None:
    from sdlite.grid.axes import read_axis

    label, setting = _setting(letter, kind, image)
    if label == NOTHING:
        return None
    if setting is None:
        raise unsupported(f"X/Y/Z plot over {label}")
    values = str(text or "")
    if not values.strip() and isinstance(listed, list):
        stream = io.StringIO()
        csv.writer(stream, lineterminator="").writerow([str(item) for item in listed])
        values = stream.getvalue()
    return read_axis(f"{setting}={values}", f"axis {letter}")


def _setting(letter: str, kind: Any, image: bool) -> tuple[str, str | None]:
    """Label and setting of an axis."""
    here = [item[:2] for item in AXES if item[2] in (0, IMAGE if image else TEXT)]
    if kind is None or kind == "":
        return here[0]
    if isinstance(kind, int) and not isinstance(kind, bool) and 0 <= kind < len(here):
        return here[kind]
    for item in here:
        if isinstance(kind, str) and kind.strip().casefold() == item[0].casefold():
            return item
    raise Refused(422, f"axis {letter}: there is no axis {str(kind)[:40]!r}", "unknown_name")
