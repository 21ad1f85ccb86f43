"""What each layer alone, in 8 bits, does to the output of its component: the thorough search.

Calibration judges a layer by its own output. Here the whole component runs once for every layer,
with the input and the weights of that layer rounded and everything else as it is, on inputs kept
from calibration, and what counts is how far the component's own output moves. Roundings of
different layers are nearly independent, so their squares add up; the layers that move it most stay
in 16 bits until what is left keeps within a bound.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sdlite.engine import Artifact, LoadOptions
from sdlite.errors import CalibrationFailed
from sdlite.manifest import Layer
from sdlite.tensors.eightbit import from_int8, steps_of, to_int8
from sdlite.types import Array, Float32
from sdlite_export.calibrate import find_engine
from sdlite_export.emit.components import WEIGHTS, Plan
from sdlite_export.emit.graph import Graph, LayerUse, Node
from sdlite_export.emit.proto import model_proto, specs
from sdlite_export.emit.targets import target_of
from sdlite_export.observe import VARIANT, memory_mode
from sdlite_export.quantize import Read
from sdlite_export.recipe import Recipe

log = logging.getLogger("sdlite.export")

BOUND = 0.01
"""Error of a component's output, relative, root mean square, that all layers in 8 bits may make.
On the model that ships 1 % keeps two layers in 16 bits, 3 % none, though one of them alone makes
2.3 % (docs/quantisation.md)."""
Inputs = Mapping[str, Array]
"""What a component takes, by name, one item."""


def scan(
    plan: Plan,
    folder: Path,
    recipe: Recipe,
    samples: Sequence[Inputs],
    read: Read,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, float]:
    """The relative error of a component's output with each of its layers alone in 8 bits.

    Args:
        plan: of the component as it lies in ``folder``, in 16 bits.
        folder: the package.
        recipe: how each layer would be brought to 8 bits.
        samples: inputs of the whole component.
        read: reads the checkpoint's tensors.
        progress: told layers done and layers in all; may raise to stop.

    Raises:
        CalibrationFailed: a layer in 8 bits gives numbers that are not finite.
        EngineError: the engine refuses a graph.
    """
    graph = plan.graphs[VARIANT]
    names = [name for name, layer in recipe.layers.items() if layer.precision == "w8a8"]
    whole = _answers(plan, folder, graph, samples, {})
    effects = {}
    for done, name in enumerate(names):
        use, layer = graph.layers[name], recipe.layers[name]
        key = f"{name}.weight"
        factors = recipe.factors[recipe.columns[key]] if key in recipe.columns else None
        weight = _stored(plan, key, rounded(read(key), factors))
        changed = with_rounded_input(graph, use, layer, factors)
        found = _answers(plan, folder, changed, samples, {key: weight})
        effects[name] = apart(found, whole)
        if not np.isfinite(effects[name]):
            raise CalibrationFailed(
                f"{plan.component.name}: layer {name} in 8 bits gives numbers that are not finite; "
                "export with --precision fp16 or w8"
            )
        log.info("%s: %s alone in 8 bits: %.5f", plan.component.name, name, effects[name])
        if progress is not None:
            progress(done + 1, len(names))
    return effects


def sensitive(effects: Mapping[str, float], bound: float = BOUND) -> dict[str, str]:
    """Layers that stay in 16 bits, and why: the worst, until the others keep within ``bound``."""
    left = float(np.sum(np.square(list(effects.values()))))
    kept = {}
    for name, effect in sorted(effects.items(), key=lambda item: -item[1]):
        if left <= bound**2:
            break
        kept[name] = f"alone changes the output by {100 * effect:.2g} %"
        left -= effect**2
    return kept


def with_effects(recipe: Recipe, effects: Mapping[str, float]) -> Recipe:
    """A recipe whose layers say what a scan found of each."""
    layers = {
        name: replace(layer, effect=round(effects.get(name, 0.0), 6))
        for name, layer in recipe.layers.items()
    }
    return replace(recipe, layers=layers)


def rounded(weight: Float32, factors: Float32 | None) -> Float32:
    """Weights of a layer as 8 bits leave them, with the factors of their input channels."""
    across = 1.0 if factors is None else factors.reshape(-1, *(1,) * (weight.ndim - 2))
    spread = np.asarray(weight * across, np.float32)
    steps = steps_of(spread)
    result: Float32 = from_int8(to_int8(spread, steps), steps) / across
    return result


def apart(found: Iterable[Array], whole: Iterable[Array]) -> float:
    """Root mean square difference over the size of what it is a difference from."""
    parts = [
        np.square(a - b, dtype=np.float64).sum() / (np.square(b, dtype=np.float64).sum() or 1.0)
        for a, b in zip(found, whole, strict=True)
    ]
    return float(np.sqrt(np.mean(parts)))


def with_rounded_input(
    graph: Graph, use: LayerUse, layer: Layer, factors: Float32 | None = None
) -> Graph:
    """A graph in which one layer takes its input as 8 bits leave it."""
    changed = copy.copy(graph)
    given: dict[str, Array] = {
        "step": np.array(layer.scale, np.float32),
        "zero": np.array(layer.zero_point, np.uint8),
    }
    chain = [("QuantizeLinear", "narrow", ["step", "zero"])]
    chain += [("DequantizeLinear", "wide", ["step", "zero"])]
    if factors is not None:
        shape = (-1, 1, 1) if len(use.shape) == 4 else (-1,)
        given["factors"] = factors.reshape(shape)
        chain = [("Div", "divided", ["factors"]), *chain, ("Mul", "back", ["factors"])]
    changed.constants = {**graph.constants, **{f"scan/{key}": v for key, v in given.items()}}
    changed.nodes = []
    for node in graph.nodes:
        if _computes(node, use):
            value = use.input
            for op, stem, rest in chain:
                inputs = (value, *(f"scan/{key}" for key in rest))
                value = f"scan/{stem}"
                changed.nodes.append(Node(op, inputs, (value,), node.segment))
            node = replace(node, inputs=(value, *node.inputs[1:]))
        changed.nodes.append(node)
    return changed


def _computes(node: Node, use: LayerUse) -> bool:
    """Whether a node is the convolution or product of a layer."""
    mine = node.op in ("Conv", "MatMul") and node.inputs[0] == use.input
    return mine and node.inputs[1].partition("/")[0] == f"{use.name}.weight"


def _stored(plan: Plan, key: str, weight: Float32) -> Array:
    """A weight as the package stores it."""
    entry = plan.entries[key]
    turned = weight.T if entry.layout == "transposed" else weight
    return np.ascontiguousarray(turned.astype(entry.dtype))


def _answers(
    plan: Plan, folder: Path, graph: Graph, samples: Sequence[Inputs], weights: Mapping[str, Array]
) -> list[Array]:
    """What a graph gives for each of some inputs."""
    name = plan.component.name
    target = target_of(name, VARIANT)
    model, takes, gives = model_proto(
        graph, graph.nodes, target, plan.entries, WEIGHTS, f"{name} scan"
    )
    data = model.SerializeToString(deterministic=True)
    relative = f"{name}/scan.onnx"
    path = folder / relative
    path.write_bytes(data)
    artifact = Artifact(
        name,
        "onnx",
        VARIANT,
        plan.precision,
        relative,
        len(data),
        hashlib.sha256(data).hexdigest(),
        specs(takes),
        specs(gives),
        f"{name}/{WEIGHTS}",
        0,
        target.opset,
    )
    runtime, device = find_engine()
    options = LoadOptions(memory_mode=memory_mode(runtime), weights=weights)
    session = runtime.load(artifact, folder, device, options)
    try:
        return [next(iter(session.run(values).values())) for values in samples]
    finally:
        session.close()
        path.unlink()
