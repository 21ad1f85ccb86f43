"""Measure, in a few seconds, how long the parts of a plan take on this machine.

Graphs are run on numbers that mean nothing, at a small size and at larger ones as long as time is
left. What is learned is kept with the other timings (``sdlite.forecast``), by graph, engine with
its version, device, precision, memory mode and processor, so that it is measured anew when one of
these changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sdlite import engines, forecast
from sdlite.chain import open_chain
from sdlite.engine import Session, TensorSpec
from sdlite.forecast import PHASES, Timing
from sdlite.memory import release_free_memory
from sdlite.package import Package
from sdlite.planner import Placement, Plan
from sdlite.registry import get as get_runtime
from sdlite.types import Array

log = logging.getLogger("sdlite.calibrate")

SECONDS = 10.0
"""How long it may take."""
SHARES = (0.25, 0.5, 1.0)
"""Sides to measure, as shares of those that are asked for."""
CALLS = 2
"""Calls of each size; the first one also sets things up, so the fastest counts."""
LEAST = 64
"""Pixels of the smallest side: below it calls cost as much as they do for nothing."""


def calibrate(package: Package, plan: Plan, folder: Path, seconds: float = SECONDS) -> list[Timing]:
    """Measure what of a plan was not measured here before, keep it, and return all timings.

    The smallest size is measured in any case, a larger one only when the smaller ones say that it
    will be done in time. The U-Net, which a picture needs most, is given most of it.

    Args:
        package: whose graphs.
        plan: which of them, on which devices.
        folder: where timings are kept.
        seconds: how long it may take.

    Raises ``EngineError`` for a graph that does not run.
    """
    start = time.perf_counter()
    missing = [
        placement
        for placement in plan.placements
        if placement.component in PHASES
        and forecast.call_seconds(plan, placement, forecast.read(folder)) is None
    ]
    # Last and with all that is left: what takes longest.
    missing.sort(key=lambda placement: placement.component == "unet")
    for number, placement in enumerate(missing):
        left = seconds - (time.perf_counter() - start)
        share = 1.0 if number == len(missing) - 1 else 0.3 / (len(missing) - 1)
        _measure(package, plan, placement, folder, left * share)
    return forecast.read(folder)


def _measure(
    package: Package, plan: Plan, placement: Placement, folder: Path, seconds: float
) -> None:
    """Time a component at as many sizes as fit."""
    start = time.perf_counter()
    factor = package.manifest.latent.factor
    sizes = dict.fromkeys(
        (_side(plan.shape.width, share, factor), _side(plan.shape.height, share, factor))
        for share in SHARES
    )
    load = 0.0
    for number, size in enumerate(sizes):
        at_size = replace(plan, shape=replace(plan.shape, width=size[0], height=size[1]))
        if number:
            known = forecast.call_seconds(at_size, placement, forecast.read(folder))
            needed = load + CALLS * (0.0 if known is None else known.seconds)
            if known is None or time.perf_counter() - start + needed > seconds:
                log.info("%s is not measured at %dx%d: no time", placement.component, *size)
                return
        load, call = _time(package, at_size, placement)
        log.info("%s at %dx%d: %.3f s a call", placement.component, *size, call)
        forecast.keep(folder, forecast.timing_of(at_size, placement, call, load))


def _time(package: Package, plan: Plan, placement: Placement) -> tuple[float, float]:
    """Seconds of opening a component for a size, and of a call."""
    size, latent = (plan.shape.width, plan.shape.height), package.manifest.latent
    device, batch = placement.device, forecast.batch_of(plan, placement)
    options = replace(placement.options, cache=None)
    if placement.tiles == 1:
        fixed = engines.dimensions_of(placement.component, device, batch, size, latent)
        options = replace(options, dimensions=fixed)
    begin = time.perf_counter()
    session = open_chain(
        get_runtime(device.runtime), placement.artifacts, package.root, device, options,
        placement.tiles,
    )  # fmt: skip
    load = time.perf_counter() - begin
    try:
        tokens = max((t.length for t in package.manifest.tokenizers), default=77)
        free = {"batch": batch, "tokens": tokens, "sequence_length": tokens}
        free |= {"image_height": size[1], "image_width": size[0]}
        free |= {"height": size[1] // latent.factor, "width": size[0] // latent.factor}
        return load, min(_call(session, free) for _ in range(CALLS))
    finally:
        session.close()
        release_free_memory()


def _call(session: Session, free: dict[str, int]) -> float:
    inputs = {spec.name: _numbers(spec, free) for spec in session.inputs}
    begin = time.perf_counter()
    session.run(inputs)
    return time.perf_counter() - begin


def _numbers(spec: TensorSpec, free: dict[str, int]) -> Array:
    """Small numbers that are not all alike; dimensions of other names are a batch."""
    shape = [
        size if isinstance(size, int) else free.get(size, free["batch"]) for size in spec.shape
    ]
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return values.astype(spec.dtype, copy=False)


def _side(pixels: int, share: float, factor: int) -> int:
    return max(min(LEAST, pixels), int(pixels * share) // factor * factor)


def unknown(plan: Plan, timings: Sequence[Timing]) -> bool:
    """Whether a part of a plan was never measured here."""
    return any(
        forecast.call_seconds(plan, placement, timings) is None
        for placement in plan.placements
        if placement.component in PHASES
    )
