"""Which layers are computed in 8 bits, and how, from what calibration saw.

Weights have a step for each output channel. Inputs have one step and one zero for all channels, so
where few channels are much larger than the others, a factor for each channel moves the difficulty
into the weights (SmoothQuant, Xiao et al. 2023); the inverse goes into whatever made the channel,
so that it costs nothing. A range is cut where rounding more finely is worth more than the few
numbers beyond it, by the mean square error of the layer's output.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from sdlite.manifest import Layer
from sdlite.tensors.eightbit import from_int8, steps_of, to_int8
from sdlite.types import Float32
from sdlite_export.emit.graph import Fold, Graph, LayerUse
from sdlite_export.recipe import Recipe, kept_apart
from sdlite_export.statistics import Record

LEVELS = 255
STRENGTHS = (0.0, 0.3, 0.5, 0.7)
"""How much of a channel's size goes into the weights."""
CUTS = (1.0, 0.85, 0.7, 0.5)
"""Parts of the range that are tried."""
WORST = 0.03
"""Largest relative error of a layer in 8 bits; layers beyond stay in 16."""
ANY = float("inf")
"""The same where a scan decides instead."""
WORTH = 1.25
"""How much factors, or a cut, must lessen the square error to be used. Samples do not show the
rarest numbers, and where they are cut pictures change: on the shapes model cuts by the samples
alone took 5 dB."""
SAMPLED = 512
"""Output channels whose weights speak for all when a strength is chosen."""
WORKERS = 2
"""Values that are decided on at the same time; each takes some hundred megabytes at most (SDXL's
largest convolution: half a gigabyte), and products of matrices use all processors by themselves."""

Read = Callable[[str], Float32]
"""Reads a tensor of the checkpoint as float32."""


@dataclass(frozen=True)
class Choice:
    """How the input of some layers is brought to 8 bits."""

    scale: float
    """Step."""
    zero_point: int
    """8-bit number of 0."""
    factors: Float32 | None
    """By what each channel is divided before; None for nothing."""
    loss: float
    """Estimate of the output's square error."""

    def rounded(self, x: Float32) -> Float32:
        """Numbers as 8 bits leave them; ``x`` is divided by the factors already."""
        scale, zero = np.float32(self.scale), np.float32(self.zero_point)
        levels: Float32 = np.clip(np.rint(x / scale) + zero, 0, LEVELS)
        return (levels - zero) * scale


_Decision = tuple[Sequence[LayerUse], Choice | None, dict[str, float]]
"""The layers that take a value, how it is brought to 8 bits, and what each loses by it."""


@dataclass
class _Draft:
    """A recipe in the making."""

    layers: dict[str, Layer] = field(default_factory=dict)
    factors: dict[str, Float32] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    shifts: dict[str, Float32] = field(default_factory=dict)


def quantize(
    graph: Graph,
    records: Mapping[str, Record],
    read: Read,
    *,
    kept: Mapping[str, str] | None = None,
    worst: float = WORST,
) -> Recipe:
    """Decide on every layer of a graph.

    Args:
        graph: of the component.
        records: what its layers took in, by value.
        read: reads the checkpoint's tensors.
        kept: layers that stay in 16 bits whatever they say, and why.
        worst: relative error from which on a layer stays in 16 bits.
    """
    draft = _Draft()
    for name in graph.layers:
        why = kept_apart(name) or (kept or {}).get(name, "")
        if why or graph.layers[name].input not in records:
            draft.layers[name] = Layer("fp16", why=why or "not reached in calibration")
    lock = threading.Lock()

    def read_alone(key: str) -> Float32:
        with lock:  # of a checkpoint's file, which has one place
            return read(key)

    def choose(item: tuple[str, Record]) -> _Decision:
        value, record = item
        users = [use for use in record.layers if use.name not in draft.layers]
        return _choose(graph, value, record, users, read_alone, worst)

    # Each value stands for itself, and numpy computes outside the interpreter's lock.
    with ThreadPoolExecutor(WORKERS) as pool:
        decisions = list(pool.map(choose, records.items()))
    for (value, _), (users, choice, errors) in zip(records.items(), decisions, strict=True):
        _note(draft, graph, value, users, choice, errors, worst)
    ordered = {name: draft.layers[name] for name in graph.layers}
    return Recipe(ordered, draft.factors, draft.rows, draft.columns, draft.shifts)


def _choose(
    graph: Graph,
    value: str,
    record: Record,
    users: Sequence[LayerUse],
    read: Read,
    worst: float,
) -> _Decision:
    """Choose for one value and the layers that take it."""
    if not users:
        return users, None, {}
    weights = {use.name: read(f"{use.name}.weight") for use in users}
    folds = graph.folds.get(value, ())
    free = len(users) == len(record.layers) and _only_layers(graph, value, users)
    strengths = STRENGTHS if folds and free else STRENGTHS[:1]
    choice, errors = _best(record, users, weights, strengths)
    if max(errors.values()) > worst and choice.factors is not None:
        # Factors would have to go into layers in 16 bits too; without them each stands alone.
        choice, errors = _best(record, users, weights, STRENGTHS[:1])
    return users, choice, errors


def _note(
    draft: _Draft,
    graph: Graph,
    value: str,
    users: Sequence[LayerUse],
    choice: Choice | None,
    errors: Mapping[str, float],
    worst: float,
) -> None:
    """Write what was chosen into the recipe."""
    if choice is None:
        return
    for use in users:
        error = round(errors[use.name], 5)
        if errors[use.name] > worst:
            draft.layers[use.name] = Layer("fp16", error=error, why="large error in 8 bits")
        else:
            draft.layers[use.name] = Layer(
                "w8a8", round_step(choice.scale), choice.zero_point, error
            )
    if choice.factors is not None:
        _fold(draft, graph, graph.folds.get(value, ()), users, choice.factors)


def _best(
    record: Record,
    users: Sequence[LayerUse],
    weights: Mapping[str, Float32],
    strengths: Sequence[float],
) -> tuple[Choice, dict[str, float]]:
    """The strength with the least error over all layers, and the error of each with it."""
    found: list[tuple[float, Choice, dict[str, float]]] = []
    for strength in strengths:
        choice = _choice(record, weights, strength)
        errors = {use.name: _error(record, use, weights[use.name], choice) for use in users}
        total = sum(error**2 for error in errors.values()) * (WORTH if strength else 1.0)
        found.append((total, choice, errors))
    _, choice, errors = min(found, key=lambda item: item[0])
    return choice, errors


def round_step(scale: float) -> float:
    """A step as float32 keeps it."""
    return float(np.float32(scale))


def _only_layers(graph: Graph, value: str, users: Sequence[LayerUse]) -> bool:
    """Whether nothing but the given layers takes a value."""
    takers = [node for node in graph.nodes if value in node.inputs]
    return len(takers) == len(users) and all(node.op in ("MatMul", "Conv") for node in takers)


def _choice(record: Record, weights: Mapping[str, Float32], strength: float) -> Choice:
    """The best range at one strength of smoothing."""
    channels = len(record.low)
    flat = {n: w.reshape(w.shape[0], channels, -1) for n, w in weights.items()}
    sampled = {n: w[:: max(1, len(w) // SAMPLED)] for n, w in flat.items()}
    factors = None
    low, high, rows = record.low, record.high, record.sampled()
    if strength:
        reach = np.maximum(np.maximum(high, -low), 1e-5)
        heavy = np.max([np.abs(w).max(axis=(0, 2)) for w in sampled.values()], axis=0)
        factors = reach**strength / np.maximum(heavy, 1e-5) ** (1 - strength)
        factors = np.maximum(factors / np.exp(np.mean(np.log(factors))), 1e-3)
        factors = factors.astype(np.float32)
        low, high, rows = low / factors, high / factors, rows / factors
        sampled = {n: w * factors[:, None] for n, w in sampled.items()}
    # Output error of independent errors of the channels: their size times the weights behind.
    importance = np.sum([np.square(w).sum(axis=(0, 2)) for w in sampled.values()], axis=0)
    energy = np.square(rows).mean(axis=0)
    lost = 0.0
    for weight in sampled.values():
        steps = steps_of(weight)
        error = from_int8(to_int8(weight, steps), steps) - weight
        lost += float(np.square(error).sum(axis=(0, 2)) @ energy)
    best: Choice | None = None
    bottom, top = min(0.0, float(low.min())), max(0.0, float(high.max()))
    for cut in CUTS:
        found = _range(bottom * cut, top * cut, factors)
        error = np.square(found.rounded(rows) - rows).mean(axis=0)
        loss = float(error @ importance) + lost
        if best is None or loss * (1.0 if cut == 1.0 else WORTH) < best.loss:
            best = Choice(found.scale, found.zero_point, factors, loss)
    assert best is not None
    return best


def _range(low: float, high: float, factors: Float32 | None) -> Choice:
    """Steps over a range that holds 0, which is met exactly."""
    scale = round_step(max((high - low) / LEVELS, 1e-8))
    return Choice(scale, int(np.clip(round(-low / scale), 0, LEVELS)), factors, 0.0)


def _error(record: Record, use: LayerUse, weight: Float32, choice: Choice) -> float:
    """Relative error of a layer's output, bias left out, on the windows that were kept."""
    seen = record.windows(use.name)
    flat = weight.reshape(len(weight), -1)
    exact = seen @ flat.T
    if choice.factors is not None:
        spread = np.repeat(choice.factors, flat.shape[1] // len(choice.factors))
        seen, flat = seen / spread, flat * spread
    steps = steps_of(flat)
    rounded = choice.rounded(seen) @ from_int8(to_int8(flat, steps), steps).T
    size = float(np.square(exact).mean())
    return float(np.sqrt(np.square(rounded - exact).mean() / size)) if size else 0.0


def _fold(
    draft: _Draft,
    graph: Graph,
    folds: Sequence[Fold],
    users: Sequence[LayerUse],
    factors: Float32,
) -> None:
    """Write factors into the recipe: into the layers, and inverted into what made the channels."""
    maker = folds[0].tensor
    name = f"{maker}/factors"
    draft.factors[name] = factors
    for use in users:
        draft.columns[f"{use.name}.weight"] = name
    for fold in folds:
        rows = np.ones(graph.weights[fold.tensor].shape[0], np.float32)
        rows[fold.start : fold.start + len(factors)] = 1 / factors
        inverse = f"{maker}/inverse"
        draft.factors[inverse] = rows
        draft.rows[fold.tensor] = inverse
