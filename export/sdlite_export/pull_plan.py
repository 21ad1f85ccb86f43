"""Choose which files of a hub model an export needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sdlite.errors import RequestError, SourceError, SourceHostile

COMPONENTS = {
    "text_encoder": ("model", "pytorch_model"),
    "unet": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
}
"""Stems of weight files by component: in safetensors and in ``.bin``."""
TOKENIZER = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
LOW_RES = "low_res_scheduler/scheduler_config.json"
"""What only upscalers have."""
TERMS = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md")
"""The card and the licence; always fetched."""
SINGLE = (".safetensors", ".ckpt", ".gguf")
"""Suffixes of single-file models, better one first."""


@dataclass(frozen=True)
class PullFile:
    """One file to fetch."""

    path: str
    """Relative path, forward slashes."""
    size: int
    """Bytes."""
    sha256: str | None
    """Checksum the hub states for large files."""
    git_sha1: str | None
    """Git's checksum, stated for every file; for large ones it is that of a pointer."""


@dataclass(frozen=True)
class PullPlan:
    """What a pull would fetch; shown before anything is."""

    repo: str
    """``org/name``."""
    revision: str
    """Commit."""
    files: tuple[PullFile, ...]
    """In the order they are fetched; for a single-file model it comes first."""
    single: bool
    """Whether the model is one file instead of a diffusers folder."""
    licence: str
    """Identifier the hub states; ``unknown`` when none."""
    dest: Path
    """Folder to be made."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def choose_files(
    repo: str, listed: Sequence[PullFile], wanted: str | None
) -> tuple[tuple[PullFile, ...], bool]:
    """The files to fetch and whether they are a single-file model.

    ``wanted`` names one file. Otherwise a diffusers layout is taken, its smallest good weights
    (fp16 safetensors first), or the one single-file model there is. Raises ``RequestError`` when
    there is a choice to make, ``SourceError`` when there is nothing to export.
    """
    by_path = {file.path: file for file in listed}
    terms = [by_path[path] for path in TERMS if path in by_path]
    if wanted is not None:
        if wanted not in by_path:
            raise RequestError(f"{repo} has no file {wanted!r}; it has {_names(listed)}")
        if not wanted.endswith(SINGLE):
            raise RequestError(
                f"{wanted!r} is no model file; it would end in {' or '.join(SINGLE)}"
            )
        return (by_path[wanted], *terms), True
    if "model_index.json" in by_path:
        chosen = _diffusers(by_path)
        if chosen is not None:
            return (*terms, *chosen), False
    for suffix in SINGLE:
        models = [file for file in listed if file.path.endswith(suffix) and "/" not in file.path]
        if len(models) == 1:
            return (models[0], *terms), True
        if models:
            raise RequestError(
                f"{repo} has several models; name one, e.g. {repo}/{models[0].path}. "
                f"It has {_names(models)}"
            )
    raise SourceError(
        f"{repo} has neither a complete diffusers layout nor a single-file model; "
        f"it has {_names(listed)}"
    )


def _diffusers(by_path: Mapping[str, PullFile]) -> list[PullFile] | None:
    """Configurations, tokenizer and one set of weights a component; None when one lacks them."""
    needed = ["model_index.json", "scheduler/scheduler_config.json"]
    needed += [f"{component}/config.json" for component in COMPONENTS]
    if any(path not in by_path for path in needed):
        return None
    if LOW_RES in by_path:
        needed.append(LOW_RES)
    paths = needed + [path for name in TOKENIZER if (path := f"tokenizer/{name}") in by_path]
    for component, (stem, old_stem) in COMPONENTS.items():
        weights = _weights(by_path, component, stem, old_stem)
        if not weights:
            return None
        paths += weights
    return [by_path[path] for path in paths]


def _weights(
    by_path: Mapping[str, PullFile], component: str, stem: str, old_stem: str
) -> list[str]:
    choices = (
        (f"{stem}.fp16.safetensors", f"{stem}.fp16-", f"{stem}.safetensors.index.fp16.json"),
        (f"{stem}.safetensors", f"{stem}-", f"{stem}.safetensors.index.json"),
        (f"{old_stem}.fp16.bin", "", ""),
        (f"{old_stem}.bin", "", ""),
    )
    for whole, shard, index in choices:
        if f"{component}/{whole}" in by_path:
            return [f"{component}/{whole}"]
        if index and f"{component}/{index}" in by_path:
            start = f"{component}/{shard}"
            shards = [
                path
                for path in by_path
                if path.startswith(start) and path.endswith(".safetensors") and "-of-" in path
            ]
            if shards:
                return [f"{component}/{index}", *sorted(shards)]
    return []


def plain_path(repo: str, path: str) -> str:
    """A relative path as the hub states it; raises ``SourceHostile`` when it would lead outside."""
    pure = PurePosixPath(path)
    odd = any(letter in path for letter in "\\:\0")
    if not path or odd or pure.is_absolute() or ".." in pure.parts or str(pure) != path:
        raise SourceHostile(f"{repo}: the hub lists {path!r}, which leads outside; refused")
    return path


def _names(files: Sequence[PullFile], limit: int = 6) -> str:
    shown = ", ".join(file.path[:60] for file in files[:limit])
    rest = f" and {len(files) - limit} more" if len(files) > limit else ""
    return (shown or "no files") + rest
