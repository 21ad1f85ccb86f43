"""Image prompts: what IP-Adapters make of pictures, and what a U-Net is told of it in each step.

The adapter's keys and values are the same in all steps. What a cross-attention finds in them counts
as much as their values are large, so strengths are factors of the values, and nothing of them is in
the U-Net's graph (Ye et al. 2023, equation 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from sdlite.adapterentry import AdapterEntry, find_adapter
from sdlite.control.scales import at_step, is_active
from sdlite.controls import Control
from sdlite.engine import Session, TensorSpec
from sdlite.errors import PackageInvalid, RequestError
from sdlite.image import fit as fits
from sdlite.image.clip import clip_pixels
from sdlite.image.source import flatten
from sdlite.manifest import Manifest
from sdlite.ports import IMAGE_PROMPT
from sdlite.types import Cond, Conditions, Float32, Request, StepConds

Use = Callable[[str], AbstractContextManager[Session]]
"""Opens a component."""
EMBEDS = "image_embeds"
"""What an adapter takes that works on the pooled vector."""


@dataclass(frozen=True)
class Seen:
    """A picture as a U-Net is told of it; ``(1, tokens, channels)`` each."""

    control: Control
    """What it was made for."""
    keys: Float32
    """Of every cross-attention, side by side."""
    values: Float32
    """The same, times the control's strengths."""
    blank: tuple[Float32, Float32]
    """Keys and values of no picture, for the negative prompt, the values times the strengths."""


@dataclass(frozen=True)
class ImagePrompt:
    """The pictures of a request that are prompts; by default none."""

    seen: tuple[Seen, ...] = ()
    """In the order of the request."""

    def over(self, conditions: Conditions, sigmas: Float32) -> Conditions:
        """Conditions that also say what is seen.

        Several pictures are looked at side by side, each as one more part of one picture, as in
        diffusers.

        Args:
            conditions: what is drawn at a noise level.
            sigmas: levels of the run, n+1 entries.
        """
        if not self.seen:
            return conditions
        steps = len(sigmas) - 1

        def at(sigma: float) -> StepConds:
            told = conditions(sigma)
            step = at_step(sigmas, sigma)
            acting = [each for each in self.seen if is_active(each.control, step, steps)]
            # A graph that takes pictures takes at least one token; of nothing it finds nothing.
            acting = acting or [_silent(self.seen[0])]
            prompt = [
                np.concatenate(parts, axis=1) for parts in zip(*map(_shown, acting), strict=True)
            ]
            blank = [
                np.concatenate(parts, axis=1)
                for parts in zip(*(s.blank for s in acting), strict=True)
            ]
            return StepConds(
                tuple((_with(cond, prompt), weight) for cond, weight in told.parts),
                None if told.negative is None else _with(told.negative, blank),
            )

        return at


NO_IMAGES = ImagePrompt()


def image_controls(controls: Sequence[Control], manifest: Manifest) -> tuple[Control, ...]:
    """Those of some controls that are image prompts and not turned off by a weight of 0."""
    return tuple(
        control
        for control in controls
        if control.weight != 0 and find_adapter(manifest.adapters, control.name).encoder
    )


def look(request: Request, manifest: Manifest, use: Use) -> ImagePrompt:
    """What an image encoder and an IP-Adapter make of the pictures of a completed request.

    Raises:
        RequestError: a control has factors for another number of layers.
        EngineError: a network failed.
    """
    controls = image_controls(request.controls, manifest)
    if not controls:
        return NO_IMAGES
    entry = find_adapter(manifest.adapters, controls[0].name)
    scales = [_scales(control, entry, manifest) for control in controls]
    with use(entry.encoder) as encoder:
        takes = _only(encoder.inputs, entry.encoder)
        size = int(takes.shape[-1])
        pixels = [clip_pixels(_fitted(control, size), size) for control in controls]
        pixels.append(np.zeros_like(pixels[0]))
        said = [encoder.run({takes.name: each}) for each in pixels]
    with use(entry.component) as adapter:
        takes = _only(adapter.inputs, entry.component)
        given = [each[takes.name].astype(np.float32) for each in said]
        if takes.name == EMBEDS:
            # As in diffusers no picture is a pooled vector of zeros, but the states of a grey one.
            given[-1] = np.zeros_like(given[-1])
        made = [adapter.run({takes.name: each}) for each in given]
    *shown, (no_keys, no_values) = (
        tuple(each[name].astype(np.float32) for name in IMAGE_PROMPT) for each in made
    )
    return ImagePrompt(
        tuple(
            Seen(control, keys, values * scale, (no_keys, no_values * scale))
            for control, scale, (keys, values) in zip(controls, scales, shown, strict=True)
        )
    )


def _fitted(control: Control, size: int) -> Image.Image:
    picture = flatten(control.image)
    if control.resize == "stretch":
        return fits.stretch((size, size)).apply(picture)
    if control.resize == "fill":
        return fits.fill(picture.size, (size, size)).apply(picture)
    return picture


def _scales(control: Control, entry: AdapterEntry, manifest: Manifest) -> Float32:
    """A factor for each channel of the values of all cross-attentions."""
    if not control.layers:
        return np.array(control.weight, np.float32)
    widths = [
        tensor.shape[1] if tensor.layout == "transposed" else tensor.shape[0]
        for name, tensor in manifest.weights[entry.component].tensors.items()
        if name.endswith(".to_v_ip.weight")
    ]
    if len(control.layers) != len(widths):
        raise RequestError(
            f"control {control.name}: {len(control.layers)} factors for its layers, "
            f"it has {len(widths)}"
        )
    factors = np.asarray(control.layers, np.float32) * np.float32(control.weight)
    return np.repeat(factors, widths)


def _only(specs: Sequence[TensorSpec], component: str) -> TensorSpec:
    if len(specs) == 1 and isinstance(specs[0].shape[-1], int):
        return specs[0]
    names = ", ".join(spec.name for spec in specs)
    raise PackageInvalid(f"{component} takes {names}; one input of a fixed size was expected")


def _shown(seen: Seen) -> tuple[Float32, Float32]:
    return seen.keys, seen.values


def _silent(seen: Seen) -> Seen:
    """One token that says nothing."""
    nothing = np.zeros_like(seen.keys[:, :1])
    return replace(seen, keys=nothing, values=nothing, blank=(nothing, nothing))


def _with(cond: Cond, prompt: Sequence[Float32]) -> Cond:
    more = {
        name: value.repeat(len(cond), axis=0)
        for name, value in zip(IMAGE_PROMPT, prompt, strict=True)
    }
    return Cond(cond.context, {**cond.added, **more})
