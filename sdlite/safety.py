"""Stable Diffusion's safety checker: off unless asked for, and said in the picture when it ran."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from sdlite import registry
from sdlite.engine import Artifact, LoadOptions
from sdlite.errors import RequestError
from sdlite.image.clip import clip_pixels
from sdlite.package import Package
from sdlite.types import Device, Float32

COMPONENT = "safety_checker"
CAREFUL = 0.01
"""How much nearer everything counts once one of the special concepts was found."""
FIELD = "Safety checker"


def checker_of(package: Package) -> Artifact:
    """The graph of a package's checker; raises ``RequestError`` when it has none."""
    found = package.find(COMPONENT, "plain")
    if not found:
        raise RequestError(
            f"{package.manifest.name} has no safety checker; export it from a diffusers folder "
            "that holds one, or leave --safety-checker out"
        )
    return found[0]


def checked(
    pictures: Sequence[Image.Image],
    package: Package,
    device: Device,
    options: LoadOptions,
) -> tuple[tuple[Image.Image, ...], tuple[int, ...]]:
    """Pictures, black where the checker objects, and the indices of those.

    Raises ``RequestError`` when the package has no checker, ``EngineError`` when it fails.
    """
    artifact = checker_of(package)
    shape = next(spec.shape for spec in artifact.inputs if spec.name == "pixel_values")
    size = int(shape[2])
    session = registry.get(device.runtime).load(artifact, package.root, device, options)
    kept: list[Image.Image] = []
    objected: list[int] = []
    try:
        for index, picture in enumerate(pictures):
            given = session.run({"pixel_values": clip_pixels(picture, size)})
            bad = objects(given["special"][0], given["concepts"][0])
            objected += [index] if bad else []
            kept.append(Image.new("RGB", picture.size) if bad else picture)
    finally:
        session.close()
    return tuple(kept), tuple(objected)


def objects(special: Float32, concepts: Float32) -> bool:
    """Whether a picture is too near a concept.

    Args:
        special: cosines less thresholds ``(n,)`` of concepts that make all others count more.
        concepts: the same of those that decide.
    """
    more = CAREFUL if (np.round(special, 3) > 0).any() else 0.0
    return bool((np.round(concepts + more, 3) > 0).any())
