"""Match what a file holds with what an architecture needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite_export.source.checkpoint import FLOATS, Component, Place, Tensors, short
from sdlite_export.source.layout import Shape

SUPPORTED = "Stable Diffusion 1.x (text to image)"
"""What this version exports, for messages."""


@dataclass(frozen=True)
class Found:
    """A tensor of a file under the name it is looked up by."""

    source: Tensors
    """The file."""
    name: str
    """Its name in the file."""


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
        if _bare(info.shape) != _bare(shape):
            raise SourceCorrupt(
                f"{what}: tensor {place.name} has shape {list(info.shape)}, "
                f"{list(shape)} was expected"
            )
        if info.dtype not in FLOATS:
            raise SourceCorrupt(f"{what}: tensor {place.name} holds {info.dtype}, not weights")
        places[name] = Place(place.source, place.name, shape)
    if missing:
        raise SourceCorrupt(
            f"{what}: {len(missing)} of {len(missing) + len(used)} tensors are missing: "
            f"{short(missing)}; the file is incomplete"
        )
    extra = set(found) - used
    if extra:
        raise UnknownFamily(
            f"{what}: {len(extra)} tensors that {SUPPORTED} does not have: {short(extra)}; "
            "this is a different model family"
        )
    return Component(places)


def _bare(shape: Shape) -> Shape:
    """A shape without its trailing ones: a 1x1 convolution and a linear layer hold the same."""
    end = len(shape)
    while end and shape[end - 1] == 1:
        end -= 1
    return shape[:end]
