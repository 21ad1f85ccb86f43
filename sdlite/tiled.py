"""Enlarge a picture and draw it anew tile by tile, which adds detail (A1111's SD upscale)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdlite import __version__
from sdlite.choices import find_tiling
from sdlite.errors import RequestError
from sdlite.image.fit import Box
from sdlite.image.source import MAX_PIXELS, flatten, upright
from sdlite.metadata import infotext
from sdlite.outpaint import counted
from sdlite.pipeline import Pipeline
from sdlite.request import MAX_SEED, complete
from sdlite.types import Float32, Request, Result, Step
from sdlite.upscalers.enlarge import RESAMPLING, upscale
from sdlite.upscalers.files import find_named

OVERLAP = 64
"""Pixels neighbours share, A1111's default; at most half a tile."""
MOST_SCALE = 8.0


def draw_larger(
    pipe: Pipeline,
    request: Request,
    *,
    scale: float = 2.0,
    upscaler: str = "Lanczos",
    overlap: int = OVERLAP,
    on_step: Callable[[Step], object] | None = None,
    cancel: threading.Event | None = None,
) -> Result:
    """Enlarge the picture of ``request.edit``, then draw each tile of it anew.

    A tile sees what was drawn of its neighbours before it, and goes over into them along what they
    share. Strength 0.2 to 0.35 is usual: more draws what the prompt says into every tile.

    Args:
        pipe: the pipeline.
        request: the job; its width and height are those of a tile, by default the model's own. Tile
            i is drawn with seed + i.
        scale: above 1 to 8.
        upscaler: ``Lanczos``, ``Nearest``, ``Bilinear`` or the name of a network.
        overlap: pixels that neighbours share at least.
        on_step: called after each step, which is counted over all tiles.
        cancel: set from any thread, it stops the job after the current step.

    Raises:
        UnknownName: there is no such upscaler.
        RequestError: there is no picture, or a mask, or a value cannot be used.
    """
    edit = request.edit
    if edit is None or edit.mask is not None or edit.alpha_mask or request.images != 1:
        raise RequestError("drawing larger takes one picture, without a mask, and draws one")
    if pipe.package.manifest.task == "upscale":
        raise RequestError(
            f"{pipe.package.manifest.name} is an upscaler and enlarges by itself; leave the "
            "scale out"
        )
    if find_tiling(request.tiling) or request.controls or request.hires is not None:
        raise RequestError("drawing larger works in tiles: leave tiling, controls and hires")
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not number or not math.isfinite(scale) or not 1 < scale <= MOST_SCALE:
        raise RequestError(f"scale {scale} is not a number above 1 and at most {MOST_SCALE:g}")
    image = flatten(upright(edit.image, "the image"))
    size = (round(image.width * scale), round(image.height * scale))
    if size[0] * size[1] > MAX_PIXELS:
        raise RequestError(f"a picture of {size[0]}x{size[1]}: at most {MAX_PIXELS} pixels")
    full = complete(replace(request, edit=None), pipe.package.manifest)
    tile = (min(full.width or size[0], size[0]), min(full.height or size[1], size[1]))
    if isinstance(overlap, bool) or not 0 <= overlap <= min(tile) // 2:
        raise RequestError(f"overlap {overlap} is not from 0 to {min(tile) // 2}, half a tile")
    name = upscaler if upscaler in RESAMPLING else find_named(upscaler).path
    vae = pipe.plan(replace(full, edit=replace(edit, image=image))).placement("vae_encoder")
    canvas = upscale(
        image,
        name,
        size=size,
        runtime=vae.device.runtime if upscaler not in RESAMPLING else None,
        device=vae.device.name if upscaler not in RESAMPLING else None,
        threads=vae.options.threads,
        cancel=cancel,
    ).image
    boxes = [
        (left, top, left + tile[0], top + tile[1])
        for top in _starts(size[1], tile[1], overlap)
        for left in _starts(size[0], tile[0], overlap)
    ]
    results: list[Result] = []
    for index, box in enumerate(boxes):
        job = replace(
            full,
            edit=replace(edit, image=canvas.crop(box), resize=None),
            width=None,
            height=None,
            seed=(full.seed + index) % (MAX_SEED + 1),
        )
        step = counted(on_step, index, len(boxes))
        results.append(pipe.generate(job, on_step=step, cancel=cancel))
        share = Image.fromarray(_share(box, overlap))
        canvas.paste(results[-1].images[0], box[:2], share)
    request = replace(full, edit=replace(edit, image=image), width=size[0], height=size[1])
    extra = {
        **pipe.fields,
        "SD upscale": f"{scale:g}",
        "SD upscale upscaler": upscaler,
        "SD upscale overlap": str(overlap),
        "SD upscale tile": f"{tile[0]}x{tile[1]}",
    }
    text = infotext(request, full.seed, pipe.package.manifest, __version__, extra)
    return replace(
        results[-1],
        images=(canvas,),
        seeds=(full.seed,),
        request=request,
        phases=tuple(phase for result in results for phase in result.phases),
        seconds=sum(result.seconds for result in results),
        peak_bytes=max((r.peak_bytes for r in results if r.peak_bytes is not None), default=None),
        notes=tuple(dict.fromkeys(note for result in results for note in result.notes)),
        infotexts=(text,),
    )


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin: the fewest that share at least ``overlap``, spread evenly."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // max(tile - overlap, 1))
    return [round(place) for place in np.linspace(0, length - tile, count)]


def _share(box: Box, overlap: int) -> npt.NDArray[np.uint8]:
    """How much of a tile is taken, uint8: less towards edges where another was drawn before."""
    width, height = box[2] - box[0], box[3] - box[1]
    across, down = _ramp(width, overlap, box[0] > 0), _ramp(height, overlap, box[1] > 0)
    share: npt.NDArray[np.uint8] = np.rint(255 * down[:, None] * across[None]).astype(np.uint8)
    return share


def _ramp(length: int, overlap: int, shared: bool) -> Float32:
    """From 0 to 1 over the pixels shared with the tile before."""
    ramp = np.ones(length, np.float32)
    if shared and overlap:
        ramp[:overlap] = (np.arange(overlap) + 0.5) / overlap
    return ramp
