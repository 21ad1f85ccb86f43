"""Open the folders other tools make as they are, as a package that exists only in memory.

Known: folders of optimum (``optimum-cli export onnx``) and of diffusers'
``OnnxStableDiffusionPipeline``: ``model_index.json`` and one folder a component with ``model.onnx``
in it; of optimum-intel (``optimum-cli export openvino``), which have ``openvino_model.xml`` and
``openvino_model.bin`` there; and Apple's Core ML resources (``sdlite.applefolder``). What the
graphs take and give is read from the files, not assumed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sdlite import __version__
from sdlite.engine import FileEntry
from sdlite.errors import PackageInvalid, PackageMissing, UnknownFamily
from sdlite.foreigngraphs import artifact_of, find_graphs, format_at, read_graph, weights_of
from sdlite.manifest import (
    MANIFEST,
    MAX_TOKENS,
    MAX_TRAIN_STEPS,
    VERSION,
    Defaults,
    LatentSpace,
    Licence,
    Manifest,
    NoiseTable,
    Source,
    Tokenizer,
)
from sdlite.onnxfile import GraphFile
from sdlite.package import Package, hash_file
from sdlite.ports import bind

Name = TypeVar("Name")

INDEX = "model_index.json"
COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
NEEDED = 3
"""So many of them must be there; without the encoder there is no editing."""
ROLES = ("noisy", "timestep", "context")
"""What a U-Net of this family takes, and nothing else."""
PREDICTIONS: dict[str, Literal["epsilon", "v_prediction"]] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
}
BETAS: dict[str, Literal["scaled_linear", "linear"]] = {
    "scaled_linear": "scaled_linear",
    "linear": "linear",
}
MAX_JSON_BYTES = 64 << 20
MAX_CARD_BYTES = 16384
"""Of a model card only this much is read; its header comes first."""
MAX_CELLS = 1024
"""Most latent cells a side that a folder may name as its usual size."""
MAX_CHANNELS = 64
MAX_LEVELS = 7
"""Most resolutions of an autoencoder: each halves the picture, and latents of 1/64 are enough."""
MAX_SCALE = 100.0
MAX_TOKEN = 1 << 31


@dataclass(frozen=True)
class ForeignPackage(Package):
    """A folder of another tool: it has no hashes, and its files may be links into a cache."""

    def path(self, relative: str) -> Path:
        """Absolute path of a file; only names that ``open_foreign`` found are asked for."""
        return self.root / relative

    def verify(self, progress: Callable[[int], object] | None = None) -> None:
        """Check that every file is there; the folder records no hashes to compare with."""
        for entry in self.files():
            if not self.path(entry.path).is_file():
                raise PackageMissing(f"{self.path(entry.path)} is missing")


def is_foreign(path: Path) -> bool:
    """Whether a folder is a pipeline of another tool; one that cannot be read is none."""
    from sdlite.applefolder import is_apple

    try:
        graphs = (path / INDEX).is_file() and format_at(path) is not None
        return not (path / MANIFEST).exists() and (graphs or is_apple(path))
    except OSError:
        return False


def open_foreign(path: Path) -> Package:
    """Open a pipeline of optimum, optimum-intel or diffusers, or Core ML resources of Apple's.

    Reads its small files and the tables of its graphs, no weights.

    Raises:
        PackageMissing: a part is not there.
        PackageInvalid: a part cannot be read, or does not say what it must.
        UnknownFamily: a pipeline sdlite cannot run; says what it saw.
    """
    from sdlite.applefolder import is_apple, open_apple

    try:
        return open_apple(path) if is_apple(path) else _open(path)
    except OSError as error:
        raise PackageInvalid(
            f"{error.filename or path} cannot be read: {error.strerror or error}"
        ) from error


def _open(path: Path) -> Package:
    index = _json(path / INDEX)
    kind = str(index.get("_class_name", "no class name"))
    format, graphs = find_graphs(path, COMPONENTS, NEEDED)
    files = {name: read_graph(graph) for name, graph in graphs.items()}
    _check_family(path, kind, files["unet"])
    noise, prediction = _scheduler(path)
    latent = _latent(path, files["unet"])
    artifacts = tuple(artifact_of(path, name, graphs[name], file) for name, file in files.items())
    manifest = Manifest(
        version=VERSION,
        reader=1,
        name=path.resolve().name,
        family="sd1",
        prediction=prediction,
        noise=noise,
        latent=latent,
        tokenizers=(_tokenizer(path),),
        defaults=_defaults(path, latent, files["unet"]),
        licence=Licence(_licence(path)),
        source=Source(format, f"{path.resolve().name} ({kind})", ""),
        exporter=__version__,
        artifacts=artifacts,
        weights=weights_of(graphs, files),
    )
    return ForeignPackage(path, manifest)


def _check_family(path: Path, kind: str, unet: GraphFile) -> None:
    known = {spec.name for role in ROLES if (spec := bind(unet.inputs, role)) is not None}
    others = sorted(spec.name for spec in unet.inputs if spec.name not in known)
    reason = ""
    if len(known) != len(ROLES):
        reason = f"its U-Net takes {', '.join(spec.name for spec in unet.inputs)}"
    elif others:
        reason = f"its U-Net also takes {', '.join(others)}"
    elif (path / "text_encoder_2").is_dir():
        reason = "it has two text encoders"
    if reason:
        raise UnknownFamily(
            f"{path} is a {kind}, which this version of sdlite cannot run ({reason}); "
            "it runs Stable Diffusion 1.x pipelines"
        )


def _scheduler(path: Path) -> tuple[NoiseTable, Literal["epsilon", "v_prediction"]]:
    where = path / "scheduler" / "scheduler_config.json"
    config = _json(where)
    prediction = _one_of(where, config, "prediction_type", PREDICTIONS, "epsilon")
    betas = _one_of(where, config, "beta_schedule", BETAS, "linear")
    start, end = (
        _number(where, config, "beta_start", 1e-4),
        _number(where, config, "beta_end", 0.02),
    )
    steps = _whole(where, config, "num_train_timesteps", 1000, MAX_TRAIN_STEPS)
    if not 0 < start <= end < 1:
        raise PackageInvalid(f"{where}: betas from {start} to {end} are not rising in 0..1")
    return NoiseTable(betas, start, end, steps), prediction


def _latent(path: Path, unet: GraphFile) -> LatentSpace:
    places = [path / name / "config.json" for name in ("vae_decoder", "vae", "vae_encoder")]
    where = next((place for place in places if place.is_file()), None)
    config = _json(where) if where is not None else {}
    label = where or path
    scale = _number(label, config, "scaling_factor", 0.18215)
    blocks = config.get("block_out_channels", [0] * 4)
    if not 0 < scale < MAX_SCALE:
        raise PackageInvalid(f"{label}: scaling_factor {scale} is not between 0 and {MAX_SCALE}")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= MAX_LEVELS:
        raise PackageInvalid(f"{label}: block_out_channels is no list of 1 to {MAX_LEVELS} sizes")
    sample = bind(unet.inputs, "noisy")
    stated = sample.shape[1] if sample is not None and len(sample.shape) == 4 else None
    channels = _whole(label, config, "latent_channels", 4, MAX_CHANNELS)
    if isinstance(stated, int) and stated != channels:
        raise UnknownFamily(
            f"{path}: its U-Net takes {stated} channels, its latents have {channels}; "
            "inpainting and editing models are not supported"
        )
    return LatentSpace(channels, 2 ** (len(blocks) - 1), scale)


def _defaults(path: Path, latent: LatentSpace, unet: GraphFile) -> Defaults:
    sample = bind(unet.inputs, "noisy")
    cells = sample.shape[2:] if sample is not None else ()
    sides = [side for side in cells if isinstance(side, int)]
    if len(sides) == len(cells) == 2:
        height, width = sides
        if not 1 <= min(sides) <= max(sides) <= MAX_CELLS:
            raise PackageInvalid(f"{path}: its U-Net takes latents of {width}x{height} cells")
        return Defaults(width * latent.factor, height * latent.factor)
    where = path / "unet" / "config.json"
    size = _whole(where, _optional(where), "sample_size", 64, MAX_CELLS)
    return Defaults(size * latent.factor, size * latent.factor)


def _tokenizer(path: Path) -> Tokenizer:
    folder = path / "tokenizer"
    pair: tuple[Path, ...] = (folder / "vocab.json", folder / "merges.txt")
    whole = folder / "tokenizer.json"
    if all(item.is_file() for item in pair):
        used, vocabulary = pair, _json(pair[0])
    elif whole.is_file():
        used, vocabulary = (whole,), _whole_vocabulary(whole)
    else:
        raise PackageMissing(f"{folder} has neither vocab.json with merges.txt nor tokenizer.json")
    settings = _optional(folder / "tokenizer_config.json")
    special = settings | _optional(folder / "special_tokens_map.json")
    length = settings.get("model_max_length", 77)
    if not isinstance(length, int) or not 3 <= length <= MAX_TOKENS:
        length = 77  # some files carry a huge placeholder

    def token(key: str, usual: str) -> int:
        value = special.get(key) or usual
        text = value.get("content") if isinstance(value, dict) else value
        number = vocabulary.get(text) if isinstance(text, str) else None
        if isinstance(number, bool) or not isinstance(number, int):
            raise PackageInvalid(f"{folder}: {key} {text!r} is not in the vocabulary")
        if not 0 <= number < MAX_TOKEN:
            raise PackageInvalid(f"{folder}: {key} {text!r} has the number {number}")
        return number

    entries = tuple(
        FileEntry(f"tokenizer/{item.name}", item.stat().st_size, hash_file(item)) for item in used
    )
    end = token("eos_token", "<|endoftext|>")
    begin, pad = token("bos_token", "<|startoftext|>"), token("pad_token", "<|endoftext|>")
    return Tokenizer("tokenizer", "clip", entries, length, begin, end, pad)


def _whole_vocabulary(path: Path) -> dict[str, Any]:
    data = _json(path)
    try:
        vocabulary: dict[str, Any] = dict(data["model"]["vocab"])
        vocabulary |= {item["content"]: item["id"] for item in data.get("added_tokens") or []}
    except (KeyError, TypeError, ValueError) as error:
        raise PackageInvalid(f"{path} holds no vocabulary of a CLIP tokenizer") from error
    return vocabulary


def _licence(path: Path) -> str:
    """What the model card's header says."""
    try:
        with (path / "README.md").open("rb") as stream:
            card = stream.read(MAX_CARD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return "unknown"
    found = re.search(
        r"\A---\s.*?^license:\s*([\w.+-]+)\s*$.*?^---", card, re.DOTALL | re.MULTILINE
    )
    return found.group(1) if found else "unknown"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PackageMissing(f"{path} is missing")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise PackageInvalid(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PackageInvalid(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise PackageInvalid(f"{path} is not a JSON object")
    return data


def _optional(path: Path) -> dict[str, Any]:
    return _json(path) if path.is_file() else {}


def _number(where: Path, config: Mapping[str, Any], key: str, usual: float) -> float:
    """A finite number; what is not one could otherwise be told only by the pictures."""
    value = config.get(key)
    if value is None:
        return usual
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if isinstance(value, bool) or not math.isfinite(number):
        raise PackageInvalid(f"{where}: {key} {_shown(value)} is not a finite number")
    return number


def _whole(where: Path, config: Mapping[str, Any], key: str, usual: int, most: int) -> int:
    number = _number(where, config, key, usual)
    if number != int(number) or not 1 <= number <= most:
        raise PackageInvalid(
            f"{where}: {key} {_shown(config.get(key))} is not a whole number from 1 to {most}"
        )
    return int(number)


def _one_of(
    where: Path, config: Mapping[str, Any], key: str, names: Mapping[str, Name], usual: str
) -> Name:
    value = config.get(key, usual)
    if not isinstance(value, str) or value not in names:
        raise PackageInvalid(f"{where}: {key} {_shown(value)} is not {' or '.join(names)}")
    return names[value]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
