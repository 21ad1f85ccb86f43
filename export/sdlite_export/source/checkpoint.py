"""What every source reader gives: a checkpoint described, its tensors read one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from sdlite.errors import SourceCorrupt, SourceError
from sdlite.manifest import Defaults, LatentSpace, LowRes, NoiseTable
from sdlite.tensors.base import TensorInfo, Tensors
from sdlite.types import Array
from sdlite_export.configs import ClipTextConfig, SafetyConfig, UnetConfig, VaeConfig

Task: TypeAlias = Literal["text", "inpaint", "edit", "upscale"]
Prediction: TypeAlias = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class TokenizerFiles:
    """A CLIP tokenizer as files, and the numbers around it."""

    files: Mapping[str, bytes]
    """``vocab.json`` and ``merges.txt``, or ``tokenizer.json``."""
    length: int
    """Tokens of one chunk, begin and end included."""
    bos: int
    """Id of the begin token."""
    eos: int
    """Id of the end token."""
    pad: int
    """Id that fills the chunk."""


@dataclass(frozen=True)
class SourceLicence:
    """What a source says about its use."""

    id: str = "unknown"
    """SPDX or hub identifier; ``unknown`` when the source states none."""
    text: str | None = None
    """The licence text, when the source had one."""


@dataclass(frozen=True)
class SourceHash:
    """SHA-256 over a source's weight files, computed when called.

    One file: the file's own hash, the one model sites and other programs show. Several: the hash
    of lines ``<sha256>  <relative path>`` in the order of their paths.
    """

    root: Path
    """Folder the paths are relative to."""
    files: tuple[Path, ...]
    """The weight files."""

    @property
    def size(self) -> int:
        """Bytes that a call reads."""
        return sum(path.stat().st_size for path in self.files)

    def __call__(self, progress: Callable[[int], object] | None = None) -> str:
        """Hash; ``progress`` gets the bytes just read and may raise to stop. Hexadecimal."""
        hashes = {}
        for path in self.files:
            digest = hashlib.sha256()
            try:
                with path.open("rb") as stream:
                    while piece := stream.read(1 << 22):
                        digest.update(piece)
                        if progress is not None:
                            progress(len(piece))
            except OSError as error:
                raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
            hashes[path.relative_to(self.root).as_posix()] = digest.hexdigest()
        if len(hashes) == 1:
            return next(iter(hashes.values()))
        lines = "".join(f"{value}  {name}\n" for name, value in sorted(hashes.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be exported: numbers, names, and tensors still on disk."""

    name: str
    """File or folder name without its path and suffix."""
    kind: Literal["diffusers", "single-file", "ckpt"]
    """What was opened."""
    family: str
    """``sd1``, ``sd2``, ``sdxl`` or ``sdxl-refiner``."""
    task: Task
    """What the U-Net is given beside the latents."""
    prediction: Prediction
    """What the U-Net predicts."""
    text: Mapping[str, ClipTextConfig]
    """The text encoders, ``text_encoder`` and ``text_encoder_2``, in that order."""
    unet: UnetConfig
    """The U-Net."""
    vae: VaeConfig
    """The autoencoder."""
    tensors: Mapping[str, Tensors]
    """By text encoder, and ``unet`` and ``vae``, with diffusers' and transformers' names."""
    tokenizers: Mapping[str, TokenizerFiles]
    """The tokenizers by text encoder."""
    noise: NoiseTable
    """The forward process."""
    latent: LatentSpace
    """The latents."""
    defaults: Defaults
    """What a request that leaves things open gets."""
    licence: SourceLicence
    """Terms of use, as the source states them."""
    sha256: SourceHash
    """Hash over the source's weight files, when called."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Free text the file carries about itself; not to be trusted."""
    notes: tuple[str, ...] = ()
    """Decisions of the reader that a user may want to know."""
    safety: SafetyConfig | None = None
    """The safety checker, tensors ``safety_checker``; None when there is none."""
    force_zeros_for_empty_prompt: bool = False
    """Whether an empty negative prompt means zeros."""
    low_res: LowRes | None = None
    """Of upscalers: the noise the small picture is shown with."""


@dataclass(frozen=True)
class Place:
    """Where a component's tensor comes from."""

    source: Tensors
    """The file that holds it."""
    name: str
    """Its name there."""
    shape: tuple[int, ...]
    """Shape it is given; the same elements in the same order."""
    part: int = 0
    """Which of several equal parts of the first axis it is, where the file joins tensors."""
    parts: int = 1
    """How many."""
    transposed: bool = False
    """Whether the file holds the transposed matrix."""

    @property
    def info(self) -> TensorInfo:
        """Shape here, and how it is stored."""
        stored = self.source.infos()[self.name]
        return replace(stored, shape=self.shape, packed_bytes=stored.packed_bytes // self.parts)


@dataclass(frozen=True)
class Component:
    """Tensors gathered from one or several files under the names a component wants.

    ``read`` gives float16 as stored and everything else as float32.
    """

    places: Mapping[str, Place]
    """Where each tensor comes from, by its new name."""

    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor's shape here and dtype on disk."""
        return {name: place.info for name, place in self.places.items()}

    def read(self, name: str) -> Array:
        """Read one tensor, float16 or float32; raises ``SourceCorrupt`` when it is not there."""
        if name not in self.places:
            raise SourceCorrupt(f"the checkpoint has no tensor {name!r}")
        place = self.places[name]
        array = place.source.read(place.name)
        if place.parts > 1:
            array = np.split(array, place.parts)[place.part].copy()
        array = (array.T if place.transposed else array).reshape(place.shape)
        if array.dtype not in (np.float16, np.float32):
            array = array.astype(np.float32)
        return array
