"""Another autoencoder than the package's own: its weights in the place of the package's.

The graphs stay: a VAE file holds the same tensors as the package's, under diffusers' names or LDM's
(CompVis' latent-diffusion), alone or inside a whole checkpoint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdlite.errors import RequestError, SourceError
from sdlite.manifest import TensorEntry
from sdlite.package import Package
from sdlite.tensors.base import Tensors
from sdlite.tensors.pickle import open_pickle
from sdlite.tensors.safetensors import open_safetensors
from sdlite.types import Array
from sdlite.weightfile import own_tensors
from sdlite.weights.stored import source_shape, store_tensor

COMPONENTS = ("vae_decoder", "vae_encoder")
PREFIXES = ("first_stage_model.", "vae.", "")
"""Where an autoencoder lies: in an LDM checkpoint, in one with diffusers' names, alone."""
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
BLOCK = re.compile(r"(encoder|decoder)\.(down|up)\.(\d{1,2})\.(block\.(\d{1,2})|\w+)\.(.+)")
PARTS = {
    "block_1": "resnets.0",
    "block_2": "resnets.1",
    "attn_1": "attentions.0",
    "norm_out": "conv_norm_out",
    "nin_shortcut": "conv_shortcut",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    # Diffusers before 0.17 called the attention's tensors so.
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


@dataclass(frozen=True)
class Vae:
    """An autoencoder's file, checked against a package; no weight is read yet."""

    name: str
    """Its name without suffix."""
    sha256: str
    """Hash of the file."""
    tensors: Tensors
    """What the file holds."""
    names: Mapping[str, str]
    """Names in the file by diffusers' names."""

    def weights(self, package: Package, component: str) -> dict[str, Array]:
        """Tensors of a component in the dtype and layout of the package's graphs.

        Raises:
            SourceError: a weight does not fit the package's precision, or the file has changed.
        """
        found: dict[str, Array] = {}
        for name, entry in own_tensors(package.weight_file(component)).items():
            array = self.tensors.read(self.names[name]).reshape(source_shape(entry))
            try:
                found |= store_tensor(
                    package, component, name, array.astype(np.float32), change=False
                )
            except SourceError as error:
                raise SourceError(
                    f"{self.name}: tensor {self.names[name]} has values beyond {entry.dtype}, "
                    "which the package's graphs take; export the model with --precision fp32"
                ) from error
        return found

    @property
    def fields(self) -> dict[str, str]:
        """What A1111 writes into pictures about it."""
        return {"VAE hash": self.sha256[:10], "VAE": self.name}


def open_vae(path: Path, package: Package) -> Vae:
    """Open a VAE for a package: a file, or a diffusers folder of one.

    Raises:
        SourceError: it cannot be read.
        RequestError: it is no autoencoder like the package's; says what differs.
    """
    path = Path(path)
    if path.is_dir():
        inner = [path / f"diffusion_pytorch_model{part}.safetensors" for part in ("", ".fp16")]
        there = [item for item in inner if item.is_file()]
        if not there:
            raise SourceError(f"{path} holds no {inner[0].name}; give a VAE's file or folder")
        name, path = path.resolve().name, there[0]
    else:
        name = path.stem
    if not path.is_file():
        raise SourceError(f"{path} does not exist; give a VAE's file or folder")
    if path.suffix.lower() not in SUFFIXES:
        raise SourceError(
            f"{path.name}: unknown kind of file; a VAE is one of {', '.join(SUFFIXES)}"
        )
    tensors = open_safetensors(path) if path.suffix == ".safetensors" else open_pickle(path)
    names = _names(tensors)
    wanted: dict[str, TensorEntry] = {}
    for component in COMPONENTS:
        if component in package.manifest.weights:
            wanted |= own_tensors(package.weight_file(component))
    if not wanted:
        raise RequestError(
            f"{package.manifest.name} keeps its weights inside its graphs, so its VAE cannot be "
            "replaced; export the model with sdlite"
        )
    missing = [key for key in wanted if key not in names]
    if missing:
        raise RequestError(
            f"{path.name} is no autoencoder like that of {package.manifest.name}: it lacks "
            f"{len(missing)} of {len(wanted)} tensors, e.g. {missing[0]}"
        )
    for key, entry in wanted.items():
        shape = tensors.infos()[names[key]].shape
        if _bare(shape) != _bare(source_shape(entry)):
            raise RequestError(
                f"{path.name} is no autoencoder like that of {package.manifest.name}: tensor "
                f"{names[key]} has shape {list(shape)}, {list(source_shape(entry))} was expected"
            )
    return Vae(name, _hash(path), tensors, names)


def _names(tensors: Tensors) -> dict[str, str]:
    infos = tensors.infos()
    prefix = next(
        prefix
        for prefix in PREFIXES
        if not prefix or any(name.startswith(f"{prefix}decoder.") for name in infos)
    )
    inner = [name.removeprefix(prefix) for name in infos if name.startswith(prefix)]
    levels = 1 + max((int(m[3]) for name in inner if (m := BLOCK.fullmatch(name))), default=0)
    return {diffusers_name(name, levels): prefix + name for name in inner}


def diffusers_name(name: str, levels: int) -> str:
    """Diffusers' name of an autoencoder's tensor; LDM counts decoder levels from the finest."""
    match = BLOCK.fullmatch(name)
    if match:
        half, way, level, part, layer, rest = match.groups()
        number = int(level) if way == "down" else levels - 1 - int(level)
        inner = f"resnets.{layer}" if layer else f"{part}rs.0"
        tail = rest.replace("nin_shortcut", "conv_shortcut")
        return f"{half}.{way}_blocks.{number}.{inner}.{tail}"
    pieces = name.split(".")
    if "mid" in pieces:
        pieces[pieces.index("mid")] = "mid_block"
    if "attn_1" in pieces:
        pieces = ["group_norm" if piece == "norm" else piece for piece in pieces]
    return ".".join(PARTS.get(piece, piece) for piece in pieces)


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without trailing ones: a 1x1 convolution and a linear layer hold the same."""
    end = len(shape)
    while end and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(1 << 22):
                digest.update(piece)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()
