"""A U-Net that is told what control networks say of their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sdlite.control.scales import SCALES
from sdlite.engine import Session, TensorSpec
from sdlite.errors import RequestError
from sdlite.ports import CHANNELS, RESIDUALS, ControlNetPort, UnetPort
from sdlite.types import Cond, Float32

CELLS = {192: (3, 8), 64: (1, 8), 768: (3, 16), 256: (1, 16)}
"""Channels of a T2I-Adapter's picture and pixels of its cells, by the channels it takes."""


class Speaker(Protocol):
    """What says something of a picture."""

    @property
    def names(self) -> tuple[str, ...]:
        """Inputs of the U-Net it speaks to, from the finest to the middle."""
        ...

    def say(self, x: Float32, timestep: Float32, cond: Cond) -> Mapping[str, Float32]:
        """What it says of some items, ``(items, ...)`` each, by the names of those inputs."""
        ...


@dataclass(frozen=True)
class Network:
    """An open ControlNet and what it looks at."""

    names: tuple[str, ...]
    """Inputs of the U-Net."""
    port: ControlNetPort
    """The network."""
    hint: Float32
    """Its picture, ``(1, 3, height, width)``."""
    pooled: bool
    """Whether what it says is averaged over the picture."""

    def say(self, x: Float32, timestep: Float32, cond: Cond) -> Mapping[str, Float32]:
        """Ask it."""
        said = self.port.residuals(x, timestep, cond, self.hint)
        if not self.pooled:
            return said
        means = {name: value.mean(axis=(2, 3), keepdims=True) for name, value in said.items()}
        return {name: np.broadcast_to(mean, said[name].shape) for name, mean in means.items()}


@dataclass(frozen=True)
class Features:
    """What a T2I-Adapter said of its picture, once for all steps."""

    values: Mapping[str, Float32]
    """By inputs of the U-Net, from the finest, ``(1, ...)`` each."""

    @property
    def names(self) -> tuple[str, ...]:
        """Inputs of the U-Net."""
        return tuple(self.values)

    def say(self, x: Float32, timestep: Float32, cond: Cond) -> Mapping[str, Float32]:
        """The same for every item."""
        return {name: value.repeat(len(x), axis=0) for name, value in self.values.items()}


def features_of(session: Session, hint: Float32) -> Features:
    """Ask a T2I-Adapter about a picture, ``(1, 3, height, width)``, 0 to 1.

    Raises ``RequestError`` for a size that is no multiple of its cells.
    """
    (cells,) = session.inputs
    inside, factor = CELLS[int(cells.shape[1])]
    if hint.shape[2] % factor or hint.shape[3] % factor:
        raise RequestError(
            f"this T2I-Adapter takes sizes that are multiples of {factor}, not "
            f"{hint.shape[3]}x{hint.shape[2]}"
        )
    if inside == 1:
        luma = np.array([0.299, 0.587, 0.114], np.float32).reshape(1, 3, 1, 1)
        hint = (hint * luma).sum(axis=1, keepdims=True)
    height, width = hint.shape[2] // factor, hint.shape[3] // factor
    # Pixels of a cell become channels, row by row (torch's pixel_unshuffle).
    parts = hint.reshape(1, inside, height, factor, width, factor).transpose(0, 1, 3, 5, 2, 4)
    said = session.run({cells.name: np.ascontiguousarray(parts.reshape(1, -1, height, width))})
    return Features({spec.name: said[spec.name].astype(np.float32) for spec in session.outputs})


def residual_specs(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """What a U-Net's graph takes of what says something of pictures."""
    return tuple(spec for spec in inputs if spec.name.startswith(RESIDUALS))


def residual_names(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Those that ControlNets speak to, from the finest to the middle."""
    skips, middle, _ = RESIDUALS
    numbers = sorted(
        int(spec.name.removeprefix(skips)) for spec in specs if spec.name.startswith(skips)
    )
    return (*(f"{skips}{number}" for number in numbers), middle)


class ControlledUnet:
    """Called like a U-Net; what is said of several pictures is added up.

    Args:
        unet: a graph that takes what is said.
        speakers: in the order of the scales.
        specs: what the graph takes of them, as the package describes it.
    """

    def __init__(
        self, unet: UnetPort, speakers: Sequence[Speaker], specs: Sequence[TensorSpec]
    ) -> None:
        self._unet = unet
        self._speakers = speakers
        self._specs = specs

    def predict(
        self,
        x: Float32,
        timestep: Float32,
        context: Float32,
        added: Mapping[str, Float32] | None = None,
    ) -> Float32:
        """Predict, see ``UnetPort``; ``added`` has ``SCALES``. Networks that count nothing for
        any item are not asked."""
        told = dict(added or {})
        scales = told.pop(SCALES)
        cond = Cond(context, {name: value for name, value in told.items() if name != CHANNELS})
        total: dict[str, Float32] = {}
        for index, speaker in enumerate(self._speakers):
            items = np.flatnonzero(scales[:, index].any(axis=1))
            if not items.size:
                continue
            part = Cond(
                cond.context[items], {name: value[items] for name, value in cond.added.items()}
            )
            said = speaker.say(x[items], timestep[items], part)
            for layer, name in enumerate(speaker.names):
                value = said[name] * scales[items, index, layer].reshape(-1, 1, 1, 1)
                if name not in total:
                    total[name] = np.zeros((len(x), *value.shape[1:]), np.float32)
                total[name][items] += value
        for spec in self._specs:
            if spec.name not in total:
                total[spec.name] = np.zeros(_shape(spec, x), np.float32)
        return self._unet.predict(x, timestep, context, {**told, **total})


def _shape(spec: TensorSpec, x: Float32) -> tuple[int, ...]:
    """Shape of a residual: its free sizes are those of ``x`` halved some times, rounded up."""
    sizes = {"batch": len(x)}
    for axis, cells in zip(("height", "width"), x.shape[2:], strict=True):
        sizes |= {axis: cells} | {f"{axis}_{1 << n}": -(-cells // (1 << n)) for n in range(1, 8)}
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape)
