"""Compare the graph variants of a new package with each other, where an engine is installed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import Artifact, LoadOptions, Runtime
from sdlite.errors import RuntimeUnavailable
from sdlite.manifest import Manifest, Parity
from sdlite.types import Array, Device
from sdlite_export.emit.seamless import WRAP

log = logging.getLogger("sdlite.export")

MAX_BYTES = 128 << 20
"""Packages with more weights than this are not run: that would cost more than the export."""
RUNTIME = "onnxruntime"
CELLS = (6, 10)
"""Height and width of the latents compared: not square, not a power of two."""
TILES = 3
"""Bands in which the variant ``tiles`` is run."""


def verify_package(root: Path, manifest: Manifest) -> tuple[Parity, ...]:
    """Run every variant of every component on random inputs and compare with ``plain``.

    ``fused+downsampled`` is another function and is compared with ``plain+downsampled``. Returns
    nothing when no engine is installed or the package is large. ``max_abs`` is in standard
    deviations of the plain graph's output. Raises ``EngineError`` for a graph that does not run.
    """
    if sum(weights.file.size for weights in manifest.weights.values()) > MAX_BYTES:
        log.info("graph variants not compared: the model is large")
        return ()
    try:
        device = registry.probe(RUNTIME)[0]
        runtime = registry.get(RUNTIME)
    except RuntimeUnavailable as error:
        log.info("graph variants not compared: %s", error)
        return ()
    groups: dict[str, dict[str, list[Artifact]]] = {}
    for artifact in manifest.artifacts:
        if artifact.format != "onnx":
            continue
        variants = groups.setdefault(artifact.component, {})
        variants.setdefault(artifact.variant, []).append(artifact)
    found = []
    for component, variants in groups.items():
        inputs = random_inputs(variants["plain"][0], manifest)
        plain = [variant for variant in variants if variant.startswith("plain")]
        references = {
            name: _run(runtime, device, root, variants.pop(name), inputs) for name in plain
        }
        for variant, artifacts in variants.items():
            name = "".join(("plain", *variant.partition("+")[1:]))
            reference = references[name]
            if variant == "seamless":
                # Without wrapping it is the usual graph.
                inputs = {**inputs, WRAP: np.zeros(2, np.float32)}
            if variant == "embeddings":
                inputs = {**inputs, **_embedded(root, manifest, artifacts[0], inputs)}
            result = _run(runtime, device, root, artifacts, inputs)
            worst = max(deviation(result[port], reference[port]) for port in reference)
            label = f"{name} graph, {runtime.name} {runtime.version()}"
            found.append(Parity(component, variant, label, worst))
    return tuple(found)


def deviation(result: Array, reference: Array) -> float:
    """Largest absolute difference in standard deviations of the reference."""
    spread = float(reference.std()) or 1.0
    return float(np.abs(result - reference).max()) / spread


def random_inputs(artifact: Artifact, manifest: Manifest, seed: int = 0) -> dict[str, Array]:
    """Inputs for a graph: two items, token ids of its tokenizer, everything else normal."""
    rng = np.random.default_rng(seed)
    tokenizer = manifest.tokenizers[0]
    factor = manifest.latent.factor
    sizes = {"batch": 2, "tokens": tokenizer.length, "height": CELLS[0], "width": CELLS[1]}
    sizes |= {"image_height": CELLS[0] * factor, "image_width": CELLS[1] * factor}
    inputs: dict[str, Array] = {}
    for spec in artifact.inputs:
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape)
        if spec.dtype == "int64" and len(shape) == 1 and manifest.low_res is not None:
            inputs[spec.name] = rng.integers(0, manifest.low_res.most + 1, shape)
        elif spec.dtype == "int64":
            ids = rng.integers(0, min(tokenizer.bos, tokenizer.eos), shape)
            ids[:, shape[1] // 2 :] = tokenizer.eos
            inputs[spec.name] = ids
        elif spec.name == "timestep":
            inputs[spec.name] = rng.uniform(0, 999, shape).astype(np.float32)
        else:
            inputs[spec.name] = rng.standard_normal(shape, dtype=np.float32)
    return inputs


def _embedded(
    root: Path, manifest: Manifest, artifact: Artifact, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Look the token embeddings up in the weight file."""
    weights = manifest.weights[artifact.component]
    name = next(name for name in weights.tensors if name.endswith("token_embedding.weight"))
    entry = weights.tensors[name]
    count = entry.shape[0] * entry.shape[1]
    path = root / weights.file.path
    table = np.fromfile(path, entry.dtype, count, offset=entry.offset).reshape(entry.shape)
    return {"inputs_embeds": table[inputs["input_ids"]].astype(np.float32)}


def _run(
    runtime: Runtime,
    device: Device,
    root: Path,
    artifacts: Sequence[Artifact],
    inputs: Mapping[str, Array],
) -> dict[str, Array]:
    session = open_chain(runtime, artifacts, root, device, LoadOptions(), TILES)
    try:
        return session.run({spec.name: inputs[spec.name] for spec in session.inputs})
    finally:
        session.close()
