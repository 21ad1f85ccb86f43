"""The nouns shared by every part of sdlite: frozen dataclasses and the callables of the loop.

Numpy arrays are the only currency. Latents are float32 ``(batch, channels, height/8, width/8)``,
pictures on their way out are uint8 ``(height, width, 3)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt
from PIL.Image import Image

from sdlite.conds import Cond as Cond
from sdlite.conds import Conditions as Conditions
from sdlite.conds import Float32 as Float32
from sdlite.conds import StepConds as StepConds
from sdlite.controls import Control
from sdlite.loras import LoraUse

Array: TypeAlias = npt.NDArray[Any]


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
    stage: int = 0
    """Which run of the job this is: 1 is the second pass of a hires job."""
    base: Float32 | None = None
    """Latents the run before this one ended with; None in the first."""
    cache: Mapping[str, Array] = field(default_factory=dict)
    """What answers of the model are forecast from; empty where none are."""


@dataclass(frozen=True)
class Step:
    """One finished interval of the schedule."""

    index: int
    """0-based number of the interval."""
    total: int
    """Intervals in the whole run; an adaptive sampler's guess until it ends."""
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

    ``sigmas`` is float32 of length n+1, falling, and ends in 0; where it ends above 0 that much
    noise stays in the latents. ``x`` is noise scaled to ``sigmas[0]`` (plus an image, for image to
    image). A method may choose levels of its own between the ends, and then the number of steps.
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
    """Precisions it computes in, fastest first."""
    fixed_sizes: bool = False
    """Whether it needs, or is much faster with, sizes fixed before a graph is opened."""
    own_memory: bool = False
    """Whether its memory is not the machine's main memory."""
    opset: int = 0
    """Highest opset of the graphs it reads; 0 for any."""
    seven_bits: bool = False
    """Whether weights in 8 bits are brought to 7 there, because sums would be cut off."""


@dataclass(frozen=True)
class Edit:
    """A picture to start from: image to image, and inpainting when there is a mask."""

    image: Image
    """PIL picture of any mode and size; it is turned upright and made RGB."""
    strength: float = 0.75
    """How much is drawn anew: 0 keeps the picture, 1 keeps next to nothing of it."""
    mask: Image | None = None
    """Where to paint: white is painted, black stays. Opaque is painted where it has transparency.
    None paints everywhere."""
    alpha_mask: bool = False
    """The mask is the transparent part of ``image``."""
    invert_mask: bool = False
    """Paint where the mask says to stay."""
    soft_mask: bool = False
    """Shades of grey in the mask are shares; otherwise a latent cell is painted or stays."""
    mask_blur: float = 4.0
    """Standard deviation of the mask's edge in pixels of the picture, 0 to 256."""
    mask_content: str = "original"
    """What painting begins with: ``original``, ``fill`` (the colours around), ``noise`` (latent
    noise) or ``nothing`` (zero latents)."""
    only_masked: bool = False
    """Work on the masked part alone, enlarged to the size of the request, and paste it back."""
    padding: int = 32
    """Pixels of surroundings ``only_masked`` takes with it."""
    resize: str | None = None
    """How it comes to the size of the request: ``stretch``, ``crop`` or ``fill`` (edges drawn out).
    None is ``stretch``, or without a size ``pad``: its own, padded and cropped back."""
    paste: bool = True
    """Outside the mask and its blur every byte stays. Otherwise the picture is the decoder's."""
    image_guidance: float = 1.5
    """Of instruct-pix2pix models: how closely to keep to the picture, 0 to 100."""
    noise_level: int | None = None
    """Of upscalers: how much noise the picture is shown with, 0 to the model's most: more lets the
    model invent more. None is the model's own, and that of every other model."""
    rules: str = "a1111"
    """Whose rules: ``a1111`` runs int(strength * steps) + 1 steps on the encoder's mean;
    ``diffusers`` runs int(strength * steps) on latents drawn with the first noise of the seed."""


@dataclass(frozen=True)
class Hires:
    """A second, larger pass over the picture."""

    scale: float = 2.0
    """How many times as wide and high, rounded to whole latent cells."""
    width: int | None = None
    """Pixels, a multiple of 8, instead of ``scale``; with one side given the other follows."""
    height: int | None = None
    """Pixels, a multiple of 8, instead of ``scale``."""
    upscaler: str = "Latent"
    """In between: ``Latent`` and its kinds, ``Lanczos``, ``Bilinear``, ``Nearest``, a network."""
    steps: int | None = None
    """Intervals the second pass runs; None is as many as the first."""
    strength: float = 0.7
    """How much the second pass draws anew, above 0 to 1."""
    sampler: str | None = None
    """Its sampler; None is the first pass's."""
    schedule: str | None = None
    """Its schedule; None is the first pass's, or with a sampler that sampler's own."""
    prompt: str = ""
    """Its prompt; empty is the first pass's."""
    negative_prompt: str = ""
    """Its negative prompt; empty is the first pass's."""
    guidance: float | None = None
    """Its guidance scale; None is the first pass's."""


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
    edit: Edit | None = None
    """The picture to start from; ``width`` and ``height`` are its own unless given."""
    hires: Hires | None = None
    """A second, larger pass."""
    clip_skip: int = 1
    """Layer of the text encoder whose states are used, from the end (A1111's Clip skip)."""
    emphasis: str = "Original"
    """How weights in prompts are read and applied: ``Original``, ``No norm``, ``Ignore``, ``None``
    (A1111's), ``ComfyUI`` or ``compel``."""
    guidance_rescale: float | None = None
    """How much of the contrast that guidance adds is taken back, 0 to 1 (Lin et al. 2023); None is
    the package's default."""
    guidance_interval: tuple[float, float] | None = None
    """Lowest and highest sigma at which guidance acts; None is always."""
    variation_strength: float = 0.0
    """How far the first noise goes towards that of ``variation_seed``, 0 to 1. Above 0 all images
    have ``seed``, and image i the variation seed ``variation_seed + i`` (A1111's Extra seed)."""
    variation_seed: int = -1
    """Variation seed of the first image, 0 to 2**64-1; -1 draws one."""
    seed_resize: tuple[int, int] | None = None
    """Width and height in pixels whose noise stands in the middle of this size's, so that a seed
    draws nearly the same at another size (A1111's Resize seed from)."""
    seed_delta: int = 0
    """What is added to the seed for noise that samplers add on their way (A1111's ENSD)."""
    eta: float | None = None
    """Share of fresh noise, 0 to 1, of samplers that take it; None is the sampler's own."""
    s_churn: float = 0.0
    """Noise that Euler, Heun and DPM2 add to every step (Karras et al. 2022), 0 to 100."""
    s_tmin: float = 0.0
    """Lowest sigma at which they do."""
    s_tmax: float = 0.0
    """Highest sigma at which they do; 0 is any."""
    s_noise: float = 1.0
    """Deviation of noise that samplers add, 0 to 2."""
    sigmas: tuple[float, ...] | None = None
    """The noise levels to visit, falling, instead of a schedule; they decide ``steps``."""
    tiling: str = ""
    """Opposite edges that fit: ``x`` (left and right), ``y`` (top and bottom) or ``xy``."""
    loras: tuple[LoraUse, ...] = ()
    """LoRAs beside those the prompt names in tags."""
    embeddings: tuple[Path, ...] = ()
    """Textual inversions to know by name, beside those in the model folders."""
    controls: tuple[Control, ...] = ()
    """Pictures to follow, each read by an adapter of the package."""
    decoder: str | None = None
    """What makes pictures of latents: ``full``, or ``tiny`` where the package has one (TAESD); None
    leaves it to the profile."""
    profile: str = "quality"
    """How much to approximate: ``quality`` (nothing), ``balanced``, ``fast`` or ``draft``."""
    safety_checker: bool = False
    """Pictures the model's safety checker objects to are black."""


@dataclass(frozen=True)
class PhaseReport:
    """What one phase of a run cost."""

    name: str
    """``text``, ``encode``, ``denoise``, ``decode`` or ``upscale``."""
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
    precision: str | None = None
    """What the graph computed in, as the engine reports it; None where it does not."""
    full: int = 0
    """Answers of the U-Net that were computed, with guidance or without, each picture's alone."""
    skipped: int = 0
    """Answers that were forecast from earlier ones instead, as the profile allows."""
    unguided: int = 0
    """How many of ``full`` needed half the work, because guidance did not act there."""


@dataclass(frozen=True)
class Result:
    """Pictures and what it took to make them."""

    images: tuple[Image, ...]
    """PIL images, RGB, in seed order."""
    seeds: tuple[int, ...]
    """The seed of each image; with a variation they are all the same, see ``variation_seeds``."""
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
    """What the user should know: tags that nothing applies, fall-backs, approximations."""
    infotexts: tuple[str, ...] = ()
    """A1111 parameter text of each image."""
    relieved: tuple[str, ...] = ()
    """What failed on the way, and what was given up to go on, one sentence each."""
    variation_seeds: tuple[int, ...] = ()
    """The variation seed of each image; empty without a variation."""
