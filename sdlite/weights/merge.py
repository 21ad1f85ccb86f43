"""Adapters merged into the tensors of a package, in the layout it stores them in."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from sdlite.errors import SourceCorrupt
from sdlite.hardware import describe
from sdlite.package import Package
from sdlite.types import Array, Float32
from sdlite.weights.kinds import VECTORS, Misfit, bias_delta, delta, rank_of
from sdlite.weights.lora import Adapter, Layer
from sdlite.weights.names import Names
from sdlite.weights.stored import read_tensor, store_tensor, stored_names

MAX_WORKERS = 4
"""Layers merged at a time; each takes three float32 copies of its weight."""


@dataclass(frozen=True)
class Use:
    """An adapter and how strongly it is applied."""

    adapter: Adapter
    """The adapter."""
    unet: float
    """Strength in the U-Net."""
    text_encoder: float
    """Strength in the text encoders."""
    blocks: Mapping[str, float] = field(default_factory=dict)
    """Factors by block, ``BASE``, ``IN00`` ... ``M00`` ... ``OUT11``; 1 for those not named."""
    rank: int | None = None
    """Ranks of LoRA layers to keep; None keeps all."""

    def strength(self, layer: Layer, names: Names) -> float:
        """How strongly one layer is applied."""
        whole = self.unet if layer.target.component == "unet" else self.text_encoder
        return whole * self.blocks.get(names.block(layer.target), 1.0)


def touched(package: Package, component: str, uses: Sequence[Use], names: Names) -> dict[str, int]:
    """Tensors of a component that would be replaced, with their bytes as stored."""
    tensors = package.manifest.weights[component].tensors
    found = {}
    for use in uses:
        for layer in use.adapter.layers:
            if layer.target.component == component and use.strength(layer, names) != 0.0:
                for name in _names(layer):
                    if name in tensors:
                        for part in stored_names(name, tensors[name]):
                            found[part] = tensors[part].size
    return found


def _names(layer: Layer) -> Iterator[str]:
    if VECTORS & layer.keys.keys():
        yield f"{layer.target.module}.bias"
    if layer.keys.keys() - {"diff_b", "alpha"}:
        yield f"{layer.target.module}.weight"


def merge(package: Package, component: str, uses: Sequence[Use], names: Names) -> dict[str, Array]:
    """The tensors adapters change, as the package stores them, everything else left out.

    What several adapters add is added up, each reckoned from the package's own weight, in float32.

    Raises:
        SourceCorrupt: an adapter's numbers are not finite or do not fit together.
        SourceError: a merged weight is beyond what the package can store.
        PackageCorrupt: the package's weight file is shorter than its manifest says.
    """
    wanted = touched(package, component, uses, names)
    by_module: dict[str, list[tuple[Use, Layer, float]]] = {}
    for use in uses:
        for layer in use.adapter.layers:
            strength = use.strength(layer, names)
            if layer.target.component == component and strength != 0.0:
                by_module.setdefault(layer.target.module, []).append((use, layer, strength))
    # Numpy computes outside the interpreter's lock: layers are merged side by side.
    workers = min(MAX_WORKERS, describe().physical_cores or 1)
    with ThreadPoolExecutor(workers, "merge") as pool:
        parts = pool.map(
            lambda item: _merge_layer(package, component, item[0], item[1], wanted),
            by_module.items(),
        )
        return {name: value for part in parts for name, value in part.items()}


def _merge_layer(
    package: Package,
    component: str,
    module: str,
    entries: Sequence[tuple[Use, Layer, float]],
    wanted: Container[str],
) -> dict[str, Array]:
    merged: dict[str, Array] = {}
    weight, bias = f"{module}.weight", f"{module}.bias"
    if weight in wanted:
        total = _weight_total(read_tensor(package, component, weight), entries)
        merged |= store_tensor(package, component, weight, total)
    if bias in wanted:
        value = read_tensor(package, component, bias)
        for use, layer, strength in entries:
            vectors = _read(use.adapter, layer, biases=True)
            added = bias_delta(vectors, _scale(use.adapter, layer))
            if added is not None:
                if added.size != value.size:
                    raise _misfit(use.adapter, layer, "its bias has another size")
                value += np.float32(strength) * added
        merged |= store_tensor(package, component, bias, value)
    return merged


def _weight_total(base: Float32, entries: Sequence[tuple[Use, Layer, float]]) -> Float32:
    total = base
    for use, layer, strength in entries:
        if not layer.keys.keys() - {"diff_b", "alpha"}:
            continue
        found = _read(use.adapter, layer)
        try:
            scale = _scale(use.adapter, layer)
            added = delta(layer.kind, found, layer.shape, base, scale, use.rank)
        except Misfit as error:
            raise _misfit(use.adapter, layer, str(error)) from error
        total = total + (added if strength == 1.0 else added * np.float32(strength))
    return total


def _read(adapter: Adapter, layer: Layer, biases: bool = False) -> dict[str, Float32]:
    found = {}
    for name, key in layer.keys.items():
        if name == "alpha" or (name in VECTORS) != biases:
            continue
        found[name] = adapter.file.read(key)
    return found


def _scale(adapter: Adapter, layer: Layer) -> float:
    """Alpha over rank; 1 where the file gives no alpha or nothing is decomposed."""
    if layer.scale is not None:
        return layer.scale
    infos = adapter.file.tensors.infos()
    rank = rank_of({name: infos[key].shape for name, key in layer.keys.items()})
    if "alpha" not in layer.keys or not rank:
        return 1.0
    alpha = adapter.file.read(layer.keys["alpha"])
    if alpha.size != 1:
        raise _misfit(adapter, layer, f"alpha has {alpha.size} numbers, not one")
    return float(alpha.reshape(-1)[0]) / rank


def _misfit(adapter: Adapter, layer: Layer, what: str) -> SourceCorrupt:
    name = next(iter(layer.keys.values()))
    return SourceCorrupt(f"{adapter.file.path.name}: {name}: {what}")
