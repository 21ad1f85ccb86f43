"""A1111's ControlNet extension: its units in ``alwayson_scripts``, and its routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sdlite.errors import UnknownName
from sdlite.server.bodies import Lenient
from sdlite.server.call import check_body
from sdlite.server.intake import Intake
from sdlite.server.pictures import to_base64
from sdlite.server.problem import Refused, unsupported

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdlite.adapterentry import AdapterEntry
    from sdlite.control.preprocess import Preprocessor
    from sdlite.controls import Control
    from sdlite.manifest import Manifest
    from sdlite.server.state import Server

PREFIX = "/controlnet/"
SCRIPT = "controlnet"
MOST_UNITS = 8
DIGITS = 8
"""Digits of a hash in the names of models, as the extension writes them."""
UNSET = 64.0
"""What clients send for thresholds nobody set; below 0 means the same."""
OLD_RESIZES = {"scale to fit (inner fit)": "crop", "envelope (outer fit)": "fill"}
"""What its first versions called them."""
SHOWN_SIZE = 512
"""Shorter side of a picture that is only looked at, where the caller does not say."""


class Unit(Lenient):
    """One unit, as clients send it."""

    enabled: bool = True
    image: Any = None
    input_image: str | None = None
    mask: str | None = None
    module: str = "none"
    model: str = "None"
    weight: float = Field(1.0, ge=0, le=4)
    resize_mode: int | str = "Crop and Resize"
    control_mode: int | str = "Balanced"
    threshold_a: float = -1
    threshold_b: float = -1
    guidance_start: float = Field(0.0, ge=0, le=1)
    guidance_end: float = Field(1.0, ge=0, le=1)
    hr_option: str = "Both"


class Detect(Lenient):
    """``POST /controlnet/detect``: pictures to show what a preprocessor makes of them."""

    controlnet_module: str = "none"
    controlnet_input_images: list[str] = Field(default_factory=list)
    controlnet_images: list[str] = Field(default_factory=list)
    controlnet_processor_res: int = Field(SHOWN_SIZE, ge=-1, le=4096)
    controlnet_threshold_a: float = -1
    controlnet_threshold_b: float = -1


def controls(
    intake: Intake, scripts: dict[str, Any], manifest: Manifest, source: Image | None, hires: bool
) -> tuple[Control, ...]:
    """The units of a request that are switched on.

    Args:
        intake: reads their pictures.
        scripts: ``alwayson_scripts``.
        manifest: the model's, which says what networks it has.
        source: picture of units that bring none, that of img2img.
        hires: whether there is a second pass.

    Raises:
        Refused: a unit has something that is not allowed or not supported.
        UnknownName: there is no such model or preprocessor.
    """
    found = []
    given = next((value for name, value in scripts.items() if name.casefold() == SCRIPT), None)
    if not given:
        return ()
    arguments = given.get("args", []) if isinstance(given, dict) else given
    if not isinstance(arguments, list) or not all(isinstance(item, dict) for item in arguments):
        raise Refused(422, "args of ControlNet is no list of units", "validation_error")
    if len(arguments) > MOST_UNITS:
        raise Refused(422, f"{len(arguments)} ControlNet units; at most {MOST_UNITS}", "too_many")
    for number, argument in enumerate(arguments):
        unit = check_body(Unit, argument)
        assert isinstance(unit, Unit)
        if unit.enabled:
            found.append(_control(intake, unit, number, manifest, source, hires))
    return tuple(found)


def _control(
    intake: Intake, unit: Unit, number: int, manifest: Manifest, source: Image | None, hires: bool
) -> Control:
    from sdlite.adapterentry import find_adapter
    from sdlite.control.preprocess import find_preprocessor
    from sdlite.controls import Control
    from sdlite.metadata import CONTROL_LABELS, CONTROL_RESIZES

    where = f"ControlNet unit {number}"
    if hires and unit.hr_option.casefold() != "both":
        raise unsupported(f"{where}: hr_option {unit.hr_option[:40]!r}", "use Both")
    preprocessor = find_preprocessor(unit.module)
    image, mask = _pictures(intake, unit, where)
    model = _model(unit.model, manifest, where)
    if find_adapter(manifest.adapters, model).encoder:
        # The extension reads neither modes nor ways to resize of an IP-Adapter's unit.
        unit = unit.model_copy(update={"control_mode": 0, "resize_mode": 1})
    return Control(
        name=model,
        image=_present(image or source, where),
        weight=unit.weight,
        start=unit.guidance_start,
        end=unit.guidance_end,
        mode=_choice(unit.control_mode, CONTROL_LABELS, {}, f"{where}: control_mode"),
        preprocessor=preprocessor.name,
        options=_thresholds(preprocessor, unit.threshold_a, unit.threshold_b),
        resize=_choice(unit.resize_mode, CONTROL_RESIZES, OLD_RESIZES, f"{where}: resize_mode"),
        mask=mask,
    )


def _pictures(intake: Intake, unit: Unit, where: str) -> tuple[Image | None, Image | None]:
    """Picture and mask; older clients send both in one object."""
    image: Any = unit.image or unit.input_image
    mask: Any = unit.mask
    if isinstance(image, dict):
        image, mask = image.get("image"), mask or image.get("mask")
    if not (image is None or isinstance(image, str)) or not (mask is None or isinstance(mask, str)):
        raise Refused(422, f"{where}: image is no base64", "invalid_image")
    return (
        intake.read(image, f"{where}: image") if image else None,
        intake.read(mask, f"{where}: mask") if mask else None,
    )


def _present(image: Image | None, where: str) -> Image:
    if image is None:
        raise Refused(422, f"{where} has no image", "missing_image")
    return image


def _model(text: str, manifest: Manifest, where: str) -> str:
    """A network by its name, ``NAME [HASH]`` or ``NAME.safetensors``."""
    name = text.partition(" [")[0].strip().removesuffix(".safetensors")
    known = [title(entry) for entry in nets(manifest)]
    for entry in nets(manifest):
        if entry.name.casefold() == name.casefold():
            return entry.name
    if name.casefold() in ("none", ""):
        words = ", ".join(known) or "none; sdlite export FILE --for MODEL adds one"
        raise Refused(422, f"{where} names no model; there are {words}", "missing_model")
    raise UnknownName("ControlNet model", text, known)


def _choice(value: int | str, labels: Mapping[str, str], old: Mapping[str, str], where: str) -> str:
    """What a label or its number stands for."""
    names = list(labels)[:3]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    known = {label.casefold(): name for name, label in labels.items()} | dict(old)
    if isinstance(value, str) and value.strip().casefold() in known:
        return known[value.strip().casefold()]
    raise Refused(
        422, f"{where} {str(value)[:40]!r} is none of {', '.join(labels.values())}", "unknown_name"
    )


def _thresholds(preprocessor: Preprocessor, *values: float) -> tuple[tuple[str, float], ...]:
    """The preprocessor's numbers; what nobody set is its own, also where 64 cannot be meant."""
    found = []
    for (name, number), value in zip(preprocessor.numbers.items(), values, strict=False):
        unset = value == UNSET and not number.low <= UNSET <= number.high
        if value >= 0 and not unset:
            found.append((name, value))
    return tuple(found)


def nets(manifest: Manifest) -> tuple[AdapterEntry, ...]:
    """What a model has that units can name: the extension lists T2I-Adapters and IP-Adapters with
    ControlNets."""
    return manifest.adapters


def title(entry: AdapterEntry) -> str:
    """The name and the beginning of the hash, as the extension shows models."""
    return f"{entry.name} [{entry.sha256[:DIGITS]}]"


def model_list(manifest: Manifest) -> dict[str, list[str]]:
    """``GET /controlnet/model_list``."""
    return {"model_list": ["None", *map(title, nets(manifest))]}


def module_list() -> dict[str, Any]:
    """``GET /controlnet/module_list``."""
    from sdlite.control.preprocess import PREPROCESSORS

    detail = {
        item.name: {
            "model_free": False,
            "sliders": [
                {"name": name, "value": number.default, "min": number.low, "max": number.high}
                for name, number in item.numbers.items()
            ],
        }
        for item in PREPROCESSORS
    }
    return {"module_list": list(detail), "module_detail": detail}


def control_types(manifest: Manifest) -> dict[str, Any]:
    """``GET /controlnet/control_types``: one type with everything in it."""
    models, modules = model_list(manifest)["model_list"], module_list()["module_list"]
    everything = {
        "module_list": modules,
        "model_list": models,
        "default_option": "none",
        "default_model": models[1] if len(models) > 1 else "None",
    }
    return {"control_types": {"All": everything}}


def detect(server: Server, body: Detect) -> dict[str, Any]:
    """``POST /controlnet/detect``; works on pictures, so call it in a thread."""
    from sdlite.control.preprocess import find_preprocessor, numbers_of
    from sdlite.image.source import flatten

    texts = body.controlnet_input_images or body.controlnet_images
    if not texts:
        raise Refused(422, "No image selected", "missing_image")
    if len(texts) > server.limits.input_images:
        raise Refused(
            422,
            f"{len(texts)} pictures; at most {server.limits.input_images} are read",
            "too_many_images",
        )
    found = find_preprocessor(body.controlnet_module)
    given = _thresholds(found, body.controlnet_threshold_a, body.controlnet_threshold_b)
    numbers = numbers_of(found.name, found.numbers, given)
    shown = []
    for text in texts:
        picture = flatten(server.intake().read(text, "an image"))
        if body.controlnet_processor_res > 0:
            share = body.controlnet_processor_res / min(picture.size)
            width, height = (max(round(side * share), 1) for side in picture.size)
            if width * height > server.limits.pixels:
                raise Refused(
                    422,
                    f"a picture of {width}x{height}; at most {server.limits.pixels} pixels are "
                    "allowed",
                    "too_many_pixels",
                )
            picture = picture.resize((width, height))
        shown.append(to_base64(found.apply(picture, numbers)))
    return {"images": shown, "info": "Success"}
