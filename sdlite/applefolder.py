"""Open the folders of resources that Apple's ml-stable-diffusion makes, as they are.

Known: ``TextEncoder``, ``Unet`` or ``UnetChunk1`` and ``UnetChunk2``, ``VAEDecoder``, and perhaps
``VAEEncoder``, each ``.mlmodelc`` or ``.mlpackage``, with ``vocab.json`` and ``merges.txt``. What
the programs take and give is read from their descriptions, not assumed. Such a folder does not say
what its model predicts: programs of 768x768 are taken for Stable Diffusion 2's with velocity.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sdlite import __version__
from sdlite.engine import Artifact, FileEntry, TensorSpec
from sdlite.errors import PackageInvalid, PackageMissing, UnknownFamily
from sdlite.foreign import ForeignPackage
from sdlite.manifest import (
    VERSION,
    Defaults,
    LatentSpace,
    Licence,
    Manifest,
    NoiseTable,
    Source,
    Tokenizer,
)
from sdlite.package import Package, hash_file
from sdlite.ports import bind
from sdlite.wire import Malformed, messages, scalars, varint

COMPILED, PACKAGE = ".mlmodelc", ".mlpackage"
PARTS: dict[str, tuple[str, ...]] = {
    "text_encoder": ("TextEncoder",),
    "unet": ("Unet",),
    "vae_decoder": ("VAEDecoder",),
    "vae_encoder": ("VAEEncoder",),
}
CHUNKS = ("UnetChunk1", "UnetChunk2")
TOKENIZER = ("vocab.json", "merges.txt")
OTHERS = ("TextEncoder2", "MultiModalDiffusionTransformer", "UnetRefiner")
"""Programs of families whose folders are not opened."""
FACTOR = 8
WIDTHS = {768: "sd1", 1024: "sd2"}
"""Families by the width of their text features."""
MOST_BYTES = 256 << 20
"""Of a program's description; its weights lie in files of their own."""
DTYPES = {"Float32": "float32", "Float16": "float16", "Int32": "int32", "Double": "float64"}
NUMBERS = {65568: "float32", 65552: "float16", 131104: "int32", 65600: "float64"}
"""Types of arrays in Core ML's FeatureTypes.proto."""
DESCRIPTION, INPUT, OUTPUT, TYPE, ARRAY = 2, 1, 10, 3, 5
"""Fields of Core ML's Model.proto and FeatureTypes.proto."""
BEGIN, END, PAD_2 = "<|startoftext|>", "<|endoftext|>", "!"


def is_apple(path: Path) -> bool:
    """Whether a folder holds U-Nets of Apple's names; raises ``OSError``."""
    return any(_found(path, name) is not None for name in (*PARTS["unet"], CHUNKS[0]))


def open_apple(path: Path) -> Package:
    """Open a folder; reads descriptions and the tokenizer, no weights.

    Raises:
        PackageMissing: a part is not there.
        PackageInvalid: a part cannot be read, or does not say what it must.
        UnknownFamily: it holds programs that sdlite cannot run; says which.
        OSError: a file cannot be read.
    """
    for name in OTHERS:
        if _found(path, name) is not None:
            raise UnknownFamily(
                f"{path} holds {name}, which this version of sdlite cannot run from such a folder; "
                "export the original model with sdlite export --format coreml"
            )
    artifacts: list[Artifact] = []
    for component, usual in PARTS.items():
        chunked = component == "unet" and _found(path, CHUNKS[0]) is not None
        for index, name in enumerate(CHUNKS if chunked else usual):
            folder = _found(path, name)
            if folder is not None:
                artifacts.append(_artifact(path, component, folder, index))
            elif component != "vae_encoder":
                raise PackageMissing(f"{path} has no {name}{COMPILED} and no {name}{PACKAGE}")
    unet = next(artifact for artifact in artifacts if artifact.component == "unet")
    sample, context = bind(unet.inputs, "noisy"), bind(unet.inputs, "context")
    if sample is None or context is None or len(sample.shape) != 4 or len(context.shape) != 4:
        given = ", ".join(spec.name for spec in unet.inputs)
        raise PackageInvalid(f"{path}: its U-Net takes {given}, not sample and hidden states")
    channels, height, width = (int(size) for size in sample.shape[1:])
    features = int(context.shape[1])
    if channels != 4 or features not in WIDTHS:
        raise UnknownFamily(
            f"{path}: its U-Net takes {channels} channels and text features {features} wide; "
            "known are 4, with 768 (Stable Diffusion 1) or 1024 (2)"
        )
    family = WIDTHS[features]
    velocity = family == "sd2" and min(width, height) * FACTOR >= 768
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction" if velocity else "epsilon"
    name = path.resolve().name
    manifest = Manifest(
        version=VERSION,
        reader=3,
        name=name,
        family=family,
        prediction=prediction,
        noise=NoiseTable("scaled_linear", 0.00085, 0.012, 1000),
        latent=LatentSpace(channels, FACTOR, 0.18215),
        tokenizers=(_tokenizer(path, family),),
        defaults=Defaults(width * FACTOR, height * FACTOR),
        licence=Licence("unknown"),
        source=Source("coreml", name, ""),
        exporter=__version__,
        artifacts=tuple(artifacts),
    )
    return ForeignPackage(path, manifest)


def _found(path: Path, name: str) -> Path | None:
    folders = (path / f"{name}{suffix}" for suffix in (COMPILED, PACKAGE))
    return next((folder for folder in folders if folder.is_dir()), None)


def _artifact(root: Path, component: str, folder: Path, index: int) -> Artifact:
    compiled = folder.suffix == COMPILED
    inner = "metadata.json" if compiled else "Data/com.apple.CoreML/model.mlmodel"
    graph = folder / inner
    if not graph.is_file():
        raise PackageMissing(f"{graph} is missing")
    if graph.stat().st_size > MOST_BYTES:
        raise PackageInvalid(f"{graph} is larger than {MOST_BYTES >> 20} MiB")
    try:
        inputs, outputs = _compiled(graph) if compiled else _described(graph.read_bytes())
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise PackageInvalid(f"{graph} describes no program: {error}") from error
    files = tuple(
        FileEntry(file.relative_to(root).as_posix(), file.stat().st_size, "")
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != graph
    )
    return Artifact(
        component=component,
        format="coreml",
        variant="original",
        precision="fp16",
        graph=graph.relative_to(root).as_posix(),
        graph_size=graph.stat().st_size,
        graph_sha256="" if compiled else hash_file(graph),
        inputs=inputs,
        outputs=outputs,
        index=index,
        files=files,
    )


Ports = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def _compiled(metadata: Path) -> Ports:
    """Ports as ``metadata.json`` of a compiled program lists them; shapes are texts in it."""
    data = json.loads(metadata.read_bytes())[0]
    inputs, outputs = (
        tuple(_port(entry) for entry in data[key]) for key in ("inputSchema", "outputSchema")
    )
    return inputs, outputs


def _port(entry: dict[str, Any]) -> TensorSpec:
    shape = json.loads(entry["shape"])
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"the shape {str(entry['shape'])[:40]!r} of {entry['name']!r}")
    return TensorSpec(str(entry["name"]), DTYPES[entry["dataType"]], tuple(shape))


def _described(program: bytes) -> Ports:
    """Ports from the description in a package's model; the program itself is passed over."""
    with memoryview(program) as data:
        for first, last in messages(data, 0, len(data), DESCRIPTION):
            inputs, outputs = (
                tuple(_feature(data, a, b) for a, b in messages(data, first, last, kind))
                for kind in (INPUT, OUTPUT)
            )
            return inputs, outputs
    raise Malformed("it has no description")


def _feature(data: memoryview, start: int, end: int) -> TensorSpec:
    name = scalars(data, start, end)[0].get(1, "")
    for a, b in messages(data, start, end, TYPE):
        for c, d in messages(data, a, b, ARRAY):
            number = scalars(data, c, d)[1].get(2, 0)
            shape = tuple(size for e, f in messages(data, c, d, 1) for size in _packed(data, e, f))
            return TensorSpec(name, NUMBERS[number], shape)
    raise Malformed(f"{name!r} is no array")


def _packed(data: memoryview, start: int, end: int) -> Iterator[int]:
    while start < end:
        value, start = varint(data, start, end)
        yield value


def _tokenizer(path: Path, family: str) -> Tokenizer:
    files = [path / name for name in TOKENIZER]
    for file in files:
        if not file.is_file():
            raise PackageMissing(f"{file} is missing")
    try:
        vocabulary = json.loads(files[0].read_bytes())
        # OpenCLIP pads with the first of the vocabulary, CLIP with the end token.
        begin, end, pad = (
            int(vocabulary[token]) for token in (BEGIN, END, PAD_2 if family == "sd2" else END)
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackageInvalid(f"{files[0]} is no vocabulary of CLIP: {error}") from error
    entries = tuple(FileEntry(f.name, f.stat().st_size, hash_file(f)) for f in files)
    return Tokenizer("tokenizer", "clip", entries, 77, begin, end, pad)
