"""The safety checker of a diffusers folder: its configuration and where its tensors lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdlite.errors import SourceCorrupt
from sdlite.tensors.base import Tensors
from sdlite.tensors.pickle import open_pickle
from sdlite.tensors.safetensors import open_safetensors
from sdlite_export.configs import SafetyConfig
from sdlite_export.source.checkpoint import Component
from sdlite_export.source.gather import Found, gather
from sdlite_export.source.layout import Shape
from sdlite_export.source.vision import read_vision, vision_slots

NAME = "safety_checker"
CONCEPTS, SPECIAL = "concept_embeds", "special_care_embeds"
DOUBLE = "vision_model.vision_model."


def read_safety(folder: Path, files: list[Path]) -> tuple[SafetyConfig, Component]:
    """The checker in ``folder``, whose weights are in ``files``; raises ``SourceError``."""
    vision = read_vision(folder / "config.json")
    found: dict[str, Found] = {}
    for path in files:
        tensors: Tensors
        tensors = open_safetensors(path) if path.suffix == ".safetensors" else open_pickle(path)
        for name in tensors.infos():
            if not name.endswith("position_ids"):
                found[_usual(name)] = Found(tensors, name)
    counts = [_rows(folder, found, name) for name in (SPECIAL, CONCEPTS)]
    config = SafetyConfig(vision, special=counts[0], concepts=counts[1])
    wanted = [(name, name, shape) for name, shape in safety_slots(config)]
    return config, gather(f"{folder.parent.name}/{NAME}", wanted, found)


def safety_slots(config: SafetyConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of a checker's tensors."""
    vision = config.vision
    yield from vision_slots(vision, DOUBLE.removesuffix("."))
    for name, count in ((SPECIAL, config.special), (CONCEPTS, config.concepts)):
        yield name, (count, vision.projection)
        yield f"{name}_weights", (count,)


def _usual(name: str) -> str:
    """Later versions of transformers left one of the two ``vision_model`` out."""
    if name.startswith("vision_model.") and not name.startswith(DOUBLE):
        return f"vision_model.{name}"
    return name


def _rows(folder: Path, found: dict[str, Found], name: str) -> int:
    shape = found[name].shape if name in found else ()
    if len(shape) != 2 or not 1 <= shape[0] <= 1000:
        raise SourceCorrupt(f"{folder}: {name} has shape {tuple(shape)}; it is no safety checker")
    return shape[0]
