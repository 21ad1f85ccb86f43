"""What ``sdlite.json`` says of networks that were added to a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sdlite.errors import PackageInvalid, UnknownName

CONTROL = "control"
"""Ends the variant of a U-Net graph that takes what ControlNets and T2I-Adapters say:
``plain+control``."""


@dataclass(frozen=True)
class AdapterEntry:
    """Something added to the model that has graphs and weights of its own."""

    name: str
    """What it is called in requests."""
    kind: Literal["controlnet", "t2i-adapter"]
    """What it is."""
    component: str
    """Its component, ``KIND/NAME``."""
    source: str
    """File or folder it was made from, without its path."""
    sha256: str
    """Hash over the source's weight files."""
    licence: str = "unknown"
    """SPDX or hub identifier; ``unknown`` when the source states none."""
    pooled: bool = False
    """Whether what a ControlNet says is averaged over the picture."""


def find_adapter(entries: Sequence[AdapterEntry], name: str) -> AdapterEntry:
    """An adapter by its name, capitals or not; raises ``UnknownName``."""
    for entry in entries:
        if entry.name.casefold() == name.casefold():
            return entry
    raise UnknownName("adapter", name, [entry.name for entry in entries])


def check_adapters(
    where: str, entries: Sequence[AdapterEntry], components: Collection[str]
) -> None:
    """What types cannot say: names apart, graphs there; raises ``PackageInvalid``."""
    seen = set()
    for entry in entries:
        if entry.name.casefold() in seen:
            raise PackageInvalid(f"{where}: two adapters are called {entry.name!r}")
        seen.add(entry.name.casefold())
        if entry.component not in components or "/" not in entry.component:
            raise PackageInvalid(
                f"{where}: adapter {entry.name!r} has no graphs under {entry.component!r}"
            )
