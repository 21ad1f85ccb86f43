"""What all samplers share: where a run begins, what a step carries, memory and churn.

Each sampler is a generator that yields one ``Step`` an interval of the schedule, as k-diffusion,
A1111 or diffusers define the method. Latents stay float32; the few scalars of an interval are
Python floats computed from the float32 sigmas. A step's ``state`` is enough to go on from it with
the same numbers, to the bit. Samplers that remember earlier intervals keep ``d_1``, ``d_2`` ...
(or ``x0_1`` ...) in ``state.history``: float32 of the latents' shape, the newest first.

Letters are the papers': ``x`` noisy latents, ``x0`` their clean estimate, ``d = dx/dsigma``,
``h`` an interval in ``-log sigma``. Options are keywords with A1111's names: ``eta`` scales the
fresh noise of a step, ``s_noise`` its deviation; ``s_churn``, ``s_tmin`` and ``s_tmax`` are those
of Karras et al. 2022, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from sdlite.errors import RequestError
from sdlite.types import Array, Float32, Noise, SamplerState, Step


def begin(
    x: Float32, sigmas: Float32, noise: Noise, resume: SamplerState | None
) -> tuple[Float32, range, Mapping[str, Array]]:
    """Latents, intervals still to do and multistep memory at the start of a run.

    Moves the noise source to where a resumed run had left it. Raises ``RequestError`` for a state
    that does not belong to this run.
    """
    total = len(sigmas) - 1
    if resume is None:
        return x, range(total), {}
    if not 0 <= resume.index <= total:
        raise RequestError(
            f"cannot resume after interval {resume.index}: this schedule has {total} intervals"
        )
    check_shape(x, resume)
    noise.seek(resume.noise_position)
    return resume.x, range(resume.index, total), resume.history


def check_shape(x: Float32, resume: SamplerState) -> None:
    """Refuse a state whose latents are not shaped like ``x``; raises ``RequestError``."""
    if resume.x.shape != x.shape:
        raise RequestError(
            f"cannot resume latents of shape {resume.x.shape}: this run has shape {x.shape}"
        )


def finish(
    i: int,
    sigmas: Float32,
    x: Float32,
    x0: Float32,
    noise: Noise,
    history: Mapping[str, Array] | None = None,
) -> Step:
    """The ``Step`` of interval ``i``, which ended at ``x``."""
    state = SamplerState(i + 1, x, history or {}, noise.position)
    return Step(i, len(sigmas) - 1, float(sigmas[i]), x, x0, state)


def recall(history: Mapping[str, Array], name: str, count: int) -> list[Float32]:
    """The ``count`` newest arrays that ``keep`` stored; raises ``RequestError`` if some lack."""
    keys = [f"{name}_{back}" for back in range(1, count + 1)]
    missing = [key for key in keys if key not in history]
    if missing:
        raise RequestError(f"cannot resume: the state holds no {missing[0]} of an interval before")
    return [history[key] for key in keys]


def keep(name: str, values: Iterable[Array]) -> dict[str, Array]:
    """History entries of ``values``, newest first."""
    return {f"{name}_{back}": value for back, value in enumerate(values, 1)}


def ancestral_split(sigma: float, sigma_next: float, eta: float = 1.0) -> tuple[float, float]:
    """Level to step down to, and noise to add there, so that the sum lies at ``sigma_next``."""
    ratio = sigma_next / sigma
    up = min(sigma_next, eta * sigma_next * (1.0 - ratio * ratio) ** 0.5)
    return (sigma_next * sigma_next - up * up) ** 0.5, up


def churn(
    x: Float32,
    sigma: float,
    sigma_next: float,
    intervals: int,
    noise: Noise,
    options: tuple[float, float, float, float],
) -> tuple[Float32, float]:
    """Latents and level after ``s_churn`` has raised the noise of an interval's start.

    ``options`` are ``s_churn``, ``s_tmin``, ``s_tmax`` and ``s_noise``. As in k-diffusion a draw is
    taken in every interval, also where the level lies outside ``s_tmin`` to ``s_tmax``.
    """
    s_churn, s_tmin, s_tmax, s_noise = options
    if s_churn <= 0.0:
        return x, sigma
    fresh = noise(sigma, sigma_next)
    if not s_tmin <= sigma <= s_tmax:
        return x, sigma
    raised = sigma * (1.0 + min(s_churn / intervals, math.sqrt(2.0) - 1.0))
    return x + fresh * (s_noise * (raised * raised - sigma * sigma) ** 0.5), raised


def lowest(sigmas: Float32) -> float:
    """The last level above 0."""
    return float(sigmas[-1]) if sigmas[-1] > 0 else float(sigmas[-2])
