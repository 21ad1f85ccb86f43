"""What a run begins with beside noise: encoded pictures, masks, inputs of inpainting U-Nets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from sdlite.image.canvas import Canvas, lay_out, mask_for
from sdlite.image.content import without_holes
from sdlite.image.mask import latent_mask
from sdlite.image.pictures import from_picture
from sdlite.manifest import NoiseTable
from sdlite.noise import alpha_bar
from sdlite.ports import CHANNELS, CLASSES, EncodedPicture, EncoderPort
from sdlite.request import seeds_of
from sdlite.sampling import SamplerInfo, batch_noise, initial_latents
from sdlite.text.conditioning import with_added
from sdlite.types import Cond, Conditions, Denoise, Edit, Estimate, Float32, Request, StepConds


@dataclass(frozen=True)
class Start:
    """Where a run begins; with nothing given, from noise at the first interval."""

    first: int = 0
    """The first interval of the schedule that is run."""
    latents: Float32 | None = None
    """Clean latents ``(1 or images, channels, height, width)``; None is nothing but noise."""
    mask: Float32 | None = None
    """Share of each cell that is painted, ``(1, 1, height, width)``; None is all of all."""
    noise_content: bool = False
    """Put the starting noise under the mask before noise is added."""
    pure: bool = False
    """The model's first look shows it nothing but noise, also where the mask keeps the picture."""
    channels: Float32 | None = None
    """Further inputs of an inpainting or editing U-Net, ``(1, n, height, width)``, or of an
    upscaling one, ``(images, 3, height, width)``."""
    drawn: bool = False
    """The first noise of each image went into ``latents``."""


def lay_out_edit(edit: Edit, size: tuple[int, int]) -> tuple[Canvas, tuple[str, ...]]:
    """The canvas of a completed edit, ``size`` pixels large, and what to tell the user.

    Raises:
        RequestError: the mask is empty.
    """
    mask, notes = mask_for(
        edit.image,
        edit.mask,
        alpha=edit.alpha_mask,
        invert=edit.invert_mask,
        soft=edit.soft_mask,
    )
    image = edit.image
    if edit.alpha_mask and not edit.invert_mask:
        # White, which transparency is otherwise shown on, would shine through at the edges.
        image = without_holes(image)
    canvas = lay_out(
        image,
        mask,
        size,
        resize=edit.resize or "stretch",
        blur=edit.mask_blur,
        soft=edit.soft_mask,
        fill=edit.mask_content != "original",
        only_masked=edit.only_masked,
        padding=edit.padding,
        paste=edit.paste,
    )
    return canvas, notes


def start_edit(
    edit: Edit, canvas: Canvas, first: int, encoder: EncoderPort, scale: float, drawn: Float32
) -> Start:
    """Encode the picture of an edit.

    Args:
        edit: the completed edit.
        canvas: its layout.
        first: the interval it starts with.
        encoder: the autoencoder's encoder.
        scale: latents = scale * what the encoder says.
        drawn: the first noise of each image, ``(images, channels, height, width)``; used by
            diffusers' rules, which draw from the encoder's distribution. A1111 draws too, with
            noise nobody can repeat: here its rules take the mean.
    """
    encoded = encoder.encode(from_picture(canvas.picture))
    sampled = edit.rules == "diffusers" and encoded.logvar is not None
    latents = (_drawn(encoded, drawn) if sampled else encoded.mean) * np.float32(scale)
    mask = None
    if canvas.mask is not None:
        height, width = latents.shape[2:]
        mask = latent_mask(canvas.mask, (width, height), edit.soft_mask)
        if edit.mask_content == "nothing":
            latents = latents * (1 - mask)
    return Start(
        first=first,
        latents=latents,
        mask=mask,
        noise_content=edit.mask_content == "noise" and mask is not None,
        pure=edit.rules == "diffusers" and edit.strength == 1 and mask is not None,
        drawn=sampled,
    )


def _drawn(encoded: EncodedPicture, noise: Float32) -> Float32:
    if encoded.logvar is None:
        return encoded.mean
    deviation = np.exp(np.clip(encoded.logvar, -30.0, 20.0) * np.float32(0.5))
    result: Float32 = encoded.mean + deviation * noise
    return result


def inpainting_channels(
    canvas: Canvas | None, size: tuple[int, int], encoder: EncoderPort, scale: float, factor: int
) -> Float32:
    """What an inpainting U-Net is told beside the noisy latents.

    The mask, one value a cell, and the latents of the picture with its masked part grey; without
    a mask everything is masked. ``(1, 1 + channels, height, width)``.
    """
    if canvas is None:
        shape, picture = Image.new("L", size, 255), Image.new("RGB", size)
    else:
        picture = canvas.picture
        shape = canvas.mask or Image.new("L", picture.size, 255)
    painted = (np.asarray(shape) >= 128).astype(np.float32)[None, None]
    masked = encoder.encode(from_picture(picture) * (1 - painted)).mean * np.float32(scale)
    return np.concatenate([painted[:, :, ::factor, ::factor], masked], axis=1)


def picture_channels(canvas: Canvas, encoder: EncoderPort) -> Float32:
    """What an instruct-pix2pix U-Net is told beside the noisy latents (Brooks et al. 2023).

    The latents of the picture, not scaled: ``(1, channels, height, width)``.
    """
    return encoder.encode(from_picture(canvas.picture)).mean


def low_res_channels(canvas: Canvas, request: Request, table: NoiseTable) -> Float32:
    """What an upscaling U-Net sees of the small picture beside the noisy latents.

    The picture in -1..1, a pixel for each cell, at the timestep of the forward process ``table``
    that the noise level is: noise conditioning augmentation (Ho et al. 2022, Cascaded Diffusion
    Models). The noise is the first of each image, as in diffusers; ``(images, 3, height, width)``.
    """
    shape = (3, canvas.picture.height, canvas.picture.width)
    noise = batch_noise(request.rng, seeds_of(request), shape)(0.0, 0.0)
    share = alpha_bar(table)[(request.edit.noise_level if request.edit else None) or 0]
    kept, added = np.float32(share**0.5), np.float32((1.0 - share) ** 0.5)
    result: Float32 = from_picture(canvas.picture) * kept + noise * added
    return result


def with_low_res(conditions: Conditions, channels: Float32, level: int) -> Conditions:
    """Conditions with a small picture for each image, ``(images, 3, height, width)``, and how much
    noise is in it."""
    levels = np.full(len(channels), level, np.float32)

    def add(cond: Cond) -> Cond:
        every = cond if len(cond) == len(channels) else cond.repeat(len(channels))
        return replace(every, added={**every.added, CHANNELS: channels, CLASSES: levels})

    def at(sigma: float) -> StepConds:
        step = conditions(sigma)
        parts = tuple((add(cond), weight) for cond, weight in step.parts)
        return StepConds(parts, None if step.negative is None else add(step.negative))

    return at


def with_picture(
    conditions: Conditions, channels: Float32, guidance: float, image_guidance: float
) -> Conditions:
    """Conditions with a picture, guided towards prompt and picture apart (Brooks et al. 2023).

    The estimate is ``e0 + image_guidance * (e1 - e0) + guidance * (e2 - e1)``, where ``e2`` knows
    prompt and picture, ``e1`` the picture alone and ``e0`` neither; what is done without guidance
    knows both. The sum that guidance makes over the prompts of a composition gives just that when
    the picture alone is one more of them.
    """

    def at(sigma: float) -> StepConds:
        step = with_added(conditions, {CHANNELS: channels})(sigma)
        if step.negative is None:
            return step
        blank = np.zeros_like(step.negative.added[CHANNELS])
        neither = replace(step.negative, added={**step.negative.added, CHANNELS: blank})
        told = sum(weight for _, weight in step.parts)
        alone = (step.negative, image_guidance / guidance - told)
        return StepConds((*step.parts, alone), neither)

    return at


def with_channels(
    conditions: Conditions,
    channels: Float32 | None,
    task: str,
    guidance: float,
    edit: Edit | None,
) -> Conditions:
    """Conditions with the further inputs of an inpainting, editing or upscaling U-Net, if any.

    Args:
        conditions: what is drawn at a noise level.
        channels: ``Start.channels``.
        task: of the model.
        guidance: scale of guidance.
        edit: completed.
    """
    if channels is None:
        return conditions
    if task == "upscale":
        return with_low_res(conditions, channels, (edit.noise_level if edit else None) or 0)
    if task == "edit":
        return with_picture(conditions, channels, guidance, edit.image_guidance if edit else 1.0)
    return with_added(conditions, {CHANNELS: channels})


def starting_latents(
    start: Start, sampler: SamplerInfo, noise: Float32, sigmas: Float32
) -> tuple[Float32, Float32 | None]:
    """The noisy latents a run begins with, and the clean ones its mask keeps.

    Args:
        start: where it begins.
        sampler: for runs from nothing but noise.
        noise: of unit variance, ``(images, channels, height, width)``.
        sigmas: what is left of the schedule.
    """
    if start.latents is None:
        return initial_latents(sampler, noise, sigmas), None
    clean = np.broadcast_to(start.latents, noise.shape).astype(np.float32)
    if start.noise_content and start.mask is not None:
        clean = clean * (1 - start.mask) + noise * start.mask
    if start.pure and start.mask is not None:
        return clean * (1 - start.mask) + noise * sigmas[0], clean
    return clean + noise * sigmas[0], clean


def keeping(denoise: Denoise, clean: Float32, mask: Float32, blind: float = math.inf) -> Denoise:
    """A denoiser that knows the picture outside the mask.

    A1111's way to inpaint with any model: in every estimate, what is not painted is put back.

    Args:
        denoise: the model's.
        clean: latents of the picture, ``(images, channels, height, width)``.
        mask: share that is painted, ``(1, 1, height, width)``.
        blind: from this sigma on the model does not see what is kept (diffusers at strength 1).
    """
    kept = clean * (1 - mask)

    def blended(x: Float32, sigma: float) -> Estimate:
        found = denoise(x - kept if sigma >= blind else x, sigma)
        without = None if found.x0_uncond is None else found.x0_uncond * mask + kept
        return Estimate(found.x0 * mask + kept, without)

    return blended
