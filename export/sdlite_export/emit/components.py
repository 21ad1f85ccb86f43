"""The parts of a model: which graphs each gets, where its weights lie, its graph files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sdlite.engine import Artifact
from sdlite.manifest import DOWNSAMPLED, TensorEntry
from sdlite_export.architectures.clip_text import text_encoder
from sdlite_export.architectures.clip_vision import VisionOps, safety_checker
from sdlite_export.architectures.unet import downsampled_unet, unet
from sdlite_export.architectures.vae import (
    vae_decoder,
    vae_decoder_tiles,
    vae_encoder,
    vae_encoder_tiles,
)
from sdlite_export.configs import ClipTextConfig, SafetyConfig
from sdlite_export.emit.downsampling import DownsampledOps
from sdlite_export.emit.estimate import activation_bytes, merge_segments, widened_bytes
from sdlite_export.emit.graph import Graph, Node, WeightNeed
from sdlite_export.emit.half import HALF, HalfOps
from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.emit.proto import model_proto, specs
from sdlite_export.emit.seamless import SeamlessOps
from sdlite_export.emit.targets import PLAIN, target_of
from sdlite_export.emit.vision import OnnxVisionOps
from sdlite_export.ops import DownsamplingOps, Ops, TileOps
from sdlite_export.recipe import Recipe
from sdlite_export.source.checkpoint import Checkpoint
from sdlite_export.source.family import SECOND
from sdlite_export.weights import check_weights, plan_weights

WEIGHTS = "weights.bin"
MANY_TOKENS = 1024
"""Tokens of a picture of the model's own size from which on attention is a part worth saving."""
SEGMENT_BYTES = 144 << 20
"""Segments are joined up to this much memory: the largest weight of SD1 takes 113 MiB of it."""


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
    tiles: Callable[[TileOps], None] | None = None
    """Builds the variant ``tiles``."""
    fewer: Callable[[DownsamplingOps], None] | None = None
    """Builds the variants with fewer keys and values."""
    look: Callable[[VisionOps], None] | None = None
    """Builds the graph of what looks at pictures, instead of ``build``."""


@dataclass(frozen=True)
class Plan:
    """A component with its graphs built and its weights placed."""

    component: Component
    """The part."""
    precision: str
    """Precision it is stored in."""
    recipe: Recipe
    """What is in 8 bits, and how."""
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
    second = checkpoint.text.get(SECOND)
    pooled = None if second is None else second.projection
    return (
        *(_text_component(name, config) for name, config in checkpoint.text.items()),
        Component(
            "unet",
            "unet",
            lambda ops, _: unet(ops, checkpoint.unet, pooled),
            ("plain", "fused", "segment", "seamless", HALF, *_downsampled(checkpoint)),
            fewer=lambda ops: downsampled_unet(ops, checkpoint.unet, pooled),
        ),
        Component(
            "vae_decoder",
            "vae",
            lambda ops, _: vae_decoder(ops, checkpoint.vae),
            (
                *("plain", "fused", "segment", "tiles", "seamless"),
                # Such autoencoders leave the range of float16.
                *(() if checkpoint.latent.force_upcast else (HALF,)),
            ),
            lambda ops: vae_decoder_tiles(ops, checkpoint.vae),
        ),
        Component(
            "vae_encoder",
            "vae",
            lambda ops, _: vae_encoder(ops, checkpoint.vae),
            ("plain", "fused", "tiles", "seamless"),
            lambda ops: vae_encoder_tiles(ops, checkpoint.vae),
        ),
        *_safety_component(checkpoint.safety),
    )


def _downsampled(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Variants with fewer keys and values, for models whose attention has many."""
    defaults, level = checkpoint.defaults, checkpoint.unet.finest_attention
    if level is None:
        return ()
    side = checkpoint.latent.factor << level
    many = defaults.width * defaults.height // side**2 >= MANY_TOKENS
    return (f"plain{DOWNSAMPLED}", f"fused{DOWNSAMPLED}") if many else ()


def _safety_component(config: SafetyConfig | None) -> tuple[Component, ...]:
    if config is None:
        return ()
    name = "safety_checker"
    look = partial(safety_checker, config=config)
    return (Component(name, name, lambda *_: None, ("plain",), look=look),)


def _text_component(name: str, config: ClipTextConfig) -> Component:
    return Component(
        name,
        name,
        lambda ops, variant: text_encoder(ops, config, variant == "embeddings"),
        ("plain", "embeddings", "segment"),
    )


def plan_component(component: Component, precision: str, recipe: Recipe | None = None) -> Plan:
    """Build every graph of a component and place its weights.

    ``precision`` is ``fp32``, ``fp16``, or ``w8`` and ``int8``, which need a recipe.
    """
    layers = {} if recipe is None else recipe.layers
    stored = "fp32" if precision == "fp32" else "fp16"
    graphs = {}
    needs: dict[str, WeightNeed] = {}
    built: dict[object, Graph] = {}
    for variant in component.variants:
        # A chain is often the same graph as the whole it is cut from.
        target = target_of(component.name, variant)
        fewer = component.fewer if variant.endswith(DOWNSAMPLED) else None
        own = fewer is not None or variant in ("embeddings", "tiles", "seamless", HALF)
        key = (target, variant if own else None)
        if key not in built:
            kinds = {"seamless": SeamlessOps, HALF: HalfOps}
            ops = kinds.get(variant, OnnxOps)(target, stored, layers)
            if variant == "tiles" and component.tiles is not None:
                component.tiles(ops)
            elif fewer is not None:
                ops = downsampling = DownsampledOps(target, stored, layers)
                fewer(downsampling)
            elif component.look is not None:
                ops = vision = OnnxVisionOps(target, stored, layers)
                component.look(vision)
            else:
                component.build(ops, variant)
            built[key] = ops.finish()
            for name, need in built[key].weights.items():
                needs.setdefault(name, need)
        graphs[variant] = built[key]
    recipe = recipe or Recipe()
    for name, values in recipe.factors.items():
        needs[name] = WeightNeed(values.shape, kind="given")
    entries = plan_weights(needs, stored, recipe)
    return Plan(component, precision, recipe, graphs, needs, entries)


def plain_graph(component: Component) -> Graph:
    """The graph of a component in standard operations, for looking at."""
    ops = vision = OnnxVisionOps(PLAIN, "fp32")
    if component.look is not None:
        component.look(vision)
    else:
        component.build(ops, "plain")
    return ops.finish()


class Asks(Protocol):
    """A component that knows which weights it needs."""

    @property
    def component(self) -> Component:
        """The part."""
        ...

    @property
    def needs(self) -> Mapping[str, WeightNeed]:
        """Its weights."""
        ...


def check_checkpoint(checkpoint: Checkpoint, plans: Sequence[Asks]) -> None:
    """Compare every tensor set with what its components ask for; raises ``SourceError``."""
    for key, tensors in checkpoint.tensors.items():
        needs: dict[str, WeightNeed] = {}
        for plan in plans:
            if plan.component.tensors == key:
                needs.update(plan.needs)
        check_weights(needs, tensors.infos(), f"{checkpoint.name}, {key}")


def write_graphs(plan: Plan, folder: Path, sizes: Mapping[str, int]) -> list[Artifact]:
    """Write the graph files of a component into ``folder/<component>`` and describe them.

    ``sizes`` gives reference values of free dimensions, for memory estimates and cuts.
    """
    name = plan.component.name
    artifacts = []
    for variant, graph in plan.graphs.items():
        target = target_of(name, variant)
        parts: Sequence[Sequence[Node]] = [graph.nodes]
        if variant == "segment":
            parts = merge_segments(graph, sizes, SEGMENT_BYTES)
        elif variant == "tiles":
            parts = graph.segments()
        for index, nodes in enumerate(parts):
            stem = variant.replace("+", "-")
            stem = f"{stem}-{index:02d}" if variant in ("segment", "tiles") else stem
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
                    precision=plan.precision,
                    graph=relative,
                    graph_size=len(data),
                    graph_sha256=hashlib.sha256(data).hexdigest(),
                    inputs=specs(takes),
                    outputs=specs(gives),
                    weights=f"{name}/{WEIGHTS}",
                    index=index,
                    opset=target.opset,
                    domains=tuple(sorted({node.domain for node in nodes} - {""})),
                    activation_bytes=activation_bytes(
                        graph, nodes, sizes, waiting=variant != "tiles"
                    ),
                    widened_bytes=widened_bytes(graph, nodes, sizes, together=variant != HALF),
                )
            )
    return artifacts


def reference_sizes(
    width: int, height: int, factor: int, tokens: int, levels: int
) -> dict[str, int]:
    """Values of every free dimension for one picture of the given size.

    ``tokens`` are those of a prompt, ``levels`` the resolutions of the U-Net.
    """
    sizes = {"batch": 1, "tokens": tokens}
    for axis, pixels in (("height", height), ("width", width)):
        cells = -(-pixels // factor)
        sizes[axis] = cells
        sizes[f"image_{axis}"] = cells * factor
        scale = 2
        while scale <= max(factor, 1 << levels):
            sizes[f"{axis}_{scale}"] = -(-cells // scale)
            sizes[f"image_{axis}_{scale}"] = cells * factor // scale
            scale *= 2
    return sizes
