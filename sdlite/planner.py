"""Decide, before any weight is read, what to load where and how: a pure function.

Memory words: *private* is anonymous memory, *mapped* is resident file pages, *peak* is private plus
mapped. A budget counts the peak, except in the memory mode ``mapped``, where it counts private
memory only, because the system may drop file pages at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sdlite.choices import MEMORY_MODES, PRECISIONS
from sdlite.engine import Artifact, LoadOptions
from sdlite.errors import NoPlan, RequestError, UnknownName
from sdlite.footprint import activation_bytes, weight_bytes
from sdlite.package import Package
from sdlite.types import Device

MemoryMode = Literal["normal", "mapped"]

BASE_BYTES = 110 << 20
"""Interpreter, numpy, engine and tokenizer, before any model is opened."""
AVAILABLE_SHARE = 0.8
"""Part of the memory free right now that a plan without a budget may use."""
RESIDENT_SHARE = 0.5
"""Part of it that open components may hold between pictures."""

VARIANTS: dict[tuple[str, MemoryMode], tuple[str, ...]] = {
    ("onnxruntime", "normal"): ("fused", "plain"),
    ("onnxruntime", "mapped"): ("segment", "fused", "plain"),
}
"""Graph variants an engine runs, best first; an engine not listed takes ``plain``."""


@dataclass(frozen=True)
class RequestShape:
    """What of a request decides its cost."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    images: int
    """Pictures in the batch."""
    steps: int
    """Intervals of the schedule."""
    guided: bool
    """Whether every step also needs the model's answer to the negative prompt."""
    encodes: bool = False
    """Whether pictures are encoded before the first step."""
    prompts: int = 1
    """Prompts drawn together in every step (AND)."""


@dataclass(frozen=True)
class Budget:
    """What the user allows."""

    max_memory: int | None = None
    """Bytes of main memory; None leaves it to the machine."""


@dataclass(frozen=True)
class Preferences:
    """What the user asked for by name; None leaves it to the plan."""

    runtime: str | None = None
    """Engine."""
    device: str | None = None
    """Device within the engine."""
    precision: str | None = None
    """Precision of the stored weights."""
    memory_mode: str = "auto"
    """``auto``, ``normal`` or ``mapped``."""
    threads: int | None = None
    """Compute threads."""


@dataclass(frozen=True)
class Placement:
    """One component on one device."""

    component: str
    """Which component."""
    artifacts: tuple[Artifact, ...]
    """Its graph, or its chain of graphs in order."""
    device: Device
    """Where it runs."""
    options: LoadOptions
    """How it is opened."""
    private_bytes: int
    """Predicted anonymous memory while it runs, beyond the process's base."""
    mapped_bytes: int
    """Predicted file pages it reads."""


@dataclass(frozen=True)
class Plan:
    """What will be done; two equal plans need no reload."""

    shape: RequestShape
    """The request it was made for."""
    memory_mode: MemoryMode
    """How weights are held."""
    call_batch: int
    """Most items in one U-Net call; a guided picture of one prompt has two."""
    resident: bool
    """Whether components stay open after their phase."""
    placements: tuple[Placement, ...]
    """Text encoder, encoder (for edits), U-Net, decoder: in the order the phases run."""
    private_bytes: int
    """Predicted peak of anonymous memory."""
    peak_bytes: int
    """Predicted peak of anonymous memory and file pages together."""
    reasons: tuple[str, ...]
    """Why it is this plan."""

    def placement(self, component: str) -> Placement:
        """Where a component runs; raises ``UnknownName``."""
        for placement in self.placements:
            if placement.component == component:
                return placement
        raise UnknownName("component", component, [p.component for p in self.placements])

    def explain(self) -> str:
        """The plan and its reasons, for people, several lines."""
        lines = [
            f"{self.shape.width}x{self.shape.height}, {self.shape.steps} steps, "
            f"{self.shape.images} image(s), {self.call_batch} item(s) a U-Net call",
            f"memory mode {self.memory_mode}, "
            + ("components stay open" if self.resident else "components are closed after use"),
        ]
        for placement in self.placements:
            first = placement.artifacts[0]
            graphs = len(placement.artifacts)
            lines.append(
                f"{placement.component}: {placement.device.runtime} on {placement.device.name}, "
                f"{first.variant} graph{f' in {graphs} parts' if graphs > 1 else ''}, "
                f"{first.precision} weights, about {megabytes(placement.private_bytes)} private, "
                f"{megabytes(placement.mapped_bytes)} mapped"
            )
        lines.append(
            f"predicted peak {megabytes(self.peak_bytes)}, of which "
            f"{megabytes(self.private_bytes)} private"
        )
        lines.extend(self.reasons)
        return "\n".join(lines)


def megabytes(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def check(package: Package, devices: Sequence[Device], preferences: Preferences) -> Device:
    """The device the wishes mean; raises what ``plan`` raises for wishes it cannot keep."""
    _check_preferences(package, preferences)
    return _choose_device(devices, preferences)


def plan(
    package: Package,
    shape: RequestShape,
    devices: Sequence[Device],
    budget: Budget,
    preferences: Preferences,
) -> Plan:
    """Choose placements, memory mode, batch and residency.

    Args:
        package: the opened package; only its manifest is looked at.
        shape: size of the request.
        devices: devices that can be used, best first, with their free memory.
        budget: limits set by the user.
        preferences: choices made by the user.

    Returns:
        The fastest plan that keeps within the budget.

    Raises:
        NoPlan: nothing fits; says what the least is.
        RequestError: a preference names something this package does not have.
        UnknownName: a runtime, device, precision or memory mode that does not exist.
    """
    device = check(package, devices, preferences)
    modes = _modes(preferences)
    limit, limit_reason = _limit(device, budget)
    candidates = [
        _candidate(package, shape, device, preferences, mode, batch, resident)
        for mode in modes
        for batch, resident in _shapes_of(shape, mode)
    ]
    for candidate in candidates:
        if limit is None or _counted(candidate) <= limit * (
            RESIDENT_SHARE / AVAILABLE_SHARE
            if candidate.resident and budget.max_memory is None
            else 1.0
        ):
            return replace(candidate, reasons=_reasons(candidate, limit_reason, preferences))
    least = min(candidates, key=_counted)
    size = f"{shape.width}x{shape.height}"
    if budget.max_memory is None:
        if least.private_bytes > (device.memory_bytes or 0):
            raise NoPlan(
                [
                    f"{size} needs about {megabytes(least.private_bytes)} of memory and "
                    f"{limit_reason}; ask for a smaller picture, or allow more with --max-memory "
                    "and let the system page"
                ]
            )
        return replace(least, reasons=(f"{limit_reason}, and the least this takes is more",))
    raise NoPlan(
        [
            f"--max-memory {megabytes(budget.max_memory)} is less than the "
            f"{megabytes(_counted(least))} that {size} needs in memory mode "
            f"{least.memory_mode}; allow more, or ask for a smaller picture"
        ]
    )


def _choose_device(devices: Sequence[Device], preferences: Preferences) -> Device:
    chosen = list(devices)
    if preferences.runtime is not None:
        chosen = [device for device in chosen if device.runtime == preferences.runtime]
        if not chosen:
            raise UnknownName("runtime", preferences.runtime, {d.runtime: None for d in devices})
    if preferences.device is not None:
        names = [device.name for device in chosen]
        chosen = [device for device in chosen if device.name == preferences.device]
        if not chosen:
            raise UnknownName("device", preferences.device, names)
    if not chosen:
        raise NoPlan(["no engine found a device"])
    return chosen[0]


def _check_preferences(package: Package, preferences: Preferences) -> None:
    if preferences.memory_mode not in MEMORY_MODES:
        raise UnknownName("memory mode", preferences.memory_mode, MEMORY_MODES)
    if preferences.threads is not None and not 1 <= preferences.threads <= 1024:
        raise RequestError(f"threads {preferences.threads} is not between 1 and 1024")
    wanted = preferences.precision
    if wanted is None:
        return
    if wanted not in PRECISIONS:
        raise UnknownName("precision", wanted, PRECISIONS)
    has = sorted({artifact.precision for artifact in package.manifest.artifacts})
    if wanted not in has:
        raise RequestError(
            f"package {package.manifest.name} holds {', '.join(has)} weights, not {wanted}; "
            f"export it again with --precision {wanted}"
        )


def _modes(preferences: Preferences) -> tuple[MemoryMode, ...]:
    if preferences.memory_mode == "normal":
        return ("normal",)
    if preferences.memory_mode == "mapped":
        return ("mapped",)
    return ("normal", "mapped")


def _limit(device: Device, budget: Budget) -> tuple[int | None, str]:
    if budget.max_memory is not None:
        return budget.max_memory, f"--max-memory {megabytes(budget.max_memory)}"
    if device.memory_bytes is None:
        return None, "free memory is unknown"
    free = f"{megabytes(device.memory_bytes)} of memory is free"
    return int(device.memory_bytes * AVAILABLE_SHARE), free


def _shapes_of(shape: RequestShape, mode: MemoryMode) -> list[tuple[int, bool]]:
    """(items a U-Net call, resident), fastest first."""
    items = shape.images * (shape.prompts + shape.guided)
    if mode == "mapped":
        return [(1, False)]
    batches = sorted({items, shape.images, 1}, reverse=True)
    return [(items, True), *((batch, False) for batch in batches)]


def _candidate(
    package: Package,
    shape: RequestShape,
    device: Device,
    preferences: Preferences,
    mode: MemoryMode,
    call_batch: int,
    resident: bool,
) -> Plan:
    options = LoadOptions(threads=preferences.threads, memory_mode=mode)
    batches = {"text_encoder": 2, "vae_encoder": 1, "unet": call_batch, "vae_decoder": 1}
    if not shape.encodes:
        del batches["vae_encoder"]
    placements = tuple(
        _place(package, component, batch, shape, device, options, preferences)
        for component, batch in batches.items()
    )
    private, peak = _totals(placements, resident)
    return Plan(
        shape=shape,
        memory_mode=mode,
        call_batch=call_batch,
        resident=resident,
        placements=placements,
        private_bytes=private,
        peak_bytes=peak,
        reasons=(),
    )


def _totals(placements: Sequence[Placement], resident: bool) -> tuple[int, int]:
    private = [placement.private_bytes for placement in placements]
    peaks = [placement.private_bytes + placement.mapped_bytes for placement in placements]
    join = sum if resident else max
    return BASE_BYTES + join(private), BASE_BYTES + join(peaks)


def _place(
    package: Package,
    component: str,
    batch: int,
    shape: RequestShape,
    device: Device,
    options: LoadOptions,
    preferences: Preferences,
) -> Placement:
    mode: MemoryMode = "mapped" if options.memory_mode == "mapped" else "normal"
    for variant in VARIANTS.get((device.runtime, mode), ("plain",)):
        artifacts = package.find(component, variant, preferences.precision)
        if artifacts:
            break
    else:
        raise NoPlan(
            [
                f"package {package.manifest.name} has no {component} graph for {device.runtime}; "
                "export it again with this version of sdlite"
            ]
        )
    stored, computed = weight_bytes(package, component, artifacts)
    # Opened normally, ONNX Runtime keeps its own packed fp32 copy of every weight; mapped, the
    # weights stay pages of the file, and of narrow ones a wide copy lives during each call.
    mapped = options.memory_mode == "mapped"
    activations = max(
        activation_bytes(artifact, package.manifest, shape.width * shape.height, batch)
        + (artifact.widened_bytes if mapped else 0)
        for artifact in artifacts
    )
    return Placement(
        component=component,
        artifacts=artifacts,
        device=device,
        options=options,
        private_bytes=activations if mapped else activations + computed,
        mapped_bytes=stored if mapped else 0,
    )


def _counted(candidate: Plan) -> int:
    mapped = candidate.memory_mode == "mapped"
    return candidate.private_bytes if mapped else candidate.peak_bytes


def _reasons(chosen: Plan, limit_reason: str, preferences: Preferences) -> tuple[str, ...]:
    reasons = [f"{limit_reason}; this plan counts {megabytes(_counted(chosen))} of it"]
    if preferences.memory_mode != "auto":
        reasons.append(f"memory mode {chosen.memory_mode} as asked")
    elif chosen.memory_mode == "mapped":
        reasons.append("weights stay in the file, because holding them would not fit")
    if chosen.shape.guided and chosen.call_batch == 1:
        reasons.append("prompt and negative prompt in separate calls, to save on activations")
    return tuple(reasons)
