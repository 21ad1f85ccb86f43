"""Draw a few pictures with a new package and note what its layers take in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sdlite import registry
from sdlite.adapterentry import kind_of
from sdlite.controls import Control
from sdlite.engine import Runtime
from sdlite.errors import RuntimeUnavailable, SourceError
from sdlite.manifest import Calibration, Manifest
from sdlite.package import Package
from sdlite.pipeline import Pipeline
from sdlite.planner import Budget, Preferences
from sdlite.ports import guidance_width
from sdlite.types import Array, Device, Edit, Request, Step
from sdlite_export.emit.components import Plan
from sdlite_export.observe import VARIANT, ObservingRuntime, write_pieces
from sdlite_export.statistics import Record, Samples, Statistics

log = logging.getLogger("sdlite.export")

ENGINES = ("onnxruntime", "openvino")
"""Engines that can be looked into, in the order they are preferred."""
PROMPTS = (
    "a photograph of an old man with a white beard in the street, portrait, sharp focus",
    "a large red circle on a blue background",
    "an oil painting of a castle on a hill by the sea at sunset, dramatic clouds",
    "a small yellow star above a green square on a white background",
    "a bowl of fruit on a wooden table, studio lighting, highly detailed",
    "a cat sleeping on a green sofa, watercolour",
    "city at night in the rain, neon signs, reflections, wide angle",
    "line drawing of a bicycle, black ink on white paper",
)
"""Prompts that draw quite different pictures: faces, landscapes, flat colours, lines."""
LARGE_BYTES = 100 << 20
LARGE_PROMPTS = 2
"""As many of them draw with a U-Net of more bytes than that: a call takes seconds. Those after the
first go without guidance, whose other half has the same empty prompt every time."""
EVERY_STEP = ("unet", "controlnet")
"""Kinds of components that are asked in every step, guided or not."""
STEPS, LARGE_STEPS = 10, 6
"""Steps of each picture, spread over all noise levels; ranges differ strongly between them."""
SCHEDULES = (None, "uniform")
"""Schedules of pictures in turn, None the model's own: two together see twice as many noise levels
as one."""
FEW_STEPS = 8
"""Steps up to which a model was made for levels of its own, and for no others."""
SEED = 1
ENOUGH = 1 << 50
"""Bytes of memory the plan may count: pieces take a small part of what a plan foresees."""
SAMPLES = 8
"""Inputs of each component that are kept for a scan of its layers."""
Steer = Callable[[int, Image.Image], Control]
"""Given a number and the picture that prompt drew, what steers the drawing that is looked at."""
MAX_PROMPTS = 256
MAX_PROMPT_BYTES = 1 << 20


@dataclass(frozen=True)
class Looked:
    """What calibration found out."""

    statistics: Statistics
    """What layers took in."""
    samples: Mapping[str, Sequence[Mapping[str, Array]]]
    """By component, some of the inputs it was given, one item each."""
    facts: Calibration
    """How it was measured."""

    def of(self, component: str) -> dict[str, Record]:
        """What is known of one component, by value."""
        found = self.statistics.records.items()
        return {value: record for (part, value), record in found if part == component}


def read_prompts(path: Path) -> tuple[str, ...]:
    """Prompts of a text file, one a line; empty lines do not count. Raises ``SourceError``."""
    try:
        if path.stat().st_size > MAX_PROMPT_BYTES:
            raise SourceError(f"{path} is larger than {MAX_PROMPT_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SourceError(
            f"cannot read calibration prompts {path}: {error.strerror or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text; give one prompt a line") from error
    prompts = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise SourceError(
            f"{path} has {len(prompts)} prompts; calibration takes 1 to {MAX_PROMPTS}, one a line"
        )
    return prompts


def find_engine() -> tuple[Runtime, Device]:
    """An engine to run the model on, and its processor; raises ``RuntimeUnavailable``."""
    reasons = []
    for name in ENGINES:
        try:
            for device in registry.probe(name):
                if device.name == "cpu":
                    return registry.get(name), device
        except RuntimeUnavailable as error:
            reasons.append(str(error))
    raise RuntimeUnavailable(
        "int8 needs an engine that runs the model to measure its ranges: " + "; ".join(reasons),
        f"{registry.INSTALL}; --precision w8 needs none",
    )


def something(manifest: Manifest, seed: int) -> Image.Image:
    """A small picture for an upscaler of the size it was trained on: there is none to be had.

    Noise that is as strong at every scale, as in photographs, with flat shapes on it.
    """
    rng = np.random.default_rng(seed)
    factor, defaults = manifest.latent.factor, manifest.defaults
    size = (defaults.width // factor, defaults.height // factor)
    mixed = np.zeros((size[1], size[0], 3), np.float32)
    for cells in (2, 4, 8, 16, 32):
        grain = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC)
        mixed += np.asarray(layer, np.float32) / 5
    picture = Image.fromarray(np.clip((mixed - 128) * 2 + 128, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for shape in (pen.ellipse, pen.rectangle, pen.ellipse):
        left, top = (int(rng.integers(0, side)) for side in size)
        right, bottom = left + size[0] // 4, top + size[1] // 4
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        shape((left, top, right, bottom), fill=colour)
    return picture


def calibrate(
    root: Path,
    plans: Mapping[str, Plan],
    prompts: Sequence[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
    steer: Steer | None = None,
) -> Looked:
    """Draw pictures with the package at ``root`` and look at the components of ``plans``.

    Args:
        root: the package, complete.
        plans: by component, how it was written.
        prompts: what to draw; None takes some of the built-in ones.
        progress: told the steps done, of all pictures, and how many there are.
        steer: what steers each picture; it is drawn without before.

    Raises:
        CalibrationFailed: a layer took in numbers that are not finite.
        RuntimeUnavailable: there is no engine to run the model.
    """
    runtime, device = find_engine()
    package = Package.open(root)
    large = package.weight_file("unet").file.size > LARGE_BYTES
    chosen = tuple(prompts or PROMPTS[: LARGE_PROMPTS if large else None])
    defaults = package.manifest.defaults
    steps = min(LARGE_STEPS if large else STEPS, defaults.steps)
    own = defaults.steps <= FEW_STEPS
    # A model that is told its guidance scale has no half without the prompt.
    told_scale = any(guidance_width(a.inputs) for a in package.manifest.artifacts)
    guidance = [
        1.0 if large and prompts is None and index and not told_scale else defaults.guidance
        for index in range(len(chosen))
    ]
    items = sum(2 if scale > 1.0 and not told_scale else 1 for scale in guidance)
    graphs = {name: plan.graphs[VARIANT] for name, plan in plans.items()}
    calls = {name: steps * items if kind_of(name) in EVERY_STEP else len(chosen) for name in graphs}
    statistics = Statistics(graphs, calls)
    samples = Samples(calls, SAMPLES)
    cut = {name: write_pieces(plan, root) for name, plan in plans.items()}
    observing = ObservingRuntime(runtime, cut, statistics.watch, samples.take)
    try:
        with Pipeline(
            package,
            [device],
            Budget(max_memory=ENOUGH),
            Preferences(runtime=device.runtime, device=device.name, memory_mode="normal"),
            runtime=lambda _: observing,
        ) as pipe:
            done = 0

            def told(step: Step) -> None:
                nonlocal done
                done += 1
                if progress is not None:
                    progress(done, len(chosen) * step.total * (1 if steer is None else 2))

            for index, prompt in enumerate(chosen):
                request = Request(
                    prompt,
                    steps=steps,
                    seed=SEED + index,
                    schedule=None if own else SCHEDULES[index % len(SCHEDULES)],
                    guidance=guidance[index],
                )
                if package.manifest.task == "upscale":
                    small = something(package.manifest, SEED + index)
                    request = replace(request, edit=Edit(small))
                picture = pipe.generate(request, on_step=told).images[0]
                if steer is not None:
                    controls = (steer(index, picture),)
                    pipe.generate(replace(request, controls=controls), on_step=told)
    finally:
        for pieces in cut.values():
            for piece in pieces.pieces:
                (root / piece.artifact.graph).unlink()
    engine = f"{runtime.name} {runtime.version()}"
    seen = max((record.calls for record in statistics.records.values()), default=0)
    return Looked(statistics, samples.kept, Calibration(engine, len(chosen), steps, seen))
