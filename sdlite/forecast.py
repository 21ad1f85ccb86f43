"""How long a request will take on this machine, from what earlier runs took.

Every picture drawn by the command line leaves what a call of each component took, by graph, engine
with its version, device, precision, memory mode, threads and size. A request of a size that ran
before is forecast from that; of another size from the nearest one, scaled.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdlite.edit.request import stages_of
from sdlite.errors import OutputError
from sdlite.hardware import describe
from sdlite.manifest import TINY_DECODER, Manifest
from sdlite.output import write_whole
from sdlite.planner import Placement, Plan
from sdlite.profiles import QUALITY, find_profile
from sdlite.request import sampling_of
from sdlite.sampling import NoiseLevels, Sparing, noise_for
from sdlite.types import Estimate, Float32, Request, Result

log = logging.getLogger("sdlite.forecast")

Floats = npt.NDArray[np.float64]

PHASES = {
    "vae_encoder": "encode",
    "unet": "denoise",
    "vae_decoder": "decode",
    TINY_DECODER: "decode",
}
"""Components and the phases they run in; text encoders take next to nothing."""
QUADRATIC = 0.25
"""Part of a U-Net call that grows with the square of the picture's area: attention (SD1.5 at
512x512: 0.56 of 1.65 s, of which the larger part)."""
FIXED = {"normal": 0.04, "mapped": 0.11}
"""Part of one, by memory mode, that does not depend on the area, because weights are gone through
whatever they are multiplied with, and in mapped mode are widened as well (SD1.5 at 512x512, two
cores, OpenVINO and ONNX Runtime)."""
APART = 4.0
"""How many times the smallest area the largest must be to tell three parts apart."""
USUAL_AREA = 512 * 512 / 1e6
"""Megapixels at which they are these parts."""
KEPT = 500
"""Most timings kept, the newest."""


@dataclass(frozen=True)
class Timing:
    """What a call took on this machine."""

    made_for: str
    """Hash of everything but the size."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    batch: int
    """Items in a call."""
    seconds: float
    """A call."""
    load_seconds: float
    """Opening the graph, the last time it was opened."""


@dataclass(frozen=True)
class Answers:
    """Answers of the U-Net in a run, prompt and negative prompt taken together."""

    full: int
    """Computed."""
    skipped: int
    """Forecast from earlier ones, as the profile allows; an error estimate may ask for some."""
    unguided: int = 0
    """How many of those computed need no negative prompt, because guidance is off there."""


@dataclass(frozen=True)
class Row:
    """One phase of a forecast."""

    phase: str
    """``text``, ``encode``, ``denoise`` or ``decode``."""
    component: str
    """What runs."""
    runtime: str
    """Engine."""
    device: str
    """Device."""
    precision: str | None
    """What is computed in, where there is a choice."""
    calls: int
    """Engine calls."""
    load_seconds: float | None
    """Opening, once; None when nothing like it ran before."""
    run_seconds: float | None
    """All calls of one picture; None when nothing like it ran before."""
    basis: str
    """``measured``, ``scaled`` (from another size), ``small`` or ``unknown``."""
    private_bytes: int
    """Predicted anonymous memory while it runs."""
    mapped_bytes: int
    """Predicted file pages."""


@dataclass(frozen=True)
class Forecast:
    """A whole request."""

    rows: tuple[Row, ...]
    """Its phases in order."""
    resident: bool
    """Whether what is opened stays open for the next picture."""
    private_bytes: int
    """Predicted peak of anonymous memory."""
    peak_bytes: int
    """Predicted peak of all memory."""
    answers: Answers
    """What a picture asks of the model."""

    def seconds(self, pictures: int = 1) -> float | None:
        """So many pictures, one after the other; None when a phase is unknown."""
        total = 0.0
        for row in self.rows:
            if row.load_seconds is None or row.run_seconds is None:
                return None
            total += row.load_seconds * (1 if self.resident else pictures)
            total += row.run_seconds * pictures
        return total


def forecast(
    plan: Plan,
    request: Request,
    manifest: Manifest,
    timings: list[Timing],
    measured: Answers | None = None,
) -> Forecast:
    """Forecast a completed request, without a second pass, from its plan.

    ``measured`` is what pictures of this profile asked of the model before, where that is known.
    """
    answers = evaluations(request, manifest) if measured is None else measured
    calls = {
        # An inpainting model's encoder also sees the picture without what is masked.
        "vae_encoder": 1 + (manifest.task == "inpaint" and request.edit is not None),
        "unet": (answers.full - answers.unguided) * unet_calls(plan)
        + answers.unguided * unet_calls(plan, guided=False),
        plan.decoder: plan.shape.images,
    }
    rows = []
    for placement in plan.placements:
        phase = PHASES.get(placement.component, "text")
        count = calls.get(placement.component, 1)
        load, run, basis = (0.0, 0.0, "small") if phase == "text" else (None, None, "unknown")
        call = None if phase == "text" else call_seconds(plan, placement, timings)
        if call is not None:
            part = _filled(plan, answers, count) if phase == "denoise" else 1.0
            load, run = call.load_seconds, count * call.seconds * part
            basis = "measured" if call.measured else "scaled"
        rows.append(
            Row(
                phase,
                placement.component,
                placement.device.runtime,
                placement.device.name,
                placement.options.precision,
                count,
                load,
                run,
                basis,
                placement.private_bytes,
                placement.mapped_bytes,
            )
        )
    return Forecast(tuple(rows), plan.resident, plan.private_bytes, plan.peak_bytes, answers)


@dataclass(frozen=True)
class Call:
    """What an engine call will take."""

    seconds: float
    """The call."""
    load_seconds: float
    """Opening the graph."""
    measured: bool
    """Whether one of that size was timed; otherwise it follows from other sizes."""


def call_seconds(plan: Plan, placement: Placement, timings: Sequence[Timing]) -> Call | None:
    """What a call of a component takes in a plan; None when nothing like it ran here.

    From timings of two sizes follow a part that is the same for all and one that grows, with the
    area and, for attention, with its square; from those of three all parts; from those of one size
    all with shares that are usual.
    """
    made_for = _made_for(placement)
    same = [timing for timing in timings if timing.made_for == made_for]
    if not same:
        return None
    batch, area = batch_of(plan, placement), _area(plan.shape.width, plan.shape.height)
    size = (plan.shape.width, plan.shape.height, batch)
    exact = [timing for timing in same if (timing.width, timing.height, timing.batch) == size]
    if exact:
        return Call(exact[-1].seconds, exact[-1].load_seconds, True)
    nearest = min(same, key=lambda t: abs(np.log(area / _area(t.width, t.height))))
    growth = _growth(placement, same)
    ratio = _at(growth, area, batch)
    ratio /= _at(growth, _area(nearest.width, nearest.height), nearest.batch)
    return Call(nearest.seconds * ratio, nearest.load_seconds, False)


_Growth = tuple[float, float, float]
"""What a call takes whatever it is given, for each megapixel of an item, and for its square."""


def _at(growth: _Growth, area: float, batch: int) -> float:
    return growth[0] + batch * (growth[1] * area + growth[2] * area**2)


def _growth(placement: Placement, timings: Sequence[Timing]) -> _Growth:
    """How the time of a call grows, up to a factor."""
    if placement.component != "unet":
        return 0.0, 1.0, 0.0
    grows = ((1 - QUADRATIC) / USUAL_AREA, QUADRATIC / USUAL_AREA**2)
    fixed = FIXED[placement.options.memory_mode]
    usual = (fixed / (1 - fixed), *grows)
    areas = np.array([_area(t.width, t.height) for t in timings])
    batches = np.array([t.batch for t in timings])
    seconds = np.array([t.seconds for t in timings])
    parts = [np.ones(len(areas)), batches * areas, batches * areas**2]
    different = len(set(areas))
    # Three sizes that are close say nothing of what grows how.
    if different > 2 and areas.max() >= APART * areas.min():
        found = _shares(parts, seconds)
        if found is not None:
            return found[0], found[1], found[2]
    if different > 1:
        found = _shares([parts[0], grows[0] * parts[1] + grows[1] * parts[2]], seconds)
        if found is not None:
            return found[0], found[1] * grows[0], found[1] * grows[1]
    return usual


def _shares(parts: Sequence[Floats], seconds: Floats) -> list[float] | None:
    """How much of each part comes nearest to the seconds; None where one would be below nothing."""
    # Weighted so that relative errors count: small pictures matter as much as large ones.
    columns = np.stack([part / seconds for part in parts], axis=1)
    found, *_ = np.linalg.lstsq(columns, np.ones(len(seconds)), rcond=None)
    return [float(share) for share in found] if (found >= 0).all() else None


def _area(width: int, height: int) -> float:
    """Megapixels."""
    return width * height / 1e6


def evaluations(request: Request, manifest: Manifest) -> Answers:
    """How often the sampler of a completed request asks the model, counted by letting it run.

    Samplers that choose their own steps ask as often as for the emptiest picture, and so do
    profiles: what is forecast from earlier answers is what may be at most.
    """
    levels = NoiseLevels.from_table(manifest.noise)
    first = stages_of(replace(request, hires=None))[0].first
    sampler, sigmas = sampling_of(request, manifest, levels, first)
    noise = noise_for(sampler, "numpy", (0,), (1, 1, 1), levels)

    low, high = request.guidance_interval or (0.0, np.inf)
    unguided = 0

    def empty(x: Float32, sigma: float) -> Estimate:
        nonlocal unguided
        unguided += not low <= sigma <= high
        return Estimate(np.zeros_like(x), np.zeros_like(x))

    profile = find_profile(request.profile) if sampler.forecasts else QUALITY
    denoise = Sparing(empty, sigmas, profile, (1, 1, 1, 1))
    start = np.full((1, 1, 1, 1), sigmas[0], np.float32)
    for _ in sampler.bind(levels)(denoise, start, sigmas, noise, None):
        pass
    return Answers(denoise.computed, denoise.forecast, unguided)


def unet_calls(plan: Plan, guided: bool = True) -> int:
    """Engine calls for one answer of the model: the batch, cut into what a call takes."""
    return -(-_items(plan, guided) // plan.call_batch)


def _items(plan: Plan, guided: bool) -> int:
    return plan.shape.images * (plan.shape.prompts + (guided and plan.shape.guided))


def _filled(plan: Plan, answers: Answers, calls: int) -> float:
    """Part of the U-Net's calls that is work; where sizes are fixed all of it is."""
    if plan.placement("unet").device.fixed_sizes:
        return 1.0
    work = (answers.full - answers.unguided) * _items(plan, True)
    work += answers.unguided * _items(plan, False)
    return min(1.0, work / (calls * plan.call_batch))


def read(folder: Path) -> list[Timing]:
    """What earlier runs left; nothing when there is none, or it cannot be read."""
    try:
        return [Timing(**entry) for entry in json.loads(_file(folder).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        log.info("%s cannot be used: %s", _file(folder), error)
        return []


def learn(folder: Path, result: Result) -> None:
    """Keep what the calls of a run took, in the place of what they took before.

    Runs with a second pass mix two sizes and are left out, and so are those that went on in another
    way. A folder that cannot be written to is no failure.
    """
    if result.request.hires is not None or result.relieved:
        return
    kept = read(folder)
    for phase in result.phases:
        for placement in result.plan.placements if phase.calls else ():
            if PHASES.get(placement.component) == phase.name:
                seconds = phase.engine_seconds / phase.calls
                timing = timing_of(result.plan, placement, seconds, phase.load_seconds)
                kept = _with(kept, timing)
    _write(folder, kept)


def keep(folder: Path, timing: Timing) -> None:
    """Keep one timing, in the place of what was there for its size."""
    _write(folder, _with(read(folder), timing))


def timing_of(plan: Plan, placement: Placement, seconds: float, load_seconds: float) -> Timing:
    """A timing of a component in a plan."""
    shape = plan.shape
    return Timing(
        _made_for(placement),
        shape.width,
        shape.height,
        batch_of(plan, placement),
        seconds,
        load_seconds,
    )


def _with(kept: list[Timing], timing: Timing) -> list[Timing]:
    size = (timing.made_for, timing.width, timing.height, timing.batch)
    same = [t for t in kept if (t.made_for, t.width, t.height, t.batch) == size]
    if not timing.load_seconds and same:
        # Components that stayed open took no time to open; what it took before still holds.
        timing = replace(timing, load_seconds=same[-1].load_seconds)
    return [t for t in kept if t not in same] + [timing]


def _write(folder: Path, kept: list[Timing]) -> None:
    data = json.dumps([asdict(timing) for timing in kept[-KEPT:]], indent=0).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(_file(folder), data, overwrite=True)
    except (OSError, OutputError) as error:
        log.info("timings cannot be kept: %s", error)


def _file(folder: Path) -> Path:
    return folder / "timings.json"


def _made_for(placement: Placement) -> str:
    machine = describe()
    facts: Mapping[str, Any] = {
        "graphs": [a.graph_sha256 or f"{a.graph} {a.graph_size}" for a in placement.artifacts],
        "component": placement.component,
        "runtime": placement.device.runtime,
        "device": [placement.device.name, placement.device.description],
        "precision": placement.options.precision,
        "memory_mode": placement.options.memory_mode,
        "threads": placement.options.threads,
        "machine": [machine.cpu_name, machine.logical_cores],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def batch_of(plan: Plan, placement: Placement) -> int:
    """Items in a call of a component."""
    return plan.call_batch if placement.component == "unet" else 1
