"""What a control network reads, made of a picture without a model: edges, scribbles, colours ...

Every preprocessor takes an upright RGB picture at the size of the request and gives one of the same
size; its numbers have names and defaults. What needs a model comes as an ONNX file (``onnx.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdlite.control.canny import canny
from sdlite.errors import RequestError, UnknownName

Pixels: TypeAlias = npt.NDArray[np.uint8]
IMAGE_MODULES = (
    "ip-adapter-auto",
    "ip-adapter_clip_sd15",
    "ip-adapter_clip_sdxl",
    "ip-adapter_clip_sdxl_plus_vith",
    "ip-adapter_clip_h",
    "ip-adapter_clip_g",
)
"""What A1111's extension calls looking at a picture for an IP-Adapter; here that is a part of the
package."""
HIDDEN = "inpaint"
"""The preprocessor that needs a mask; what it hides is -1, which no picture can say."""


@dataclass(frozen=True)
class Number:
    """A number a preprocessor takes."""

    default: float
    """What it is when nobody says."""
    low: float
    """Least."""
    high: float
    """Most."""


@dataclass(frozen=True)
class Preprocessor:
    """A way to make what a network reads."""

    name: str
    """What requests call it."""
    what: str
    """What it does, in a few words."""
    apply: Callable[[Image.Image, Mapping[str, float]], Image.Image]
    """Does it."""
    numbers: Mapping[str, Number] = field(default_factory=dict)
    """What can be set."""
    aliases: tuple[str, ...] = ()
    """Other names, those of A1111's extension first."""


def _canny(image: Image.Image, numbers: Mapping[str, float]) -> Image.Image:
    return _grey(canny(_pixels(image), numbers["low"], numbers["high"]))


def _scribble(image: Image.Image, numbers: Mapping[str, float]) -> Image.Image:
    """Lines where a fine and a coarse blur differ: the difference of Gaussians of XDoG
    (Winnemoeller 2011) with deviations of 0.5 and 5 pixels, cut at a threshold."""
    fine, coarse = (_blurred(image, deviation) for deviation in (0.5, 5.0))
    dark = (coarse - fine).min(axis=2)
    return _grey(np.where(2 * np.clip(np.floor(dark), 0, 255) > numbers["threshold"], 255, 0))


def _tile(image: Image.Image, numbers: Mapping[str, float]) -> Image.Image:
    """Detail taken away, as if the picture had been ``rate`` times smaller."""
    rate = numbers["rate"]
    if rate == 1:
        return image
    small = tuple(max(round(side / rate), 1) for side in image.size)
    box = image.resize((small[0], small[1]), Image.Resampling.BOX)
    return box.resize(image.size, Image.Resampling.BICUBIC)


def _colour(image: Image.Image, numbers: Mapping[str, float]) -> Image.Image:
    """One colour for each square of ``cell`` pixels."""
    cell = numbers["cell"]
    small = tuple(max(round(side / cell), 1) for side in image.size)
    mean = image.resize((small[0], small[1]), Image.Resampling.BICUBIC)
    return mean.resize(image.size, Image.Resampling.NEAREST)


def _shuffle(image: Image.Image, numbers: Mapping[str, float]) -> Image.Image:
    """The picture's colours and textures in other places: a smooth random warp of it."""
    rng = np.random.default_rng(int(numbers["seed"]))
    width, height = image.size
    x, y = (_landscape(rng, width, height, int(numbers["cell"])) for _ in range(2))
    return Image.fromarray(_sampled(_pixels(image), x * (width - 1), y * (height - 1)))


def _landscape(
    rng: np.random.Generator, width: int, height: int, cell: int
) -> npt.NDArray[np.float64]:
    """Smooth noise from 0 to 1 with one hill or so a cell, ``(height, width)``."""
    small = rng.uniform(0, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
    wide = (width + 2 * cell, height + 2 * cell)
    noise = Image.fromarray(small).resize(wide, Image.Resampling.BICUBIC)
    values = np.asarray(noise, np.float64)[cell : cell + height, cell : cell + width]
    low = float(values.min())
    return np.asarray((values - low) / max(float(values.max()) - low, 1e-9))


def _sampled(pixels: Pixels, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Pixels:
    """Pixels at places between them, bilinear."""
    left, top = (np.floor(place).astype(np.intp) for place in (x, y))
    right = np.minimum(left + 1, pixels.shape[1] - 1)
    bottom = np.minimum(top + 1, pixels.shape[0] - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    above = pixels[top, left] * (1 - across) + pixels[top, right] * across
    below = pixels[bottom, left] * (1 - across) + pixels[bottom, right] * across
    return np.asarray(np.rint(above * (1 - down) + below * down), np.uint8)


def _invert(image: Image.Image, numbers: Mapping[str, float]) -> Image.Image:
    return Image.fromarray(255 - _pixels(image))


def _same(image: Image.Image, numbers: Mapping[str, float]) -> Image.Image:
    return image


def _blurred(image: Image.Image, deviation: float) -> npt.NDArray[np.float64]:
    """A Gaussian blur of each channel in float, edges repeated as in a mirror."""
    far = math.ceil(4 * deviation)
    places = np.arange(-far, far + 1)
    kernel = np.exp(-(places**2) / (2 * deviation**2))
    kernel /= kernel.sum()
    values = _pixels(image).astype(np.float64)
    for axis in (0, 1):
        around = [(0, 0)] * 3
        around[axis] = (far, far)
        wide = np.pad(values, around, "reflect" if values.shape[axis] > far else "edge")
        size = values.shape[axis]
        values = sum(
            weight * np.take(wide, range(start, start + size), axis=axis)
            for start, weight in enumerate(kernel.tolist())
        )
    return values


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def _grey(values: npt.NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


PREPROCESSORS: tuple[Preprocessor, ...] = (
    Preprocessor("none", "the picture as it is", _same, aliases=IMAGE_MODULES),
    Preprocessor(
        "canny",
        "edges, white on black",
        _canny,
        {"low": Number(100, 0, 2040), "high": Number(200, 0, 2040)},
    ),
    Preprocessor(
        "scribble",
        "broad lines, white on black",
        _scribble,
        {"threshold": Number(32, 1, 255)},
        ("scribble_xdog",),
    ),
    Preprocessor(
        "invert",
        "dark lines on white become light lines on black",
        _invert,
        aliases=("invert (from white bg & black line)",),
    ),
    Preprocessor("tile", "less detail", _tile, {"rate": Number(1, 1, 16)}, ("tile_resample",)),
    Preprocessor(HIDDEN, "the picture without what a mask hides", _same, aliases=("inpaint_only",)),
    Preprocessor(
        "colour",
        "squares of one colour each",
        _colour,
        {"cell": Number(64, 2, 512)},
        ("t2ia_color_grid", "color"),
    ),
    Preprocessor(
        "shuffle",
        "colours and textures in other places",
        _shuffle,
        {"seed": Number(0, 0, 2**32 - 1), "cell": Number(256, 8, 1024)},
    ),
)
"""All that are built in."""


def find_preprocessor(name: str) -> Preprocessor:
    """A preprocessor by its name or one of its other names; raises ``UnknownName``."""
    wanted = name.strip().casefold()
    for item in PREPROCESSORS:
        if wanted in (item.name, *item.aliases):
            return item
    names = [item.name for item in PREPROCESSORS]
    raise UnknownName("preprocessor", name, [*names, "a file ending in .onnx"])


def numbers_of(
    what: str, known: Mapping[str, Number], given: tuple[tuple[str, float], ...]
) -> dict[str, float]:
    """All numbers of a preprocessor; raises ``RequestError`` for those it does not take."""
    numbers = {name: number.default for name, number in known.items()}
    for name, value in given:
        if name not in known:
            raise UnknownName(f"option of the preprocessor {what}", name, known)
        low, high = known[name].low, known[name].high
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise RequestError(
                f"preprocessor {what}: {name} {value!r} is not between {low:g} and {high:g}"
            )
        numbers[name] = float(value)
    return numbers
