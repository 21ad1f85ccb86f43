"""What ``sdlite.json`` says, as frozen dataclasses, and the reader that refuses everything else.

docs/package.md is the specification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from sdlite import schema
from sdlite.adapterentry import AdapterEntry, check_adapters
from sdlite.engine import Artifact
from sdlite.engine import FileEntry as FileEntry
from sdlite.errors import PackageInvalid, PackageMissing, PackageTooNew
from sdlite.weightfile import Calibration as Calibration
from sdlite.weightfile import Layer as Layer
from sdlite.weightfile import TensorEntry as TensorEntry
from sdlite.weightfile import WeightFile as WeightFile
from sdlite.weightfile import check_layers, check_tensors

MANIFEST = "sdlite.json"
VERSION = 5
"""Package version this reader writes; it reads all versions up to it."""
MAX_MANIFEST_BYTES = 16 << 20
MAX_PATH_CHARACTERS = 200
MAX_TRAIN_STEPS = 100_000
MAX_TOKENS = 4096
FAMILIES = ("sd1", "sd2", "sdxl", "sdxl-refiner")
"""Model families this reader draws."""
TINY_DECODER = "tiny_decoder"
"""Component of a decoder that is small and fast; it takes latents as the U-Net gives them."""
DOWNSAMPLED = "+downsampled"
"""End of the variants of a U-Net whose finest self-attentions see a quarter of their tokens."""
LATENT_PORTS = {
    ("unet", "sample"),
    ("vae_decoder", "latent_sample"),
    (TINY_DECODER, "latent_sample"),
}
"""Inputs that take latents, by component."""
PATH_REFUSED = re.compile(r"[\\:\x00-\x1f\ud800-\udfff]")
"""Separators of other systems, drive letters, control characters, halves of characters."""


@dataclass(frozen=True)
class NoiseTable:
    """The forward process the model was trained with."""

    kind: Literal["scaled_linear", "linear"]
    """How betas run from first to last."""
    beta_start: float
    """First beta."""
    beta_end: float
    """Last beta."""
    train_steps: int
    """Number of timesteps."""
    zero_terminal_snr: bool = False
    """Whether the betas are rescaled so that the last timestep is pure noise (Lin et al. 2024)."""


@dataclass(frozen=True)
class LatentSpace:
    """The autoencoder's latents."""

    channels: int
    """Channels of a latent picture."""
    factor: int
    """Pixels per latent cell, each way."""
    scale: float
    """Latents = scale * autoencoder mean."""
    preview: tuple[tuple[float, ...], ...] = ()
    """Linear map to RGB in -1..1: three numbers a channel, then the bias; empty when unknown."""
    force_upcast: bool = False
    """Whether the autoencoder's activations leave float16's range, so that it runs in float32."""


@dataclass(frozen=True)
class LowRes:
    """What the U-Net of an upscaler sees of the small picture: it with noise, and how much."""

    noise: NoiseTable
    """The forward process of that noise."""
    most: int
    """Highest noise level it was trained with, a timestep of that process."""
    level: int = 20
    """Noise level of requests that leave it open."""


@dataclass(frozen=True)
class Tokenizer:
    """One tokenizer: files and the numbers around them."""

    name: str
    """``tokenizer`` or ``tokenizer_2``."""
    kind: Literal["clip"]
    """How text is cut into tokens."""
    files: tuple[FileEntry, ...]
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
class Defaults:
    """What a request that leaves things open gets."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    steps: int = 20
    """Intervals of the schedule."""
    guidance: float = 7.0
    """Guidance scale."""
    sampler: str = "DPM++ 2M"
    """A1111's name."""
    schedule: str = "Automatic"
    """A1111's label."""
    guidance_rescale: float = 0.0
    """How much of the guided estimate's contrast is set back (Lin et al. 2024), 0 to 1."""


@dataclass(frozen=True)
class Licence:
    """What the source says about its use."""

    id: str
    """SPDX or hub identifier; ``unknown`` when the source states none."""
    file: FileEntry | None = None
    """The licence text, when the source had one."""


@dataclass(frozen=True)
class Source:
    """What was exported."""

    kind: str
    """``diffusers``, ``single-file`` ..."""
    name: str
    """File or folder name, without its path."""
    sha256: str
    """Hash over the source's weight files."""


@dataclass(frozen=True)
class Parity:
    """Largest difference from the reference, found when the package was made."""

    component: str
    """Which component."""
    variant: str
    """Which graph variant."""
    reference: str
    """What it was compared with, and where."""
    max_abs: float
    """Largest absolute error, in units of the reference output's standard deviation."""


@dataclass(frozen=True)
class Manifest:
    """Everything ``sdlite.json`` says."""

    version: int
    """Package version it was written as."""
    reader: int
    """Least reader version that understands it."""
    name: str
    """Model name."""
    family: str
    """``sd1``, ``sd2``, ``sdxl`` or ``sdxl-refiner``."""
    prediction: Literal["epsilon", "v_prediction"]
    """What the U-Net predicts."""
    noise: NoiseTable
    """Forward process."""
    latent: LatentSpace
    """Latents."""
    tokenizers: tuple[Tokenizer, ...]
    """In the order of the text encoders."""
    defaults: Defaults
    """For open requests."""
    licence: Licence
    """Terms of use."""
    source: Source
    """Where it came from."""
    exporter: str
    """Version of sdlite that wrote it."""
    artifacts: tuple[Artifact, ...]
    """Graphs."""
    weights: Mapping[str, WeightFile] = field(default_factory=dict)
    """Weight files by component."""
    parity: tuple[Parity, ...] = ()
    """Measured differences."""
    task: Literal["text", "inpaint", "edit", "upscale"] = "text"
    """What the U-Net sees beside the latents: nothing; a mask and the masked picture's latents
    (inpainting); a picture's latents (instruct-pix2pix); a small picture, a pixel for each cell
    (upscalers)."""
    force_zeros_for_empty_prompt: bool = False
    """Whether an empty negative prompt is zeros instead of the encoders' answer to it (SDXL)."""
    adapters: tuple[AdapterEntry, ...] = ()
    """What was added to it."""
    calibration: Calibration | None = None
    """Of packages with 8-bit activations: what their ranges were read from."""
    low_res: LowRes | None = None
    """Of upscalers: the noise the small picture is shown with."""


def safe_path(root: Path, relative: str) -> Path:
    """Join ``relative`` to ``root``; raises ``PackageInvalid`` when it would leave the folder."""
    pure = PurePosixPath(relative)
    plain = 0 < len(relative) <= MAX_PATH_CHARACTERS and not PATH_REFUSED.search(relative)
    if not plain or pure.is_absolute() or ".." in pure.parts or str(pure) != relative:
        raise PackageInvalid(f"path {relative!r} is not a plain path inside the package")
    path = root / pure
    if not path.resolve().is_relative_to(root.resolve()):
        raise PackageInvalid(f"path {relative!r} leads outside the package")
    return path


def read_manifest(root: Path) -> Manifest:
    """Read and check ``sdlite.json`` alone; raises ``PackageError``."""
    path = root / MANIFEST
    if not path.is_file():
        raise PackageMissing(f"{root} is no package: it has no {MANIFEST}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise PackageInvalid(f"{path} is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PackageInvalid(f"{path} is not JSON: {error}") from error
    needs = data.get("reader") if isinstance(data, dict) else None
    if isinstance(needs, int) and needs > VERSION:
        raise PackageTooNew(
            f"{path} needs package reader {needs}, this sdlite reads up to {VERSION}; update sdlite"
        )
    try:
        manifest = schema.decode(Manifest, data)
    except schema.SchemaError as error:
        raise PackageInvalid(f"{path}: {error}") from error
    check_manifest(root, manifest)
    return manifest


def check_manifest(root: Path, manifest: Manifest) -> None:
    """What types cannot say: paths inside, offsets inside and apart, numbers sensible."""
    where = root / MANIFEST
    if manifest.family not in FAMILIES:
        raise PackageInvalid(
            f"{where}: model family {manifest.family!r} is not one this sdlite draws "
            f"({', '.join(FAMILIES)}); a later version may"
        )
    if not manifest.artifacts:
        raise PackageInvalid(f"{where}: no artifacts")
    if not manifest.tokenizers:
        raise PackageInvalid(f"{where}: no tokenizer")
    _check_distinct(where, manifest.artifacts)
    paths = {weights.file.path for weights in manifest.weights.values()}
    for artifact in manifest.artifacts:
        for path in (artifact.graph, *(entry.path for entry in artifact.files)):
            safe_path(root, path)
        if artifact.weights is not None and artifact.weights not in paths:
            raise PackageInvalid(
                f"{where}: graph {artifact.graph} refers to {artifact.weights}, "
                "which is no weight file of this package"
            )
    for component, weights in manifest.weights.items():
        safe_path(root, weights.file.path)
        check_tensors(f"{where}: {component}", weights)
        check_layers(f"{where}: {component}", weights)
    for tokenizer in manifest.tokenizers:
        for entry in tokenizer.files:
            safe_path(root, entry.path)
    _check_numbers(where, manifest)
    components = {artifact.component for artifact in manifest.artifacts}
    check_adapters(str(where), manifest.adapters, components)
    rows = manifest.latent.preview
    if rows and [len(row) for row in rows] != [3] * (manifest.latent.channels + 1):
        raise PackageInvalid(
            f"{where}: the preview map is not three numbers for each of "
            f"{manifest.latent.channels} channels and the bias"
        )


def _check_low_res(where: Path, manifest: Manifest) -> None:
    low_res = manifest.low_res
    if (low_res is None) != (manifest.task != "upscale"):
        raise PackageInvalid(f"{where}: task {manifest.task}, but low_res is {low_res}")
    if low_res is not None and not 0 <= low_res.level <= low_res.most < low_res.noise.train_steps:
        raise PackageInvalid(f"{where}: noise levels of the small picture {low_res} make no sense")


def _check_numbers(where: Path, manifest: Manifest) -> None:
    latent, defaults = manifest.latent, manifest.defaults
    tables = [manifest.noise] + ([manifest.low_res.noise] if manifest.low_res else [])
    for noise in tables:
        betas = 0 < noise.beta_start <= noise.beta_end < 1
        if not betas or not 1 <= noise.train_steps <= MAX_TRAIN_STEPS:
            raise PackageInvalid(f"{where}: noise table {noise} makes no sense")
    _check_low_res(where, manifest)
    if latent.scale <= 0 or not 1 <= latent.channels <= 64 or not 1 <= latent.factor <= 64:
        raise PackageInvalid(f"{where}: latent space {latent} makes no sense")
    extras = {"text": 0, "edit": latent.channels, "inpaint": latent.channels + 1, "upscale": 3}
    extra = extras[manifest.task]
    for artifact in manifest.artifacts:
        for port in artifact.inputs:
            latents = (artifact.component, port.name) in LATENT_PORTS and len(port.shape) == 4
            channels = latent.channels + (extra if artifact.component == "unet" else 0)
            if latents and port.shape[1] not in (channels, "channels"):
                raise PackageInvalid(
                    f"{where}: graph {artifact.graph} takes {port.shape[1]} latent channels, "
                    f"the latent space has {latent.channels} and task {manifest.task} "
                    f"needs {channels}"
                )
    for tokenizer in manifest.tokenizers:
        ids = min(tokenizer.bos, tokenizer.eos, tokenizer.pad)
        if not 3 <= tokenizer.length <= MAX_TOKENS or ids < 0:
            raise PackageInvalid(f"{where}: tokenizer {tokenizer.name!r} makes no sense")
    sides = defaults.width % latent.factor == 0 == defaults.height % latent.factor
    rescale = 0 <= defaults.guidance_rescale <= 1
    if not sides or not rescale or min(defaults.width, defaults.height, defaults.steps) < 1:
        raise PackageInvalid(f"{where}: defaults {defaults} make no sense")


def _check_distinct(where: Path, artifacts: Sequence[Artifact]) -> None:
    seen = set()
    for artifact in artifacts:
        what = (artifact.component, artifact.format, artifact.variant, artifact.precision)
        if (*what, artifact.index) in seen:
            raise PackageInvalid(f"{where}: two artifacts are {' '.join(what)} {artifact.index}")
        seen.add((*what, artifact.index))
        if min(artifact.index, artifact.activation_bytes, artifact.widened_bytes) < 0:
            raise PackageInvalid(f"{where}: artifact {artifact.graph} has a negative number")


def least_reader(manifest: Manifest) -> int:
    """The least package version whose readers understand a manifest.

    Version 2 added families but ``sd1``; version 3 adapters, graphs of several files and weights in
    8 bits; version 4 IP-Adapters; version 5 upscalers; and all of them every field of theirs that
    ``schema.encode`` leaves out at its default.
    """
    if manifest.task == "upscale":
        return 5
    if any(entry.encoder for entry in manifest.adapters):
        return 4
    if any(weights.layers for weights in manifest.weights.values()):
        return 3
    later = (
        manifest.family != "sd1",
        manifest.noise.zero_terminal_snr,
        manifest.latent.force_upcast,
        manifest.defaults.guidance_rescale != 0.0,
        manifest.task != "text",
        manifest.force_zeros_for_empty_prompt,
    )
    if manifest.adapters or any(artifact.files for artifact in manifest.artifacts):
        return 3
    return 2 if any(later) else 1


def dump_manifest(manifest: Manifest) -> str:
    """The text of ``sdlite.json``."""
    return json.dumps(schema.encode(manifest), indent=1, ensure_ascii=False) + "\n"
