"""Decide, before any weight is read, what to load where and how: a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdlite import downsampling, engines, seamless
from sdlite.adapterentry import CONTROL, extension_of
from sdlite.choices import MEMORY_MODES, MOST_TILES
from sdlite.engine import LoadOptions
from sdlite.errors import NoPlan, RequestError, UnknownName
from sdlite.footprint import component_bytes, run_bytes
from sdlite.manifest import DOWNSAMPLED, TINY_DECODER
from sdlite.package import Package
from sdlite.plans import Budget, Placement, Plan, Preferences, Relief, RequestShape, megabytes
from sdlite.text.labels import encoding_of
from sdlite.tiles import AUTOENCODER, TILED
from sdlite.types import Device

__all__ = [
    "Budget",
    "Placement",
    "Plan",
    "Preferences",
    "Relief",
    "RequestShape",
    "check",
    "megabytes",
    "plan",
]

BASE_BYTES = 40 << 20
"""Interpreter, numpy, engine and tokenizer, before any model is opened."""
GPU_BYTES = 300 << 20
"""Of a GPU's own memory, what its driver and libraries take besides; not measured."""
AVAILABLE_SHARE = 0.8
"""Part of the memory free right now that a plan without a budget may use."""
TILES = (1, 4, 8, 16, 32)
"""Numbers of tiles to try for the autoencoder, the whole picture first."""
RESIDENT_SHARE = 0.5
"""Part of it that open components may hold between pictures."""


def check(package: Package, devices: Sequence[Device], preferences: Preferences) -> None:
    """Raise what ``plan`` raises for wishes it cannot keep."""
    for device, _ in _devices(package, devices, preferences):
        engines.memory_modes(device, preferences.memory_mode)


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
    choices = _devices(package, devices, preferences)
    candidates = []
    for device, why in choices:
        limit, told = _limit(device, budget)
        wished = "mapped" if preferences.relief.mapped else preferences.memory_mode
        for mode in engines.memory_modes(device, wished):
            for way in _ways(package, shape, mode, preferences, device):
                made = _candidate(package, shape, device, devices, budget, preferences, mode, way)
                if _fits(made, limit, budget, devices):
                    before = [d for d, _ in choices[: choices.index((device, why))]]
                    passed = [d.name if d.own_memory else d.runtime for d in before]
                    reasons = _reasons(package, made, told, why, passed, preferences)
                    return downsampling.told(package, replace(made, reasons=reasons))
                candidates.append(made)
    last = choices[-1][0]
    least = min((c for c in candidates if c.placement("unet").device == last), key=_counted)
    size = f"{shape.width}x{shape.height}"
    device = least.placement("unet").device
    _, limit_reason = _limit(device, budget)
    most = budget.max_vram if device.own_memory else budget.max_memory
    option = "--max-vram" if device.own_memory else "--max-memory"
    if most is None:
        needed = _counted(least) if device.own_memory else least.private_bytes
        if needed > (device.memory_bytes or 0):
            raise NoPlan(
                [
                    f"{size} needs about {megabytes(needed)} of memory and {limit_reason}; "
                    f"ask for a smaller picture, or allow more with {option}"
                    + ("" if device.own_memory else " and let the system page")
                ]
            )
        reasons = (f"{limit_reason}, and the least this takes is more",)
        return downsampling.told(package, replace(least, reasons=reasons))
    raise NoPlan(
        [
            f"{option} {megabytes(most)} is less than the "
            f"{megabytes(_counted(least))} that {size} needs in memory mode "
            f"{least.memory_mode}; allow more, or ask for a smaller picture"
        ]
    )


def _devices(
    package: Package, devices: Sequence[Device], preferences: Preferences
) -> tuple[tuple[Device, tuple[str, ...]], ...]:
    """Devices to try in order, each with why; raises for wishes that cannot be."""
    if preferences.memory_mode not in MEMORY_MODES:
        raise UnknownName("memory mode", preferences.memory_mode, MEMORY_MODES)
    tiles = preferences.vae_tiles
    if tiles is not None and not 1 <= tiles <= MOST_TILES:
        raise RequestError(f"vae tiles {tiles} is not between 1 and {MOST_TILES}")
    if preferences.threads is not None and not 1 <= preferences.threads <= 1024:
        raise RequestError(f"threads {preferences.threads} is not between 1 and 1024")
    without = preferences.relief.without
    return engines.candidates(
        [device for device in devices if (device.runtime, device.name) not in without],
        package,
        preferences.runtime,
        preferences.device,
        preferences.precision,
        "mapped" if preferences.relief.mapped else preferences.memory_mode,
    )


def _fits(candidate: Plan, limit: int | None, budget: Budget, devices: Sequence[Device]) -> bool:
    own = candidate.placement("unet").device.own_memory
    if own:
        # What runs on the processor beside a GPU has the machine's memory.
        helpers = [item for item in devices if not item.own_memory]
        most, _ = _limit(helpers[0], budget) if helpers else (budget.max_memory, "")
        if most is not None and candidate.peak_bytes > most:
            return False
    if limit is None:
        return True
    # Between pictures, memory nobody set aside belongs to other programs too.
    shared = candidate.resident and (budget.max_vram if own else budget.max_memory) is None
    return _counted(candidate) <= limit * (RESIDENT_SHARE / AVAILABLE_SHARE if shared else 1.0)


def _limit(device: Device, budget: Budget) -> tuple[int | None, str]:
    most, option = budget.max_memory, "--max-memory"
    if device.own_memory:
        most, option = budget.max_vram, "--max-vram"
    if most is not None:
        return most, f"{option} {megabytes(most)}"
    where = f" of {device.name}" if device.own_memory else ""
    if device.memory_bytes is None:
        return None, f"free memory{where} is unknown"
    free = f"{megabytes(device.memory_bytes)} of memory{where} is free"
    return int(device.memory_bytes * AVAILABLE_SHARE), free


@dataclass(frozen=True)
class _Way:
    """What may be given up, one after the other, to need less memory."""

    call_batch: int
    resident: bool
    tiles: int
    apart: bool = False
    """Whether the autoencoder runs on the processor beside a GPU."""


def _ways(
    package: Package, shape: RequestShape, mode: str, preferences: Preferences, device: Device
) -> list[_Way]:
    """Ways to carry a request out in a memory mode, fastest first."""
    # Where sizes are fixed, a call with room for the negative prompt takes as long without it.
    guided = shape.guided and not (shape.partly and device.fixed_sizes)
    items = shape.images * (shape.prompts + guided)
    batches = sorted({items, shape.images, 1}, reverse=True)
    held = [(items, True), *((batch, False) for batch in batches)]
    if mode == "mapped":
        held = [(1, False)]
    relief, wanted = preferences.relief, preferences.vae_tiles
    if relief.items is not None:
        most = relief.items
        held = list(dict.fromkeys((min(batch, most), resident) for batch, resident in held))
    if relief.closed:
        held = [(batch, resident) for batch, resident in held if not resident]
    tiles = [1]
    if shape.tiling and (wanted or 1) > 1:
        raise RequestError("a seamless picture is decoded whole; leave --vae-tiles or --tiling out")
    if has_tiles(package) and not shape.tiling:
        tiles = [count for count in TILES if count >= relief.tiles]
    if wanted is not None:
        if wanted > 1 and not has_tiles(package):
            raise RequestError(
                f"the autoencoder of {package.manifest.name} cannot run in {wanted} tiles: its "
                "package has no graphs for that; export it again, or leave --vae-tiles out"
            )
        tiles = [wanted]
    return [
        _Way(batch, resident, count, apart)
        for batch, resident in held
        for apart in ((False, True) if device.own_memory and not resident else (False,))
        for count in (tiles if apart or not device.own_memory else tiles[:1])
    ]


def has_tiles(package: Package) -> bool:
    """Whether a package's decoder can run tile by tile."""
    return bool(package.find("vae_decoder", TILED))


def _candidate(
    package: Package,
    shape: RequestShape,
    device: Device,
    devices: Sequence[Device],
    budget: Budget,
    preferences: Preferences,
    mode: str,
    way: _Way,
) -> Plan:
    batches = dict.fromkeys(encoding_of(package.manifest).encoders, 2)
    decoder = TINY_DECODER if shape.tiny else "vae_decoder"
    batches |= {"vae_encoder": 1, "unet": way.call_batch, decoder: 1}
    for name in shape.controls:
        batches[name] = 1 if extension_of([name]) != f"+{CONTROL}" else way.call_batch
    if not shape.encodes:
        del batches["vae_encoder"]
    placements = tuple(
        _place(
            package,
            component,
            batch,
            way,
            shape,
            device,
            devices,
            mode,
            budget,
            preferences,
        )
        for component, batch in batches.items()
    )
    parts = {
        own: [
            (p.component, p.private_bytes, p.mapped_bytes)
            for p in placements
            if p.device.own_memory is own
        ]
        for own in (False, True)
    }
    private, peak = run_bytes(parts[False], way.resident)
    there, _ = run_bytes(parts[True], way.resident)
    return Plan(
        shape=shape,
        memory_mode=mode,
        call_batch=way.call_batch,
        resident=way.resident,
        placements=placements,
        private_bytes=BASE_BYTES + private,
        peak_bytes=BASE_BYTES + peak,
        reasons=(),
        device_bytes=GPU_BYTES + there if device.own_memory else 0,
    )


def _place(
    package: Package,
    component: str,
    batch: int,
    way: _Way,
    shape: RequestShape,
    main: Device,
    devices: Sequence[Device],
    mode: str,
    budget: Budget,
    preferences: Preferences,
) -> Placement:
    helpers = [item for item in devices if item.runtime == main.runtime and item.name == "cpu"]
    tiles = way.tiles if package.find(component, TILED) else 1
    variant = _variant(component, shape, tiles)
    more = extension_of(shape.controls) if component == "unet" else ""
    steered = CONTROL in more or CONTROL in extension_of([component])
    # The text encoder costs a processor next to nothing.
    aside = component.startswith("text_encoder") or (way.apart and component in AUTOENCODER)
    if main.own_memory and aside and helpers:
        main, *helpers = helpers
    upcast = package.manifest.latent.force_upcast
    wished = dict(preferences.relief.precisions).get(component, preferences.precision)
    half = engines.precision_for(component, main, wished, upcast) == "fp16"
    if component == "unet" and shape.downsampled:
        fewer = not downsampling.why_not(package, shape, main.runtime, mode)
        # There are none in fp16.
        more = DOWNSAMPLED if fewer and not (half and main.own_memory) else more
    device, artifacts = engines.graphs(package, component, main, mode, helpers, variant, more, half)
    size = (shape.width, shape.height)
    engines.check_size(package, artifacts, size)
    precision = engines.precision_for(component, device, wished, upcast)
    precision = engines.as_written(device, artifacts, precision)
    options = LoadOptions(
        threads=preferences.threads,
        memory_mode=mode,
        # Tiles have a size of their own.
        dimensions={}
        if tiles > 1
        else engines.dimensions_of(
            component, device, batch, size, package.manifest.latent, steered
        ),
        precision=precision,
        device_memory=budget.max_vram if device.own_memory else None,
        cache=preferences.cache,
        cache_limit=preferences.cache_limit,
    )
    private, mapped = component_bytes(
        package, artifacts, device, mode, precision, size, batch, tiles
    )
    if component in preferences.replaced:
        private += package.weight_file(component).file.size
    private += dict(shape.replaced).get(component, 0)
    return Placement(component, artifacts, device, options, private, mapped, tiles)


def _variant(component: str, shape: RequestShape, tiles: int) -> str | None:
    """The graph variant a request needs; None for the best."""
    if shape.embeddings and component.startswith("text_encoder"):
        return "embeddings"
    if shape.tiling and component in seamless.COMPONENTS:
        return seamless.VARIANT
    return TILED if tiles > 1 else None


def _counted(candidate: Plan) -> int:
    if candidate.placement("unet").device.own_memory:
        return candidate.device_bytes
    mapped = candidate.memory_mode == "mapped"
    return candidate.private_bytes if mapped else candidate.peak_bytes


def _reasons(
    package: Package,
    chosen: Plan,
    limit_reason: str,
    why: Sequence[str],
    passed: Sequence[str],
    preferences: Preferences,
) -> tuple[str, ...]:
    reasons = [f"{limit_reason}; this plan counts {megabytes(_counted(chosen))} of it", *why]
    unet = chosen.placement("unet").device
    for placement in chosen.placements:
        if placement.device != unet:
            component, mode = placement.component, chosen.memory_mode
            why_there = f"{unet.name} reads no graph of it there is"
            if engines.reads(package, component, unet, mode):
                why_there = f"{unet.name} has too little memory for it"
                if component.startswith("text_encoder"):
                    why_there = "it takes next to no time there"
            reasons.append(f"{component} on {placement.device.name}, because {why_there}")
    reasons += [f"not {runtime}, because it would need more memory" for runtime in passed]
    if preferences.memory_mode != "auto":
        reasons.append(f"memory mode {chosen.memory_mode} as asked")
    elif chosen.memory_mode == "mapped":
        reasons.append("weights stay in the file, because holding them would not fit")
    tiled = [p for p in chosen.placements if p.tiles > 1]
    if tiled:
        names = " and ".join(p.component for p in tiled)
        why_tiles = "as asked" if preferences.vae_tiles else "to save on activations"
        reasons.append(f"{names} in {tiled[0].tiles} tiles, {why_tiles}")
    if chosen.shape.guided and chosen.call_batch == 1:
        fixed = chosen.placement("unet").device.fixed_sizes
        why_calls = "for steps without guidance" if chosen.shape.partly and fixed else None
        why_calls = why_calls or "to save on activations"
        reasons.append(f"prompt and negative prompt in separate calls, {why_calls}")
    return tuple(reasons)
