"""The models a server offers: by name, from its folders only."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdlite import home
from sdlite.errors import SdliteError, UnknownName

if TYPE_CHECKING:
    from sdlite.manifest import Manifest

FRESH_SECONDS = 10.0
"""How long the folders are not looked through again."""
HASH_DIGITS = 10
"""Digits of a hash in titles, as A1111 writes them."""


class Shelf:
    """Models that are ready to draw.

    Args:
        folders: where to look beside the user's own folders.
        default: the model to use when none is named.
    """

    def __init__(self, folders: Sequence[Path] = (), default: str = "shapes") -> None:
        self._folders = tuple(folders)
        self.default = default
        self._lock = threading.Lock()
        self._found: tuple[home.Model, ...] = ()
        self._looked = 0.0
        self._manifests: dict[Path, tuple[float, Manifest]] = {}

    def refresh(self) -> None:
        """Look through the folders at the next occasion."""
        with self._lock:
            self._looked = 0.0

    def models(self) -> tuple[home.Model, ...]:
        """Every model that is ready; of two with one name the first."""
        with self._lock:
            now = time.monotonic()
            if not self._looked or now - self._looked > FRESH_SECONDS:
                ready = [model for model in home.models(self._folders) if model.ready]
                named = {model.name: model for model in reversed(ready)}
                self._found = tuple(model for model in ready if named[model.name] is model)
                self._looked = now
            return self._found

    def find(self, text: str | None) -> home.Model:
        """A model by its name, its title or its hash; None is the default.

        A name is compared with those there are and never used as a path. Raises ``UnknownName``.
        """
        wanted = self.default if text is None else text.strip()
        models = self.models()
        for model in models:
            if wanted == model.name:
                return model
        folded = wanted.casefold()
        for model in models:
            # Reading manifests is for those who do not say the name itself.
            if folded in {known.casefold() for known in self._titles(model)}:
                return model
        raise UnknownName("model", wanted, [model.name for model in models])

    def _titles(self, model: home.Model) -> set[str]:
        titles = {model.name, f"{model.name}.safetensors"}
        try:
            digest = self.hash(model)
        except SdliteError:
            return titles
        short = digest[:HASH_DIGITS]
        return titles | {f"{name} [{short}]" for name in titles} | ({digest, short} - {""})

    def manifest(self, model: home.Model) -> Manifest:
        """What a model's folder says of it; raises ``PackageError``."""
        changed = _changed(model.path)
        with self._lock:
            known = self._manifests.get(model.path)
        if known is not None and known[0] == changed:
            return known[1]
        if model.kind == "package":
            from sdlite.manifest import read_manifest

            manifest = read_manifest(model.path)
        else:
            from sdlite.foreign import open_foreign

            manifest = open_foreign(model.path).manifest
        with self._lock:
            self._manifests[model.path] = (changed, manifest)
        return manifest

    def hash(self, model: home.Model) -> str:
        """SHA-256 of the checkpoint a model was made of; empty when unknown."""
        return self.manifest(model).source.sha256

    def title(self, model: home.Model) -> str:
        """The name and the beginning of the hash, as A1111 shows models."""
        short = self.hash(model)[:HASH_DIGITS]
        return f"{model.name} [{short}]" if short else model.name


def _changed(path: Path) -> float:
    try:
        return max(item.stat().st_mtime for item in (path, path / home.MANIFEST) if item.exists())
    except (OSError, ValueError):
        return 0.0
