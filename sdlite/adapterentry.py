"""What ``sdlite.json`` says of networks that were added to a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sdlite.errors import PackageInvalid, UnknownName

CONTROL = "control"
"""Ends the variant of a U-Net graph that takes what ControlNets and T2I-Adapters say:
``plain+control``."""
IMAGE = "image"
"""Ends the variant of one that takes an image prompt, what IP-Adapters make of pictures:
``plain+image``, ``plain+control+image``."""
EXTENSIONS = {"controlnet": CONTROL, "t2i-adapter": CONTROL, "ip-adapter": IMAGE}
"""What each kind of adapter needs of the U-Net."""
IMAGE_ENCODER = "image-encoder"
"""Begins the name of a component that looks at pictures for IP-Adapters, a part of its source's
hash follows."""


@dataclass(frozen=True)
class AdapterEntry:
    """Something added to the model that has graphs and weights of its own."""

    name: str
    """What it is called in requests."""
    kind: Literal["controlnet", "t2i-adapter", "ip-adapter"]
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
    encoder: str = ""
    """Of an IP-Adapter, the component that looks at pictures for it."""


def kind_of(component: str) -> str:
    """What kind of adapter a component is by its name; of others the whole name."""
    return component.partition("/")[0]


def extension_of(components: Collection[str]) -> str:
    """How the variant of a U-Net graph ends that takes what some components say: ``+control``,
    ``+image``, ``+control+image`` or nothing."""
    needed = {EXTENSIONS.get(kind_of(component)) for component in components}
    return "".join(f"+{extension}" for extension in (CONTROL, IMAGE) if extension in needed)


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
        if bool(entry.encoder) != (entry.kind == "ip-adapter"):
            raise PackageInvalid(
                f"{where}: adapter {entry.name!r} is a {entry.kind} "
                f"{'with' if entry.encoder else 'without'} an image encoder"
            )
        if entry.encoder and (
            entry.encoder not in components or kind_of(entry.encoder) != IMAGE_ENCODER
        ):
            raise PackageInvalid(
                f"{where}: adapter {entry.name!r} has no image encoder under {entry.encoder!r}"
            )
