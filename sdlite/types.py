"""The nouns shared by every part of sdlite: frozen dataclasses and the callables of the loop.

Numpy arrays are the only currency. Latents are float32 ``(batch, channels, height/8, width/8)``,
pictures on their way out are uint8 ``(height, width, 3)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Array: TypeAlias = npt.NDArray[Any]
Float32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Estimate:
    """What a denoiser returns for one noisy input."""

    x0: Float32
    """Estimate of the clean latents, same shape as the input."""
    x0_uncond: Float32 | None = None
    """The same without the prompt, when guidance computed it anyway."""


@dataclass(frozen=True)
class SamplerState:
    """Everything a sampler needs to go on from a step as if it had never stopped."""

    index: int
    """Intervals finished so far; the next one runs from ``sigmas[index]``."""
    x: Float32
    """Latents after the last finished interval, scaled as the sampler holds them."""
    history: Mapping[str, Array] = field(default_factory=dict)
    """Multistep memory by name; empty for one-step methods."""
    noise_position: int = 0
    """Draws taken from the noise source so far."""


@dataclass(frozen=True)
class Step:
    """One finished interval of the schedule."""

    index: int
    """0-based number of the interval."""
    total: int
    """Intervals in the whole run."""
    sigma: float
    """Noise level the interval started from."""
    x: Float32
    """Latents after the interval."""
    x0: Float32
    """The model's estimate of the clean latents in this interval; what a preview shows."""
    state: SamplerState
    """State from which a later run resumes to the bit."""


class Noise(Protocol):
    """A source of standard normal noise shaped like the latents.

    It is called once for each interval that needs noise, with the sigmas of that interval, and
    returns float32 of the latents' shape: image ``i`` of a batch gets what it would get alone.
    """

    @property
    def position(self) -> int:
        """Draws taken so far (calls, not values)."""
        ...

    def seek(self, position: int) -> None:
        """Go to the state after ``position`` draws."""
        ...

    def __call__(self, sigma: float, sigma_next: float) -> Float32:
        """Draw noise for the interval from ``sigma`` to ``sigma_next``."""
        ...


Denoise: TypeAlias = Callable[[Float32, float], Estimate]
"""``(x, sigma) -> Estimate``: the only thing a sampler knows of a model."""


class Sampler(Protocol):
    """A numerical method as a generator: one ``Step`` an interval of ``sigmas``.

    ``sigmas`` is float32 of length n+1, falling, and ends in 0. ``x`` is noise scaled to
    ``sigmas[0]`` (plus an image, for image to image).
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Float32,
        sigmas: Float32,
        noise: Noise,
        resume: SamplerState | None = None,
    ) -> Iterator[Step]:
        """Sample; with ``resume`` go on from that state instead of from ``x``."""
        ...


@dataclass(frozen=True)
class Device:
    """One place an engine can run on."""

    runtime: str
    """Engine name, e.g. ``"onnxruntime"``."""
    name: str
    """Device name within the engine, e.g. ``"cpu"``, ``"cuda:0"``."""
    description: str
    """What a person would call it."""
    memory_bytes: int | None = None
    """Memory of the device; None when unknown."""
    precisions: tuple[str, ...] = ("fp32",)
    """Precisions it computes in."""


@dataclass(frozen=True)
class Request:
    """One job: everything that determines the pictures."""

    prompt: str
    """What to draw; may be empty."""
    negative_prompt: str = ""
    """What to steer away from."""
    width: int | None = None
    """Pixels, a multiple of 8; None is the package's default."""
    height: int | None = None
    """Pixels, a multiple of 8; None is the package's default."""
    steps: int | None = None
    """Intervals of the schedule; None is the package's default."""
    guidance: float | None = None
    """Guidance scale; 1 or less turns guidance off; None is the package's default."""
    sampler: str | None = None
    """Sampler name in any usual spelling; None is the package's default."""
    schedule: str | None = None
    """Schedule name in any usual spelling; None is the package's default for the sampler."""
    seed: int = -1
    """Seed of the first image, 0 to 2**64-1; -1 draws one. Image i uses ``seed + i``."""
    images: int = 1
    """Pictures to make in one batch."""
    rng: str = "cpu"
    """Random number generator: ``cpu`` (torch), ``nv`` (NVIDIA Philox), ``numpy``."""


@dataclass(frozen=True)
class PhaseReport:
    """What one phase of a run cost."""

    name: str
    """``text``, ``denoise`` or ``decode``."""
    load_seconds: float
    """Seconds spent opening graphs; 0 when they were open already."""
    run_seconds: float
    """Seconds spent after that."""
    engine_seconds: float
    """Part of ``run_seconds`` spent inside engine calls."""
    calls: int
    """Engine calls made."""
    private_bytes: int | None
    """Anonymous memory of the process at its highest during the phase; None where unknown."""
    mapped_bytes: int | None
    """File-backed resident pages at that moment; None where unknown."""


@dataclass(frozen=True)
class Result:
    """Pictures and what it took to make them."""

    images: tuple[Image, ...]
    """PIL images, RGB, in seed order."""
    seeds: tuple[int, ...]
    """The seed of each image."""
    request: Request
    """The request with every default filled in."""
    plan: Any
    """The ``sdlite.planner.Plan`` that was carried out."""
    phases: tuple[PhaseReport, ...]
    """Costs, in the order the phases ran."""
    seconds: float
    """Wall-clock seconds of the whole call."""
    peak_bytes: int | None
    """Highest private + mapped memory seen; None where unknown."""
    notes: tuple[str, ...] = ()
    """What the user should know: truncated prompts, fall-backs, approximations."""
    infotexts: tuple[str, ...] = ()
    """A1111 parameter text of each image."""
