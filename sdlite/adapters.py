"""What a request adds to a package: LoRAs merged into weights, words with vectors of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sdlite.assets import Asset, assets, find_asset
from sdlite.components import Replaced
from sdlite.errors import RequestError, SourceError, UnknownName
from sdlite.package import Package
from sdlite.text.tags import lora_tags, split_tags
from sdlite.text.tokenizer import ClipTokenizer
from sdlite.text.words import Words
from sdlite.types import Request
from sdlite.weights.embeddings import TABLE, Embedding, open_embedding
from sdlite.weights.files import open_tensor_file, short_hash
from sdlite.weights.lora import Adapter, match, names_of
from sdlite.weights.merge import Use, merge, touched
from sdlite.weights.names import TEXT_ENCODERS, Names
from sdlite.weights.stored import read_stored

KEPT = 16
"""Opened files remembered; only their headers are in memory."""


@dataclass(frozen=True)
class Applied:
    """What one run of a job adds."""

    weights: Mapping[str, Replaced] = field(default_factory=dict)
    """Replaced weights by component."""
    vectors: Mapping[str, Words] = field(default_factory=dict)
    """Words by text encoder."""
    hashes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Hashes of files by name, under A1111's names of the fields."""
    notes: tuple[str, ...] = ()
    """What the user should know."""

    @property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Bytes of replaced weights by component."""
        return tuple((name, replaced.size) for name, replaced in sorted(self.weights.items()))

    @property
    def embeds(self) -> bool:
        """Whether text encoders have to be told token embeddings."""
        return bool(self.vectors)

    def replaced(self, component: str) -> Replaced | None:
        """The replaced weights of a component; None when they are its own."""
        return self.weights.get(component)

    def words(self, component: str) -> Words | None:
        """The words of a text encoder; None when there is none."""
        return self.vectors.get(component)


NOTHING = Applied()


def hashes_of(applied: Sequence[Applied]) -> dict[str, str]:
    """The fields ``Lora hashes`` and ``TI hashes`` of a picture's parameters."""
    fields: dict[str, dict[str, str]] = {}
    for each in applied:
        for name, values in each.hashes.items():
            fields.setdefault(name, {}).update(values)
    return {
        name: ", ".join(f"{file}: {digest}" for file, digest in values.items())
        for name, values in fields.items()
    }


class Adapters:
    """Finds and opens what requests for one package name.

    Args:
        package: the package.
        tokenizers: of its text encoders, in their order.
    """

    def __init__(self, package: Package, tokenizers: Sequence[ClipTokenizer]) -> None:
        self._package = package
        self._tokenizers = tokenizers
        self._opened: dict[tuple[Path, int, int], Adapter | Embedding] = {}

    @cached_property
    def _names(self) -> Names:
        return names_of(self._package)

    def of(self, request: Request) -> Applied:
        """What a completed request adds.

        Raises:
            UnknownName: a LoRA asked for outside the prompt is not in the model folders.
            RequestError: a file was made for another family, or a strength is no number.
            SourceError: a file cannot be read.
        """
        notes: list[str] = []
        uses, hashes = self._uses(request, notes)
        weights = {}
        if uses:
            for component in self._package.manifest.weights:
                sizes = touched(self._package, component, uses, self._names)
                if sizes:
                    weights[component] = self._replaced(component, uses, sum(sizes.values()))
        vectors, more = self._vectors(request, notes)
        named = {"Lora hashes": hashes, "TI hashes": more}
        return Applied(
            weights,
            vectors,
            {name: found for name, found in named.items() if found},
            tuple(notes),
        )

    def _uses(self, request: Request, notes: list[str]) -> tuple[list[Use], dict[str, str]]:
        given = [(use, False) for use in request.loras]
        given += [(use, True) for use in lora_tags(split_tags(request.prompt)[1])]
        uses: list[Use] = []
        hashes: dict[str, str] = {}
        for use, from_tag in given:
            try:
                path = use.path or find_asset("LoRA", use.name)
            except UnknownName as error:
                if not from_tag:
                    raise
                notes.append(f"<lora:{use.name}> in the prompt is not applied: {error}")
                continue
            adapter = self._adapter(path)
            text = use.unet if use.text_encoder is None else use.text_encoder
            uses.append(Use(adapter, use.unet, text, dict(use.blocks), use.rank))
            hashes[use.name] = short_hash(adapter.file.path, whole=False)
            notes.extend(note for note in adapter.notes if note not in notes)
        return uses, hashes

    def _replaced(self, component: str, uses: Sequence[Use], size: int) -> Replaced:
        parts = []
        for use in uses:
            file = use.adapter.file.path
            strength = use.unet if component == "unet" else use.text_encoder
            parts.append((_facts(file), strength, sorted(use.blocks.items()), use.rank))
        key = hashlib.sha256(repr(parts).encode()).hexdigest()
        package, names = self._package, self._names
        return Replaced(key, size, lambda: merge(package, component, uses, names))

    def _adapter(self, path: Path) -> Adapter:
        facts = _facts(path)
        found = self._opened.get(facts)
        if not isinstance(found, Adapter):
            names = self._names  # first of all: a package may take no LoRA at all
            found = match(open_tensor_file(path), self._package, names)
            self._keep(facts, found)
        return found

    def _embedding(self, path: Path) -> Embedding:
        facts = _facts(path)
        found = self._opened.get(facts)
        if not isinstance(found, Embedding):
            found = open_embedding(path)
            self._keep(facts, found)
        return found

    def _keep(self, facts: tuple[Path, int, int], found: Adapter | Embedding) -> None:
        while len(self._opened) >= KEPT:
            del self._opened[next(iter(self._opened))]
        self._opened[facts] = found

    def _vectors(
        self, request: Request, notes: list[str]
    ) -> tuple[dict[str, Words], dict[str, str]]:
        """Words that occur in the prompts; a file of the folders that does not fit is a note."""
        text = f"{request.prompt}\n{request.negative_prompt}".casefold()
        candidates = [(Asset(path.stem, path), False) for path in request.embeddings]
        if candidates or text.strip():
            candidates += [(asset, True) for asset in assets("embedding")]
        found: dict[str, Embedding] = {}
        for asset, from_folder in candidates:
            if from_folder and asset.name.casefold() not in text:
                continue
            try:
                embedding = self._embedding(asset.path)
                embedding.keys_for(self._package)
            except (RequestError, SourceError) as error:
                if not from_folder:
                    raise
                notes.append(f"{asset.name} in the prompt is read as words: {error}")
                continue
            names = (embedding.name, *((embedding.token,) if embedding.token else ()))
            for name in names if not from_folder else names[:1]:
                if name.casefold() in text:
                    found.setdefault(name, embedding)
            if not from_folder and not any(name.casefold() in text for name in names):
                notes.append(
                    f"the prompts do not mention {' or '.join(names)}, so the embedding "
                    f"{asset.path.name} does nothing"
                )
        if not found:
            return {}, {}
        return self._words(found), {
            embedding.name: short_hash(embedding.file.path, whole=True)
            for embedding in found.values()
        }

    def _words(self, found: Mapping[str, Embedding]) -> dict[str, Words]:
        package = self._package
        encoders = [name for name in TEXT_ENCODERS if name in package.manifest.weights]
        words = {}
        for encoder, tokenizer in zip(encoders, self._tokenizers, strict=True):
            if not package.find(encoder, "embeddings"):
                raise RequestError(
                    f"{package.manifest.name} has no graph of its {encoder} that takes embeddings; "
                    "export it again with this version of sdlite"
                )
            vectors = {}
            for name, embedding in found.items():
                value = embedding.read(embedding.keys_for(package)[encoder])
                if len(value) > tokenizer.size:
                    raise RequestError(
                        f"{embedding.file.path.name} has {len(value)} vectors; a prompt holds "
                        f"{tokenizer.size}"
                    )
                (tokens,) = tokenizer.tokenize([name])
                if tokens:
                    vectors[tuple(tokens)] = value
            words[encoder] = Words(read_stored(package, encoder, TABLE), vectors)
        return words


def _facts(path: Path) -> tuple[Path, int, int]:
    """What tells a file from its former self without reading it."""
    try:
        status = path.stat()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    return path.resolve(), status.st_size, status.st_mtime_ns
