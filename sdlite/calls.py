"""A network called in pieces of as many items as memory has room for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from sdlite.types import Cond, Float32


class Predictor(Protocol):
    """What is called like a U-Net."""

    def predict(
        self,
        x: Float32,
        timestep: Float32,
        context: Float32,
        added: Mapping[str, Float32] | None = None,
    ) -> Float32:
        """Predict, see ``UnetPort``."""
        ...


def in_calls_of(most: int, port: Predictor) -> Callable[[Float32, Float32, Cond], Float32]:
    """The U-Net in calls of at most ``most`` items."""

    def predict(x: Float32, timestep: Float32, cond: Cond) -> Float32:
        if len(x) <= most:
            return port.predict(x, timestep, cond.context, cond.added)
        pieces = [slice(start, start + most) for start in range(0, len(x), most)]
        return np.concatenate([predict(x[p], timestep[p], cond.take(p)) for p in pieces])

    return predict
