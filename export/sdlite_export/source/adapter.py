"""Read what is added to a model: ControlNets, T2I-Adapters and IP-Adapters, as diffusers has them
and as their authors do.

A folder has a ``config.json``; of a single file all numbers are derived from the tensors' shapes.
An original ControlNet has LDM's names under ``control_model.``, also inside a whole checkpoint; an
original T2I-Adapter numbers its ResNets through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from sdlite.errors import SourceError, UnknownFamily
from sdlite.tensors.base import TensorInfo, Tensors
from sdlite.tensors.pickle import open_nested
from sdlite.tensors.safetensors import SafetensorsFile, open_safetensors
from sdlite.types import Array
from sdlite_export.configs import ControlNetConfig, IPAdapterConfig, T2IAdapterConfig
from sdlite_export.source.checkpoint import Component, SourceHash, SourceLicence
from sdlite_export.source.config_reader import ConfigReader
from sdlite_export.source.diffusers import weight_files
from sdlite_export.source.diffusers_unet import read_controlnet
from sdlite_export.source.gather import Found, gather
from sdlite_export.source.ip_adapter import derive_ip_adapter, ip_adapter_slots, is_ip_adapter
from sdlite_export.source.layout import Slot, controlnet_slots, t2i_slots
from sdlite_export.source.ldm import open_tensors, prefixes
from sdlite_export.source.ldm_config import MAX_LEVELS, Lookup, derive_unet
from sdlite_export.source.t2i import derive_t2i, read_t2i

Kind: TypeAlias = Literal["controlnet", "t2i-adapter", "ip-adapter"]
Config: TypeAlias = ControlNetConfig | T2IAdapterConfig | IPAdapterConfig

LDM_PREFIX = "control_model."
LDM_MARK = "input_hint_block.0.weight"
DIFFUSERS_MARK = "controlnet_cond_embedding.conv_in.weight"
T2I_MARKS = ("adapter.body.0.resnets.0.block1.weight", "body.0.block1.weight")
"""What tells a T2I-Adapter, in diffusers' names and in the original ones."""
LIGHT_MARK = "body.0.body.0.block1.weight"
"""What tells a light one in the original names."""
KNOWN = (
    "ControlNets and T2I-Adapters as diffusers folders or files, or in their original layouts; "
    "IP-Adapters as files"
)
"""What can be added, for messages."""
OTHERS = (
    ("lora_controlnet", "a Control-LoRA, whose weights are differences from a U-Net"),
    ("task_embedding", "a ControlNet-Union"),
    ("control_add_embedding.", "a ControlNet-Union"),
    ("lora_unet_", "a LoRA; no export is needed, draw with --lora FILE"),
    ("lora_te", "a LoRA; no export is needed, draw with --lora FILE"),
    ("emb_params", "a textual inversion; no export is needed, draw with --embedding FILE"),
    ("string_to_param", "a textual inversion; no export is needed, draw with --embedding FILE"),
    ("model.diffusion_model.", "a whole model; export it without --for"),
    ("first_stage_model.", "a whole model; export it without --for"),
)
"""Starts of tensor names that tell other kinds of file, surest first."""


@dataclass(frozen=True)
class AdapterSource:
    """An adapter that can be added to a package; its tensors are still on disk."""

    kind: Kind
    """What it is."""
    name: str
    """File or folder name without its path and suffix."""
    source: Literal["diffusers", "single-file", "ckpt"]
    """What was opened."""
    config: Config
    """Its numbers."""
    tensors: Tensors
    """Its weights, with diffusers' names; an IP-Adapter's with those of its file."""
    licence: SourceLicence
    """Terms of use, as the source states them."""
    sha256: SourceHash
    """Hash over its weight files, when called."""


class Finite:
    """Tensors that are checked as they are read."""

    def __init__(self, where: str, tensors: Tensors) -> None:
        self._where = where
        self._tensors = tensors

    def infos(self) -> dict[str, TensorInfo]:
        """Every tensor's shape and dtype, by name."""
        return dict(self._tensors.infos())

    def read(self, name: str) -> Array:
        """Read one; raises ``SourceError`` when some of it is no number."""
        array = self._tensors.read(name)
        if not np.isfinite(array).all():
            raise SourceError(
                f"{self._where}: tensor {name} has values that are no finite numbers; "
                "the file is damaged, get it again"
            )
        return array


def open_adapter(path: Path) -> AdapterSource:
    """Describe an adapter; no tensor is read.

    Raises ``SourceError``: ``SourceCorrupt`` for a damaged file, ``SourceHostile`` for one that
    would execute code, ``UnknownFamily`` for a kind or layout that is not known, saying what was
    seen.
    """
    if not path.exists():
        raise SourceError(f"{path} does not exist; give an adapter's file or diffusers folder")
    return _from_folder(path) if path.is_dir() else _from_file(path)


def _from_folder(folder: Path) -> AdapterSource:
    from sdlite_export.licence import folder_licence

    if (folder / "model_index.json").is_file():
        raise UnknownFamily(f"{folder} is a whole model; export it without --for")
    where = folder / "config.json"
    name = ConfigReader(where).data.get("_class_name")
    kind: Kind
    config: Config
    if name == "ControlNetModel":
        kind, config = "controlnet", read_controlnet(where)
        slots = controlnet_slots(config)
    elif name == "T2IAdapter":
        kind, config = "t2i-adapter", read_t2i(where)
        slots = t2i_slots(config)
    else:
        raise UnknownFamily(f"{folder}: {name!r} cannot be added to a package; known: {KNOWN}")
    files = weight_files(folder, "diffusion_pytorch_model", "diffusion_pytorch_model")
    found: dict[str, Found] = {}
    for file in files:
        tensors = open_tensors(file)[0]
        found |= {name: Found(tensors, name) for name in tensors.infos()}
    return AdapterSource(
        kind,
        folder.resolve().name,
        "diffusers",
        config,
        _gather(folder.name, slots, found, lambda slot: slot.name),
        folder_licence(folder),
        SourceHash(folder, tuple(files)),
    )


def _from_file(path: Path) -> AdapterSource:
    from sdlite_export.licence import file_licence

    image_prompt = _ip_adapter(path)
    if image_prompt is not None:
        return image_prompt
    tensors, metadata, kind = open_tensors(path)
    names = tensors.infos()
    inside = any(name.startswith(LDM_PREFIX) for name in names)
    prefix = LDM_PREFIX if inside else ""
    found = {
        name.removeprefix(prefix): Found(tensors, name) for name in names if name.startswith(prefix)
    }
    odd = next((label for start, label in OTHERS if any(n.startswith(start) for n in found)), None)
    t2i = any(mark in found for mark in (*T2I_MARKS, LIGHT_MARK))
    if odd is not None or not (t2i or LDM_MARK in found or DIFFUSERS_MARK in found):
        told = f"this is {odd}" if odd else "not a known kind of adapter"
        raise UnknownFamily(
            f"{path.name}: {told} (tensor names start with {', '.join(prefixes(names))}). "
            f"Can be added: {KNOWN}"
        )
    original = not (DIFFUSERS_MARK in found or T2I_MARKS[0] in found)
    lookup = Lookup(found, naming="ldm" if original else "diffusers")
    config: Config
    if t2i:
        config = derive_t2i(path.name, lookup)
        slots = t2i_slots(config)
    else:
        unet = derive_unet(path.name, lookup, whole=False)
        config = ControlNetConfig(unet, _embedding(path.name, lookup, original))
        slots = controlnet_slots(config)
    place: Callable[[Slot], str] = (lambda s: s.ldm) if original else (lambda s: s.name)
    return AdapterSource(
        "t2i-adapter" if t2i else "controlnet",
        path.stem,
        kind,
        config,
        _gather(path.name, slots, found, place),
        file_licence(path, metadata),
        SourceHash(path.parent, (path,)),
    )


def _ip_adapter(path: Path) -> AdapterSource | None:
    """The same of an IP-Adapter; None when the file is none."""
    from sdlite_export.licence import file_licence

    safe = path.suffix.lower() == ".safetensors"
    tensors = open_safetensors(path) if safe else open_nested(path)
    if not is_ip_adapter(tensors.infos()):
        return None
    found = {name: Found(tensors, name) for name in tensors.infos()}
    config = derive_ip_adapter(path.name, found)
    wanted = [(name, name, shape) for name, shape in ip_adapter_slots(config)]
    return AdapterSource(
        "ip-adapter",
        path.stem,
        "single-file" if safe else "ckpt",
        config,
        Finite(path.name, gather(path.name, wanted, found)),
        file_licence(path, tensors.metadata if isinstance(tensors, SafetensorsFile) else {}),
        SourceHash(path.parent, (path,)),
    )


def _embedding(where: str, lookup: Lookup, original: bool) -> tuple[int, ...]:
    """Channels of the convolutions that shrink the picture, every second one.

    The original layout numbers them together with the activations between.
    """
    names = ["input_hint_block.0.weight" if original else DIFFUSERS_MARK]
    while len(names) < MAX_LEVELS and lookup.shape(names[-1]) is not None:
        index = 2 * len(names) - 1
        inner = f"controlnet_cond_embedding.blocks.{index}.weight"
        names.append(f"input_hint_block.{2 * index + 2}.weight" if original else inner)
    return tuple(lookup.size(where, name) for name in names[:-1])


def _gather(
    where: str, slots: Iterable[Slot], found: dict[str, Found], place: Callable[[Slot], str]
) -> Tensors:
    wanted = [(slot.name, place(slot), slot.shape) for slot in slots]
    component: Component = gather(where, wanted, found)
    return Finite(where, component)
