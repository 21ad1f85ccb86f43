"""Read what a model's author recommends: our own entries of ``model_index.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlite import schema
from sdlite.errors import SourceCorrupt
from sdlite.manifest import Defaults, LatentSpace
from sdlite_export.configs import VaeConfig
from sdlite_export.source.diffusers_config import MAX_SIZE
from sdlite_export.source.files import read_json

DEFAULTS_KEY = "_sdlite_defaults"
"""Optional entry of ``model_index.json``: fields of ``Defaults`` the author recommends. Diffusers
leaves entries that start with an underscore alone."""
PREVIEW_KEY = "_sdlite_preview"
"""Optional entry of ``model_index.json``: ``LatentSpace.preview``."""


def read_defaults(folder: Path, index: Mapping[str, Any], latent: LatentSpace) -> Defaults:
    """The U-Net's training size, and what the author recommends under ``_sdlite_defaults``."""
    cells = read_json(folder / "unet" / "config.json").get("sample_size")
    if not isinstance(cells, int) or not 1 <= cells <= 1024:
        cells = 64
    size = cells * latent.factor
    chosen = {"width": size, "height": size}
    stated = index.get(DEFAULTS_KEY, {})
    if not isinstance(stated, dict):
        raise SourceCorrupt(f"{folder / 'model_index.json'}: {DEFAULTS_KEY} is no JSON object")
    try:
        defaults = schema.decode(Defaults, {**chosen, **stated}, DEFAULTS_KEY)
    except schema.SchemaError as error:
        raise SourceCorrupt(f"{folder / 'model_index.json'}: {error}") from error
    sizes = (defaults.width, defaults.height)
    whole = all(1 <= size <= MAX_SIZE and size % latent.factor == 0 for size in sizes)
    if not whole or not 1 <= defaults.steps <= 1000:
        raise SourceCorrupt(
            f"{folder / 'model_index.json'}: {DEFAULTS_KEY} gives {sizes[0]}x{sizes[1]} pixels in "
            f"{defaults.steps} steps; sizes are multiples of {latent.factor} up to {MAX_SIZE}, "
            "steps 1 to 1000"
        )
    return defaults


def read_latent(folder: Path, index: Mapping[str, Any], vae: VaeConfig) -> LatentSpace:
    """The latent space, with the author's map to colours where there is one."""
    channels = vae.latent_channels
    shape = {
        "channels": channels,
        "factor": 2 ** (len(vae.block_channels) - 1),
        "scale": vae.scale,
        "preview": index.get(PREVIEW_KEY, []),
    }
    where = folder / "model_index.json"
    try:
        latent = schema.decode(LatentSpace, shape, PREVIEW_KEY)
    except schema.SchemaError as error:
        raise SourceCorrupt(f"{where}: {error}") from error
    sizes = [len(row) for row in latent.preview]
    if sizes not in ([], [3] * (channels + 1)):
        raise SourceCorrupt(
            f"{where}: {PREVIEW_KEY} has rows of {sizes} numbers; {channels + 1} rows of 3 are "
            "needed, one a latent channel and the bias"
        )
    return latent
