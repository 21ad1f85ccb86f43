"""Pictures whose opposite edges fit each other: the graph variant ``seamless`` and its input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from sdlite.engine import Session, TensorSpec
from sdlite.types import Array

VARIANT = "seamless"
COMPONENTS = frozenset({"unet", "vae_encoder", "vae_decoder"})
"""What works on pictures, and so has edges."""
WRAP = "wrap"
"""Input ``(2,)``: how much of each edge goes on at the opposite one, down and across."""


class SeamlessSession:
    """A session of a seamless graph that looks like one of the usual graph.

    Args:
        session: of the variant ``seamless``.
        tiling: ``x``, ``y`` or ``xy``: along which axes edges fit.
    """

    def __init__(self, session: Session, tiling: str) -> None:
        self._session = session
        self._wrap = np.array(["y" in tiling, "x" in tiling], np.float32)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the usual graph takes."""
        return tuple(spec for spec in self._session.inputs if spec.name != WRAP)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph gives."""
        return self._session.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        return self._session.run({**inputs, WRAP: self._wrap})

    def close(self) -> None:
        """Close the session itself."""
        self._session.close()


@contextmanager
def with_edges(
    opened: AbstractContextManager[Session], component: str, tiling: str
) -> Iterator[Session]:
    """A component's session, its edges fitting along the axes of ``tiling``, which may be none."""
    with opened as session:
        fits = tiling and component in COMPONENTS
        yield SeamlessSession(session, tiling) if fits else session
