"""Read what a model's author recommends: our own entries of ``model_index.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlite import schema
from sdlite.errors import SourceCorrupt
from sdlite.manifest import Defaults, LatentSpace, NoiseTable
from sdlite_export.configs import UnetConfig, VaeConfig
from sdlite_export.source.config_reader import MAX_SIZE
from sdlite_export.source.diffusers_config import Scheduler
from sdlite_export.source.files import read_json

DEFAULTS_KEY = "_sdlite_defaults"
"""Optional entry of ``model_index.json``: fields of ``Defaults`` the author recommends. Diffusers
leaves entries that start with an underscore alone."""
PREVIEW_KEY = "_sdlite_preview"
"""Optional entry of ``model_index.json``: ``LatentSpace.preview``."""


FEW_STEPS = (
    # What the model's name says, sampler, schedule: as their authors recommend.
    (re.compile("lightning"), "Euler", "SGM Uniform"),
    (re.compile("hyper(?![a-z])|hyper-?sd"), "Euler", "SGM Uniform"),
    (re.compile("(?<![a-z])tcd(?![a-z])"), "TCD", "Automatic"),
    (re.compile("turbo"), "Euler a", "Automatic"),
    (re.compile("(?<![a-z])lcm(?![a-z])"), "LCM", "Automatic"),
)
STEPS = 4
"""Steps of a distilled model whose name does not state them (``4step``)."""
LCM_GUIDANCE = 8.0
"""Of models that are told their guidance scale (Luo et al. 2023)."""
UPSCALER_GUIDANCE = 9.0
"""Of upscalers; diffusers' default."""
UPSCALER_SCALE = 0.08333
"""Latent scale of the x4 upscaler's autoencoder."""
RESCALE = 0.7
"""Guidance rescale of models with zero terminal SNR (Lin et al. 2024)."""


def usual_side(name: str, family: str, prediction: str) -> int:
    """Width and height a single file is made for, pixels; no tensor shows it."""
    if re.match(r"sd[-_. ]?(xl)?[-_. ]?turbo", name.casefold()):
        return 512
    if family.startswith("sdxl"):
        return 1024
    return 768 if family == "sd2" and prediction == "v_prediction" else 512


def usual_defaults(
    name: str, width: int, height: int, noise: NoiseTable, unet: UnetConfig, lcm: bool
) -> tuple[Defaults, tuple[str, ...]]:
    """Defaults for a model whose author recommends none, and notes on what they follow from.

    Distilled models look like their teachers: only their names tell them, and LCM's its scheduler
    or the embedding of the guidance scale.
    """
    usual = Defaults(width, height)
    if noise.zero_terminal_snr:
        # Only a schedule that starts at the last timestep uses what such a model learnt there.
        usual = replace(usual, sampler="Euler", schedule="SGM Uniform", guidance_rescale=RESCALE)
    if unet.class_embeds is not None:
        usual = replace(usual, guidance=UPSCALER_GUIDANCE)
    if unet.guidance_dim is not None:
        return replace(usual, steps=STEPS, guidance=LCM_GUIDANCE, sampler="LCM"), ()
    lowered = "lcm" if lcm else name.casefold()
    for pattern, sampler, schedule in FEW_STEPS:
        if not (found := pattern.search(lowered)):
            continue
        stated = re.search(r"(\d+)[ _-]?steps?(?![a-z])", name.casefold())
        steps = int(stated[1]) if stated and 1 <= int(stated[1]) <= 64 else STEPS
        why = "its scheduler is LCM's" if lcm else f"its name says {found[0]!r}"
        note = f"defaults of a distilled model, {steps} steps without guidance, because {why}"
        chosen = replace(usual, steps=steps, guidance=1.0, sampler=sampler, schedule=schedule)
        return chosen, (note,)
    return usual, ()


def read_defaults(
    folder: Path,
    index: Mapping[str, Any],
    latent: LatentSpace,
    scheduler: Scheduler,
    unet: UnetConfig,
) -> tuple[Defaults, tuple[str, ...]]:
    """The U-Net's training size, and what the author recommends under ``_sdlite_defaults``."""
    cells = read_json(folder / "unet" / "config.json").get("sample_size")
    if not isinstance(cells, int) or not 1 <= cells <= 1024:
        cells = 64
    size = cells * latent.factor
    lcm = scheduler.kind == "LCMScheduler"
    name = folder.resolve().name
    usual, notes = usual_defaults(name, size, size, scheduler.noise, unet, lcm)
    stated = index.get(DEFAULTS_KEY)
    if stated is None:
        return usual, notes
    if not isinstance(stated, dict):
        raise SourceCorrupt(f"{folder / 'model_index.json'}: {DEFAULTS_KEY} is no JSON object")
    try:
        chosen = {"width": size, "height": size, **stated}
        defaults = schema.decode(Defaults, chosen, DEFAULTS_KEY)
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
    return defaults, ()


def read_latent(folder: Path, index: Mapping[str, Any], vae: VaeConfig, family: str) -> LatentSpace:
    """The latent space, with the author's map to colours where there is one."""
    channels = vae.latent_channels
    shape = {
        "channels": channels,
        "factor": 2 ** (len(vae.block_channels) - 1),
        "scale": vae.scale,
        "preview": index.get(PREVIEW_KEY, []),
        # Diffusers writes true for autoencoders of every family; only XL's need it.
        "force_upcast": vae.force_upcast and family.startswith("sdxl"),
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
