"""Read a picture encoder that IP-Adapters look with: CLIP's, with its projection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdlite.errors import SourceError, UnknownFamily
from sdlite.tensors.base import Tensors
from sdlite_export.architectures.clip_vision import ENCODER
from sdlite_export.configs import ClipVisionConfig
from sdlite_export.licence import folder_licence
from sdlite_export.source.adapter import Finite
from sdlite_export.source.checkpoint import SourceHash, SourceLicence
from sdlite_export.source.diffusers import weight_files
from sdlite_export.source.gather import Found, gather
from sdlite_export.source.ldm import open_tensors
from sdlite_export.source.vision import read_vision, vision_slots

IGNORED = ("position_ids", "logit_scale")
TEXT = ("text_model.", "text_projection.")
"""Of a whole CLIP, what reads text."""


@dataclass(frozen=True)
class EncoderSource:
    """A picture encoder that can be added to a package; its tensors are still on disk."""

    name: str
    """Folder name without its path."""
    config: ClipVisionConfig
    """Its numbers."""
    tensors: Tensors
    """Its weights, with transformers' names."""
    licence: SourceLicence
    """Terms of use, as the source states them."""
    sha256: SourceHash
    """Hash over its weight files, when called."""


def open_encoder(folder: Path) -> EncoderSource:
    """Describe a picture encoder in transformers' layout; no tensor is read.

    ``folder`` has a ``config.json`` and weights, of the encoder (``CLIPVisionModelWithProjection``)
    or of a whole CLIP. Raises ``SourceError`` where it cannot be read or is something else.
    """
    if not (folder / "config.json").is_file():
        raise SourceError(
            f"{folder} is no image encoder: it has no config.json; give the folder with "
            "config.json and model.safetensors, e.g. models/image_encoder of h94/IP-Adapter"
        )
    config = read_vision(folder / "config.json")
    files = weight_files(folder, "model", "pytorch_model")
    found: dict[str, Found] = {}
    for file in files:
        tensors = open_tensors(file)[0]
        for name in tensors.infos():
            if not name.endswith(IGNORED) and not name.startswith(TEXT):
                found[name] = Found(tensors, name)
    if "visual_projection.weight" not in found:
        raise UnknownFamily(
            f"{folder} has no visual_projection.weight: it is no CLIP image encoder with its "
            "projection; give that of h94/IP-Adapter or a model made like it"
        )
    wanted = [(name, name, shape) for name, shape in vision_slots(config, ENCODER)]
    return EncoderSource(
        folder.resolve().name,
        config,
        Finite(folder.name, gather(str(folder), wanted, found)),
        folder_licence(folder),
        SourceHash(folder, tuple(files)),
    )
