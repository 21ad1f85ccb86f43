"""Which picture encoder looks for an IP-Adapter: one given, one a package has, one that lies beside
the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sdlite.adapterentry import IMAGE_ENCODER, kind_of
from sdlite.errors import RequestError
from sdlite.package import Package
from sdlite_export.architectures.clip_vision import image_encoder
from sdlite_export.architectures.ip_adapter import EMBEDS, STATES
from sdlite_export.configs import ClipVisionConfig, IPAdapterConfig
from sdlite_export.emit.components import Component
from sdlite_export.source.image_encoder import EncoderSource, open_encoder

BESIDE = "image_encoder"
"""Folder beside an adapter's file that usually holds its encoder."""
DIGITS = 12
"""Digits of a source's hash in the name of its component: the same encoder is stored once."""
PUBLISHED = {
    (True, 1024): "models/image_encoder of h94/IP-Adapter (ViT-H)",
    (False, 1280): "models/image_encoder of h94/IP-Adapter (ViT-H)",
    (True, 1280): "sdxl_models/image_encoder of h94/IP-Adapter (ViT-bigG)",
    (False, 1664): "sdxl_models/image_encoder of h94/IP-Adapter (ViT-bigG)",
}
"""Where encoders are found, by whether an adapter takes the pooled vector, and its width."""


@dataclass(frozen=True)
class ChosenEncoder:
    """What looks at pictures for an adapter."""

    component: str
    """Its component in the package."""
    source: EncoderSource | None
    """What it is made of; None where the package has it."""


def choose_encoder(
    name: str, config: IPAdapterConfig, package: Package, given: Path | None, near: Path
) -> ChosenEncoder:
    """The encoder of an adapter.

    Args:
        name: the adapter's, for messages.
        config: its numbers.
        package: where it is added.
        given: a folder with an encoder, which must fit.
        near: the adapter's file; a folder ``image_encoder`` beside it is looked at last.

    Raises:
        RequestError: none fits, or the one given does not.
        SourceError: the one given cannot be read.
    """
    there = [component for component in package.manifest.weights if _is_encoder(component)]
    if given is None:
        for component in there:
            if _own_width(package, component, config.pooled) == config.width:
                return ChosenEncoder(component, None)
        given = near.parent / BESIDE
        if not (given / "config.json").is_file():
            others = f"; those of {package.manifest.name} are of other widths" if there else ""
            raise RequestError(
                f"{name} needs an image encoder that gives {_needed(config)}{others}; give its "
                f"folder with --image-encoder{_hint(config)}"
            )
    source = open_encoder(given)
    width = source.config.projection if config.pooled else source.config.hidden_size
    if width != config.width:
        raise RequestError(
            f"{name} needs an image encoder that gives {_needed(config)}, {given} gives {width}; "
            f"give another with --image-encoder{_hint(config)}"
        )
    component = f"{IMAGE_ENCODER}/{source.sha256()[:DIGITS]}"
    return ChosenEncoder(component, None if component in there else source)


def encoder_component(name: str, config: ClipVisionConfig) -> Component:
    """The part of a package that an encoder becomes."""
    look = partial(image_encoder, config=config)
    return Component(name, name, lambda *_: None, ("plain", "segment"), look=look)


def _is_encoder(component: str) -> bool:
    return kind_of(component) == IMAGE_ENCODER


def _own_width(package: Package, component: str, pooled: bool) -> int | None:
    wanted = EMBEDS if pooled else STATES
    for artifact in package.find(component, "plain"):
        for spec in artifact.outputs:
            if spec.name == wanted and isinstance(spec.shape[-1], int):
                return spec.shape[-1]
    return None


def _needed(config: IPAdapterConfig) -> str:
    what = "a pooled vector" if config.pooled else "states"
    return f"{what} of {config.width} channels"


def _hint(config: IPAdapterConfig) -> str:
    known = PUBLISHED.get((config.pooled, config.width))
    return f": {known}" if known else ""
