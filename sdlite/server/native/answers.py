"""What the native routes answer with, for the published description."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class Reason(TypedDict):
    """What is wrong; ``details`` are findings of the validation."""

    kind: str
    message: str
    details: NotRequired[list[dict[str, Any]]]


class Failure(TypedDict):
    """Every error."""

    error: Reason


class Shown(TypedDict):
    """A finished picture."""

    url: str
    number: int
    seed: int
    width: int
    height: int
    infotext: str


class Job(TypedDict):
    """A job."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "suspended"]
    model: str
    prompt: str
    created: float
    position: int | None
    share: float
    step: int
    steps: int
    seconds: float
    seconds_left: float | None
    width: int
    height: int
    seed: int
    images: list[Shown]
    notes: list[str]
    error: str | None
    error_kind: str | None


class Jobs(TypedDict):
    """``GET jobs``."""

    jobs: list[Job]


class Deleted(TypedDict):
    """What is gone."""

    deleted: str


class Pictured(Shown):
    """A finished picture of a list."""

    job: str
    model: str
    created: float


class Pictures(TypedDict):
    """``GET pictures``; ``next`` is the ``before`` of the next page."""

    pictures: list[Pictured]
    next: str | None


class Faster(TypedDict):
    """What would take less time."""

    kind: str
    change: dict[str, Any]
    seconds: float


class Planned(TypedDict):
    """``POST plan``; ``seconds`` is null as long as nobody can tell."""

    model: str
    memory_mode: str
    private_bytes: int
    peak_bytes: int
    reasons: list[str]
    explanation: str
    seconds: float | None
    faster: list[Faster]
    waiting: int


class Read(TypedDict):
    """``POST read``: settings as ``POST jobs`` takes them."""

    infotext: str
    settings: dict[str, Any]
    problems: list[str]


class Preprocessed(TypedDict):
    """What a control network reads of a picture."""

    image: str


class Model(TypedDict):
    """A model; one with a ``problem`` has nothing but its name."""

    name: str
    problem: str | None
    family: NotRequired[str]
    task: NotRequired[str]
    width: NotRequired[int]
    height: NotRequired[int]
    steps: NotRequired[int]
    guidance: NotRequired[float]
    sampler: NotRequired[str]
    licence: NotRequired[str]
    controls: NotRequired[list[str]]


class Models(TypedDict):
    """``GET models``."""

    models: list[Model]


class Asset(TypedDict):
    """A LoRA or an embedding, and where the picture beside it is."""

    name: str
    preview: str | None


class Choices(TypedDict):
    """``GET choices``."""

    models: list[Model]
    samplers: list[str]
    schedules: list[str]
    loras: list[Asset]
    embeddings: list[Asset]
    profiles: list[str]
    preprocessors: list[str]


class Device(TypedDict):
    """What can compute."""

    name: str
    description: str
    memory_bytes: int | None
    precisions: list[str]


class Engine(TypedDict):
    """An engine; ``problem`` says why it cannot be used."""

    name: str
    devices: list[Device]
    problem: str | None


class Engines(TypedDict):
    """``GET devices``."""

    engines: list[Engine]


class Check(TypedDict):
    """One thing that was looked at."""

    name: str
    status: str
    detail: str
    fix: str


class Doctor(TypedDict):
    """``doctor``; ``ok`` is null as long as nobody has looked."""

    running: bool
    ok: bool | None
    checks: list[Check]


class Cache(TypedDict):
    """``GET cache``."""

    count: int
    bytes: int


class Cleared(TypedDict):
    """``DELETE cache``."""

    deleted: int
    bytes: int


class Export(TypedDict):
    """What of the model folders can be exported, and how far that is."""

    name: str
    bytes: int
    state: Literal["running", "done", "failed", "cancelled"] | None
    share: float
    error: str | None


class Checkpoint(Export):
    """A checkpoint, and whether there is a package of it."""

    exported: bool


class Control(Export):
    """A ControlNet, and the packages that have it."""

    models: list[str]


class Exports(TypedDict):
    """Checkpoints and ControlNets, the packages these can be added to, and free disk."""

    checkpoints: list[Checkpoint]
    controls: list[Control]
    packages: list[str]
    free_bytes: int


class Health(TypedDict):
    """``/healthz``."""

    status: Literal["ok"]
    version: str
