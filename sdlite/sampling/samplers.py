"""Samplers without multistep memory, and what all samplers share.

Each sampler is a generator that yields one ``Step`` an interval of the schedule, as k-diffusion
defines the method; A1111 uses those definitions. Latents stay float32; the few scalars of an
interval are Python floats computed from the float32 sigmas. Noise is drawn only for intervals
that need it. A step's ``state`` is enough to go on from it with the same numbers, to the bit.

Letters are the papers': ``x`` noisy latents, ``x0`` their clean estimate, ``d = dx/dsigma``,
``h`` an interval in ``-log sigma``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sdlite.errors import RequestError
from sdlite.types import Array, Denoise, Float32, Noise, SamplerState, Step


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
    if resume.x.shape != x.shape:
        raise RequestError(
            f"cannot resume latents of shape {resume.x.shape}: this run has shape {x.shape}"
        )
    noise.seek(resume.noise_position)
    return resume.x, range(resume.index, total), resume.history


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


def euler(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """Euler steps: Karras et al. 2022, algorithm 2 without its correction and without churn."""
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        d = (x - x0) / sigma
        x = x + d * (sigma_next - sigma)
        yield finish(i, sigmas, x, x0, noise)


def ancestral_split(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Level to step down to, and noise to add there, so that the sum lies at ``sigma_next``."""
    ratio = sigma_next / sigma
    up = min(sigma_next, sigma_next * (1.0 - ratio * ratio) ** 0.5)
    return (sigma_next * sigma_next - up * up) ** 0.5, up


def euler_ancestral(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """Euler steps that go below the next level and add fresh noise up to it (eta 1)."""
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        down, up = ancestral_split(sigma, sigma_next)
        d = (x - x0) / sigma
        x = x + d * (down - sigma)
        if sigma_next > 0.0:
            x = x + noise(sigma, sigma_next) * up
        yield finish(i, sigmas, x, x0, noise)


def heun(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """Heun's method: Karras et al. 2022, algorithm 2 without churn; the last interval is Euler.

    Two evaluations an interval; the step's ``x0`` is the first one's.
    """
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        d = (x - x0) / sigma
        trial = x + d * (sigma_next - sigma)
        if sigma_next > 0.0:
            d_next = (trial - denoise(trial, sigma_next).x0) / sigma_next
            trial = x + (d + d_next) * (0.5 * (sigma_next - sigma))
        x = trial
        yield finish(i, sigmas, x, x0, noise)


def ddim(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """DDIM with eta 0: Song et al. 2020, equation 12.

    In sigmas that is ``x0 + sigma_next * eps`` with the predicted noise ``eps``. A1111's loop ends
    at the level of timestep 1 and hands over what noise is left there (one evaluation earlier where
    the steps divide the timesteps); this one goes on to 0.
    """
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        eps = (x - x0) / sigma
        x = x0 + eps * sigma_next
        yield finish(i, sigmas, x, x0, noise)


def lcm(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """Multistep consistency sampling: Luo et al. 2023 (latent consistency models), algorithm 3.

    ``denoise`` must be the consistency function, see ``denoiser(..., consistency=True)``; each
    interval takes its estimate and adds fresh noise of the next level.
    """
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        x = x0 + noise(sigma, sigma_next) * sigma_next if sigma_next > 0.0 else x0
        yield finish(i, sigmas, x, x0, noise)
