"""Where models, caches and settings live, and how a model is found by its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sdlite import settings
from sdlite.errors import PackageError, RequestError, UnknownName

HOME_VARIABLE = "SDLITE_HOME"
MANIFEST = "sdlite.json"
CHECKPOINTS = frozenset({".safetensors", ".ckpt", ".gguf"})
CHECKPOINT_FOLDERS = (
    "models/Stable-diffusion",
    "Stable-diffusion",
    "models/checkpoints",
    "checkpoints",
)
"""Where AUTOMATIC1111's web UI and ComfyUI keep checkpoints, from their root or ``models``."""
ASSET_FOLDERS = frozenset(
    {"lora", "loras", "lycoris", "embeddings", "controlnet", "t2i_adapter", "upscalers", "vae"}
)
"""Folders of what is no model by itself, in lower case; not looked into for checkpoints."""
APPLE = ("Unet.mlmodelc", "UnetChunk1.mlmodelc", "Unet.mlpackage", "UnetChunk1.mlpackage")
"""One of these is in every folder of resources that Apple's ml-stable-diffusion makes."""
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
    """``package``, ``onnx`` (a folder made by optimum or diffusers), ``coreml`` (resources made by
    Apple's ml-stable-diffusion) or ``checkpoint``."""

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


def compiled_folder() -> Path:
    """Where graphs compiled for this machine are kept; it need not exist."""
    return folders().cache / "compiled"


def search_folders() -> tuple[Path, ...]:
    """Folders with models: the user's own, those added, then what ships with sdlite."""
    places = folders()
    added = settings.read(places.settings).get("model-folders").value
    return (places.models, *added)


def models(more: Sequence[Path] = ()) -> tuple[Model, ...]:
    """Every model there is, in the order names are looked up; ``more`` folders come first."""
    return tuple(_all_models(more))


def _all_models(more: Sequence[Path] = ()) -> Iterator[Model]:
    found = set()
    for model in chain(*map(_models_in, (*more, *search_folders())), _shipped()):
        place = model.path.resolve()
        if place not in found:
            found.add(place)
            yield model


def shipped() -> frozenset[Path]:
    """Folders of the models that come with sdlite, which nobody changes."""
    return frozenset(model.path for model in _shipped())


def look_up(name: str) -> Model | None:
    """The model of a name, one that is ready before a checkpoint; None when there is none.

    What lies directly in one of the folders, ships with sdlite or is ready here is found without a
    walk through everything the folders of other programs hold.
    """
    candidates = chain(
        *(_directly_in(folder, name) for folder in search_folders()),
        _shipped(),
        (model for model in _one(Path(name)) if model.ready),
        _all_models(),
    )
    waiting = None
    for model in candidates:
        if model.name == name:
            if model.ready:
                return model
            waiting = waiting or model
    return waiting


def find_model(name_or_path: str | Path) -> Path:
    """The folder of a package, or of an ONNX folder made by optimum or diffusers.

    A plain word is the name of a model, of which those that are ready count first, then a folder
    here; write ``./word`` to mean the folder.

    Raises:
        UnknownName: no model has that name.
        RequestError: the path does not exist, or is a checkpoint that has to be exported first.
    """
    text = os.fspath(name_or_path)
    path = _at_home(Path(text))
    named = isinstance(name_or_path, str) and is_name(text)
    model = look_up(text) if named else None
    if model is not None:
        return _ready(model)
    if text and exists(path):
        return _ready(_classify(path))
    if not text or (named and path.suffix.lower() not in CHECKPOINTS):
        raise UnknownName("model", text, model_names())
    raise RequestError(f"no model at {path}: there is no such file or folder")


def is_name(text: str) -> bool:
    """Whether text can be a model's name: one plain word of a path."""
    return text == Path(text).name and text not in (".", "..", "")


def model_names() -> list[str]:
    """Names of all models, each once."""
    return list(dict.fromkeys(model.name for model in _all_models()))


def add_folder(folder: Path) -> tuple[Model, ...]:
    """Remember a folder with models; returns what is in it.

    Raises:
        RequestError: it is no folder.
        OutputError: the settings file cannot be written.
    """
    whole = _at_home(folder).absolute()
    if not _is_folder(whole):
        raise RequestError(f"{folder} is no folder, or one that may not be looked at")
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


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; raises ``RequestError`` when nobody can tell."""
    try:
        return path.exists()
    except OSError as error:
        shown = str(path)[:60]
        raise RequestError(f"no model at {shown!r}: {error.strerror}") from error


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
    is_file = _is_file(path)
    if not os.access(path, os.R_OK if is_file else os.R_OK | os.X_OK):
        raise RequestError(f"cannot read {path}: no permission")
    if is_file or _is_file(path / "model_index.json"):
        for model in _one(path):
            return model
        if is_file:
            raise RequestError(f"{path} is no model: give the folder of a package")
    return Model(path.name, path, "package")


def _shipped() -> Iterator[Model]:
    here = Path(__file__).resolve().parent
    for package in _children(here / "_models"):
        if _is_file(package / MANIFEST):
            yield Model(package.name, package, "package")
    for folder in _children(here.parent / "models"):  # a checkout
        if _is_file(folder / "package" / MANIFEST):
            yield Model(folder.name, folder / "package", "package")


def _directly_in(folder: Path, name: str) -> Iterator[Model]:
    """Those of ``_models_in`` that a name leads to without looking around."""
    yield from _one(folder)
    if not name.startswith("."):
        for place in _checkpoint_folders(folder) or [folder]:
            yield from _one(place / name)


def _models_in(folder: Path) -> Iterator[Model]:
    yield from _one(folder)
    special = _checkpoint_folders(folder)
    if special:
        for place in special:
            yield from _checkpoints(place, DEPTH)
        return
    for child in _children(folder):
        found = list(_one(child))
        yield from found
        if not found and _is_folder(child) and child.name.lower() not in ASSET_FOLDERS:
            yield from _checkpoints(child, DEPTH - 1)


def _checkpoint_folders(folder: Path) -> list[Path]:
    return [folder / name for name in CHECKPOINT_FOLDERS if _is_folder(folder / name)]


def _checkpoints(folder: Path, depth: int) -> Iterator[Model]:
    for child in _children(folder):
        found = list(_one(child))
        yield from found
        if not found and depth and _is_folder(child):
            yield from _checkpoints(child, depth - 1)


def _one(path: Path) -> Iterator[Model]:
    """The model at this very path, if there is one."""
    if _is_file(path / MANIFEST):
        yield Model(path.name, path, "package")
    elif _is_file(path / "model_index.json"):
        from sdlite.foreign import is_foreign
        from sdlite.foreigngraphs import format_at

        kind = format_at(path) if is_foreign(path) else None
        yield Model(path.name, path, kind or "checkpoint")
    elif any(_is_folder(path / name) for name in APPLE):
        yield Model(path.name, path, "coreml")
    elif path.suffix.lower() in CHECKPOINTS and _is_file(path):
        yield Model(path.stem, path, "checkpoint")


# What may not be looked at is no model, and no reason to miss the others: a disk's `lost+found`.
def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


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
    except (PackageError, OSError) as error:
        return Description(model, _disk_size(model.path), problem=str(error))
    precisions = sorted({artifact.precision for artifact in manifest.artifacts})
    return Description(
        model, Package(model.path, manifest).size(), manifest.family, ", ".join(precisions)
    )


def _disk_size(path: Path) -> int:
    """Bytes of a file or of all files in a folder, without those that may not be looked at."""
    size = 0
    for item in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            size += item.stat().st_size if item.is_file() else 0
    return size
