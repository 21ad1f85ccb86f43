"""Checkpoint in, package out: graphs and weights written separately, tensor by tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sdlite import __version__
from sdlite.engine import Artifact
from sdlite.package import (
    MANIFEST,
    VERSION,
    FileEntry,
    Licence,
    Manifest,
    Source,
    TensorEntry,
    Tokenizer,
    WeightFile,
    dump_manifest,
)
from sdlite_export.architectures.clip_text import text_encoder
from sdlite_export.architectures.unet import unet
from sdlite_export.architectures.vae import vae_decoder, vae_encoder
from sdlite_export.emit.estimate import activation_bytes
from sdlite_export.emit.graph import Graph, Node, WeightNeed
from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.emit.proto import model_proto, specs
from sdlite_export.emit.targets import TARGETS
from sdlite_export.ops import Ops
from sdlite_export.source.checkpoint import Checkpoint
from sdlite_export.weights import check_weights, plan_weights, write_weights

PRECISIONS = ("fp16", "fp32")
FORMATS = ("onnx",)
WEIGHTS = "weights.bin"
GRAPH_ALLOWANCE = 16 << 20
"""Bytes kept free for graphs, tokenizer and manifest when disk space is checked."""

Progress = Callable[[str, int, int], object]
"""Called with what is being written, bytes done and bytes in all; may raise to stop."""


@dataclass(frozen=True)
class Component:
    """One part of a model as it is exported."""

    name: str
    """Folder and manifest name."""
    tensors: str
    """Which of the checkpoint's tensor sets it draws from."""
    build: Callable[[Ops, str], None]
    """Builds the graph of a variant."""
    variants: tuple[str, ...]
    """Graph variants to write."""


@dataclass(frozen=True)
class Plan:
    """A component with its graphs built and its weights placed."""

    component: Component
    """The part."""
    graphs: Mapping[str, Graph]
    """Built graphs by variant."""
    needs: Mapping[str, WeightNeed]
    """Weights in the order of the file."""
    entries: Mapping[str, TensorEntry]
    """Where each weight lies."""

    @property
    def size(self) -> int:
        """Bytes of the weight file."""
        return max(entry.offset + entry.size for entry in self.entries.values())


def components(checkpoint: Checkpoint) -> tuple[Component, ...]:
    """The parts of a latent-diffusion model and the graphs each gets."""
    return (
        Component(
            "text_encoder",
            "text_encoder",
            lambda ops, variant: text_encoder(ops, checkpoint.text, variant == "embeddings"),
            ("plain", "embeddings"),
        ),
        Component(
            "unet",
            "unet",
            lambda ops, _: unet(ops, checkpoint.unet),
            ("plain", "fused", "segment"),
        ),
        Component(
            "vae_decoder",
            "vae",
            lambda ops, _: vae_decoder(ops, checkpoint.vae),
            ("plain", "fused", "segment"),
        ),
        Component(
            "vae_encoder",
            "vae",
            lambda ops, _: vae_encoder(ops, checkpoint.vae),
            ("plain", "fused"),
        ),
    )


def plan_component(component: Component, precision: str) -> Plan:
    """Build every graph of a component and place its weights."""
    graphs = {}
    needs: dict[str, WeightNeed] = {}
    built: dict[object, Graph] = {}
    for variant in component.variants:
        # A chain is the same graph as the whole it is cut from.
        key = (TARGETS[variant], variant == "embeddings")
        if key not in built:
            ops = OnnxOps(TARGETS[variant], precision)
            component.build(ops, variant)
            built[key] = ops.finish()
            for name, need in built[key].weights.items():
                needs.setdefault(name, need)
        graphs[variant] = built[key]
    return Plan(component, graphs, needs, plan_weights(needs, precision))


def check_checkpoint(checkpoint: Checkpoint, plans: Sequence[Plan]) -> None:
    """Compare every tensor set with what its components ask for; raises ``SourceError``."""
    for key, tensors in checkpoint.tensors.items():
        needs: dict[str, WeightNeed] = {}
        for plan in plans:
            if plan.component.tensors == key:
                needs.update(plan.needs)
        check_weights(needs, tensors.infos(), f"{checkpoint.name}, {key}")


def write_graphs(
    plan: Plan, folder: Path, precision: str, sizes: Mapping[str, int]
) -> list[Artifact]:
    """Write the graph files of a component into ``folder/<component>`` and describe them.

    ``sizes`` gives reference values of free dimensions, for the memory estimate.
    """
    name = plan.component.name
    artifacts = []
    for variant, graph in plan.graphs.items():
        target = TARGETS[variant]
        chain = variant == "segment"
        parts: Sequence[Sequence[Node]] = graph.segments() if chain else [graph.nodes]
        for index, nodes in enumerate(parts):
            stem = f"segment-{index:02d}" if chain else variant
            relative = f"{name}/{stem}.onnx"
            model, takes, gives = model_proto(
                graph, nodes, target, plan.entries, WEIGHTS, f"{name} {stem}"
            )
            data = model.SerializeToString(deterministic=True)
            (folder / relative).write_bytes(data)
            artifacts.append(
                Artifact(
                    component=name,
                    format="onnx",
                    variant=variant,
                    precision=precision,
                    graph=relative,
                    graph_size=len(data),
                    graph_sha256=hashlib.sha256(data).hexdigest(),
                    inputs=specs(takes),
                    outputs=specs(gives),
                    weights=f"{name}/{WEIGHTS}",
                    index=index,
                    opset=target.opset,
                    domains=tuple(sorted({node.domain for node in nodes} - {""})),
                    activation_bytes=activation_bytes(graph, nodes, sizes),
                )
            )
    return artifacts


def write_package(
    checkpoint: Checkpoint,
    folder: Path,
    precision: str = "fp16",
    name: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write a package into an empty folder; whoever calls makes that atomic.

    Raises ``SourceError`` for a checkpoint that does not fit its description and ``OutputError``
    when the folder cannot be written.
    """
    plans = [plan_component(component, precision) for component in components(checkpoint)]
    check_checkpoint(checkpoint, plans)
    total = sum(plan.size for plan in plans)
    done = 0
    defaults, latent = checkpoint.defaults, checkpoint.latent
    sizes = reference_sizes(defaults.width, defaults.height, latent.factor, checkpoint)
    artifacts: list[Artifact] = []
    weights: dict[str, WeightFile] = {}
    with ThreadPoolExecutor(1) as pool:
        # Reading the source once more for its hash overlaps with converting and writing.
        digest = pool.submit(checkpoint.sha256)
        for plan in plans:
            part = plan.component.name
            (folder / part).mkdir()
            artifacts += write_graphs(plan, folder, precision, sizes)

            def report(count: int, part: str = part) -> None:
                nonlocal done
                done += count
                if progress is not None:
                    progress(part, done, total)

            entry = write_weights(
                folder / part / WEIGHTS,
                plan.needs,
                plan.entries,
                checkpoint.tensors[plan.component.tensors],
                f"{part}/{WEIGHTS}",
                report,
            )
            weights[part] = WeightFile(entry, precision, dict(plan.entries))
        source = Source(checkpoint.kind, checkpoint.name, digest.result())
    manifest = Manifest(
        version=VERSION,
        reader=VERSION,
        name=name or checkpoint.name,
        family=checkpoint.family,
        prediction=checkpoint.prediction,
        noise=checkpoint.noise,
        latent=latent,
        tokenizers=(_tokenizer(checkpoint, folder),),
        defaults=defaults,
        licence=_licence(checkpoint, folder),
        source=source,
        exporter=__version__,
        artifacts=tuple(artifacts),
        weights=weights,
    )
    write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``sdlite.json``."""
    (folder / MANIFEST).write_text(dump_manifest(manifest), encoding="utf-8", newline="\n")


def reference_sizes(width: int, height: int, factor: int, checkpoint: Checkpoint) -> dict[str, int]:
    """Values of every free dimension for one picture of the given size."""
    sizes = {"batch": 1, "tokens": checkpoint.tokenizer.length}
    for axis, pixels in (("height", height), ("width", width)):
        cells = -(-pixels // factor)
        sizes[axis] = cells
        sizes[f"image_{axis}"] = cells * factor
        scale = 2
        while scale <= max(factor, 1 << len(checkpoint.unet.block_channels)):
            sizes[f"{axis}_{scale}"] = -(-cells // scale)
            sizes[f"image_{axis}_{scale}"] = cells * factor // scale
            scale *= 2
    return sizes


def _store(folder: Path, relative: str, data: bytes) -> FileEntry:
    path = folder / relative
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return FileEntry(relative, len(data), hashlib.sha256(data).hexdigest())


def _tokenizer(checkpoint: Checkpoint, folder: Path) -> Tokenizer:
    tokenizer = checkpoint.tokenizer
    files = tuple(
        _store(folder, f"tokenizer/{name}", data) for name, data in sorted(tokenizer.files.items())
    )
    return Tokenizer(
        "tokenizer", "clip", files, tokenizer.length, tokenizer.bos, tokenizer.eos, tokenizer.pad
    )


def _licence(checkpoint: Checkpoint, folder: Path) -> Licence:
    licence = checkpoint.licence
    if licence.text is None:
        return Licence(licence.id)
    return Licence(licence.id, _store(folder, "LICENSE.txt", licence.text.encode()))
