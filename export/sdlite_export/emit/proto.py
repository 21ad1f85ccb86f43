"""Recorded graphs to ONNX files whose weights lie in a file beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sdlite import __version__
from sdlite.engine import TensorSpec
from sdlite.manifest import TensorEntry
from sdlite_export.emit.graph import Graph, Node
from sdlite_export.emit.targets import Target
from sdlite_export.ops import Value

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
}


def specs(values: Sequence[Value]) -> tuple[TensorSpec, ...]:
    """Values as the manifest describes them."""
    return tuple(TensorSpec(value.name, value.dtype, value.shape) for value in values)


def model_proto(
    graph: Graph,
    nodes: Sequence[Node],
    target: Target,
    entries: Mapping[str, TensorEntry],
    location: str,
    name: str,
    shown: Sequence[str] = (),
) -> tuple[onnx.ModelProto, list[Value], list[Value]]:
    """Some or all nodes of a graph as a model, with its inputs and outputs.

    ``entries`` says where each weight lies in the file called ``location``; ``shown`` are values
    to give as well, where the nodes make them.
    """
    takes, gives = graph.boundary(nodes)
    made = {name for node in nodes for name in node.outputs} - {value.name for value in gives}
    gives += [graph.values[name] for name in shown if name in made]
    used = dict.fromkeys(name for node in nodes for name in node.inputs)
    initializers = [_external(key, entries[key], location) for key in used if key in graph.weights]
    initializers += [
        numpy_helper.from_array(np.ascontiguousarray(graph.constants[key]), key)
        for key in used
        if key in graph.constants
    ]
    proto = helper.make_graph(
        [_node(node) for node in nodes],
        name,
        [_info(value) for value in takes],
        [_info(value) for value in gives],
        initializers,
    )
    domains = sorted({node.domain for node in nodes} - {""})
    model = helper.make_model(
        proto,
        opset_imports=[
            helper.make_opsetid("", target.opset),
            *(helper.make_opsetid(domain, 1) for domain in domains),
        ],
        ir_version=target.ir_version,
        producer_name="sdlite",
        producer_version=__version__,
    )
    return model, takes, gives


def _node(node: Node) -> onnx.NodeProto:
    return helper.make_node(
        node.op,
        node.inputs,
        node.outputs,
        name=node.outputs[0],
        domain=node.domain,
        **node.attributes,
    )


def _info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, TYPES[value.dtype], value.shape)


def _external(key: str, entry: TensorEntry, location: str) -> TensorProto:
    tensor = TensorProto(
        name=key,
        data_type=TYPES[entry.dtype],
        dims=entry.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for field, value in (
        ("location", location),
        ("offset", str(entry.offset)),
        ("length", str(entry.size)),
    ):
        tensor.external_data.add(key=field, value=value)
    return tensor
