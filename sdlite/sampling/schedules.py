"""Schedules: which noise levels a sampler visits. Each is an array of sigmas that ends in 0.

Names and labels are A1111's. Its ``Uniform`` walks the table of levels from last to first and its
``Normal`` converts sigma_max and sigma_min to timesteps and walks between those: the same array up
to rounding, so both are ``uniform`` here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sdlite.errors import RequestError
from sdlite.sampling.beta import beta_quantile
from sdlite.sampling.levels import NoiseLevels
from sdlite.types import Array, Float32

KARRAS_RHO = 7.0
BETA_SHAPE = 0.6
AYS_SD15 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
AYS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
LCM_LEVELS = 50
"""Timesteps a latent consistency model was distilled at (Luo et al. 2023)."""


@dataclass(frozen=True)
class ScheduleInfo:
    """One schedule and its names."""

    name: str
    """A1111's name in its interface for programs, e.g. ``sgm_uniform``."""
    label: str
    """What A1111 shows and writes into pictures, e.g. ``SGM Uniform``."""
    aliases: tuple[str, ...]
    """Other spellings: A1111's suffixes, diffusers, ComfyUI, stable-diffusion.cpp."""
    make: Callable[[NoiseLevels, int], Float32]
    """``(levels, n) -> sigmas`` of shape (n+1,), float32, falling, ending in 0.

    ``ddim`` and ``time_uniform`` follow A1111 in taking more where n does not divide the timesteps.
    """
    sdxl: Callable[[NoiseLevels, int], Float32] | None = None
    """The same for SDXL, where that differs."""


def _finish(sigmas: Array) -> Float32:
    return np.append(sigmas, 0.0).astype(np.float32)


def _at_timesteps(levels: NoiseLevels, timesteps: Array) -> Float32:
    return _finish(np.array([levels.timestep_to_sigma(float(t)) for t in timesteps]))


def uniform(levels: NoiseLevels, n: int) -> Float32:
    """Evenly spaced timesteps from the last to the first (k-diffusion's ``get_sigmas``)."""
    return _at_timesteps(levels, np.linspace(levels.train_steps - 1, 0, n))


def karras(levels: NoiseLevels, n: int) -> Float32:
    """Even in sigma**(1/7) over the model's whole range: Karras et al. 2022, equation 5."""
    return _finish(karras_between(levels.sigma_max, levels.sigma_min, n))


def karras_between(high: float, low: float, n: int) -> Float32:
    """``n`` levels from ``high`` to ``low``, even in sigma**(1/7)."""
    ends = np.array([high, low]) ** (1 / KARRAS_RHO)
    return np.asarray(np.linspace(ends[0], ends[1], n) ** KARRAS_RHO, np.float32)


def exponential(levels: NoiseLevels, n: int) -> Float32:
    """Even in log sigma over the model's whole range."""
    return _finish(np.exp(np.linspace(np.log(levels.sigma_max), np.log(levels.sigma_min), n)))


def kl_optimal(levels: NoiseLevels, n: int) -> Float32:
    """Even in the arc tangent of sigma: Sabour et al. 2024 (Align Your Steps), equation 12.

    As in A1111 the n+1st of n+1 levels, sigma_min, is 0 instead.
    """
    ends = np.arctan([levels.sigma_max, levels.sigma_min])
    return _finish(np.tan(np.linspace(ends[0], ends[1], n + 1))[:-1])


def beta(levels: NoiseLevels, n: int) -> Float32:
    """Sigmas at even quantiles of a beta distribution: Lee et al. 2024, with A1111's shape 0.6."""
    low, high = levels.sigma_min, levels.sigma_max
    places = [beta_quantile(1.0 - p, BETA_SHAPE, BETA_SHAPE) for p in np.linspace(0.0, 1.0, n)]
    return _finish(low + np.array(places) * (high - low))


def _align_your_steps(n: int, known: tuple[float, ...]) -> Float32:
    """``n`` levels of a list found for 11, log-linear in between."""
    places = np.linspace(0.0, len(known) - 1.0, n)
    return _finish(np.exp(np.interp(places, np.arange(len(known)), np.log(known))))


def align_your_steps(levels: NoiseLevels, n: int) -> Float32:
    """Levels found for SD1.5 by Sabour et al. 2024 (Align Your Steps), whatever the model's own."""
    return _align_your_steps(n, AYS_SD15)


def align_your_steps_sdxl(levels: NoiseLevels, n: int) -> Float32:
    """Levels found for SDXL by Sabour et al. 2024 (Align Your Steps)."""
    return _align_your_steps(n, AYS_SDXL)


def sgm_uniform(levels: NoiseLevels, n: int) -> Float32:
    """n+1 evenly spaced timesteps without the first, so that the last interval is no shorter."""
    return _at_timesteps(levels, np.linspace(levels.train_steps - 1, 0, n + 1)[:-1])


def simple(levels: NoiseLevels, n: int) -> Float32:
    """Every (T/n)th level, counted down from the last."""
    back = (np.arange(n) * (levels.train_steps / n)).astype(np.int64)
    return _finish(levels.sigmas[levels.train_steps - 1 - back])


def ddim(levels: NoiseLevels, n: int) -> Float32:
    """Timesteps 1, 1+s, 1+2s ... with s = T // n, as A1111's DDIM takes them.

    All there are: more than n where n does not divide T.
    """
    total = levels.train_steps
    timesteps = np.minimum(np.arange(0, total, max(total // n, 1)) + 1, total - 1)
    return _finish(levels.sigmas[np.unique(timesteps)][::-1])


def time_uniform(levels: NoiseLevels, n: int) -> Float32:
    """Even timesteps from the last to the first, as A1111's UniPC takes them.

    It makes as many intervals as ``ddim`` has levels, and then goes to 0 here.
    """
    return uniform(levels, min(len(ddim(levels, n)), levels.train_steps))


def leading(levels: NoiseLevels, n: int) -> Float32:
    """Diffusers' timestep spacing ``leading`` with offset 1: n multiples of T // n, plus 1."""
    total = levels.train_steps
    timesteps = np.arange(n) * (total // n) + 1
    return _finish(levels.sigmas[np.minimum(timesteps, total - n + np.arange(n))][::-1])


def trailing(levels: NoiseLevels, n: int) -> Float32:
    """Diffusers' timestep spacing ``trailing``: every (T/n)th from the last, rounded."""
    total = levels.train_steps
    timesteps = np.round(total - np.arange(n) * (total / n)).astype(np.int64) - 1
    return _finish(levels.sigmas[timesteps])


def lcm_timesteps(levels: NoiseLevels) -> Array:
    """The timesteps a latent consistency model was distilled at, rising, int64.

    Every (T/50)th, so that the last is T-1. A model trained with fewer timesteps has them all.
    """
    skip = max(levels.train_steps // LCM_LEVELS, 1)
    return np.arange(levels.train_steps - 1, -1, -skip)[:LCM_LEVELS][::-1]


def lcm(levels: NoiseLevels, n: int) -> Float32:
    """Even over the distillation timesteps, from the last to the first.

    A1111's ``Automatic`` for its LCM sampler: between two of those timesteps log sigma is linear.
    """
    known = lcm_timesteps(levels)
    logs = np.log(levels.sigmas[known].astype(np.float64))
    places = np.linspace(len(known) - 1, 0, n)
    return _finish(np.exp(np.interp(places, np.arange(len(known)), logs)))


SCHEDULES: tuple[ScheduleInfo, ...] = (
    ScheduleInfo("uniform", "Uniform", ("default",), uniform),
    ScheduleInfo("karras", "Karras", ("ka", "use_karras_sigmas"), karras),
    ScheduleInfo("exponential", "Exponential", ("exp", "use_exponential_sigmas"), exponential),
    # With A1111's exponent of 1.
    ScheduleInfo("polyexponential", "Polyexponential", (), exponential),
    ScheduleInfo("sgm_uniform", "SGM Uniform", ("SGMUniform",), sgm_uniform),
    ScheduleInfo("kl_optimal", "KL Optimal", (), kl_optimal),
    ScheduleInfo(
        "align_your_steps", "Align Your Steps", ("ays",), align_your_steps, align_your_steps_sdxl
    ),
    ScheduleInfo("simple", "Simple", (), simple),
    ScheduleInfo("normal", "Normal", ("discrete", "linspace"), uniform),
    ScheduleInfo("ddim", "DDIM", ("ddim_uniform",), ddim),
    ScheduleInfo("beta", "Beta", ("use_beta_sigmas",), beta),
    ScheduleInfo("leading", "Leading", (), leading),
    ScheduleInfo("trailing", "Trailing", (), trailing),
    ScheduleInfo("time_uniform", "Time Uniform", (), time_uniform),
    ScheduleInfo("lcm", "LCM", (), lcm),
)


def check_steps(levels: NoiseLevels, steps: int) -> None:
    """Refuse step counts no schedule can serve; raises ``RequestError``."""
    if not 1 <= steps <= levels.train_steps:
        raise RequestError(
            f"steps {steps} is out of range: this model takes 1 to {levels.train_steps}"
        )


def custom(sigmas: Sequence[float]) -> Float32:
    """Levels given one by one, float32, with 0 behind them unless it is there.

    Raises ``RequestError`` unless they are finite, above 0 and falling.
    """
    if not sigmas or list(sigmas) == [0.0]:
        raise RequestError("sigmas is empty; give falling levels, like 14.6,7,3,1,0.3,0.03")
    given = np.array(sigmas[:-1] if sigmas[-1] == 0 else sigmas, np.float64)
    with np.errstate(over="ignore"):
        levels = given.astype(np.float32)
    for index, level in enumerate(levels):
        if not np.isfinite(level) or level <= 0:
            raise RequestError(
                f"sigma {given[index]:g} is not a level of noise: all are above 0 "
                "(a 0 at the end is added)"
            )
        if index and level >= levels[index - 1]:
            raise RequestError(
                f"sigma {given[index]:g} does not fall: the one before is {given[index - 1]:g}"
            )
    return _finish(levels)
