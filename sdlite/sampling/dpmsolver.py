"""DPM-Solver in single steps of up to third order, with a fixed or an adaptive step size.

Lu et al. 2022 (DPM-Solver), as k-diffusion writes it: from the first to the lowest level above 0
of the schedule, whose other levels do not matter; the noise of the lowest level stays in the
result. How states and options work is said in ``loop``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from sdlite.sampling.loop import ancestral_split, begin, check_shape, finish, lowest, recall
from sdlite.types import Denoise, Float32, Noise, SamplerState, Step

RTOL = 0.05
ATOL = 0.0078
FIRST_STEP = 0.05
ACCEPT = 0.81
SMALLEST_STEP = 1e-5
NEAR_END = 1e-5


class _Interval:
    """What the methods of different order have in common over one interval, from ``t`` on."""

    def __init__(self, denoise: Denoise, x: Float32, t: float) -> None:
        self._denoise, self._x, self._t = denoise, x, t
        self.x0, self._eps = self._evaluate(x, t)

    def _evaluate(self, x: Float32, t: float) -> tuple[Float32, Float32]:
        sigma = math.exp(-t)
        x0 = self._denoise(x, sigma).x0
        return x0, (x - x0) / sigma

    def _first(self, h: float) -> Float32:
        """Latents after ``h`` by the method of order 1."""
        return self._x - self._eps * (math.exp(-self._t - h) * math.expm1(h))

    def _eps_at(self, h: float) -> Float32:
        """Predicted noise there."""
        return self._evaluate(self._first(h), self._t + h)[1]

    def _second(self, h: float, r: float, middle: Float32) -> Float32:
        """Order 2, with the noise ``middle`` at ``r * h``."""
        weight = math.exp(-self._t - h) / (2.0 * r) * math.expm1(h)
        return self._first(h) - (middle - self._eps) * weight

    def _third(self, h: float, early: Float32) -> Float32:
        """Order 3, with the noise ``early`` a third into the interval."""
        part = 2.0 * h / 3.0
        weight = math.exp(-self._t - part) * 2.0 * (math.expm1(part) / part - 1.0)
        trial = self._first(part) - (early - self._eps) * weight
        late = self._evaluate(trial, self._t + part)[1]
        weight = math.exp(-self._t - h) * 1.5 * (math.expm1(h) / h - 1.0)
        return self._first(h) - (late - self._eps) * weight

    def solve(self, t_next: float, order: int) -> Float32:
        """Latents at ``t_next``."""
        h = t_next - self._t
        if order == 1:
            return self._first(h)
        if order == 2:
            return self._second(h, 0.5, self._eps_at(0.5 * h))
        return self._third(h, self._eps_at(h / 3.0))

    def solve_twice(self, t_next: float) -> tuple[Float32, Float32]:
        """Latents at ``t_next`` by orders 2 and 3, which share an evaluation."""
        h = t_next - self._t
        early = self._eps_at(h / 3.0)
        return self._second(h, 1.0 / 3.0, early), self._third(h, early)


def _below(t: float, t_next: float, t_end: float, eta: float) -> tuple[float, float]:
    """Where an ancestral step goes in ``t``, and the noise that brings it back to ``t_next``."""
    down, _ = ancestral_split(math.exp(-t), math.exp(-t_next), eta)
    low = t_end if down <= 0.0 else min(t_end, -math.log(down))
    return low, max(math.exp(-2.0 * t_next) - math.exp(-2.0 * low), 0.0) ** 0.5


def dpm_fast(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver-fast: section 3.4; as many evaluations as ``sigmas`` has intervals.

    Intervals even in log sigma, of order 3 but for the last one or two. A1111 sets ``eta`` to 1,
    k-diffusion to 0. A
    single interval that ends in 0 is one Euler step.
    """
    calls = len(sigmas) - 1
    if calls == 1 and sigmas[-1] == 0:
        return _in_one_step(denoise, x, sigmas, noise, resume)
    orders = [3] * (calls // 3) + [calls % 3]
    if calls % 3 == 0:
        orders = [3] * (calls // 3 - 1) + [2, 1]
    ends = -math.log(float(sigmas[0])), -math.log(lowest(sigmas))
    times = np.linspace(*ends, len(orders) + 1).tolist()
    return _fast(denoise, x, orders, times, noise, resume, eta, s_noise)


def _fast(
    denoise: Denoise,
    x: Float32,
    orders: Sequence[int],
    times: Sequence[float],
    noise: Noise,
    resume: SamplerState | None,
    eta: float,
    s_noise: float,
) -> Iterator[Step]:
    levels = np.exp(-np.array(times))
    x, todo, _ = begin(x, levels, noise, resume)
    for i in todo:
        interval = _Interval(denoise, x, times[i])
        t_low, up = _below(times[i], times[i + 1], times[-1], eta)
        x = interval.solve(t_low, orders[i])
        if up > 0.0:
            x = x + noise(float(levels[i]), float(levels[i + 1])) * (up * s_noise)
        yield finish(i, levels, x, interval.x0, noise)


def _in_one_step(
    denoise: Denoise, x: Float32, sigmas: Float32, noise: Noise, resume: SamplerState | None
) -> Iterator[Step]:
    """The one interval of a schedule that has nothing between its start and 0."""
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        x0 = denoise(x, float(sigmas[i])).x0
        yield finish(i, sigmas, x0, x0, noise)


def dpm_adaptive(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver-23: section 3.3, the step size controlled by the difference of orders 2 and 3.

    Tolerances and controller are k-diffusion's; A1111 sets ``eta`` to 1, k-diffusion to 0. A step
    is an accepted interval; ``total`` is an estimate until the last one. The size is chosen for
    the whole batch, so here a picture does depend on the others of its batch. Memory: ``control``
    (where the next interval starts in ``-log sigma``, and its size; float64) and ``low_1``, the
    last result of order 2.
    """
    if len(sigmas) == 2 and sigmas[-1] == 0:
        yield from _in_one_step(denoise, x, sigmas, noise, resume)
        return
    t_end = -math.log(lowest(sigmas))
    s, h, x_low, index = -math.log(float(sigmas[0])), FIRST_STEP, x, 0
    if resume is not None and resume.index > 0:
        check_shape(x, resume)
        noise.seek(resume.noise_position)
        s, h = (float(value) for value in recall(resume.history, "control", 1)[0])
        x, x_low, index = resume.x, recall(resume.history, "low", 1)[0], resume.index
    while s < t_end - NEAR_END:
        interval = _Interval(denoise, x, s)
        accepted = False
        while not accepted:
            t = min(t_end, s + h)
            t_low, up = _below(s, t, t_end, eta)
            low, high = interval.solve_twice(t_low)
            allowed = np.maximum(ATOL, RTOL * np.maximum(np.abs(low), np.abs(x_low)))
            error = float(np.sqrt(np.mean(np.square((low - high) / allowed, dtype=np.float64))))
            factor = 1.0 + math.atan((1.0 / (error + 1e-8)) ** (1.0 / (1.5 if eta else 3.0)) - 1.0)
            # What is not finite never fits: take the step and let the caller see it.
            accepted = not math.isfinite(error) or factor >= ACCEPT or h < SMALLEST_STEP
            h = h * factor if math.isfinite(factor) else h
        sigma, sigma_next = math.exp(-s), math.exp(-t)
        x, x_low, s = high, low, t
        if up > 0.0:
            x = x + noise(sigma, sigma_next) * (up * s_noise)
        index += 1
        total = index + (math.ceil((t_end - s) / h) if s < t_end - NEAR_END else 0)
        history = {"control_1": np.array([s, h]), "low_1": x_low}
        state = SamplerState(index, x, history, noise.position)
        yield Step(index - 1, total, sigma, x, interval.x0, state)
