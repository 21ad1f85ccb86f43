"""What the fake engine computes: Gaussian data, whose best denoiser is known exactly.

- ``text_encoder``: features are sines of token ids and positions;
- ``unet``: the expected noise (or velocity) for data whose mean depends on the prompt and whose
  deviation is ``DEVIATION``, under the usual noise table of Stable Diffusion 1.x;
- ``vae_decoder`` and ``vae_encoder``: a linear map between latents and colours, and its inverse;
- anything else: the mean of its inputs.

The same input gives the same output, to the bit, alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sdlite.engine import TensorSpec
from sdlite.types import Array, Float32

DEVIATION = 0.5
"""Standard deviation of the data the U-Net knows."""
RGB = np.array(
    [[0.3, 0.2, 0.2], [0.2, 0.3, -0.1], [-0.2, 0.2, 0.3], [-0.2, -0.3, -0.3]], np.float32
)
"""Colours of the latent channels."""
FACTOR = 8
"""Pixels per latent cell."""


def signal_share(timestep: Float32) -> Float32:
    """Cumulative product of alphas at (fractional) timesteps: betas 0.00085 to 0.012, squared."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    logs = np.cumsum(np.log1p(-betas))
    share: Float32 = np.exp(np.interp(timestep, np.arange(1000), logs)).astype(np.float32)
    return share


def prompt_mean(context: Float32, shape: tuple[int, ...]) -> Float32:
    """Mean of the data for text features ``(batch, tokens, width)``: low waves, one set a prompt.

    Returns float32 of ``shape``, ``(batch, channels, height, width)``.
    """
    batch, channels, height, width = shape
    # Weighted by place, so that the order of words matters; each item by itself, as summing over
    # a batch could round differently.
    weights = np.cos(np.arange(context.shape[1]) * 0.3)[:, None]
    features = np.stack([(item * weights).sum(0) for item in context.astype(np.float64)])
    waves = 3
    mixing = np.sin(np.outer(np.arange(context.shape[2]) + 1, np.arange(channels * waves**2) + 0.7))
    parts = np.tanh(np.stack([item @ mixing for item in features]) / 4)
    parts = parts.reshape(batch, channels, waves, waves)
    y = np.cos(np.pi * np.outer(np.arange(waves), (np.arange(height) + 0.5) / height))
    x = np.cos(np.pi * np.outer(np.arange(waves), (np.arange(width) + 0.5) / width))
    means = [0.3 * np.einsum("cij,iy,jx->cyx", part, y, x) for part in parts]
    return np.stack(means).astype(np.float32)


def value_of(
    component: str,
    spec: TensorSpec,
    shape: tuple[int, ...],
    feeds: Mapping[str, Array],
    prediction: str,
) -> Array:
    """An output of a component, as the module's text says."""
    values = list(feeds.values())
    if component == "text_encoder" and "input_ids" in feeds:
        ids = feeds["input_ids"].astype(np.float64)
        places = np.arange(ids.shape[1])
        angles = (ids * 0.37 + places * 0.11)[:, :, None] * (1 + np.arange(shape[-1]))
        # An earlier layer says much the same in another way.
        hidden = np.sin(angles + (0.5 if spec.name == "clip_skip_2" else 0.0))
        if "inputs_embeds" in feeds:
            hidden = hidden + feeds["inputs_embeds"]
        result = hidden if len(shape) == 3 else hidden[:, -1]
    elif component == "unet" and {"sample", "timestep", "encoder_hidden_states"} <= feeds.keys():
        times = np.broadcast_to(feeds["timestep"].astype(np.float32), shape[:1])
        context = feeds["encoder_hidden_states"].astype(np.float32)
        result = _predict(feeds["sample"].astype(np.float32), times, context, prediction)
    elif component == "vae_decoder" and len(values) == 1 and values[0].ndim == 4:
        # A graph of its chain for tiles may only enlarge colours, and not all the way.
        colours = values[0]
        if colours.shape[1] >= len(RGB):
            colours = np.einsum("bchw,cr->brhw", colours[:, : len(RGB)], RGB)
        factor = shape[2] // colours.shape[2]
        result = colours.repeat(factor, axis=2).repeat(factor, axis=3)
    elif component == "vae_encoder" and len(values) == 1 and values[0].ndim == 4:
        batch, _, height, width = values[0].shape
        blocks = values[0].reshape(batch, 3, height // FACTOR, FACTOR, width // FACTOR, FACTOR)
        mean = np.einsum("brhw,rc->bchw", blocks.mean(axis=(3, 5)), np.linalg.pinv(RGB))
        result = mean if shape[1] == 4 else np.concatenate([mean, np.full_like(mean, -20.0)], 1)
    else:
        result = np.full(shape, np.mean([np.mean(value) for value in values]))
    return np.ascontiguousarray(result, dtype=spec.dtype)


def _predict(x: Float32, times: Float32, context: Float32, prediction: str) -> Float32:
    """Expected noise (or velocity) of Gaussian data: x = sqrt(a) x0 + sqrt(1 - a) noise."""
    share = signal_share(times).reshape(-1, 1, 1, 1)
    signal, noise = np.sqrt(share), np.sqrt(1 - share)
    rest = x - signal * prompt_mean(context, x.shape)
    result = noise * rest / (share * np.float32(DEVIATION**2) + 1 - share)
    if prediction == "v_prediction":
        result = (result - noise * x) / signal
    return result.astype(np.float32, copy=False)


def shape_of(
    spec: TensorSpec, inputs: Sequence[TensorSpec], feeds: Mapping[str, Array]
) -> tuple[int, ...]:
    """Shape of an output: free dimensions are those of the inputs, or 8 times or an 8th of them."""
    free: dict[str, int] = {}
    for given in inputs:
        for name, size in zip(given.shape, feeds[given.name].shape, strict=False):
            if isinstance(name, str):
                free[name] = size
    for side in ("height", "width"):
        divisors = {side: FACTOR, f"image_{side}": 1}
        divisors |= {f"image_{side}_{part}": part for part in (2, 4)}
        known = next((name for name in divisors if name in free), None)
        if known is not None:
            whole = free[known] * divisors[known]
            for name, divisor in divisors.items():
                free.setdefault(name, whole // divisor)
    return tuple(size if isinstance(size, int) else free.get(size, 1) for size in spec.shape)
