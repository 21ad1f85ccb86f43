"""A package's own U-Net graphs, extended by inputs that adapters feed.

The graphs are edited as they are instead of built anew: nothing but the package is needed, and
whatever they were made of (quantised weights, fused operations, segments) stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sdlite.adapterentry import CONTROL, IMAGE
from sdlite.engine import Artifact, TensorSpec
from sdlite.errors import PackageInvalid
from sdlite.manifest import WeightFile
from sdlite_export.architectures.controlnet import MIDDLE, RESIDUAL
from sdlite_export.architectures.ip_adapter import KEYS, VALUES
from sdlite_export.architectures.t2i_adapter import FEATURE
from sdlite_export.emit.proto import TYPES

FLOAT_BYTES = 4
CROSS = ".attn2.to_q.weight"
"""Ends the name of what makes a cross-attention's queries."""
STAGES = ("down_blocks.", "mid_block.", "up_blocks.")
"""Starts of the names of a U-Net's blocks, in the order they run."""


@dataclass(frozen=True)
class UnetPlaces:
    """What a U-Net's weights say about where something can be added to it."""

    skips: tuple[tuple[int, int], ...]
    """Channels and level of everything the way up looks back at, in the order it is made."""
    cross_dim: int
    """Width of the text features."""
    label_dim: int | None
    """Width of SDXL's vector of pooled text and sizes."""
    ends: tuple[int, ...] = ()
    """Of each level, which skip a T2I-Adapter's feature is added to as it is made: the last before
    the picture is halved in levels with attention, in others the halved one."""
    crosses: tuple[tuple[str, int], ...] = ()
    """Name and channels of every cross-attention, in the order they run."""

    def file_order(self) -> tuple[int, ...]:
        """Of each of ``crosses``, its place in an IP-Adapter's file: the way down, the way up, the
        middle."""
        names = [name for name, _ in self.crosses]
        listed = sorted(names, key=lambda name: name.startswith("mid_block."))
        return tuple(listed.index(name) for name in names)

    def image_prompt(self) -> tuple[TensorSpec, TensorSpec]:
        """What an IP-Adapter gives for it: keys and values of all cross-attentions."""
        shape = ("batch", "image_tokens", sum(channels for _, channels in self.crosses))
        return TensorSpec(KEYS, "float32", shape), TensorSpec(VALUES, "float32", shape)

    def features(self) -> tuple[TensorSpec, ...]:
        """What a T2I-Adapter gives for it: one a level, and one for the end of the middle."""
        places = [*(self.skips[end] for end in self.ends), self.skips[-1]]
        return tuple(
            TensorSpec(FEATURE.format(index), "float32", _map_shape(*place))
            for index, place in enumerate(places)
        )

    def residuals(self) -> tuple[TensorSpec, ...]:
        """What a ControlNet gives for it."""
        specs = [
            TensorSpec(RESIDUAL.format(index), "float32", _map_shape(channels, level))
            for index, (channels, level) in enumerate(self.skips)
        ]
        return (*specs, TensorSpec(MIDDLE, "float32", _map_shape(*self.skips[-1])))


def unet_places(weights: WeightFile) -> UnetPlaces:
    """Read a U-Net's places off its weights; raises ``PackageInvalid`` for another network."""

    def rows(name: str, axis: int = 0) -> int | None:
        entry = weights.tensors.get(f"{name}.weight")
        if entry is None:
            return None
        shape = entry.shape[::-1] if entry.layout == "transposed" else entry.shape
        return shape[axis]

    first = rows("conv_in")
    cross = next(
        (name for name in weights.tensors if name.endswith(".attn2.to_k.weight")), ""
    ).removesuffix(".weight")
    cross_dim = rows(cross, 1)
    if first is None or cross_dim is None:
        raise PackageInvalid(
            f"{weights.file.path} does not hold the weights of a U-Net sdlite knows; "
            "export the model again"
        )
    skips = [(first, 0)]
    ends = []
    level = 0
    while (width := rows(f"down_blocks.{level}.resnets.0.conv2")) is not None:
        layer = 0
        while rows(f"down_blocks.{level}.resnets.{layer}.conv2") is not None:
            skips.append((width, level))
            layer += 1
        attention = rows(f"down_blocks.{level}.attentions.0.proj_in") is not None
        end = len(skips) - 1
        if rows(f"down_blocks.{level}.downsamplers.0.conv") is not None:
            skips.append((width, level + 1))
        ends.append(end if attention else len(skips) - 1)
        level += 1
    labels = rows("add_embedding.linear_1", 1)
    found = [
        name.removesuffix(".to_q.weight")
        for name in weights.tensors
        if name.endswith(CROSS) and name.startswith(STAGES)
    ]
    crosses = tuple((name, rows(f"{name}.to_q") or 0) for name in sorted(found, key=_running))
    return UnetPlaces(tuple(skips), cross_dim, labels, tuple(ends), crosses)


def _running(name: str) -> tuple[int, ...]:
    """Sorts blocks in the order they run."""
    stage = next(index for index, start in enumerate(STAGES) if name.startswith(start))
    return stage, *(int(part) for part in name.split(".") if part.isdigit())


@dataclass
class _Graph:
    """One graph file being edited."""

    artifact: Artifact
    model: onnx.ModelProto
    added: list[TensorSpec] = field(default_factory=list)

    def nodes(self) -> Iterator[onnx.NodeProto]:
        yield from self.model.graph.node

    def feed(self, spec: TensorSpec) -> str:
        """Declare an input."""
        info = helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], spec.shape)
        self.model.graph.input.append(info)
        self.added.append(spec)
        return spec.name

    def insert(self, beside: onnx.NodeProto, node: onnx.NodeProto, after: bool = False) -> None:
        place = list(self.model.graph.node).index(beside)
        self.model.graph.node.insert(place + after, node)

    def slice(self, before: onnx.NodeProto, name: str, start: int, stop: int, prefix: str) -> str:
        """Some channels of a value, made before a node."""
        bounds = []
        for number in (start, stop, -1):
            constant = f"image_prompt/{number}"
            if all(item.name != constant for item in self.model.graph.initializer):
                tensor = numpy_helper.from_array(np.array([number], np.int64), constant)
                self.model.graph.initializer.append(tensor)
            bounds.append(constant)
        part = f"{prefix}{name}"
        self.insert(before, helper.make_node("Slice", [name, *bounds], [part], name=part))
        return part

    def add_to(self, node: onnx.NodeProto, which: int, spec: TensorSpec) -> None:
        """Add an input to one input of a node, for this node alone."""
        old, new = node.input[which], f"{node.input[which]}/with_{spec.name}"
        self.insert(node, helper.make_node("Add", [old, self.feed(spec)], [new], name=new))
        node.input[which] = new


def extended(
    root: Path,
    artifacts: Sequence[Artifact],
    places: UnetPlaces,
    extensions: Sequence[str],
    sizes: Mapping[str, int],
) -> Iterator[tuple[Artifact, bytes]]:
    """A graph of the U-Net, or the graphs of its chain, with the inputs of an extension.

    Args:
        root: the package.
        artifacts: all graphs of one variant, in order.
        places: of the U-Net.
        extensions: ``control``, ``image`` or both, in this order.
        sizes: reference values of free dimensions, for memory estimates.

    Yields:
        The description of each new graph and its bytes.

    Raises:
        PackageInvalid: a graph is not built as sdlite builds them.
    """
    graphs = [
        _Graph(artifact, onnx.load(str(root / artifact.graph), load_external_data=False))
        for artifact in artifacts
    ]
    if CONTROL in extensions:
        _add_residuals(graphs, places)
    if IMAGE in extensions:
        _add_image_prompt(graphs, places)
    # Whoever calls holds all that is fed until the whole chain is done.
    inputs = {spec.name: spec for graph in graphs for spec in graph.added}
    fed = sum(spec_bytes(spec, sizes) for spec in inputs.values())
    for graph in graphs:
        yield _finished(graph, extensions, fed)


def _add_residuals(graphs: Sequence[_Graph], places: UnetPlaces) -> None:
    """Add to every skip where the way up takes it, and to the middle's end where it begins."""
    joins = [(graph, node) for graph in graphs for node in graph.nodes() if _joins(node)]
    *down, middle = places.residuals()
    *features, last = places.features()
    if len(joins) != len(down):
        first = graphs[0].artifact
        raise PackageInvalid(
            f"{first.graph} joins {len(joins)} skips where its weights say {len(down)}; "
            "export the model again with this version of sdlite"
        )
    made = [_origin(graphs, node.input[1]) for _, node in reversed(joins)]
    for end, spec in zip(places.ends, features, strict=True):
        _add_where_made(graphs, made[end], spec)
    for (graph, node), spec in zip(joins, reversed(down), strict=True):
        graph.add_to(node, 1, spec)
    graph, node = joins[0]
    graph.add_to(node, 0, last)
    graph.add_to(node, 0, middle)


def _add_image_prompt(graphs: Sequence[_Graph], places: UnetPlaces) -> None:
    """Add to what every cross-attention gives what its queries find in the image prompt.

    Adapters' strengths are factors of the values.
    """
    start = 0
    for cross, channels in places.crosses:
        graph, node = _attention(graphs, cross)
        parts = []
        for spec in places.image_prompt():
            if spec not in graph.added:
                graph.feed(spec)
            parts.append(graph.slice(node, spec.name, start, start + channels, f"{cross}/"))
        seen, text, whole = f"{cross}/image", f"{cross}/text", node.output[0]
        look = onnx.NodeProto()
        look.CopyFrom(node)
        look.name = look.output[0] = seen
        look.input[1:] = parts
        node.output[0] = text
        added = helper.make_node("Add", [text, seen], [whole], name=f"{cross}/text_and_image")
        graph.insert(node, added, after=True)
        graph.insert(node, look, after=True)
        start += channels


def _attention(graphs: Sequence[_Graph], cross: str) -> tuple[_Graph, onnx.NodeProto]:
    for graph in graphs:
        for node in graph.nodes():
            known = node.op_type in ("Attention", "MultiHeadAttention")
            if known and node.name.startswith(f"{cross}.to_q/") and len(node.input) == 3:
                return graph, node
    raise PackageInvalid(
        f"{graphs[0].artifact.graph} has no attention {cross}; export the model again with this "
        "version of sdlite"
    )


def _origin(graphs: Sequence[_Graph], name: str) -> str:
    """The value itself where a quantised copy of it is used."""
    for graph in reversed(graphs):
        for node in graph.nodes():
            if name in node.output and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                return _origin(graphs, node.input[0])
    return name


def _add_where_made(graphs: Sequence[_Graph], name: str, spec: TensorSpec) -> None:
    """Add an input to a value, for all that use it."""
    for graph in graphs:
        for node in graph.nodes():
            if name in node.output:
                raw = f"{name}/before_{spec.name}"
                node.output[list(node.output).index(name)] = raw
                label = f"{name}/with_{spec.name}"
                added = helper.make_node("Add", [raw, graph.feed(spec)], [name], name=label)
                graph.insert(node, added, after=True)
                return
    raise PackageInvalid(f"{graphs[0].artifact.graph} has no value {name}; export the model again")


def _joins(node: onnx.NodeProto) -> bool:
    """Whether a node joins the way up with a skip, along the channels."""
    if node.op_type != "Concat" or len(node.input) != 2:
        return False
    axis = next((item.i for item in node.attribute if item.name == "axis"), None)
    # SDXL's pooled text and sizes are joined along this axis too.
    return axis == 1 and node.input[0] != "text_embeds"


def _finished(graph: _Graph, extensions: Sequence[str], fed: int) -> tuple[Artifact, bytes]:
    data = graph.model.SerializeToString(deterministic=True)
    old = graph.artifact
    folder, _, name = old.graph.rpartition("/")
    stem, _, number = name.removesuffix(".onnx").partition("-")
    file = "-".join(part for part in (stem, *extensions, number) if part)
    return (
        replace(
            old,
            variant="+".join((old.variant, *extensions)),
            graph=f"{folder}/{file}.onnx",
            graph_size=len(data),
            graph_sha256=hashlib.sha256(data).hexdigest(),
            inputs=(*old.inputs, *graph.added),
            activation_bytes=old.activation_bytes + fed,
        ),
        data,
    )


def spec_bytes(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    """Bytes of one float32 value at reference sizes."""
    return FLOAT_BYTES * prod(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape)


def _map_shape(channels: int, level: int) -> tuple[int | str, ...]:
    if level == 0:
        return "batch", channels, "height", "width"
    return "batch", channels, f"height_{1 << level}", f"width_{1 << level}"
