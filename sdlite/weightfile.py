"""Weight files as the manifest describes them: where each tensor lies and what its numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sdlite.engine import FileEntry
from sdlite.errors import PackageInvalid


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a weight file."""

    dtype: str
    """``float32``, ``float16``, ``int64`` or ``int8``."""
    shape: tuple[int, ...]
    """Shape as stored."""
    offset: int
    """First byte in the weight file, a multiple of 4096."""
    size: int
    """Bytes."""
    layout: Literal["source", "transposed"] = "source"
    """``transposed``: a linear weight stored (in, out) where the state dict has (out, in)."""
    scale: str | None = None
    """Of ``int8``: tensor with the step of each output channel, by which stored numbers are
    multiplied."""
    rows: str | None = None
    """Tensor of factors by which output channels were multiplied before they were stored."""
    columns: str | None = None
    """The same of input channels."""


@dataclass(frozen=True)
class Layer:
    """How one convolution or linear layer of a quantised component is computed."""

    precision: Literal["w8a8", "w8", "fp16"]
    """Weights and input in 8 bits, weights only, or neither."""
    scale: float = 0.0
    """Of ``w8a8``: step of the input, whose 8-bit numbers are ``x / scale + zero_point``."""
    zero_point: int = 0
    """Of ``w8a8``: 8-bit number of an input of 0."""
    error: float = 0.0
    """Root mean square error of the layer's output in 8 bits, over that of the output itself, as
    calibration measured it; 0 when it did not."""
    effect: float = 0.0
    """The same of the component's output with this layer alone in 8 bits, as a scan measured it; 0
    when there was none."""
    why: str = ""
    """Why a layer stays ``fp16``."""


@dataclass(frozen=True)
class Calibration:
    """What the ranges of 8-bit layers were read from."""

    engine: str
    """Engine that ran the model, with its version."""
    prompts: int
    """Prompts drawn."""
    steps: int
    """Steps of each."""
    calls: int
    """Calls of the U-Net, one item each."""


@dataclass(frozen=True)
class WeightFile:
    """All weights of one component, named by diffusers' state-dict keys."""

    file: FileEntry
    """The file on disk."""
    precision: str
    """``fp32``, ``fp16``, ``int8`` (weights and activations) or ``w8`` (weights only)."""
    tensors: Mapping[str, TensorEntry]
    """Where each tensor lies."""
    layers: Mapping[str, Layer] = field(default_factory=dict)
    """Of ``int8`` and ``w8``: every convolution and linear layer, by the name of its weights."""


def own_tensors(weights: WeightFile) -> dict[str, TensorEntry]:
    """Tensors that are the model's: those that only say how others are stored are left out."""
    about = {
        name
        for entry in weights.tensors.values()
        for name in (entry.scale, entry.rows, entry.columns)
        if name is not None
    }
    return {name: entry for name, entry in weights.tensors.items() if name not in about}


ITEM_BYTES = {"float32": 4, "float16": 2, "int64": 8, "int8": 1}


def check_tensors(where: str, weights: WeightFile) -> None:
    """Check where tensors lie; raises ``PackageInvalid``."""
    end = 0
    for name, tensor in sorted(weights.tensors.items(), key=lambda item: item[1].offset):
        if tensor.dtype not in ITEM_BYTES:
            raise PackageInvalid(f"{where}: tensor {name} has unknown dtype {tensor.dtype!r}")
        count = 1
        for extent in tensor.shape:
            if extent < 1:
                raise PackageInvalid(f"{where}: tensor {name} has shape {tensor.shape}")
            count *= extent
            if count > tensor.size:
                break  # wrong already, and a product of many numbers takes long
        if count * ITEM_BYTES[tensor.dtype] != tensor.size:
            raise PackageInvalid(
                f"{where}: tensor {name} of shape {tensor.shape} and dtype {tensor.dtype} "
                f"cannot have {tensor.size} bytes"
            )
        if tensor.offset < end or tensor.offset % 4096:
            raise PackageInvalid(
                f"{where}: tensor {name} at byte {tensor.offset} overlaps or is not page-aligned"
            )
        end = tensor.offset + tensor.size
    if end > weights.file.size:
        raise PackageInvalid(
            f"{where}: tensors end at byte {end}, the file has {weights.file.size}"
        )


def check_layers(where: str, weights: WeightFile) -> None:
    """Check how 8-bit tensors and layers refer to others; raises ``PackageInvalid``."""
    tensors = weights.tensors
    for name, tensor in tensors.items():
        if (tensor.dtype == "int8") != (tensor.scale is not None):
            raise PackageInvalid(
                f"{where}: tensor {name} is {tensor.dtype} and has "
                f"{'a' if tensor.scale else 'no'} scale"
            )
        turned = tensor.layout == "transposed"
        rows, columns = (-1, 0) if turned else (0, 1)
        for kind, other, axis in (
            ("scale", tensor.scale, rows),
            ("rows", tensor.rows, rows),
            ("columns", tensor.columns, columns),
        ):
            if other is None:
                continue
            found = tensors.get(other)
            fits = len(tensor.shape) > axis and found is not None
            if not fits or found is None or found.shape != (tensor.shape[axis],):
                raise PackageInvalid(
                    f"{where}: {kind} of tensor {name}, {other!r}, is no tensor of this file with "
                    "a number for each of its channels"
                )
            if found.dtype != "float32":
                raise PackageInvalid(f"{where}: {kind} of tensor {name} is {found.dtype}")
    for name, layer in weights.layers.items():
        weight = tensors.get(f"{name}.weight")
        if weight is None or (weight.dtype == "int8") != (layer.precision != "fp16"):
            raise PackageInvalid(
                f"{where}: layer {name} is {layer.precision}, its weight "
                f"{'missing' if weight is None else weight.dtype}"
            )
        if layer.precision == "w8a8" and not (layer.scale > 0 and 0 <= layer.zero_point <= 255):
            raise PackageInvalid(
                f"{where}: layer {name} has step {layer.scale} and zero point {layer.zero_point}"
            )
