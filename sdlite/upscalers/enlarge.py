"""Pictures to another size, by a network or by plain resampling."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sdlite.errors import RequestError, UnknownName
from sdlite.home import look_up
from sdlite.image.source import MAX_PIXELS, upright
from sdlite.upscalers.files import UpscalerFile, find_file, installed
from sdlite.upscalers.network import Upscaler

RESAMPLING = {
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
    "Bilinear": Image.Resampling.BILINEAR,
}
"""What needs no network."""
MOST_PASSES = 3
"""A network is applied again until the picture is large enough, at most so often."""
MOST_SCALE = 16.0
OnTile = Callable[[int, int], object]


@dataclass(frozen=True)
class Upscaled:
    """A picture, enlarged."""

    image: Image.Image
    """RGB, or RGBA where the picture had transparency."""
    upscaler: str
    """What enlarged it."""
    tiles: int
    """Tiles the network was run on; 0 without one."""
    runtime: str | None = None
    """The engine; None without a network."""
    precision: str | None = None
    """What it computed in, as far as it says."""


def find_upscaling(name: str | Path) -> UpscalerFile | Image.Resampling:
    """A network by name or path, or a way of resampling by name; raises ``UnknownName`` and what
    ``find_file`` raises."""
    text = " ".join(str(name).split()).casefold()
    for known, way in RESAMPLING.items():
        if known.casefold() == text:
            return way
    try:
        return find_file(name)
    except UnknownName as error:
        if look_up(str(name)) is not None:
            raise RequestError(
                f"{name} is a model that draws, not a network for sdlite upscale; if it is an "
                f"upscaler by diffusion: sdlite edit PICTURE PROMPT --model {name}"
            ) from error
        names = [file.name for file in installed()]
        raise UnknownName("upscaler", str(name), [*RESAMPLING, *names]) from error


def upscale(
    image: Image.Image,
    upscaler: str | Path = "Lanczos",
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    runtime: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    tile: int | None = None,
    max_memory: int | None = None,
    on_tile: OnTile | None = None,
    cancel: threading.Event | None = None,
) -> Upscaled:
    """Enlarge a picture.

    A network is applied until the picture is at least as large as wanted, and what is too much is
    resampled away (Lanczos). Transparency is resampled.

    Args:
        image: any picture Pillow holds.
        upscaler: name of one in the model folders, path of an exported file, or ``Lanczos``,
            ``Nearest``, ``Bilinear``.
        scale: 1 to 16; None is the network's own, or 2.
        size: width and height in pixels instead of a scale.
        runtime: engine; None takes the fastest known for this machine.
        device: device of the engine.
        threads: compute threads; None lets the engine decide.
        precision: what to compute in; None lets the engine decide.
        tile: side of the largest tile in input pixels; None is 256, less where memory is short.
        max_memory: bytes a tile may take; None takes a share of what is free.
        on_tile: called with tiles done and all tiles of this pass, after each.
        cancel: set from any thread, it ends the work with ``Cancelled`` after the current tile.

    Raises:
        UnknownName: there is no such upscaler, engine, device or precision.
        RequestError: a value cannot be used, or the result would be too large.
        PackageInvalid: the upscaler's file is damaged.
        EngineError: the engine failed.
        Cancelled: ``cancel`` was set.
    """
    image = upright(image, "the image")
    found = find_upscaling(upscaler)
    own = found.scale if isinstance(found, UpscalerFile) else 2
    wanted = _wanted(image.size, scale if scale is not None else own, size)
    if isinstance(found, Image.Resampling):
        name = next(known for known, way in RESAMPLING.items() if way == found)
        return Upscaled(image.resize(wanted, found), name, 0)
    tiles = 0

    def counted(done: int, total: int) -> None:
        nonlocal tiles
        tiles += 1
        if on_tile is not None:
            on_tile(done, total)

    with Upscaler(
        found,
        runtime=runtime,
        device=device,
        threads=threads,
        precision=precision,
        tile=tile,
        max_memory=max_memory,
    ) as network:
        made = enlarge_to(network, image.convert("RGB"), wanted, counted, cancel)
        result = made
        if image.mode == "RGBA":
            alpha = image.getchannel("A").resize(wanted, Image.Resampling.LANCZOS)
            result = made.convert("RGBA")
            result.putalpha(alpha)
        return Upscaled(result, found.name, tiles, network.device.runtime, network.precision)


def enlarge_to(
    network: Upscaler,
    image: Image.Image,
    wanted: tuple[int, int],
    on_tile: OnTile | None = None,
    cancel: threading.Event | None = None,
) -> Image.Image:
    """An RGB picture to a size: the network as often as needed, then Lanczos."""
    for passes in range(MOST_PASSES):
        enough = image.width >= wanted[0] and image.height >= wanted[1]
        if passes and (enough or network.file.scale == 1):
            break
        image = network.enlarge(image, on_tile, cancel)
    return image if image.size == wanted else image.resize(wanted, Image.Resampling.LANCZOS)


def _wanted(size: tuple[int, int], scale: float, exact: tuple[int, int] | None) -> tuple[int, int]:
    if exact is None:
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or not math.isfinite(scale) or not 1 <= scale <= MOST_SCALE:
            raise RequestError(f"scale {scale} is not a number from 1 to {MOST_SCALE:g}")
        exact = (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))
    if min(exact) < 1 or exact[0] * exact[1] > MAX_PIXELS:
        raise RequestError(
            f"a picture of {exact[0]}x{exact[1]}: at most {MAX_PIXELS} pixels are made"
        )
    return exact
