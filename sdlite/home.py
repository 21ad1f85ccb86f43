"""Where models, caches and settings live, and how a model is found by its name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdlite import settings
from sdlite.errors import PackageError, RequestError, UnknownName

HOME_VARIABLE = "SDLITE_HOME"
MANIFEST = "sdlite.json"
CHECKPOINTS = frozenset({".safetensors", ".ckpt"})
CHECKPOINT_FOLDERS = (
    "models/Stable-diffusion",
    "Stable-diffusion",
    "models/checkpoints",
    "checkpoints",
)
"""Where AUTOMATIC1111's web UI and ComfyUI keep checkpoints, from their root or ``models``."""
DEPTH = 4
"""Levels of subfolders searched for checkpoints."""


@dataclass(frozen=True)
class Folders:
    """The places sdlite writes to on its own account."""

    models: Path
    """Packages, one folder each."""
    cache: Path
    """What can be made again."""
    settings: Path
    """The settings file."""


@dataclass(frozen=True)
class Model:
    """A model on this machine."""

    name: str
    """What ``--model`` takes."""
    path: Path
    """Folder or file."""
    kind: str
    """``package``, ``onnx`` (a folder made by optimum or diffusers) or ``checkpoint``."""

    @property
    def ready(self) -> bool:
        """Whether it can be drawn with as it is."""
        return self.kind != "checkpoint"


def folders(environ: Mapping[str, str] | None = None) -> Folders:
    """The platform's user folders, or all of them in the folder ``SDLITE_HOME`` names."""
    moved = (os.environ if environ is None else environ).get(HOME_VARIABLE)
    if moved:
        root = _at_home(Path(moved))
        return Folders(root / "models", root / "cache", root / "settings.toml")
    import platformdirs

    data = Path(platformdirs.user_data_dir("sdlite", appauthor=False))
    cache = Path(platformdirs.user_cache_dir("sdlite", appauthor=False))
    config = Path(platformdirs.user_config_dir("sdlite", appauthor=False))
    return Folders(data / "models", cache, config / "settings.toml")


def search_folders() -> tuple[Path, ...]:
    """Folders with models: the user's own, those added, then what ships with sdlite."""
    places = folders()
    added = settings.read(places.settings).get("model-folders").value
    return (places.models, *added)


def models() -> tuple[Model, ...]:
    """Every model there is, in the order names are looked up; the first of a name counts."""
    found: dict[Path, Model] = {}
    for folder in search_folders():
        for model in _models_in(folder):
            found.setdefault(model.path.resolve(), model)
    for model in _shipped():
        found.setdefault(model.path.resolve(), model)
    return tuple(found.values())


def find_model(name_or_path: str | Path) -> Path:
    """The folder of a package, or of an ONNX folder made by optimum or diffusers.

    A plain word is a model's name first, then a folder here; write ``./word`` to mean the folder.

    Raises:
        UnknownName: no model has that name.
        RequestError: the path does not exist, or is a checkpoint that has to be exported first.
    """
    text = os.fspath(name_or_path)
    path = _at_home(Path(text))
    named = isinstance(name_or_path, str) and text == path.name and text not in (".", "..", "")
    known = models() if named else ()
    for model in known:
        if model.name == text:
            return _ready(model)
    if not text:
        raise UnknownName("model", text, _names(known))
    if _exists(path):
        return _ready(_classify(path))
    if named:
        raise UnknownName("model", text, _names(known))
    raise RequestError(f"no model at {path}: there is no such file or folder")


def add_folder(folder: Path) -> tuple[Model, ...]:
    """Remember a folder with models; returns what is in it.

    Raises:
        RequestError: it is no folder.
        OutputError: the settings file cannot be written.
    """
    whole = _at_home(folder).absolute()
    if not whole.is_dir():
        raise RequestError(f"{folder} is no folder")
    if os.pathsep in str(whole):
        raise RequestError(f"{whole} cannot be added: its name has a {os.pathsep!r} in it")
    change = [*_added_in_file(), whole]
    _write_added(dict.fromkeys(change))
    return tuple(_models_in(whole))


def remove_folder(folder: Path) -> None:
    """Forget a folder; nothing in it is touched. Raises ``UnknownName``."""
    whole = _at_home(folder).absolute()
    known = dict.fromkeys(_added_in_file())
    if whole not in known:
        raise UnknownName("model folder", str(whole), map(str, known))
    del known[whole]
    _write_added(known)


def _added_in_file() -> list[Path]:
    file = settings.read(folders().settings, {}).get("model-folders")
    return list(file.value)


def _write_added(added: Mapping[Path, None]) -> None:
    text = os.pathsep.join(map(str, added)) or None
    settings.write(folders().settings, "model-folders", text)


def _at_home(path: Path) -> Path:
    """``~`` written out, where it means a user's folder."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        shown = str(path)[:60]
        raise RequestError(f"no model at {shown!r}: {error.strerror}") from error


def _names(known: tuple[Model, ...]) -> list[str]:
    return list(dict.fromkeys(model.name for model in known))


def _ready(model: Model) -> Path:
    if model.ready:
        return model.path
    raise RequestError(
        f"{model.path} has to be exported first: sdlite export {_shell(model.path)} "
        f"{_shell(folders().models / model.path.stem)}"
    )


def _shell(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if " " in text else text


def _classify(path: Path) -> Model:
    """What a path given by hand is; what it is not shows when it is opened."""
    if path.is_file() or (path / "model_index.json").is_file():
        for model in _one(path):
            return model
        if path.is_file():
            raise RequestError(f"{path} is no model: give the folder of a package")
    return Model(path.name, path, "package")


def _shipped() -> Iterator[Model]:
    here = Path(__file__).resolve().parent
    for package in _children(here / "_models"):
        if (package / MANIFEST).is_file():
            yield Model(package.name, package, "package")
    for folder in _children(here.parent / "models"):  # a checkout
        if (folder / "package" / MANIFEST).is_file():
            yield Model(folder.name, folder / "package", "package")


def _models_in(folder: Path) -> Iterator[Model]:
    yield from _one(folder)
    special = [folder / name for name in CHECKPOINT_FOLDERS if (folder / name).is_dir()]
    if special:
        for place in special:
            yield from _checkpoints(place, DEPTH)
        return
    for child in _children(folder):
        yield from _one(child)
        if child.is_dir() and not _is_model_folder(child):
            yield from _checkpoints(child, DEPTH - 1)


def _checkpoints(folder: Path, depth: int) -> Iterator[Model]:
    for child in _children(folder):
        found = list(_one(child))
        yield from found
        if not found and depth and child.is_dir():
            yield from _checkpoints(child, depth - 1)


def _one(path: Path) -> Iterator[Model]:
    """The model at this very path, if there is one."""
    if (path / MANIFEST).is_file():
        yield Model(path.name, path, "package")
    elif (path / "model_index.json").is_file():
        onnx = (path / "unet" / "model.onnx").is_file()
        yield Model(path.name, path, "onnx" if onnx else "checkpoint")
    elif path.suffix.lower() in CHECKPOINTS and path.is_file():
        yield Model(path.stem, path, "checkpoint")


def _is_model_folder(path: Path) -> bool:
    return any(True for _ in _one(path))


def _children(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where it cannot be read."""
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError:
        return []


@dataclass(frozen=True)
class Description:
    """What ``sdlite models`` tells about a model."""

    model: Model
    """Which model."""
    size: int
    """Bytes."""
    family: str | None = None
    """``sd1`` ...; None where only an export or a run would tell."""
    precision: str | None = None
    """``fp16`` ...; None where only an export or a run would tell."""
    problem: str | None = None
    """Why it cannot be used as it is."""


def describe(model: Model) -> Description:
    """Read a model's manifest and add up its files; damaged packages are told, not raised."""
    if model.kind != "package":
        problem = None if model.ready else f"needs export: sdlite export {_shell(model.path)} DEST"
        return Description(model, _disk_size(model.path), problem=problem)
    from sdlite.manifest import read_manifest
    from sdlite.package import Package

    try:
        manifest = read_manifest(model.path)
    except PackageError as error:
        return Description(model, _disk_size(model.path), problem=str(error))
    precisions = sorted({artifact.precision for artifact in manifest.artifacts})
    return Description(
        model, Package(model.path, manifest).size(), manifest.family, ", ".join(precisions)
    )


def _disk_size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(child.stat().st_size for child in path.rglob("*") if child.is_file())
