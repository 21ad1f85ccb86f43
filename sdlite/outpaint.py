"""Make a picture larger: paint what would be beyond its edges, window by window."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdlite import __version__
from sdlite.choices import MAX_SIDE, find_tiling
from sdlite.errors import RequestError
from sdlite.image.fit import Box
from sdlite.image.source import MAX_PIXELS, flatten, upright
from sdlite.metadata import infotext
from sdlite.pipeline import Pipeline
from sdlite.request import MAX_SEED, complete
from sdlite.types import Edit, Request, Result, Step

Bools: TypeAlias = npt.NDArray[np.bool_]
SEAM = 16
"""Pixels of the picture that may change so that no seam shows."""
FRESH = 0.25
"""Most of a window that is new: the model must see enough to know what goes on there."""
OVERLAP = 0.25
"""Share of a window that the next one along the same edge sees again."""


@dataclass(frozen=True)
class Margins:
    """How many pixels to add on each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def check(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size of the larger picture; raises ``RequestError``."""
        for name in ("left", "top", "right", "bottom"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SIDE:
                raise RequestError(f"{name} {value} is not between 0 and {MAX_SIDE} pixels")
        if not (self.left or self.top or self.right or self.bottom):
            raise RequestError("nothing to add; give left, top, right or bottom in pixels")
        width, height = size[0] + self.left + self.right, size[1] + self.top + self.bottom
        if width * height > MAX_PIXELS:
            raise RequestError(f"a picture of {width}x{height}: at most {MAX_PIXELS} pixels")
        return width, height


def outpaint(
    pipe: Pipeline,
    request: Request,
    margins: Margins,
    *,
    seam: int = SEAM,
    on_step: Callable[[Step], object] | None = None,
    cancel: threading.Event | None = None,
) -> Result:
    """Continue the picture of ``request.edit`` beyond its edges.

    Each pass paints a strip of at most a quarter of a window along one edge and sees the rest; a
    long strip takes several windows that overlap. Left and right are done before top and bottom.

    Args:
        pipe: the pipeline.
        request: the job; its width and height are those of a window, by default the model's own.
            Of its edit the picture, the strength, the content and the rules count. Window i is
            drawn with seed + i.
        margins: what to add.
        seam: pixels of the picture that may change along the edge; the rest keeps every byte.
        on_step: called after each step, which is counted over all windows.
        cancel: set from any thread, it stops the job after the current step.

    Raises:
        RequestError: there is no picture, nothing to add, or a mask, which has no meaning here.
    """
    edit = request.edit
    if edit is None or edit.mask is not None or edit.alpha_mask or request.images != 1:
        raise RequestError("outpainting takes one picture, without a mask, and draws one")
    if pipe.package.manifest.task == "upscale":
        raise RequestError(f"{pipe.package.manifest.name} is an upscaler; it cannot outpaint")
    if find_tiling(request.tiling):
        raise RequestError("outpainting continues a picture beyond its edges; leave tiling")
    if isinstance(seam, bool) or not 0 <= seam <= MAX_SIDE:
        raise RequestError(f"seam {seam} is not between 0 and {MAX_SIDE} pixels")
    image = flatten(upright(edit.image, "the image"))
    size = margins.check(image.size)
    # Everything but the edit itself is checked and filled in once, for all windows.
    full = complete(replace(request, edit=None), pipe.package.manifest)
    window = (full.width or size[0], full.height or size[1])
    place = (margins.left, margins.top, margins.left + image.width, margins.top + image.height)
    canvas = Image.new("RGB", size)
    canvas.paste(image, place)
    known = np.zeros((size[1], size[0]), bool)
    known[place[1] : place[3], place[0] : place[2]] = True
    windows = list(_windows(place, size, window))
    results: list[Result] = []
    for number, box in enumerate(windows):
        left, top, right, bottom = box
        unknown = ~known[top:bottom, left:right]
        if not unknown.any():
            continue
        part = replace(
            edit,
            image=_edges_drawn_out(canvas.crop(box), ~unknown),
            mask=Image.fromarray(_ramp(unknown, seam)),
            mask_blur=0.0,
            invert_mask=False,
            only_masked=False,
            resize=None,
        )
        job = replace(
            full,
            edit=part,
            width=None,
            height=None,
            seed=(full.seed + number) % (MAX_SEED + 1),
        )
        results.append(
            pipe.generate(job, on_step=counted(on_step, number, len(windows)), cancel=cancel)
        )
        canvas.paste(results[-1].images[0], (left, top))
        known[top:bottom, left:right] = True
    told = {"Outpaint": _sides(margins), "Outpaint seam": str(seam)}
    told["Outpaint window"] = f"{window[0]}x{window[1]}"
    if edit.mask_content != "original":
        told["Outpaint content"] = edit.mask_content
    return _joined(pipe, full, replace(edit, image=image), told, canvas, results)


def _sides(margins: Margins) -> str:
    return ", ".join(f"{name} {value}" for name, value in vars(margins).items() if value)


def passes(image: tuple[int, int], margins: Margins, window: tuple[int, int]) -> int:
    """How many windows are painted; raises ``RequestError`` like ``outpaint``."""
    size = margins.check(image)
    place = (margins.left, margins.top, margins.left + image[0], margins.top + image[1])
    return sum(1 for _ in _windows(place, size, window))


def _windows(place: Box, size: tuple[int, int], window: tuple[int, int]) -> Iterator[Box]:
    """Boxes to paint, in order; each sees what is there before it is painted."""
    left, top, right, bottom = place
    while left > 0 or right < size[0]:
        if left > 0:
            step = _even(left, max(int(window[0] * FRESH), 1))
            left -= step
            across = (left, min(left + max(window[0], step), right))
        else:
            step = _even(size[0] - right, max(int(window[0] * FRESH), 1))
            right += step
            across = (max(right - max(window[0], step), left), right)
        for start, end in _along(top, bottom, window[1]):
            yield across[0], start, across[1], end
    while top > 0 or bottom < size[1]:
        if top > 0:
            step = _even(top, max(int(window[1] * FRESH), 1))
            top -= step
            down = (top, min(top + max(window[1], step), bottom))
        else:
            step = _even(size[1] - bottom, max(int(window[1] * FRESH), 1))
            bottom += step
            down = (max(bottom - max(window[1], step), top), bottom)
        for start, end in _along(left, right, window[0]):
            yield start, down[0], end, down[1]


def _even(length: int, most: int) -> int:
    """The first of the fewest equal steps of at most ``most``."""
    passes = -(-length // most)
    return -(-length // passes)


def _along(start: int, end: int, window: int) -> Iterator[tuple[int, int]]:
    """Intervals of a window's length that cover ``start`` to ``end`` and overlap."""
    length = end - start
    if length <= window:
        yield start, end
        return
    fresh = window * (1 - OVERLAP)
    count = int(np.ceil((length - window) / fresh)) + 1
    for offset in np.linspace(0, length - window, count):
        yield start + round(offset), start + round(offset) + window


def _edges_drawn_out(part: Image.Image, known: Bools) -> Image.Image:
    """What is not known takes the colour of the nearest known pixel of its row, else column."""
    pixels = np.array(part)
    for flipped in (False, True):
        view, seen = (pixels.swapaxes(0, 1), known.T) if flipped else (pixels, known)
        places = np.arange(seen.shape[1])
        for row, there in zip(view, seen, strict=True):
            if there.any() and not there.all():
                have = np.flatnonzero(there)
                after = np.minimum(np.searchsorted(have, places), len(have) - 1)
                before = np.maximum(after - 1, 0)
                nearer = np.abs(have[after] - places) <= np.abs(have[before] - places)
                row[:] = row[np.where(nearer, have[after], have[before])]
        known = known | known.any(1 - int(flipped), keepdims=True)
    return Image.fromarray(pixels)


def _ramp(unknown: Bools, seam: int) -> npt.NDArray[np.uint8]:
    """White where nothing is known, falling to black ``seam`` pixels inside what is."""
    levels = np.where(unknown, 255, 0).astype(np.uint8)
    reached = unknown
    for distance in range(1, seam):
        wider = reached.copy()
        wider[1:] |= reached[:-1]
        wider[:-1] |= reached[1:]
        wider[:, 1:] |= reached[:, :-1]
        wider[:, :-1] |= reached[:, 1:]
        levels[wider & ~reached] = round(255 * (1 - distance / seam))
        reached = wider
    return levels


def counted(
    on_step: Callable[[Step], object] | None, number: int, count: int
) -> Callable[[Step], object] | None:
    """Steps of one of several runs, counted over all of them."""
    if on_step is None:
        return None

    def of_all(step: Step) -> object:
        index = number * step.total + step.index
        return on_step(replace(step, index=index, total=count * step.total))

    return of_all


def _joined(
    pipe: Pipeline,
    full: Request,
    edit: Edit,
    told: dict[str, str],
    canvas: Image.Image,
    results: list[Result],
) -> Result:
    """One result of all windows."""
    request = replace(full, edit=edit, width=canvas.width, height=canvas.height)
    peaks = [result.peak_bytes for result in results if result.peak_bytes is not None]
    extra = {**pipe.fields, **told}
    text = infotext(request, full.seed, pipe.package.manifest, __version__, extra)
    return Result(
        images=(canvas,),
        seeds=(full.seed,),
        request=request,
        plan=results[-1].plan,
        phases=tuple(phase for result in results for phase in result.phases),
        seconds=sum(result.seconds for result in results),
        peak_bytes=max(peaks, default=None),
        notes=tuple(dict.fromkeys(note for result in results for note in result.notes)),
        infotexts=(text,),
    )
