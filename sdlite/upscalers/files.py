"""Upscalers' files in the model folders, and what each notes about itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdlite import home
from sdlite.engine import TensorSpec
from sdlite.errors import PackageInvalid, RequestError, UnknownName
from sdlite.onnxfile import UPSCALER, read_onnx

FOLDER = "upscalers"
"""Where exported ones lie, in a folder with models."""
OTHERS = (
    "models/ESRGAN",
    "models/RealESRGAN",
    "models/SwinIR",
    "models/upscale_models",
    "ESRGAN",
    "RealESRGAN",
    "SwinIR",
    "upscale_models",
)
"""Where A1111 and ComfyUI keep theirs, which have to be exported first."""
SUFFIXES = (".pth", ".pt", ".safetensors", ".onnx")
MOST = {"scale": 8, "multiple": 64, "reach": 512, "bytes_per_pixel": 1 << 24}
"""Largest sane values."""


@dataclass(frozen=True)
class UpscalerFile:
    """An upscaler that is ready to use."""

    name: str
    """What it is called."""
    path: Path
    """Its file."""
    kind: str
    """``ESRGAN``, ``compact``, ``SwinIR`` or ``ONNX``."""
    scale: int
    """Pixels out for one pixel in, along a side."""
    channels: int
    """Of the picture: 3, or 1 for grey."""
    multiple: int
    """Sides it takes are multiples of this."""
    reach: int
    """How many input pixels away something can change a pixel; 512 is everything."""
    bytes_per_pixel: int
    """Memory it takes for each pixel of a tile, about."""
    tile: tuple[int, int] | None
    """Height and width of the only tile it takes; None is any."""
    takes: TensorSpec
    """Its input."""
    gives: TensorSpec
    """Its output."""
    opset: int
    """ONNX opset."""
    narrow: bool = False
    """Whether it is computed in 8 bits."""


def read_file(path: Path) -> UpscalerFile:
    """An exported upscaler; raises ``PackageInvalid`` for a file that is not one."""
    try:
        found = read_onnx(path)
    except (OSError, ValueError) as error:
        raise PackageInvalid(f"{path} is no upscaler: {error}") from error
    text = found.notes.get(UPSCALER)
    if text is None:
        raise PackageInvalid(
            f"{path} was not exported by sdlite: sdlite export {path} makes an upscaler of it"
        )
    try:
        facts = json.loads(text)
        numbers = {name: _number(facts[name], most) for name, most in MOST.items()}
        tile = facts.get("tile")
        return UpscalerFile(
            name=path.stem,
            path=path,
            kind=str(facts["kind"]),
            channels=_number(facts["channels"], 3),
            tile=None if tile is None else (_number(tile[0], 8192), _number(tile[1], 8192)),
            takes=found.inputs[0],
            gives=found.outputs[0],
            opset=found.opsets.get("", 0),
            narrow=facts.get("precision") == "int8",
            **numbers,
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise PackageInvalid(
            f"{path}: what it notes about itself cannot be read ({error}); export it again"
        ) from error


def _number(value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{value!r} is not between 1 and {most}")
    return value


def installed() -> tuple[UpscalerFile, ...]:
    """Every upscaler in the model folders that is ready, the first of each name."""
    found: dict[str, UpscalerFile] = {}
    for path in _ready():
        if path.stem not in found:
            try:
                found[path.stem] = read_file(path)
            except PackageInvalid:
                continue
    return tuple(found.values())


def waiting() -> tuple[Path, ...]:
    """Files in the folders of other programs that have to be exported first."""
    places = dict.fromkeys(
        place / sub
        for folder in home.search_folders()
        for sub in (*OTHERS, FOLDER)
        for place in ((folder, folder.parent) if folder.name == "models" else (folder,))
    )
    ready = {path.resolve() for path in _ready()}
    found = []
    for place in places:
        for path in _files(place):
            if path.suffix.lower() in SUFFIXES and path.resolve() not in ready:
                found.append(path)
    return tuple(found)


def find_file(name_or_path: str | Path) -> UpscalerFile:
    """An upscaler by its name in any case, or by the path of its file.

    Raises:
        UnknownName: there is none of that name; offers the nearest.
        RequestError: it has to be exported first; says how.
        PackageInvalid: the file is damaged.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    plain = isinstance(name_or_path, str) and home.is_name(text)
    if path.suffix.lower() in SUFFIXES and path.is_file():
        if path.suffix.lower() == ".onnx":
            return read_file(path)
        raise RequestError(f"{path} has to be exported first: {_how(path)}")
    if not plain:
        raise RequestError(f"no upscaler at {path}: there is no such file, or it is none")
    return find_named(text)


def find_named(name: str) -> UpscalerFile:
    """An upscaler in the model folders by its name in any case; never another file.

    Raises what ``find_file`` raises.
    """
    text = name.casefold()
    for path in _ready():
        if text in (path.stem.casefold(), path.name.casefold()):
            return read_file(path)
    for path in waiting():
        if text in (path.stem.casefold(), path.name.casefold()):
            raise RequestError(f"upscaler {name!r} has to be exported first: {_how(path)}")
    raise UnknownName("upscaler", name, [file.name for file in installed()])


def _how(path: Path) -> str:
    shown = f'"{path}"' if " " in str(path) else str(path)
    return f"sdlite export {shown}"


def _ready() -> Iterator[Path]:
    for folder in home.search_folders():
        for path in _files(folder / FOLDER):
            if path.suffix.lower() == ".onnx":
                yield path


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(
            path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
        )
    except OSError:
        return []
