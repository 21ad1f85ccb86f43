"""How much of what a control network says counts, in each step, for each layer and each prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdlite.controls import Control
from sdlite.errors import RequestError
from sdlite.types import Cond, Conditions, Float32, StepConds

SCALES = "control_scales"
"""Among what a U-Net is told beside the text: ``(items, networks, layers)``, a factor for each
output of each network."""
SOFT = 0.825
"""Of each layer against the next coarser one where the prompt is to count more: A1111's."""

ADAPTER_SOFT = (0.25, 0.62, 0.825, 1.0)
"""The same of a T2I-Adapter's four outputs, from the finest."""


def layer_scales(
    control: Control, layers: int, pooled: bool = False, adapter: bool = False
) -> tuple[Float32, Float32]:
    """Factors of a network's outputs for prompts and for the negative prompt, ``(layers,)`` each.

    In the modes ``prompt`` and ``control`` they fall by ``SOFT`` a layer from the middle to the
    finest as in A1111's extension (of a T2I-Adapter, ``adapter``, as in ``ADAPTER_SOFT``), in
    ``guess`` tenfold in all as in diffusers. ``control`` and ``guess`` leave the negative prompt
    alone, and so does a ``pooled`` network.

    Raises:
        RequestError: the control's own factors are of another number.
    """
    scales = np.full(layers, control.weight, np.float64)
    soft = control.mode in ("prompt", "control")
    if soft and adapter:
        scales *= np.interp(np.linspace(0, 3, layers), range(4), ADAPTER_SOFT)
    elif soft:
        scales *= SOFT ** np.arange(layers - 1, -1, -1)
    elif control.mode == "guess" and not pooled:
        scales *= np.logspace(-1, 0, layers)
    if control.layers:
        if len(control.layers) != layers:
            raise RequestError(
                f"control {control.name}: {len(control.layers)} factors for its layers, "
                f"it has {layers}"
            )
        scales *= control.layers
    told = scales.astype(np.float32)
    alone = pooled or control.mode in ("control", "guess")
    return told, np.zeros_like(told) if alone else told


def is_active(control: Control, step: int, steps: int) -> bool:
    """Whether a control acts in a step, counted from 0: those that lie wholly within its share."""
    return step / steps >= control.start and (step + 1) / steps <= control.end


def switches(controls: Sequence[Control], steps: int) -> frozenset[int]:
    """Steps, counted from 0, in which other controls act than in the one before."""
    acting = [[is_active(control, step, steps) for control in controls] for step in range(steps)]
    return frozenset(step for step in range(1, steps) if acting[step] != acting[step - 1])


def at_step(sigmas: Float32, sigma: float) -> int:
    """The step, counted from 0, that a noise level lies in: the last that starts at or above it."""
    starts = -sigmas[:-1].astype(np.float64)
    return max(int(np.searchsorted(starts, -sigma, side="right")) - 1, 0)


def with_scales(
    conditions: Conditions,
    sigmas: Float32,
    controls: Sequence[Control],
    scales: Sequence[tuple[Float32, Float32]],
) -> Conditions:
    """Conditions that also say how much of each network counts.

    Args:
        conditions: what is drawn at a noise level.
        sigmas: levels of the run, n+1 entries.
        controls: the networks, in order.
        scales: of each, what ``layer_scales`` gives.
    """
    steps = len(sigmas) - 1

    def at(sigma: float) -> StepConds:
        told = conditions(sigma)
        step = at_step(sigmas, sigma)
        acting = [is_active(control, step, steps) for control in controls]
        prompt, negative = (
            _stacked([pair[which] * on for pair, on in zip(scales, acting, strict=True)])
            for which in (0, 1)
        )
        return StepConds(
            tuple((_with(cond, prompt), weight) for cond, weight in told.parts),
            None if told.negative is None else _with(told.negative, negative),
        )

    return at


def _stacked(rows: Sequence[Float32]) -> Float32:
    """Rows of different lengths, zeros behind the shorter: ``(1, networks, layers)``."""
    stack = np.zeros((1, len(rows), max(map(len, rows))), np.float32)
    for index, row in enumerate(rows):
        stack[0, index, : len(row)] = row
    return stack


def _with(cond: Cond, scales: Float32) -> Cond:
    return Cond(cond.context, {**cond.added, SCALES: scales.repeat(len(cond), axis=0)})
