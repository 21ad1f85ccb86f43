"""What A1111's routes answer with, for the published description."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class WebuiError(TypedDict):
    """Every error."""

    error: str
    detail: str | list[dict[str, Any]]
    body: str
    errors: str


class Drawn(TypedDict):
    """``txt2img`` and ``img2img``; ``info`` is JSON as text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class Enlarged(TypedDict):
    """``extra-single-image``."""

    html_info: str
    image: str


class EnlargedBatch(TypedDict):
    """``extra-batch-images``."""

    html_info: str
    images: list[str]


class Told(TypedDict):
    """``png-info``."""

    info: str
    items: dict[str, str]
    parameters: dict[str, str]


class ProgressState(TypedDict):
    """What a job is at."""

    skipped: bool
    interrupted: bool
    stopping_generation: bool
    job: str
    job_count: int
    job_timestamp: str
    job_no: int
    sampling_step: int
    sampling_steps: int


class Progress(TypedDict):
    """``progress``."""

    progress: float
    eta_relative: float
    state: ProgressState
    current_image: str | None
    textinfo: str | None
    current_task: str | None


class Sampler(TypedDict):
    """One of ``samplers``."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class Scheduler(TypedDict):
    """One of ``schedulers``."""

    name: str
    label: str
    aliases: list[str] | None
    default_rho: float
    need_inner_model: bool


class Upscaler(TypedDict):
    """One of ``upscalers``."""

    name: str
    model_name: str | None
    model_path: str | None
    model_url: str | None
    scale: float


class LatentMode(TypedDict):
    """One of ``latent-upscale-modes``."""

    name: str


class SdModel(TypedDict):
    """One of ``sd-models``."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None


class Style(TypedDict):
    """One of ``prompt-styles``."""

    name: str
    prompt: str
    negative_prompt: str


class WebuiLora(TypedDict):
    """One of ``loras``."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any]


class WebuiEmbedding(TypedDict):
    """One of ``embeddings``; null where the file does not say."""

    step: int | None
    sd_checkpoint: str | None
    sd_checkpoint_name: str | None
    shape: int | None
    vectors: int | None


class WebuiEmbeddings(TypedDict):
    """``embeddings``."""

    loaded: dict[str, WebuiEmbedding]
    skipped: dict[str, WebuiEmbedding]


class Ram(TypedDict):
    """Bytes."""

    free: int | None
    used: int | None
    total: int | None


class Memory(TypedDict):
    """``memory``."""

    ram: Ram
    cuda: dict[str, str]


class Scripts(TypedDict):
    """``scripts``."""

    txt2img: list[str]
    img2img: list[str]


class Argument(TypedDict):
    """What a script takes."""

    label: str


class ScriptInfo(TypedDict):
    """One of ``script-info``."""

    name: str
    is_alwayson: bool
    is_img2img: bool
    args: list[Argument]


class Detected(TypedDict):
    """``/controlnet/detect``."""

    images: list[str]
    info: str


class Empty(TypedDict):
    """An object without anything in it."""
