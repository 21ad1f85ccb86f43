"""Preprocessors that are ONNX files: depth, lines, poses and whatever else has been trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sdlite import registry
from sdlite.control.preprocess import Number
from sdlite.engine import Artifact, LoadOptions, TensorSpec
from sdlite.errors import RequestError
from sdlite.onnxfile import read_onnx
from sdlite.types import Array, Device

NUMBERS: Mapping[str, Number] = {
    "mean": Number(0.0, -1000, 1000),
    "deviation": Number(1.0, 1e-6, 1000),
    "imagenet": Number(0, 0, 1),
    "side": Number(512, 16, 4096),
    "stretch": Number(1, 0, 1),
    "invert": Number(0, 0, 1),
}
"""What can be set: what is taken from pixels of 0 to 1 and what they are then divided by (or, with
``imagenet``, the usual numbers of photographs); the longer side in pixels, of files that leave
it open; whether the answer is brought to 0 to 1 from its own least and most; whether it is turned
round."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MULTIPLE = 32
"""Sides are multiples of this where the file leaves them open, as most networks need."""


def run_file(
    path: Path, picture: Image.Image, numbers: Mapping[str, float], device: Device
) -> Image.Image:
    """What a file makes of a picture, RGB at its size.

    The file takes one picture ``(1, 3, height, width)`` and gives first ``(1, 1 or 3, height,
    width)`` or the same without one or both of the first axes.

    Raises:
        RequestError: there is no such file, or it is no network of that kind.
        EngineError: it failed.
    """
    if not path.is_file():
        raise RequestError(f"no file {path} to preprocess with")
    try:
        data = path.read_bytes()
        file = read_onnx(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is no ONNX file that can be read: {error}") from error
    artifact = Artifact(
        component="preprocessor",
        format="onnx",
        variant="plain",
        precision="fp32",
        graph=path.name,
        graph_size=len(data),
        graph_sha256=hashlib.sha256(data).hexdigest(),
        inputs=tuple(file.inputs),
        outputs=tuple(file.outputs),
    )
    session = registry.get(device.runtime).load(artifact, path.parent, device, LoadOptions())
    try:
        if len(session.inputs) != 1 or len(session.inputs[0].shape) != 4:
            takes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in session.inputs)
            raise RequestError(
                f"{path.name} takes {takes}; a preprocessor takes one picture (1, 3, height, width)"
            )
        spec = session.inputs[0]
        small = picture.resize(_size(spec, picture.size, int(numbers["side"])))
        answer = session.run({spec.name: _fed(small, numbers)})[session.outputs[0].name]
    finally:
        session.close()
    return _shown(path, answer, numbers).resize(picture.size, Image.Resampling.BICUBIC)


def _size(spec: TensorSpec, size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / max(size)
    height, width = (
        fixed
        if isinstance(fixed, int) and fixed > 0
        else max(round(own * scale / MULTIPLE), 1) * MULTIPLE
        for fixed, own in zip(spec.shape[2:], reversed(size), strict=True)
    )
    return width, height


def _fed(picture: Image.Image, numbers: Mapping[str, float]) -> Array:
    pixels = np.asarray(picture.convert("RGB"), np.float32) / np.float32(255)
    usual = numbers["imagenet"] == 1
    mean = np.asarray(MEAN if usual else (numbers["mean"],) * 3, np.float32)
    deviation = np.asarray(DEVIATION if usual else (numbers["deviation"],) * 3, np.float32)
    scaled = (pixels - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def _shown(path: Path, answer: Array, numbers: Mapping[str, float]) -> Image.Image:
    values = answer.astype(np.float32)
    shape = values.shape
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 3 and values.shape[0] == 3:
        values = values.transpose(1, 2, 0)
    elif values.ndim != 2:
        raise RequestError(f"{path.name} gives {list(shape)}, no picture of one or three channels")
    if not np.isfinite(values).all():
        raise RequestError(f"{path.name} gives values that are no numbers for this picture")
    if numbers["stretch"]:
        low, high = float(values.min()), float(values.max())
        values = (values - low) / (high - low) if high > low else np.zeros_like(values)
    values = np.clip(values, 0, 1)
    values = 1 - values if numbers["invert"] else values
    return Image.fromarray(np.rint(values * 255).astype(np.uint8)).convert("RGB")
