"""A U-Net that is told what control networks say of their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdlite.control.scales import SCALES
from sdlite.engine import TensorSpec
from sdlite.ports import CHANNELS, RESIDUALS, ControlNetPort, UnetPort
from sdlite.types import Cond, Float32


@dataclass(frozen=True)
class Network:
    """An open control network and what it looks at."""

    port: ControlNetPort
    """The network."""
    hint: Float32
    """Its picture, ``(1, 3, height, width)``."""
    pooled: bool
    """Whether what it says is averaged over the picture."""


def residual_specs(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """What a U-Net's graph takes of control networks, from the finest to the middle."""

    def place(spec: TensorSpec) -> tuple[bool, int]:
        number = spec.name.removeprefix(RESIDUALS[0])
        return (False, int(number)) if number.isdigit() else (True, 0)

    return tuple(sorted((s for s in inputs if s.name.startswith(RESIDUALS)), key=place))


class ControlledUnet:
    """Called like a U-Net; what is said of several pictures is added up.

    Args:
        unet: a graph that takes what control networks say.
        networks: in the order of the scales.
        specs: what the graph takes of them, as the package describes it.
    """

    def __init__(
        self, unet: UnetPort, networks: Sequence[Network], specs: Sequence[TensorSpec]
    ) -> None:
        self._unet = unet
        self._networks = networks
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
        for index, network in enumerate(self._networks):
            items = np.flatnonzero(scales[:, index].any(axis=1))
            if not items.size:
                continue
            part = Cond(
                cond.context[items], {name: value[items] for name, value in cond.added.items()}
            )
            said = network.port.residuals(x[items], timestep[items], part, network.hint)
            for layer, spec in enumerate(self._specs):
                value = said[spec.name]
                if network.pooled:
                    mean = value.mean(axis=(2, 3), keepdims=True)
                    value = np.broadcast_to(mean, value.shape)
                value = value * scales[items, index, layer].reshape(-1, 1, 1, 1)
                if spec.name not in total:
                    total[spec.name] = np.zeros((len(x), *value.shape[1:]), np.float32)
                total[spec.name][items] += value
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
