"""Samplers with memory that draw no noise: DPM-Solver++(2M), Adams methods, UniPC.

How intervals, states and options work is said in ``loop``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sdlite.sampling.loop import begin, finish, keep, recall
from sdlite.types import Denoise, Float32, Noise, SamplerState, Step

Float64 = npt.NDArray[np.float64]

_GAUSS_NODES, _GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(24)


def dpmpp_2m(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """DPM-Solver++(2M): Lu et al. 2022 (DPM-Solver++), algorithm 2.

    First order in the first interval and in the one that ends in 0.
    """
    x, todo, history = begin(x, sigmas, noise, resume)
    old = recall(history, "x0", min(todo.start, 1))
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        if sigma_next == 0.0:
            x = x0
        else:
            h = math.log(sigma / sigma_next)
            slope = x0
            if old:
                h_last = math.log(float(sigmas[i - 1]) / sigma)
                weight = h / (2.0 * h_last)
                slope = x0 * (1.0 + weight) - old[0] * weight
            x = x * (sigma_next / sigma) - slope * math.expm1(-h)
        old = [x0]
        yield finish(i, sigmas, x, x0, noise, keep("x0", old))


def lms(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """Adams-Bashforth of order 4 in sigma for uneven intervals (k-diffusion's linear multistep)."""
    x, todo, history = begin(x, sigmas, noise, resume)
    old = recall(history, "d", min(todo.start, 3))
    for i in todo:
        sigma = float(sigmas[i])
        x0 = denoise(x, sigma).x0
        slopes = [(x - x0) / sigma, *old]
        nodes = [float(sigmas[i - back]) for back in range(len(slopes))]
        x = _add(x, slopes, lagrange_integrals(nodes, sigma, float(sigmas[i + 1])))
        old = slopes[:3]
        yield finish(i, sigmas, x, x0, noise, keep("d", old))


def deis(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    order: int = 3,
) -> Iterator[Step]:
    """tAB-DEIS: Zhang and Chen 2022, equation 15, polynomials in log sigma (diffusers' logrho).

    The interval that ends in 0 is Euler.
    """
    x, todo, history = begin(x, sigmas, noise, resume)
    old = recall(history, "d", min(todo.start, order - 1))
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        slopes = [(x - x0) / sigma, *old]
        if sigma_next == 0.0:
            x = x0
        else:
            nodes = [-math.log(float(sigmas[i - back])) for back in range(len(slopes))]
            weights = lagrange_integrals(nodes, nodes[0], -math.log(sigma_next), rate=-1.0)
            x = _add(x, slopes, -sigma_next * weights)
        old = slopes[: order - 1]
        yield finish(i, sigmas, x, x0, noise, keep("d", old))


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the slopes, newest first, for even intervals; used on uneven ones all the same."""


def ipndm(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """Improved PNDM: Zhang and Chen 2022, section 3.3; Adams-Bashforth with fixed weights."""
    x, todo, history = begin(x, sigmas, noise, resume)
    old = recall(history, "d", min(todo.start, 3))
    for i in todo:
        sigma = float(sigmas[i])
        x0 = denoise(x, sigma).x0
        slopes = [(x - x0) / sigma, *old]
        width = float(sigmas[i + 1]) - sigma
        x = _add(x, slopes, np.multiply(ADAMS_BASHFORTH[len(old)], width))
        old = slopes[:3]
        yield finish(i, sigmas, x, x0, noise, keep("d", old))


def plms(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """Pseudo linear multistep: Liu et al. 2022 (PNDM), equation 12, started as in A1111.

    The first interval evaluates its end too and takes the mean slope; diffusers' PNDM without
    Runge-Kutta steps is the same method.
    """
    x, todo, history = begin(x, sigmas, noise, resume)
    old = recall(history, "d", min(todo.start, 3))
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        slopes = [(x - x0) / sigma, *old]
        width = sigma_next - sigma
        if old or sigma_next == 0.0:
            x = _add(x, slopes, np.multiply(ADAMS_BASHFORTH[len(old)], width))
        else:
            trial = x + slopes[0] * width
            end: Float32 = (trial - denoise(trial, sigma_next).x0) / sigma_next
            x = _add(x, [slopes[0], end], np.full(2, 0.5 * width))
        old = slopes[:3]
        yield finish(i, sigmas, x, x0, noise, keep("d", old))


def unipc(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    order: int = 3,
    second: bool = False,
) -> Iterator[Step]:
    """UniPC: Zhao et al. 2023, algorithms 1 and 2, predicting x0; as A1111 sets it up.

    An interval first corrects its start with the estimate made there, then predicts its end, so a
    step's ``x`` is a prediction; the order falls at the end of the run. Memory is the estimates and
    the corrected start of the interval before, ``start_1``.

    Args:
        order: of predictor and corrector.
        second: B(h) is ``exp(h) - 1`` (bh2) instead of ``h`` (bh1).
    """
    x, todo, history = begin(x, sigmas, noise, resume)
    total = len(sigmas) - 1
    old = recall(history, "x0", min(todo.start, order))
    starts = recall(history, "start", min(todo.start, 1))
    for i in todo:
        x0 = denoise(x, float(sigmas[i])).x0
        if starts:
            past = sigmas[max(i - order, 0) : i][::-1]
            used = min(order, i, total - i + 1)
            x = _unified(starts[0], old[:used], past[:used], float(sigmas[i]), second, x0)
        starts = [x]
        old = [x0, *old][:order]
        used = min(order, i + 1, total - i)
        past = sigmas[: i + 1][::-1][:used]
        x = _unified(x, old[:used], past, float(sigmas[i + 1]), second)
        yield finish(i, sigmas, x, x0, noise, keep("x0", old) | keep("start", starts))


def _unified(
    x: Float32,
    estimates: Sequence[Float32],
    past: Float32,
    sigma_next: float,
    second: bool,
    end: Float32 | None = None,
) -> Float32:
    """Predictor of UniPC, or with the estimate ``end`` at ``sigma_next`` its corrector.

    ``estimates`` were made at the levels ``past``, newest first; their number is the order.
    """
    newest, order = estimates[0], len(estimates)
    if sigma_next == 0.0:
        return newest
    start = float(past[0])
    h = -math.log(start / sigma_next)
    ratios = [-math.log(start / float(level)) / h for level in past[1:]] + [1.0]
    scale = math.expm1(h) if second else h
    phi = math.expm1(h) / h - 1.0
    right, factorial = [], 1.0
    for k in range(1, order + 1):
        right.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / h - 1.0 / factorial
    matrix = np.vander(ratios, order, increasing=True).T
    differences = [
        (estimate - newest) / ratio for estimate, ratio in zip(estimates[1:], ratios, strict=False)
    ]
    size = order - 1
    if end is not None:
        differences.append(end - newest)
        size = order
    # The paper fixes the one weight of these cases; its order does not suffer.
    weights: Float64 = np.full(1, 0.5)
    if size != 1:
        weights = np.asarray(np.linalg.solve(matrix[:size, :size], right[:size]), np.float64)
    moved: Float32 = x * (sigma_next / start) - newest * math.expm1(h)
    return _add(moved, differences, -scale * weights)


def lagrange_integrals(
    nodes: Sequence[float], low: float, high: float, rate: float = 0.0
) -> Float64:
    """Integrals from ``low`` to ``high`` of ``exp(rate * (t - high))`` times each basis polynomial.

    The polynomials are Lagrange's over ``nodes``. Gauss-Legendre with 24 points: exact for the
    polynomials, to 1e-14 with the exponential over intervals up to 10 / rate. Shape (nodes,).
    """
    half = 0.5 * (high - low)
    places = low + half * (_GAUSS_NODES + 1.0)
    values = _GAUSS_WEIGHTS * np.exp(rate * (places - high)) * half
    integrals = []
    for j, node in enumerate(nodes):
        basis = np.ones_like(places)
        for k, other in enumerate(nodes):
            if k != j:
                basis = basis * (places - other) / (node - other)
        integrals.append(values @ basis)
    return np.array(integrals)


def _add(x: Float32, parts: Sequence[Float32], weights: Float64) -> Float32:
    """``x`` plus the weighted parts, in float32."""
    for part, weight in zip(parts, weights.tolist(), strict=True):
        x = x + part * weight
    return x
