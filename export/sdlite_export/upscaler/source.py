"""Upscaler files: opened without being executed, recognised by names and shapes of tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdlite.errors import SourceCorrupt, SourceError, UnknownFamily
from sdlite.tensors.base import TensorInfo, Tensors, short
from sdlite.tensors.pickle import open_nested
from sdlite.tensors.safetensors import open_safetensors
from sdlite.types import Array
from sdlite_export.upscaler.config import (
    CompactConfig,
    EsrganConfig,
    SwinIrConfig,
    UpscalerConfig,
)

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict")
"""What training programs put their tensors under, the smoothed ones first."""
BUFFERS = ("relative_position_index", "attn_mask")
"""Ends of names of tensors that follow from the others."""
DENSE_BLOCK = re.compile(r"model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.(weight|bias)")
TRUNK = re.compile(r"RRDB_trunk\.(\d+)\.RDB([123])\.conv([1-5])\.(weight|bias)")
PLAIN = {
    "trunk_conv": "conv_body",
    "upconv1": "conv_up1",
    "upconv2": "conv_up2",
    "upconv3": "conv_up3",
    "HRconv": "conv_hr",
}
"""Names of ESRGAN's second release to those of Real-ESRGAN, which are used here."""
MOST_SCALE = 8
Infos = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Renamed:
    """Tensors under other names."""

    tensors: Tensors
    """What holds them."""
    names: Mapping[str, str]
    """New name to old."""

    def infos(self) -> Infos:
        """Every tensor's shape and dtype, by its new name."""
        infos = self.tensors.infos()
        return {new: infos[old] for new, old in self.names.items()}

    def read(self, name: str) -> Array:
        """Read one tensor; raises ``SourceCorrupt``."""
        return self.tensors.read(self.names[name])


@dataclass(frozen=True)
class UpscalerSource:
    """A recognised file."""

    path: Path
    """The file."""
    config: UpscalerConfig
    """What it is made of."""
    tensors: Renamed
    """Its weights, named as the graphs name them."""


def open_upscaler(path: Path) -> UpscalerSource:
    """Open and recognise a file.

    Raises:
        UnknownFamily: it is no upscaler this knows; says what was seen.
        SourceError: it cannot be read, is damaged, or would execute code.
    """
    tensors = _open(path)
    names = _unwrapped(tensors.infos())
    renamed = Renamed(tensors, _usual_names(names))
    return UpscalerSource(path, recognise(renamed.infos(), path.name), renamed)


def is_upscaler(path: Path) -> bool:
    """Whether a file is a network this knows, without saying why not."""
    try:
        open_upscaler(path)
    except SourceError:
        return False
    return True


def recognise(infos: Infos, where: str) -> UpscalerConfig:
    """What network tensors belong to; raises ``UnknownFamily`` or ``SourceCorrupt``."""
    seen = _Seen(infos, where)
    if "body.0.rdb1.conv1.weight" in infos:
        config: UpscalerConfig = _esrgan(seen)
    elif "layers.0.residual_group.blocks.0.attn.relative_position_bias_table" in infos:
        config = _swinir(seen)
    elif "body.0.weight" in infos and "body.1.weight" in infos:
        config = _compact(seen)
    else:
        raise seen.unknown()
    if config.channels not in (1, 3):
        raise UnknownFamily(f"{where}: makes pictures of {config.channels} channels, not 1 or 3")
    if not 1 <= config.scale <= MOST_SCALE:
        raise UnknownFamily(f"{where}: scale {config.scale} is not 1 to {MOST_SCALE}")
    return config


def _open(path: Path) -> Tensors:
    if not path.is_file():
        raise SourceError(f"no file {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise SourceError(
            f"{path.name}: upscalers are .onnx, {', '.join(SUFFIXES)} files, not {suffix or 'this'}"
        )
    return open_safetensors(path) if suffix == ".safetensors" else open_nested(path)


def _unwrapped(infos: Infos) -> dict[str, str]:
    """Names without what they are wrapped in, to the names in the file."""
    for wrapper in WRAPPERS:
        inside = {n.removeprefix(f"{wrapper}."): n for n in infos if n.startswith(f"{wrapper}.")}
        if inside:
            return {name.removeprefix("module."): old for name, old in inside.items()}
    return {name.removeprefix("module."): name for name in infos}


def _usual_names(names: Mapping[str, str]) -> dict[str, str]:
    """Names of the releases of ESRGAN before Real-ESRGAN to its own; buffers left out."""
    found = {name: old for name, old in names.items() if not name.endswith(BUFFERS)}
    blocks = [m for m in map(DENSE_BLOCK.fullmatch, found) if m is not None]
    if blocks:
        return {_old_name(name, _top_places(found)): old for name, old in found.items()}
    changed = {}
    for name, old in found.items():
        match = TRUNK.fullmatch(name)
        stem, _, kind = name.rpartition(".")
        if match is not None:
            block, part, conv, kind = match.groups()
            changed[f"body.{block}.rdb{part}.conv{conv}.{kind}"] = old
        else:
            changed[f"{PLAIN.get(stem, stem)}.{kind}" if stem else name] = old
    return changed


def _top_places(names: Mapping[str, str]) -> list[int]:
    """Places of the convolutions after the trunk in ESRGAN's first release."""
    matches = (re.fullmatch(r"model\.(\d{1,3})\.weight", name) for name in names)
    return sorted(int(match[1]) for match in matches if match is not None and int(match[1]) > 1)


def _old_name(name: str, places: list[int]) -> str:
    match = DENSE_BLOCK.fullmatch(name)
    if match is not None:
        block, part, conv, kind = match.groups()
        return f"body.{block}.rdb{part}.conv{conv}.{kind}"
    match = re.fullmatch(r"model\.(\d{1,3})\.(weight|bias)", name)
    if match is not None:
        place, kind = int(match[1]), match[2]
        if place == 0:
            return f"conv_first.{kind}"
        if place in places:
            after = places.index(place)
            last = ["conv_hr", "conv_last"]
            stems = [f"conv_up{index + 1}" for index in range(len(places) - 2)] + last
            return f"{stems[after]}.{kind}" if after < len(stems) else name
    match = re.fullmatch(r"model\.1\.sub\.\d{1,3}\.(weight|bias)", name)
    return f"conv_body.{match[1]}" if match is not None else name


class _Seen:
    """Shapes of tensors, with errors that name what is wrong."""

    def __init__(self, infos: Infos, where: str) -> None:
        self.infos, self.where = infos, where

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        if name not in self.infos:
            raise SourceCorrupt(f"{self.where}: tensor {name} is missing; the file is incomplete")
        shape = tuple(self.infos[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise SourceCorrupt(
                f"{self.where}: tensor {name} has shape {shape}, not {dimensions} sizes above 0"
            )
        return shape

    def count(self, pattern: str) -> int:
        """One more than the largest number a name's only group matches."""
        matches = (re.match(pattern, name) for name in self.infos)
        return 1 + max((int(match[1]) for match in matches if match is not None), default=-1)

    def root(self, number: int, what: str) -> int:
        side = math.isqrt(number)
        if side * side != number or side < 1:
            raise UnknownFamily(f"{self.where}: {what} {number} is no square number")
        return side

    def unknown(self) -> UnknownFamily:
        shapes = [f"{name} {tuple(self.infos[name].shape)}" for name in sorted(self.infos)]
        return UnknownFamily(
            f"{self.where}: no upscaler this knows: {len(shapes)} tensors, among them "
            f"{short(shapes)}. ESRGAN, Real-ESRGAN, its compact networks and SwinIR are known; "
            "others can be used as .onnx files"
        )


def _esrgan(seen: _Seen) -> EsrganConfig:
    features, inputs, _, _ = seen.shape("conv_first.weight", 4)
    channels = seen.shape("conv_last.weight", 4)[0]
    if inputs % channels:
        raise UnknownFamily(f"{seen.where}: {inputs} channels in, {channels} channels out")
    return EsrganConfig(
        channels=channels,
        features=features,
        growth=seen.shape("body.0.rdb1.conv1.weight", 4)[0],
        blocks=seen.count(r"body\.(\d{1,3})\.rdb1\.conv1\.weight"),
        unshuffle=seen.root(inputs // channels, "the number of folded places"),
        doublings=seen.count(r"conv_up(\d)\.weight") - 1 if "conv_up1.weight" in seen.infos else 0,
    )


def _compact(seen: _Seen) -> CompactConfig:
    features, channels, _, _ = seen.shape("body.0.weight", 4)
    last = seen.count(r"body\.(\d{1,3})\.weight") - 1
    if last % 2:
        raise UnknownFamily(f"{seen.where}: ends in an activation, body.{last}")
    made = seen.shape(f"body.{last}.weight", 4)[0]
    return CompactConfig(
        channels=channels,
        features=features,
        convs=last // 2 - 1,
        scale=seen.root(made // channels, "the number of pixels for each pixel"),
    )


def _swinir(seen: _Seen) -> SwinIrConfig:
    features, channels, _, _ = seen.shape("conv_first.weight", 4)
    groups = seen.count(r"layers\.(\d{1,3})\.residual_group\.")
    first = "layers.0.residual_group.blocks.0"
    table = "attn.relative_position_bias_table"
    places = seen.shape(f"{first}.{table}", 2)[0]
    window = (seen.root(places, "the number of relative positions") + 1) // 2
    names = [f"layers.{index}.residual_group.blocks" for index in range(groups)]
    heads = tuple(seen.shape(f"{name}.0.{table}", 2)[1] for name in names)
    if any(features % count for count in heads):
        raise UnknownFamily(f"{seen.where}: {features} features are not divided by heads {heads}")
    depths = tuple(seen.count(re.escape(name) + r"\.(\d{1,3})\.") for name in names)
    upsampler, middle, scale = _swinir_end(seen, channels)
    return SwinIrConfig(
        channels=channels,
        features=features,
        depths=depths,
        heads=heads,
        hidden=seen.shape(f"{first}.mlp.fc1.weight", 2)[0],
        window=window,
        triple_conv="conv_after_body.0.weight" in seen.infos,
        patch_norm="patch_embed.norm.weight" in seen.infos,
        upsampler=upsampler,
        middle=middle,
        scale=scale,
    )


def _swinir_end(seen: _Seen, channels: int) -> tuple[str, int, int]:
    """How a SwinIR ends: upsampler, channels in between, scale."""
    infos = seen.infos
    if "conv_up1.weight" in infos:
        middle = seen.shape("conv_before_upsample.0.weight", 4)[0]
        return "nearest", middle, 4 if "conv_up2.weight" in infos else 2
    if "conv_before_upsample.0.weight" in infos:
        middle = seen.shape("conv_before_upsample.0.weight", 4)[0]
        made = seen.shape("upsample.0.weight", 4)[0]
        steps = seen.count(r"upsample\.(\d)\.weight") // 2 + 1
        return "pixelshuffle", middle, 3 if made == 9 * middle else int(2**steps)
    if "upsample.0.weight" in infos:
        made = seen.shape("upsample.0.weight", 4)[0]
        return "direct", 0, seen.root(made // channels, "the number of pixels for each pixel")
    raise UnknownFamily(
        f"{seen.where}: a SwinIR that does not enlarge (it removes noise or JPEG blocks); "
        "only those that enlarge are upscalers"
    )
