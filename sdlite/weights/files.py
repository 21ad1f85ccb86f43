"""Open files of adapters: what they hold, who made them, and their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sdlite.errors import SourceCorrupt, SourceError
from sdlite.tensors.base import FLOATS, Tensors
from sdlite.tensors.pickle import open_pickle
from sdlite.tensors.safetensors import open_safetensors
from sdlite.types import Float32

SAFE = ".safetensors"
PICKLES = (".pt", ".ckpt", ".bin", ".pth")
IN_FOLDERS = ("adapter_model", "pytorch_lora_weights", "learned_embeds")
"""What PEFT and diffusers call their files in a folder."""
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class TensorFile:
    """A file of named tensors, opened."""

    path: Path
    """The file."""
    tensors: Tensors
    """What it holds."""
    metadata: Mapping[str, str]
    """Its own words about itself; not to be trusted."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """PEFT's settings beside or within it."""

    def read(self, key: str) -> Float32:
        """One tensor as float32; raises ``SourceCorrupt`` when it is not finite."""
        value = self.tensors.read(key).astype(np.float32, copy=False)
        if not np.isfinite(value).all():
            raise SourceCorrupt(
                f"{self.path.name}: tensor {key} holds numbers that are not finite; the training "
                "failed or the file is damaged"
            )
        return value


def open_tensor_file(path: Path) -> TensorFile:
    """Open an adapter's file, or the folder PEFT or diffusers saved it in.

    Pickles are read without being executed. Raises ``SourceError``.
    """
    path = _file_of(path)
    suffix = path.suffix.lower()
    if suffix == SAFE:
        opened = open_safetensors(path)
        return TensorFile(path, opened, opened.metadata, _config(path, opened.metadata))
    if suffix in PICKLES:
        return TensorFile(path, open_pickle(path), {}, _config(path, {}))
    raise SourceError(
        f"{path.name}: unknown kind of file {path.suffix!r}; adapters are {SAFE}, "
        f"{', '.join(PICKLES)}"
    )


def _file_of(path: Path) -> Path:
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a file of a LoRA or an embedding")
    if not path.is_dir():
        return path
    names = [stem + suffix for stem in IN_FOLDERS for suffix in (SAFE, ".bin")]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise SourceError(f"{path} has none of {', '.join(names)}; give the file itself")


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Settings diffusers writes into the file's header, or PEFT into a file beside it."""
    text: str | bytes | None = metadata.get("lora_adapter_metadata")
    where = f"{path.name}: lora_adapter_metadata"
    beside = path.with_name("adapter_config.json")
    if text is None and path.stem == "adapter_model" and beside.is_file():
        where = str(beside)
        if beside.stat().st_size > MAX_CONFIG_BYTES:
            raise SourceCorrupt(f"{where} is larger than {MAX_CONFIG_BYTES >> 20} MiB")
        text = beside.read_bytes()
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceCorrupt(f"{where} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def check_floats(file: TensorFile, key: str) -> None:
    """Raise ``SourceCorrupt`` for a tensor that is no weight."""
    dtype = file.tensors.infos()[key].dtype
    if dtype not in FLOATS:
        raise SourceCorrupt(f"{file.path.name}: tensor {key} holds {dtype}, not weights")


def short_hash(path: Path, whole: bool) -> str:
    """The 12 hexadecimal digits other programs tell a file by.

    Args:
        path: the file.
        whole: hash all of it, as A1111 does for embeddings; of a LoRA in ``.safetensors`` it
            hashes the tensors only, so that notes in the header do not change it.
    """
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns, whole)[:12]


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, time: int, whole: bool) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        if not whole and path.suffix.lower() == SAFE:
            length = int.from_bytes(stream.read(8), "little")
            stream.seek(8 + length)
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
