"""Latents and pictures to another size, between the two passes of a hires job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdlite.errors import UnknownName
from sdlite.types import Array, Float32
from sdlite.upscalers.files import UpscalerFile, find_named


def _linear(distance: Array) -> Array:
    return np.maximum(1.0 - distance, 0.0)


def _cubic(a: float) -> Callable[[Array], Array]:
    """Keys 1981, equation 4, with its free parameter."""

    def weight(distance: Array) -> Array:
        near = ((a + 2.0) * distance - (a + 3.0)) * distance**2 + 1.0
        far = ((a * distance - 5.0 * a) * distance + 8.0 * a) * distance - 4.0 * a
        return np.where(distance <= 1.0, near, np.where(distance < 2.0, far, 0.0))

    return weight


@dataclass(frozen=True)
class Upscaler:
    """One way between two sizes."""

    name: str
    """A1111's name where it has one."""
    latent: str | None = None
    """How latents are scaled: ``linear``, ``cubic``, ``smooth`` (a cubic with less overshoot),
    ``nearest`` or ``exact``; None scales pixels."""
    pixels: Image.Resampling = Image.Resampling.LANCZOS
    """How pixels are scaled."""
    network: UpscalerFile | None = None
    """What enlarges pixels first."""


UPSCALERS = {
    item.name: item
    for item in (
        Upscaler("Latent", "linear"),
        Upscaler("Latent (antialiased)", "linear"),
        Upscaler("Latent (bicubic)", "cubic"),
        Upscaler("Latent (bicubic antialiased)", "smooth"),
        Upscaler("Latent (nearest)", "nearest"),
        Upscaler("Latent (nearest-exact)", "exact"),
        Upscaler("Lanczos", None, Image.Resampling.LANCZOS),
        Upscaler("Bilinear", None, Image.Resampling.BILINEAR),
        Upscaler("Nearest", None, Image.Resampling.NEAREST),
    )
}
"""A1111's kinds and a bilinear one. Its antialiasing makes no difference for larger pictures, but
that the antialiased cubic is another cubic."""
_ALIASES = {"none": "Lanczos", "latent (bilinear)": "Latent"}


def find_upscaler(name: str) -> Upscaler:
    """An upscaler by name in any case, one of ``UPSCALERS`` or a network in the model folders.

    Raises ``UnknownName``; ``RequestError`` and ``PackageInvalid`` for a network that is not ready
    or damaged.
    """
    folded = " ".join(name.split()).casefold()
    folded = _ALIASES.get(folded, folded).casefold()
    for item in UPSCALERS.values():
        if item.name.casefold() == folded:
            return item
    try:
        file = find_named(name)
    except UnknownName as error:
        raise UnknownName("upscaler", name, [*UPSCALERS, *error.valid]) from error
    return Upscaler(file.name, network=file)


def scale_latents(latents: Float32, height: int, width: int, how: str) -> Float32:
    """Latents ``(batch, channels, h, w)`` to ``(batch, channels, height, width)``, float32.

    Cell centres are mapped on cell centres (torch's ``align_corners=False``) and beyond the edge
    the outermost cell goes on.
    """
    rows = _weights(latents.shape[2], height, how)
    columns = _weights(latents.shape[3], width, how)
    result: Float32 = np.matmul(rows, latents) @ columns.T
    return result


def _weights(size: int, wanted: int, how: str) -> Float32:
    """Matrix ``(wanted, size)`` of how much of each old cell goes into each new one."""
    matrix = np.zeros((wanted, size))
    new = np.arange(wanted)
    if how == "nearest":
        matrix[new, new * size // wanted] = 1.0
    elif how == "exact":
        matrix[new, np.minimum(((new + 0.5) * size / wanted).astype(int), size - 1)] = 1.0
    else:
        kernel = {"linear": _linear, "cubic": _cubic(-0.75), "smooth": _cubic(-0.5)}[how]
        centres = (new + 0.5) * (size / wanted) - 0.5
        if how == "linear":
            centres = np.maximum(centres, 0.0)
        first = np.floor(centres).astype(int)
        for place in range(-1, 3):
            cell = first + place
            weight = kernel(np.abs(centres - cell))
            if how == "smooth":
                # Antialiased, torch leaves out what lies beyond the edge and weighs the rest up.
                weight = np.where((cell >= 0) & (cell < size), weight, 0.0)
            np.add.at(matrix, (new, np.clip(cell, 0, size - 1)), weight)
        matrix /= matrix.sum(1, keepdims=True)
    return matrix.astype(np.float32)
