"""Textual inversions as they lie in files: vectors for a word, for one or two text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdlite.errors import RequestError, UnknownFamily
from sdlite.package import Package
from sdlite.tensors.base import Tensors, short
from sdlite.tensors.pickle import open_nested
from sdlite.tensors.safetensors import open_safetensors
from sdlite.types import Float32
from sdlite.weights.files import PICKLES, SAFE, TensorFile, check_floats
from sdlite.weights.lora import check_replaceable

TABLE = "text_model.embeddings.token_embedding.weight"
"""A text encoder's token embeddings."""
BY_ENCODER = {
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "text_encoders_0": "text_encoder",
    "text_encoders_1": "text_encoder_2",
}
"""Names trainers give the vectors of SDXL's two encoders."""
ANONYMOUS = ("emb_params", "string_to_param.*")
"""Names that say nothing of the word."""


@dataclass(frozen=True)
class Embedding:
    """A word with vectors of its own, opened."""

    file: TensorFile
    """The file."""
    name: str
    """What stands for it in a prompt, as in A1111: the file's name."""
    token: str | None
    """What the file itself calls it, e.g. ``<cat-toy>`` (diffusers)."""
    keys: Mapping[str, str]
    """The file's keys by text encoder; ``""`` where the file does not say which."""

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Vectors and their width by key."""
        infos = self.file.tensors.infos()
        return {
            part: (infos[key].count // infos[key].shape[-1], infos[key].shape[-1])
            for part, key in self.keys.items()
        }

    def keys_for(self, package: Package) -> dict[str, str]:
        """The key for each text encoder of a package.

        Raises ``RequestError`` when the vectors do not have the widths of the package's encoders,
        or these take none.
        """
        check_replaceable(package, "embeddings")
        widths, found = self.widths, {}
        encoders = {
            name: weights.tensors[TABLE].shape[1]
            for name, weights in package.manifest.weights.items()
            if TABLE in weights.tensors
        }
        for encoder, width in encoders.items():
            for part in (encoder, ""):
                if part in widths and widths[part][1] == width and encoder not in found:
                    found[encoder] = self.keys[part]
        if found.keys() != encoders.keys() or not found:
            has = " and ".join(str(width) for _, width in widths.values())
            needs = " and ".join(map(str, encoders.values())) or "none"
            raise RequestError(
                f"{self.file.path.name} has vectors {has} wide; the text encoders of "
                f"{package.manifest.name} ({package.manifest.family}) take {needs}: it was made "
                "for another family"
            )
        return found

    def read(self, key: str) -> Float32:
        """The vectors of a key, float32 ``(n, width)``; raises ``SourceCorrupt``."""
        value = self.file.read(key)
        return value.reshape(-1, value.shape[-1])


def open_embedding(path: Path) -> Embedding:
    """Open a textual inversion; pickles are read without being executed.

    Raises:
        UnknownFamily: the file holds something else.
        SourceError: it cannot be read.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        for name in (f"learned_embeds{SAFE}", "learned_embeds.bin"):
            if (path / name).is_file():
                return _described(path / name, path.name)
        raise UnknownFamily(f"{path} has no learned_embeds{SAFE}; give the embedding's file")
    if suffix != SAFE and suffix not in PICKLES:
        raise UnknownFamily(
            f"{path.name}: unknown kind of file {path.suffix!r}; embeddings are {SAFE}, "
            f"{', '.join(PICKLES)}"
        )
    return _described(path, path.stem)


def _described(path: Path, name: str) -> Embedding:
    tensors: Tensors = open_safetensors(path) if path.suffix.lower() == SAFE else open_nested(path)
    file = TensorFile(path, tensors, {})
    infos = tensors.infos()
    keys = {BY_ENCODER[key]: key for key in infos if key in BY_ENCODER}
    token = None
    if not keys:
        one = [key for key in infos if key in ANONYMOUS]
        if not one and len(infos) == 1:
            one = list(infos)
            token = one[0]
        keys = {"": one[0]} if one else {}
    if not keys or not all(len(infos[key].shape) in (1, 2) for key in keys.values()):
        raise UnknownFamily(
            f"{path.name} is no textual inversion: its tensors are {short(infos, 3)}; known are "
            "those of A1111, diffusers and SDXL's clip_l with clip_g"
        )
    if not all(0 not in infos[key].shape for key in keys.values()):
        raise UnknownFamily(f"{path.name} holds no vectors")
    for key in keys.values():
        check_floats(file, key)
    return Embedding(file, name, token, keys)
