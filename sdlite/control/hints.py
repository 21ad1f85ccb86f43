"""A control's picture as its network reads it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from sdlite.adapterentry import find_adapter
from sdlite.control.images import image_controls
from sdlite.control.onnx import NUMBERS as FILE_NUMBERS
from sdlite.control.onnx import run_file
from sdlite.control.preprocess import HIDDEN, find_preprocessor, numbers_of
from sdlite.controls import CONTROL_MODES, RESIZES, Control
from sdlite.errors import RequestError, UnknownName
from sdlite.image import fit as fits
from sdlite.image.source import flatten, upright
from sdlite.manifest import Manifest
from sdlite.types import Device, Float32

MAX_WEIGHT = 4.0
MAX_CONTROLS = 8


def complete_controls(controls: tuple[Control, ...], manifest: Manifest) -> tuple[Control, ...]:
    """Controls checked, their pictures upright, their names as the package has them.

    Raises:
        UnknownName: an adapter the package has not, a mode, resize or preprocessor there is not.
        RequestError: a value cannot be used.
    """
    if len(controls) > MAX_CONTROLS:
        raise RequestError(f"{len(controls)} controls at once, at most {MAX_CONTROLS} are taken")
    completed = tuple(_complete(control, manifest) for control in controls)
    names = list(dict.fromkeys(control.name for control in image_controls(completed, manifest)))
    if len(names) > 1:
        raise RequestError(
            f"controls {' and '.join(names)} are both IP-Adapters, of which a picture follows one; "
            "give several pictures to the same, or leave one out"
        )
    return completed


def _complete(control: Control, manifest: Manifest) -> Control:
    if not isinstance(control, Control):
        raise RequestError(f"control {control!r} is no Control; write sdlite.Control(name, image)")
    entry = _entry(control.name, manifest)
    for name, picture in (("picture", control.image), ("mask", control.mask)):
        if not isinstance(picture, Image.Image) and not (picture is None and name == "mask"):
            raise RequestError(f"control {control.name}: {name} {picture!r} is no PIL picture")
    if not _number(control.weight) or not 0 <= control.weight <= MAX_WEIGHT:
        raise RequestError(
            f"control {control.name}: weight {control.weight!r} is not between 0 and {MAX_WEIGHT:g}"
        )
    ends = (control.start, control.end)
    if not all(map(_number, ends)) or not 0 <= control.start <= control.end <= 1:
        raise RequestError(
            f"control {control.name}: start {control.start!r} and end {control.end!r} are not "
            "shares of the steps from 0 to 1, one after the other"
        )
    if control.mode not in CONTROL_MODES:
        raise UnknownName("control mode", control.mode, CONTROL_MODES)
    if control.resize not in RESIZES:
        raise UnknownName("resize", control.resize, RESIZES)
    if not all(map(_number, control.layers)):
        raise RequestError(f"control {control.name}: layers {control.layers!r} are not all numbers")
    preprocessor = control.preprocessor
    if _file(preprocessor) is None:
        found = find_preprocessor(preprocessor)
        numbers_of(found.name, found.numbers, control.options)
        preprocessor = found.name
    else:
        numbers_of(preprocessor, FILE_NUMBERS, control.options)
    if (preprocessor == HIDDEN) != (control.mask is not None):
        raise RequestError(
            f"control {control.name}: a mask and the preprocessor {HIDDEN} go together; "
            + ("give the mask" if control.mask is None else f"name {HIDDEN}, or leave it out")
        )
    if find_adapter(manifest.adapters, entry).encoder:
        _check_image_prompt(control, preprocessor)
    return replace(
        control,
        name=entry,
        image=upright(control.image, f"the picture of control {entry}"),
        mask=None if control.mask is None else upright(control.mask, "its mask"),
        preprocessor=preprocessor,
    )


def _check_image_prompt(control: Control, preprocessor: str) -> None:
    """An IP-Adapter's picture is looked at as it is, and it has no modes."""
    for what, value, usual in (
        ("preprocessor", preprocessor, "none"),
        ("mode", control.mode, "balanced"),
    ):
        if value != usual:
            raise RequestError(
                f"control {control.name}: {what} {value!r} is for ControlNets and T2I-Adapters, "
                f"this is an IP-Adapter; leave it out"
            )


def _entry(name: str, manifest: Manifest) -> str:
    try:
        return find_adapter(manifest.adapters, name).name
    except UnknownName as error:
        raise UnknownName(
            f"control of {manifest.name} (add one with sdlite export FILE --for MODEL)",
            name,
            error.valid,
        ) from None


def _number(value: object) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)  # type: ignore[arg-type]


def _file(preprocessor: str) -> Path | None:
    return Path(preprocessor) if preprocessor.lower().endswith(".onnx") else None


def preprocessed(control: Control, size: tuple[int, int], device: Device) -> Image.Image:
    """What a completed control shows its network, RGB at ``size``; ``device`` runs files.

    Raises:
        RequestError: the preprocessor's file cannot be used.
        EngineError: it failed.
    """
    picture = _fit(control, flatten(control.image), size)
    path = _file(control.preprocessor)
    if path is not None:
        return run_file(
            path, picture, numbers_of(control.preprocessor, FILE_NUMBERS, control.options), device
        )
    found = find_preprocessor(control.preprocessor)
    return found.apply(picture, numbers_of(found.name, found.numbers, control.options))


def hint_of(control: Control, size: tuple[int, int], device: Device) -> Float32:
    """The same as the network takes it: float32 ``(1, 3, height, width)``, 0 to 1.

    What the mask of the preprocessor ``inpaint`` hides is -1.
    """
    pixels = np.asarray(preprocessed(control, size, device), np.float32) / np.float32(255)
    if control.mask is not None:
        hidden = np.asarray(_fit(control, control.mask.convert("L"), size)) > 127
        pixels = np.where(hidden[..., None], np.float32(-1), pixels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _fit(control: Control, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if control.resize == "stretch":
        return fits.stretch(size).apply(picture)
    how = fits.crop if control.resize == "crop" else fits.fill
    return how(picture.size, size).apply(picture)
