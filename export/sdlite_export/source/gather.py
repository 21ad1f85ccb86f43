"""Match what a file holds with what an architecture needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite.tensors.base import FLOATS, Tensors, short
from sdlite_export.source.checkpoint import Component, Place
from sdlite_export.source.layout import Shape

SUPPORTED = "Stable Diffusion 1.x, 2.x and XL"
"""What this version exports, for messages."""


@dataclass(frozen=True)
class Found:
    """A tensor of a file under the name it is looked up by."""

    source: Tensors
    """The file."""
    name: str
    """Its name in the file."""
    part: int = 0
    """Which of several equal parts of the first axis it is."""
    parts: int = 1
    """How many."""
    transposed: bool = False
    """Whether the file holds the transposed matrix."""

    @property
    def shape(self) -> Shape:
        """Shape of what is meant."""
        shape = self.source.infos()[self.name].shape
        if self.parts > 1 and shape:
            # A remainder is no shape of anything and so is told apart from every shape wanted.
            rows = shape[0] // self.parts if shape[0] % self.parts == 0 else -1
            shape = (rows, *shape[1:])
        return shape[::-1] if self.transposed else shape


def gather(
    what: str, wanted: Iterable[tuple[str, str, Shape]], found: Mapping[str, Found]
) -> Component:
    """Make a component of the tensors found.

    Args:
        what: file and component, to start messages with.
        wanted: final name, name to look up, and shape of every tensor the architecture has.
        found: what there is, by the name to look up.

    Raises ``SourceCorrupt`` when tensors are missing or misshapen, ``UnknownFamily`` when there are
    some that the architecture does not have.
    """
    places: dict[str, Place] = {}
    missing: list[str] = []
    used: set[str] = set()
    for name, key, shape in wanted:
        if key not in found:
            missing.append(key)
            continue
        used.add(key)
        place = found[key]
        info = place.source.infos()[place.name]
        if _bare(place.shape) != _bare(shape):
            joined = f" for each of {place.parts} joined" if place.parts > 1 else ""
            wanted_shape = shape[::-1] if place.transposed else shape
            raise SourceCorrupt(
                f"{what}: tensor {place.name} has shape {list(info.shape)}, "
                f"{list(wanted_shape)} was expected{joined}"
            )
        if info.dtype not in FLOATS:
            raise SourceCorrupt(f"{what}: tensor {place.name} holds {info.dtype}, not weights")
        places[name] = Place(
            place.source, place.name, shape, place.part, place.parts, place.transposed
        )
    if missing:
        raise SourceCorrupt(
            f"{what}: {len(missing)} of {len(missing) + len(used)} tensors are missing: "
            f"{short(missing)}; the file is incomplete"
        )
    extra = set(found) - used
    if extra:
        raise UnknownFamily(
            f"{what}: {len(extra)} tensors that no model of {SUPPORTED} has: {short(extra)}; "
            "this is a different model family"
        )
    return Component(places)


def _bare(shape: Shape) -> Shape:
    """A shape without its trailing ones: a 1x1 convolution and a linear layer hold the same."""
    end = len(shape)
    while end and shape[end - 1] == 1:
        end -= 1
    return shape[:end]
