"""LoRA and its relatives as they lie in a file, matched with the layers of a package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from sdlite.errors import RequestError, SourceCorrupt, UnknownFamily
from sdlite.package import Package
from sdlite.tensors.base import short
from sdlite.weights.files import TensorFile, check_floats
from sdlite.weights.kinds import VECTORS, Kind, Misfit, check, kind_of, rank_of
from sdlite.weights.names import COMPONENTS, Names, Target, split_key

WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""What a U-Net's cross-attention reads, by family."""
FOREIGN = (
    ("double_blocks", "FLUX"),
    ("single_transformer_blocks", "FLUX"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("oft_blocks", "OFT, which is not read"),
    ("oft_diag", "OFT, which is not read"),
    ("hypernet", "a hypernetwork, which is not read"),
    ("emb_params", "a textual inversion: use it as an embedding"),
    ("string_to_param", "a textual inversion: use it as an embedding"),
    ("clip_l", "a textual inversion: use it as an embedding"),
    ("model.diffusion_model.input_blocks.0.0.weight", "a whole checkpoint: export it"),
    ("conv_in.weight", "a whole U-Net"),
    ("controlnet", "a ControlNet"),
    ("control_model", "a ControlNet"),
)
"""What in tensor names tells other kinds of files."""


@dataclass(frozen=True)
class Layer:
    """What a file has for one layer."""

    target: Target
    """Which layer."""
    kind: Kind
    """How it is made."""
    keys: Mapping[str, str]
    """The file's keys by parameter."""
    shape: tuple[int, ...]
    """Of the layer's weight in the state dict, ``(out, in, ...)``."""
    scale: float | None
    """Alpha over rank where the settings say it; None leaves it to the file's ``alpha``."""


@dataclass(frozen=True)
class Adapter:
    """A file matched with a package."""

    file: TensorFile
    """The file."""
    layers: tuple[Layer, ...]
    """What applies."""
    unmatched: tuple[str, ...]
    """Keys that mean nothing in this package, sorted."""
    notes: tuple[str, ...]
    """What the user should know."""


def layer_shape(package: Package, target: Target) -> tuple[int, ...] | None:
    """Shape of a layer's weight in the state dict; None when it has none."""
    entry = package.manifest.weights[target.component].tensors.get(f"{target.module}.weight")
    if entry is None:
        return None
    return entry.shape[::-1] if entry.layout == "transposed" else entry.shape


def check_replaceable(package: Package, what: str) -> None:
    """Raise ``RequestError`` for a package of Core ML programs: their weights stay as they are."""
    manifest = package.manifest
    if not manifest.weights and any(a.format == "coreml" for a in manifest.artifacts):
        raise RequestError(
            f"{manifest.name} holds Core ML programs, which are compiled with their weights, so "
            f"{what} cannot be added to them; merge LoRAs into the ONNX package of the model with "
            "sdlite bake, or draw with that package"
        )


def names_of(package: Package) -> Names:
    """Names of a package's layers.

    Raises ``RequestError`` for a folder of another program, whose tensors have no known names, and
    for a package of programs that are compiled with their weights.
    """
    weights = package.manifest.weights
    check_replaceable(package, "LoRAs")
    if "unet" not in weights:
        raise RequestError(
            f"{package.manifest.name} says nothing about its weights, so nothing can be added to "
            "them; make a package of the original model with sdlite export"
        )
    return Names({name: weights[name].tensors for name in COMPONENTS if name in weights})


def match(file: TensorFile, package: Package, names: Names) -> Adapter:
    """Find the layers a file's keys mean.

    Raises:
        UnknownFamily: the file is no adapter of a known layout.
        RequestError: it was made for a model of another family or size.
        SourceCorrupt: its factors do not fit together.
    """
    infos = file.tensors.infos()
    stems: dict[str, dict[str, str]] = {}
    unmatched: list[str] = []
    for key in infos:
        parsed = split_key(key)
        if parsed is None:
            unmatched.append(key)
        else:
            stems.setdefault(parsed[0], {})[parsed[1]] = key
    layers: list[Layer] = []
    misfits: list[str] = []
    recognised = 0
    for stem, keys in stems.items():
        kind = kind_of(frozenset(keys))
        target = names.find(stem)
        recognised += kind is not None
        shape = None if target is None else layer_shape(package, target)
        if kind is None or target is None or shape is None:
            _check_whole(file, stem, keys, kind)
            unmatched += keys.values()
            continue
        if f"{target.module}.bias" not in package.manifest.weights[target.component].tensors:
            unmatched += [keys.pop(name) for name in VECTORS & keys.keys()]
        for name, key in keys.items():
            if name != "on_input":
                check_floats(file, key)
        shapes = {name: infos[key].shape for name, key in keys.items()}
        try:
            fits = check(kind, shapes, shape)
        except Misfit as error:
            raise SourceCorrupt(f"{file.path.name}: {stem}: {error}") from error
        if not fits:
            seen = ", ".join(f"{name} {list(value)}" for name, value in sorted(shapes.items()))
            misfits.append(f"{stem} has {seen} for a layer of {list(shape)}")
        scale = _scale(file.config, target, rank_of(shapes))
        layers.append(Layer(target, kind, keys, shape, scale))
    if not recognised:
        raise UnknownFamily(f"{file.path.name}: {_seen(list(infos))}")
    if misfits or not layers:
        raise RequestError(_foreign(file, package, stems, misfits))
    notes = []
    if unmatched:
        notes.append(
            f"{file.path.name}: {len(unmatched)} of {len(infos)} tensors belong to no layer of "
            f"this model and are left out: {short(unmatched)}"
        )
    return Adapter(file, tuple(layers), tuple(sorted(unmatched)), tuple(notes))


def _check_whole(file: TensorFile, stem: str, keys: Mapping[str, str], kind: Kind | None) -> None:
    """A half of a pair without the other is damage, not another model's layer."""
    for one, other in (("up", "down"), ("down", "up")):
        if kind is None and one in keys and other not in keys:
            raise SourceCorrupt(
                f"{file.path.name}: {stem} has {one} without {other}; the file is incomplete, "
                "get it again"
            )


def _scale(config: Mapping[str, Any], target: Target, rank: int | None) -> float | None:
    """Alpha over rank by PEFT's settings; diffusers puts the component before their names."""
    start = f"{target.component}."
    chosen = {
        key.removeprefix(start): value
        for key, value in config.items()
        if key.startswith(start) or "." not in key
    }
    alpha, whole = chosen.get("lora_alpha", chosen.get("alpha")), chosen.get("r")
    for pattern, value in _mapping(chosen.get("alpha_pattern")).items():
        if target.module == pattern or target.module.endswith(f".{pattern}"):
            alpha = value
    if not _number(alpha):
        return None
    divisor = rank or (whole if _number(whole) else 0)
    if divisor < 1:
        return None
    return float(alpha) / (math.sqrt(divisor) if chosen.get("use_rslora") is True else divisor)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _seen(keys: list[str]) -> str:
    for mark, what in FOREIGN:
        if any(mark in key for key in keys):
            return f"this looks like {what}; its tensors are {short(keys, 2)}"
    return (
        f"no LoRA of a known layout: its tensors are {short(keys, 3)}; known are those of kohya, "
        "diffusers, PEFT and LyCORIS (LoRA, LoCon, LoHa, LoKr, full, norm, IA3, DoRA)"
    )


def _foreign(
    file: TensorFile,
    package: Package,
    stems: Mapping[str, Mapping[str, str]],
    misfits: list[str],
) -> str:
    """Why nothing of it fits this package."""
    infos = file.tensors.infos()
    made_for = next((what for mark, what in FOREIGN if any(mark in stem for stem in stems)), None)
    for stem, keys in stems.items():
        key = keys.get("down") or keys.get("hada_w1_b")
        if key and stem.replace("_", ".").endswith(("attn2.to.k", "attn2.to.v")):
            made_for = WIDTHS.get(infos[key].shape[-1] if infos[key].shape else 0, made_for)
    base = file.metadata.get("ss_base_model_version", "")[:40]
    told = f"{file.path.name} was made for {made_for or base or 'another kind of model'}"
    why = misfits[0] if misfits else f"none of its layers is there, e.g. {short(stems, 2)}"
    return f"{told}, and {package.manifest.name} is {package.manifest.family}: {why}"
