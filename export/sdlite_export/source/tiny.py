"""Read tiny autoencoders: TAESD's own files, and diffusers' ``AutoencoderTiny``.

TAESD's decoder counts its layers from 1, because there its first one is the soft limit; its encoder
counts from 0 as diffusers does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdlite.errors import SourceCorrupt, SourceError, UnknownFamily
from sdlite.tensors.base import TensorInfo
from sdlite_export.configs import TinyVaeConfig
from sdlite_export.source.adapter import Finite
from sdlite_export.source.checkpoint import SourceHash, SourceLicence
from sdlite_export.source.config_reader import ConfigReader
from sdlite_export.source.diffusers import weight_files
from sdlite_export.source.gather import Found, gather
from sdlite_export.source.ldm import open_tensors

PARTS = ("encoder", "decoder")
BARE = re.compile(r"\d{1,2}\.(conv\.[024]\.)?(weight|bias)")
"""A tensor's name in TAESD's files."""
NAMED = re.compile(r"(encoder|decoder)\.layers\.(\d{1,2})\.(?:conv\.(\d)\.)?(weight|bias)")
"""In diffusers' files."""
MAX_LEVELS = 6


@dataclass(frozen=True)
class TinySource:
    """A tiny autoencoder, or half of one; its tensors are still on disk."""

    name: str
    """File or folder name without its path and suffix."""
    configs: Mapping[str, TinyVaeConfig]
    """Numbers of ``encoder`` and ``decoder``, whichever there is."""
    tensors: Mapping[str, Finite]
    """Their weights, with diffusers' names."""
    licence: SourceLicence
    """Terms of use, as the source states them."""
    sha256: SourceHash
    """Hash over its weight files, when called."""


def is_tiny(path: Path) -> bool:
    """Whether a file or folder is a tiny autoencoder."""
    if path.is_dir():
        if (path / "model_index.json").exists():
            return False
        if (path / "config.json").is_file():
            return ConfigReader(path / "config.json").data.get("_class_name") == "AutoencoderTiny"
        return bool(_own_files(path))
    if not path.is_file() or path.suffix.lower() == ".onnx":
        return False
    try:
        names = open_tensors(path)[0].infos()
    except SourceError:
        return False
    return bool(names) and (_all(BARE, names) or _all(NAMED, names))


def open_tiny(path: Path) -> TinySource:
    """Describe a tiny autoencoder; no tensor is read.

    Args:
        path: a file of TAESD or of diffusers, a diffusers folder, or a folder with TAESD's files.

    Raises ``SourceError``: ``SourceCorrupt`` for a damaged file, ``UnknownFamily`` for what is no
    tiny autoencoder or one that works otherwise.
    """
    from sdlite_export.licence import file_licence, folder_licence

    if path.is_dir():
        if (path / "config.json").is_file():
            _check_config(path / "config.json")
            stem = "diffusion_pytorch_model"
            files = list(weight_files(path, stem, stem))
        else:
            files = _own_files(path)
        name, root, licence = path.resolve().name, path, folder_licence(path)
    else:
        metadata = open_tensors(path)[1]
        files, name, root = [path], path.stem, path.parent
        licence = file_licence(path, metadata)
    found: dict[str, Found] = {}
    for file in files:
        found |= _named(file)
    configs = {
        part: _derive(name, part, found)
        for part in PARTS
        if any(key.startswith(f"{part}.") for key in found)
    }
    if not configs:
        raise UnknownFamily(f"{path} holds no tiny autoencoder (TAESD)")
    parts = {}
    for part in configs:
        mine = {key: place for key, place in found.items() if key.startswith(f"{part}.")}
        # The shapes are compared with the architecture's when its graph is built.
        wanted = [(key, key, place.shape) for key, place in mine.items()]
        parts[part] = Finite(f"{name}, {part}", gather(f"{name}, {part}", wanted, mine))
    return TinySource(name, configs, parts, licence, SourceHash(root, tuple(files)))


def _own_files(folder: Path) -> list[Path]:
    """TAESD's two files in a folder that holds both, or one of them."""
    files = [file for part in PARTS for file in sorted(folder.glob(f"*{part}.safetensors"))]
    kinds = [file.stem.removesuffix(part) for file in files for part in PARTS]
    return files if files and len(files) <= len(PARTS) and len(set(kinds)) <= 3 else []


def _all(pattern: re.Pattern[str], names: Mapping[str, TensorInfo]) -> bool:
    return all(pattern.fullmatch(name) for name in names)


def _named(file: Path) -> dict[str, Found]:
    """A file's tensors by diffusers' names."""
    tensors = open_tensors(file)[0]
    names = tensors.infos()
    if names and _all(NAMED, names):
        return {name: Found(tensors, name) for name in names}
    if not names or not _all(BARE, names):
        raise UnknownFamily(f"{file.name} is no tiny autoencoder: its tensors are named otherwise")
    part, shift = ("encoder", 0) if "0.weight" in names else ("decoder", 1)
    found = {}
    for name in names:
        index, _, rest = name.partition(".")
        found[f"{part}.layers.{int(index) - shift}.{rest}"] = Found(tensors, name)
    return found


def _check_config(path: Path) -> None:
    """Refuse variants the architecture does not have."""
    data = ConfigReader(path).data
    plain = {
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "in_channels": 3,
        "out_channels": 3,
    }
    for key, usual in plain.items():
        if data.get(key, usual) != usual:
            raise UnknownFamily(
                f"{path}: a tiny autoencoder with {key} {data[key]!r}; known is {usual!r}"
            )


def _derive(where: str, part: str, found: Mapping[str, Found]) -> TinyVaeConfig:
    """Numbers of a half from its tensors' names and shapes."""
    layers: dict[int, str] = {}
    for key in found:
        match = NAMED.fullmatch(key)
        if match is not None and match[1] == part:
            layers[int(match[2])] = "block" if match[3] else "conv"
    order = [layers[index] for index in sorted(layers)]
    first = found.get(f"{part}.layers.0.weight")
    last = found.get(f"{part}.layers.{max(layers)}.weight")
    if first is None or last is None or len(first.shape) != 4 or len(last.shape) != 4:
        raise SourceCorrupt(f"{where}: the {part} does not begin and end with a convolution")
    blocks, count = [], 0
    for kind in order[1:]:
        if kind == "block":
            count += 1
        else:
            blocks.append(count)
            count = 0
    if not 1 <= len(blocks) <= MAX_LEVELS:
        raise UnknownFamily(f"{where}: a {part} of {len(blocks)} resolutions is no TAESD")
    if part == "encoder":
        return TinyVaeConfig(last.shape[0], first.shape[0], tuple(reversed(blocks)))
    return TinyVaeConfig(first.shape[1], first.shape[0], tuple(blocks))
