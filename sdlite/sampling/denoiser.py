"""From a network's prediction to an estimate of the clean latents: scaling, guidance, batching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from sdlite.errors import RequestError, UnknownName
from sdlite.sampling.levels import NoiseLevels
from sdlite.sampling.schedules import lcm_timesteps
from sdlite.types import Cond, Conditions, Denoise, Estimate, Float32

Predict: TypeAlias = Callable[[Float32, Float32, Cond], Float32]
"""``(x, timestep, cond) -> prediction``: float32 latents (items, c, h, w) in the model's own scale,
timesteps (items,), conditioning of as many items; returns what the network says."""

PREDICTIONS = ("epsilon", "v_prediction")

LCM_TIMESTEP_SCALING = 10.0
LCM_SIGMA_DATA = 0.5


def denoiser(
    predict: Predict,
    levels: NoiseLevels,
    prediction: str,
    conditions: Conditions,
    guidance: float,
    *,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
    factor: float = 1.0,
    consistency: bool = False,
) -> Denoise:
    """Build ``denoise(x, sigma) -> Estimate`` around a network.

    The network sees ``x / sqrt(sigma**2 + 1)`` and the timestep of ``sigma``. With guidance the
    estimate is ``negative + sum of weight * guidance * (prompt - negative)`` over the prompts of
    the step: Ho and Salimans 2022, and for several prompts Liu et al. 2022 (Compositional Visual
    Generation with Composable Diffusion Models, equation 11). Where the negative prompt cancels
    out, as without guidance, it is not evaluated.

    Args:
        predict: the network. What can be stacked is handed over together, prompts first.
        levels: noise levels of the model.
        prediction: ``"epsilon"`` or ``"v_prediction"`` (Salimans and Ho 2022).
        conditions: what is drawn at a noise level; each cond has one item, or one for each image.
        guidance: scale; 1 or less turns guidance off.
        rescale: 0 to 1, how far the deviation of the guided prediction is brought back to that of
            the prompt's (Lin et al. 2023, equations 15 and 16).
        interval: lowest and highest sigma at which guidance acts, both included; elsewhere it is
            off (Kynkaanniemi et al. 2024).
        factor: what the scale is multiplied by where guidance acts (DDIM CFG++).
        consistency: the network is a consistency model (LCM). Timesteps are rounded to those it
            was distilled at, and the estimate gets the boundary scaling of Luo et al. 2023
            (timestep scaling 10, sigma_data 0.5) as A1111 applies it.

    Raises:
        UnknownName: ``prediction`` is neither.
        RequestError: when called, for a conditioning that fits neither one image nor the batch, or
            for weights that need a negative prompt where there is none.
    """
    if prediction not in PREDICTIONS:
        raise UnknownName("prediction type", prediction, PREDICTIONS)
    known = lcm_timesteps(levels) if consistency else None
    known_logs = None if known is None else np.log(levels.sigmas[known])
    low, high = interval or (0.0, np.inf)

    def timestep_of(sigma: float) -> float:
        if known is None or known_logs is None:
            return levels.sigma_to_timestep(sigma)
        return float(known[np.argmin(np.abs(known_logs - np.log(sigma)))])

    def estimate(x: Float32, out: Float32, sigma: float, timestep: float) -> Float32:
        if prediction == "epsilon":
            x0: Float32 = x - out * sigma
        else:
            variance = sigma * sigma + 1.0
            x0 = x * (1.0 / variance) - out * (sigma / variance**0.5)
        if not consistency:
            return x0
        scaled = timestep * LCM_TIMESTEP_SCALING
        variance = scaled * scaled + LCM_SIGMA_DATA**2
        x0 = x0 * (scaled / variance**0.5) + x * (LCM_SIGMA_DATA**2 / variance)
        return x0

    def denoise(x: Float32, sigma: float) -> Estimate:
        step = conditions(sigma)
        conds = [cond for cond, _ in step.parts]
        weights = [weight for _, weight in step.parts]
        guided = guidance > 1.0 and low <= sigma <= high
        scale = guidance * factor if guided else 1.0
        negative = step.negative if guided or step.unbalanced else None
        if negative is not None:
            conds.append(negative)
        elif step.unbalanced:
            raise RequestError("prompts whose weights do not add up to 1 need a negative prompt")
        timestep = timestep_of(sigma)
        outs = _predict(predict, x * (1.0 / (sigma * sigma + 1.0) ** 0.5), timestep, conds)
        if negative is not None and rescale > 0.0:
            out = _rescaled(outs, weights, scale, rescale)
            return Estimate(
                estimate(x, out, sigma, timestep), estimate(x, outs[-1], sigma, timestep)
            )
        clean = [estimate(x, out, sigma, timestep) for out in outs]
        if negative is None:
            return Estimate(_sum(clean, weights))
        return Estimate(_guided(clean, weights, scale), clean[-1])

    return denoise


def _predict(
    predict: Predict, scaled: Float32, timestep: float, conds: Sequence[Cond]
) -> list[Float32]:
    """The network's answer to each cond, in as few calls as their shapes allow."""
    batch = len(scaled)
    groups: list[list[int]] = []
    for index, cond in enumerate(conds):
        for group in groups:
            if conds[group[0]].stacks_with(cond):
                group.append(index)
                break
        else:
            groups.append([index])
    outs: dict[int, Float32] = {}
    for group in groups:
        count = len(group)
        out = predict(
            np.concatenate([scaled] * count),
            np.full(batch * count, timestep, np.float32),
            Cond.join([_for_batch(conds[index], batch) for index in group]),
        )
        for place, index in enumerate(group):
            outs[index] = out[place * batch : (place + 1) * batch]
    return [outs[index] for index in range(len(conds))]


def _sum(values: Sequence[Float32], weights: Sequence[float]) -> Float32:
    if len(values) == 1:
        return values[0]
    total: Float32 = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + value * weight
    return total


def _guided(values: Sequence[Float32], weights: Sequence[float], scale: float) -> Float32:
    """Prompts weighed against the negative, which is the last of ``values``."""
    *prompts, without = values
    total = without
    for value, weight in zip(prompts, weights, strict=True):
        total = total + (value - without) * (weight * scale)
    return total


def _rescaled(
    outs: Sequence[Float32], weights: Sequence[float], scale: float, rescale: float
) -> Float32:
    """Guided predictions whose deviation is partly that of the prompts' alone."""
    guided = _guided(outs, weights, scale)
    alone = _guided(outs, weights, 1.0)
    axes = tuple(range(1, guided.ndim))
    factor = alone.std(axes, keepdims=True) / guided.std(axes, keepdims=True)
    out: Float32 = guided * (rescale * factor + (1.0 - rescale))
    return out


def _for_batch(cond: Cond, batch: int) -> Cond:
    """Conditioning repeated for every image of the batch."""
    if len(cond) == batch:
        return cond
    if len(cond) != 1:
        raise RequestError(
            f"conditioning of {len(cond)} images does not fit a batch of {batch}; "
            "give one for all or one each"
        )
    return cond.repeat(batch)
