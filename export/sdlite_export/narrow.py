"""What becomes of each layer of a package in 8 bits: measured by drawing with one in 16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from sdlite.controls import Control
from sdlite.manifest import Calibration
from sdlite.tensors.base import Tensors
from sdlite_export.calibrate import Looked, calibrate
from sdlite_export.emit.components import Plan, plain_graph
from sdlite_export.observe import VARIANT
from sdlite_export.quantize import ANY, Read, quantize
from sdlite_export.recipe import Recipe, weights_only
from sdlite_export.scan import scan, sensitive, with_effects
from sdlite_export.source import Checkpoint

MEASURED = ("unet", "vae_decoder")
"""Components whose activations are in 8 bits too where the precision is ``int8``."""
EDGES = (("low", 50.0), ("high", 100.0))
"""Thresholds of canny, low enough that soft pictures have edges too."""
NARROW = ("unet", "text_encoder")
"""What the names of components begin with whose weights alone can be in 8 bits: large ones."""

Progress = Callable[[str, int, int], object]
"""Called with what is being done, how much of it is done and how much there is; may raise to
stop."""


def measured_recipes(
    checkpoint: Checkpoint,
    folder: Path,
    plans: Sequence[Plan],
    prompts: Sequence[str] | None,
    progress: Progress | None,
    search: bool,
) -> tuple[Mapping[str, Recipe], Calibration]:
    """How each component is brought to 8 bits, and what that was read from.

    Args:
        checkpoint: what is exported.
        folder: the package in 16 bits, complete.
        plans: how it was written.
        prompts: what to draw; None takes some of the built-in ones.
        progress: told what is done.
        search: whether each layer is tried alone.

    Raises:
        CalibrationFailed: a layer took in, or gives in 8 bits, numbers that are not finite.
        RuntimeUnavailable: there is no engine to run the model.
    """
    whole = {plan.component.name: plan for plan in plans}
    measured = {name: whole[name] for name in MEASURED}
    looked = calibrate(folder, measured, prompts, _telling(progress, "calibration"))
    recipes = {}
    for name, plan in whole.items():
        read = reader(checkpoint.tensors[plan.component.tensors])
        if name in MEASURED:
            bar = _telling(progress, f"scan of {name}")
            make = partial(_searched, folder=folder, progress=bar) if search else _recipe
            recipes[name] = make(plan, looked, read)
        elif name.startswith(NARROW):
            recipes[name] = weights_only(plain_graph(plan.component))
    return recipes, looked.facts


def measured_control(
    name: str,
    tensors: Tensors,
    folder: Path,
    plan: Plan,
    prompts: Sequence[str] | None,
    progress: Progress | None,
) -> Recipe:
    """How a ControlNet is brought to 8 bits.

    What it will be shown is not known, so it follows what the model draws without it: the edges of
    every other picture, which have the largest contrasts, and between those the picture itself.

    Args:
        name: what requests call it.
        tensors: its weights.
        folder: the package that has it, in 16 bits.
        plan: how it was written.
        prompts: what to draw; None takes some of the built-in ones.
        progress: told what is done.

    Raises what ``measured_recipes`` raises.
    """

    def steer(number: int, picture: Image.Image) -> Control:
        if number % 2:
            return Control(name, picture)
        return Control(name, picture, preprocessor="canny", options=EDGES)

    component = plan.component.name
    looked = calibrate(folder, {component: plan}, prompts, _telling(progress, "calibration"), steer)
    return _recipe(plan, looked, reader(tensors))


def _recipe(plan: Plan, looked: Looked, read: Read) -> Recipe:
    return quantize(plan.graphs[VARIANT], looked.of(plan.component.name), read)


def _searched(
    plan: Plan,
    looked: Looked,
    read: Read,
    folder: Path,
    progress: Callable[[int, int], object] | None,
) -> Recipe:
    name, graph = plan.component.name, plan.graphs[VARIANT]
    records = looked.of(name)
    everything = quantize(graph, records, read, worst=ANY)
    effects = scan(plan, folder, everything, looked.samples[name], read, progress)
    chosen = quantize(graph, records, read, kept=sensitive(effects), worst=ANY)
    return with_effects(chosen, effects)


def _telling(progress: Progress | None, label: str) -> Callable[[int, int], object] | None:
    return None if progress is None else partial(progress, label)


def reader(tensors: Tensors) -> Read:
    """Reads tensors of a checkpoint as float32."""
    return lambda key: tensors.read(key).astype(np.float32, copy=False)
