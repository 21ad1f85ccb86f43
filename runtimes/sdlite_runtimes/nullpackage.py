"""A package for the fake engine: whole and valid, a few kB, with graphs that hold nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sdlite.engine import Artifact, TensorSpec

CONTENT = b"a graph of the null engine; only sdlite_runtimes.null opens it\n"
WIDTH = 16
"""Width of the text features."""
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def write_null_package(
    folder: Path,
    *,
    size: int = 64,
    prediction: str = "epsilon",
    length: int = 77,
    activation_bytes: int = 1 << 20,
) -> Path:
    """Write a package for ``NullRuntime`` into ``folder`` (made if needed) and return it.

    Args:
        folder: where to.
        size: default width and height in pixels.
        prediction: ``epsilon`` or ``v_prediction``; the second needs the engine option too.
        length: tokens of a chunk.
        activation_bytes: what the manifest says each graph takes at the default size.
    """
    tokenizer = _tokenizer(folder)
    vocabulary = _vocabulary()
    artifacts = [
        asdict(_artifact(folder, component, variant, activation_bytes))
        for component in PORTS
        for variant in ("plain", "fused")
    ]
    artifacts += [asdict(part) for part in _tiles(folder, activation_bytes)]
    manifest: dict[str, Any] = {
        "version": 1,
        "reader": 1,
        "name": folder.resolve().name,
        "family": "sd1",
        "prediction": prediction,
        "noise": {
            "kind": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "train_steps": 1000,
        },
        "latent": {"channels": 4, "factor": 8, "scale": 1.0},
        "tokenizers": [
            {
                "name": "tokenizer",
                "kind": "clip",
                "files": tokenizer,
                "length": length,
                "bos": vocabulary[BEGIN],
                "eos": vocabulary[END],
                "pad": vocabulary[END],
            }
        ],
        "defaults": {"width": size, "height": size, "guidance": 2.0},
        "licence": {"id": "CC0-1.0"},
        "source": {"kind": "null", "name": "null", "sha256": hashlib.sha256(b"").hexdigest()},
        "exporter": "0",
        "artifacts": artifacts,
    }
    (folder / "sdlite.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return folder


def _spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


_LATENTS = ("batch", 4, "height", "width")
_PICTURE = ("batch", 3, "image_height", "image_width")
PORTS = {
    "text_encoder": (
        (_spec("input_ids", "int64", "batch", "tokens"),),
        (
            _spec("last_hidden_state", "float32", "batch", "tokens", WIDTH),
            _spec("clip_skip_2", "float32", "batch", "tokens", WIDTH),
            _spec("pooler_output", "float32", "batch", WIDTH),
        ),
    ),
    "unet": (
        (
            _spec("sample", "float32", *_LATENTS),
            _spec("timestep", "float32", "batch"),
            _spec("encoder_hidden_states", "float32", "batch", "tokens", WIDTH),
        ),
        (_spec("out_sample", "float32", *_LATENTS),),
    ),
    "vae_decoder": (
        (_spec("latent_sample", "float32", *_LATENTS),),
        (_spec("sample", "float32", *_PICTURE),),
    ),
    "vae_encoder": (
        (_spec("sample", "float32", *_PICTURE),),
        (_spec("latent_parameters", "float32", "batch", 8, "height", "width"),),
    ),
}
"""Inputs and outputs of each component, named as in every sdlite package."""


def _tiles(folder: Path, activation_bytes: int) -> list[Artifact]:
    """The decoder's chain for tiles: latents to colours, which are doubled three times."""
    sides = ("", "image_{}_4", "image_{}_2", "image_{}")
    maps = [_spec("latent_sample", "float32", *_LATENTS)]
    for number, side in enumerate(sides):
        height, width = (side.format(name) or name for name in ("height", "width"))
        name = f"colours_{number}" if number < 3 else "sample"
        maps.append(_spec(name, "float32", "batch", 3, height, width))
    found = []
    for index, pair in enumerate(pairwise(maps)):
        entry = _file(folder, f"vae_decoder/tiles-{index}.onnx", CONTENT)
        part = _artifact(folder, "vae_decoder", "plain", activation_bytes)
        found.append(
            replace(
                part,
                variant="tiles",
                graph=entry["path"],
                inputs=pair[:1],
                outputs=pair[1:],
                index=index,
            )
        )
    return found


def _artifact(folder: Path, component: str, variant: str, activation_bytes: int) -> Artifact:
    entry = _file(folder, f"{component}/{variant}.onnx", CONTENT)
    inputs, outputs = PORTS[component]
    return Artifact(
        component=component,
        format="onnx",
        variant=variant,
        precision="fp32",
        graph=entry["path"],
        graph_size=entry["size"],
        graph_sha256=entry["sha256"],
        inputs=inputs,
        outputs=outputs,
        activation_bytes=activation_bytes,
    )


def _tokenizer(folder: Path) -> list[dict[str, Any]]:
    vocabulary = json.dumps(_vocabulary(), ensure_ascii=False).encode()
    return [
        _file(folder, "tokenizer/vocab.json", vocabulary),
        _file(folder, "tokenizer/merges.txt", b"#version: 0.2\n"),
    ]


def _vocabulary() -> dict[str, int]:
    """CLIP's byte alphabet, alone and at the end of words: every letter is a token."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(byte) for byte in printable]
    letters += [chr(256 + number) for number in range(256 - len(printable))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), BEGIN, END]
    return {word: number for number, word in enumerate(words)}


def _file(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
