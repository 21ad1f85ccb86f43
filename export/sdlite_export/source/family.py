"""Which family a checkpoint belongs to: decided by what it is made of, not by what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdlite.errors import UnknownFamily
from sdlite_export.configs import ClipTextConfig, UnetConfig, VaeConfig
from sdlite_export.source.checkpoint import Task
from sdlite_export.source.gather import SUPPORTED

FIRST, SECOND = "text_encoder", "text_encoder_2"
SIZES = {"sdxl": 6, "sdxl-refiner": 5}
"""Numbers about size that a U-Net is told: original, crop and target size; the refiner original,
crop and an aesthetic score (Podell et al. 2023)."""


@dataclass(frozen=True)
class Family:
    """What a checkpoint turned out to be."""

    name: str
    """``sd1``, ``sd2``, ``sdxl`` or ``sdxl-refiner``."""
    task: Task
    """What the U-Net is given beside the latents."""


def family_of(
    where: str, unet: UnetConfig, text: Mapping[str, ClipTextConfig], vae: VaeConfig
) -> Family:
    """Recognise the family; raises ``UnknownFamily`` that lists what was seen."""
    widths = sum(config.hidden_size for config in text.values())
    name = None
    if unet.label_dim is None:
        if set(text) == {FIRST}:
            open_clip = text[FIRST].activation == "gelu"
            name = "sd2" if unet.linear_projection and open_clip else "sd1"
    elif set(text) == {FIRST, SECOND}:
        name = "sdxl"
    elif set(text) == {SECOND}:
        name = "sdxl-refiner"
    if name in SIZES:
        pooled = text[SECOND].projection or 0
        if unet.label_dim != pooled + SIZES[name] * unet.size_dim:
            name = None
    task = task_of(unet, vae)
    if name is None or task is None or unet.cross_dim != widths:
        raise UnknownFamily(
            f"{where}: {describe(unet, text, vae)}; this fits no family sdlite knows ({SUPPORTED})"
        )
    return Family(name, task)


def task_of(unet: UnetConfig, vae: VaeConfig) -> Task | None:
    """What the U-Net is for, by the channels it takes; None for numbers that fit nothing."""
    latent = vae.latent_channels
    if unet.out_channels != latent:
        return None
    if unet.class_embeds is not None:
        return "upscale" if unet.in_channels == latent + vae.in_channels else None
    tasks: dict[int, Task] = {latent: "text", 2 * latent: "edit", 2 * latent + 1: "inpaint"}
    return tasks.get(unet.in_channels)


def describe(unet: UnetConfig, text: Mapping[str, ClipTextConfig], vae: VaeConfig) -> str:
    """What there is to be seen, in one line."""
    encoders = ", ".join(
        f"{name} {config.hidden_size} wide with {config.layers} layers"
        + (f" and projection to {config.projection}" if config.projection else "")
        for name, config in text.items()
    )
    labels = "no labels" if unet.label_dim is None else f"labels {unet.label_dim} wide"
    if unet.class_embeds is not None:
        labels += f", {unet.class_embeds} classes"
    return (
        f"U-Net of {unet.in_channels} channels in and {unet.out_channels} out, cross-attention "
        f"{unet.cross_dim} wide, {labels}; {encoders or 'no text encoder'}; autoencoder with "
        f"{vae.latent_channels} latent channels"
    )
