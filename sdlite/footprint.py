"""How much memory a component takes: from the manifest, or, where it does not say, from SD1.5."""

from __future__ import annotations

from collections.abc import Sequence

from sdlite.adapterentry import CONTROL, EXTENSIONS, kind_of
from sdlite.chain import is_heavy
from sdlite.engine import Artifact
from sdlite.manifest import Manifest
from sdlite.package import Package
from sdlite.tiles import tiled_bytes
from sdlite.types import Device

# For artifacts that do not say what their activations take: SD1.5's figures with fused attention.
UNET_BYTES_PER_CELL = 110_000
VAE_BYTES_PER_PIXEL = 6_000
OPENING_FP16 = 3.4
"""Private bytes for each byte of float16 weights while they are opened (SD1.5: 5.7 of 1.7 GB)."""
OPENVINO_WEIGHTS = 1.05
"""Private bytes OpenVINO keeps for each byte of weights in the precision it computes in."""
OPENVINO_NARROW = 0.6
"""Activations in 16 bits against those of float32: most tensors are half as large."""
SCORE_BYTES = 2 * 8 * 4
"""For a pair of cells, where attention is not fused: 8 heads' scores in float32, and a copy."""
GRAPH_BYTES = 512 << 10
"""An open graph of a chain without its weights, on ONNX Runtime (measured: 0.3 to 0.5 MB)."""
STORED_BYTES = {"fp16": 2, "int8": 1, "w8": 1, "w4": 0.5}
"""Bytes of most numbers of a weight file by its precision; 4 for others."""
OPENING_INT8 = 5.0
"""Private bytes for each byte of 8-bit weights while ONNX Runtime opens them normally."""
HOLES = 1.6
"""Private bytes of a chain for each byte its largest segment needs, because of holes between what
is freed and what is asked for: for SD1.5's U-Net 216 MB of 153 in calls alone, 242 in a run."""
HOLES_HEAVY = 1.2
"""The same for segments that hold whole pictures and give back what they free: 871 MB of 742 for
SD1.5's decoder."""
LOOKING = ("text_encoder", "image-encoder/", "ip-adapter/")
"""Starts of the names of components that take as much memory whatever is drawn."""
FLASH = ("fused", "segment")
"""Variants whose attention never holds all scores."""


def component_bytes(
    package: Package,
    artifacts: Sequence[Artifact],
    device: Device,
    mode: str,
    precision: str | None,
    size: tuple[int, int],
    batch: int,
    tiles: int = 1,
) -> tuple[int, int]:
    """Bytes of a component while it runs: private ones, and pages of its weight file.

    Args:
        package: whose component.
        artifacts: its graph, or its chain of graphs.
        device: where it runs; of one that has memory of its own, bytes of that.
        mode: memory mode.
        precision: what is computed in, where the engine has a choice.
        size: width and height of a picture.
        batch: pictures in a call.
        tiles: bands of rows it works in.
    """
    stored, computed = weight_bytes(package, artifacts[0].component, artifacts)
    mapped = mode == "mapped"
    area = size[0] * size[1]
    if tiles > 1:
        defaults = package.manifest.defaults
        growth = area / (defaults.width * defaults.height)
        factor = package.manifest.latent.factor
        activations = tiled_bytes(artifacts, tiles, size, factor, growth, mapped)
    else:
        activations = max(
            activation_bytes(artifact, package.manifest, area, batch)
            + (artifact.widened_bytes if mapped else 0)
            for artifact in artifacts
        )
    if device.own_memory:
        # Weights lie there as they are stored, and as float32 too where they are computed so.
        return stored + activations + max(a.widened_bytes for a in artifacts), 0
    runtime = device.runtime
    if runtime == "coreml":
        # It copies the weights once, and what flows through is 16 bits wide.
        return stored + activations // 2, 0
    if mapped and tiles == 1 and artifacts[0].variant.startswith("segment"):
        holes = HOLES_HEAVY if is_heavy(artifacts) else HOLES
        activations = int(activations * holes) + len(artifacts) * GRAPH_BYTES
    if runtime == "openvino":
        # It packs the weights for what it computes in; the file's pages are there while it opens.
        narrow = precision in ("bf16", "fp16")
        elements = stored / STORED_BYTES.get(artifacts[0].precision, 4)
        wide = 2 if narrow else 4
        # What is computed in 8 bits stays so; of weights alone in 8 bits convolutions' are widened.
        shares = {"int8": 1.0, "w8": (1.0 + wide) / 2, "w4": (0.5 + wide) / 2}
        share = shares.get(artifacts[0].precision, wide)
        packed = int(elements * share * OPENVINO_WEIGHTS)
        return packed + int(activations * (OPENVINO_NARROW if narrow else 1.0)), stored
    # Opened normally, ONNX Runtime keeps its own packed fp32 copy of every weight; mapped, the
    # weights stay pages of the file, and of narrow ones a wide copy lives during each call.
    return (activations, stored) if mapped else (activations + computed, 0)


def run_bytes(parts: Sequence[tuple[str, int, int]], resident: bool) -> tuple[int, int]:
    """Bytes of a whole run: private ones at their peak, and together with mapped ones.

    Args:
        parts: component, its private and its mapped bytes.
        resident: whether all are open together; otherwise those of one phase are.
    """
    private: dict[str, int] = {}
    peaks: dict[str, int] = {}
    for component, own, mapped in parts:
        # Control networks are open together with the U-Net.
        phase = "unet" if EXTENSIONS.get(kind_of(component)) == CONTROL else component
        private[phase] = private.get(phase, 0) + own
        peaks[phase] = peaks.get(phase, 0) + own + mapped
    join = sum if resident else max
    return join((0, *private.values())), join((0, *peaks.values()))


def weight_bytes(
    package: Package, component: str, artifacts: Sequence[Artifact]
) -> tuple[int, int]:
    """Bytes of a component's weights: on disk, and at most while ONNX Runtime opens them normally.

    float32 weights are packed from the file; of float16 ones there is for a while a widened copy
    beside the packed one.
    """
    weights = package.manifest.weights.get(component)
    if weights is None:
        size = sum(artifact.size for artifact in artifacts)
        precision = artifacts[0].precision
    else:
        size, precision = weights.file.size, weights.precision
    opening = {"fp16": OPENING_FP16, "int8": OPENING_INT8, "w8": OPENING_INT8}
    return size, int(size * opening.get(precision, 1.0))


def activation_bytes(artifact: Artifact, manifest: Manifest, area: int, batch: int) -> int:
    """Bytes of activations for ``batch`` pictures of ``area`` pixels each."""
    defaults = manifest.defaults
    if artifact.component.startswith(LOOKING):
        return artifact.activation_bytes or (16 << 20)
    if artifact.activation_bytes:
        reference = defaults.width * defaults.height
        return int(artifact.activation_bytes * batch * area / reference)
    if artifact.component == "unet":
        cells = area // manifest.latent.factor**2
        # OpenVINO's converters write attention as one operation.
        fused = artifact.variant in FLASH or artifact.format == "openvino"
        scores = 0 if fused else SCORE_BYTES * cells * cells
        return batch * (UNET_BYTES_PER_CELL * cells + scores)
    return VAE_BYTES_PER_PIXEL * batch * area
