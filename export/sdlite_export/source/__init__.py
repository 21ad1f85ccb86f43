"""Read checkpoints: diffusers folders, single ``.safetensors``, ``.ckpt`` and ``.gguf`` files.

    open_source(path) -> Checkpoint

Nothing in a source is executed, imported or believed before it is checked; no tensor is read before
it is asked for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sdlite.errors import SourceError
from sdlite.tensors.base import TensorInfo, Tensors
from sdlite_export.source.checkpoint import (
    Checkpoint,
    Component,
    Prediction,
    SourceHash,
    SourceLicence,
    TokenizerFiles,
)

__all__ = [
    "Checkpoint",
    "Component",
    "Prediction",
    "SourceHash",
    "SourceLicence",
    "TensorInfo",
    "Tensors",
    "TokenizerFiles",
    "open_source",
]

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", ".gguf", *PICKLES)
"""Kinds of single files."""


def open_source(path: Path, prediction: Prediction | None = None) -> Checkpoint:
    """Open a checkpoint with the reader its path and contents ask for.

    ``prediction`` says what the U-Net predicts, over what the source says or seems to be.

    Raises ``SourceError``: ``SourceCorrupt`` for a damaged file, ``SourceHostile`` for one that
    would execute code, ``UnknownFamily`` for a model that is not supported.
    """
    from sdlite_export.source.diffusers import open_diffusers
    from sdlite_export.source.ldm import open_single_file

    path = Path(path)
    if path.is_dir():
        if (path / "model_index.json").is_file():
            checkpoint = open_diffusers(path)
            return replace(checkpoint, prediction=prediction or checkpoint.prediction)
        raise _no_model(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a model file or a diffusers folder")
    if not path.is_file():
        raise SourceError(f"{path} is neither a file nor a folder")
    if path.suffix.lower() not in SUFFIXES:
        raise SourceError(
            f"{path.name}: unknown kind of file {path.suffix!r}; sdlite reads diffusers folders, "
            + ", ".join(SUFFIXES)
        )
    return open_single_file(path, prediction)


def _no_model(folder: Path) -> SourceError:
    if (folder / "sdlite.json").is_file():
        return SourceError(f"{folder} is an sdlite package already; use it as it is")
    models = sorted(
        item.name
        for item in folder.iterdir()
        if item.suffix.lower() in (".safetensors", ".ckpt", ".gguf") and item.is_file()
    )
    hint = f"; give one of its files, e.g. {models[0]}" if models else ""
    return SourceError(f"{folder} is no diffusers folder: it has no model_index.json{hint}")
