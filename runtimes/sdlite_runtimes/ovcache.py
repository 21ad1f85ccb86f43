"""Read, shape and compile a graph with OpenVINO, or take it compiled from the cache."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdlite import compilecache
from sdlite.engine import Artifact, LoadOptions
from sdlite.hardware import cuts_off, describe
from sdlite.irfile import SUFFIX as IR
from sdlite.onnxfile import GraphFile
from sdlite_runtimes.common import compile_key
from sdlite_runtimes.ovsaturation import with_seven_bits
from sdlite_runtimes.ovsupport import words

log = logging.getLogger("sdlite.runtimes.openvino")

DECOMPRESSION = "decompression_0"
"""Mark of a conversion that only widens a stored weight."""
NARROW = ("f16", "bf16")

Compiled = tuple[Any, list[object], tuple[str, ...]]
"""The compiled graph, what must live as long as it, and notes for the user."""


def compile_cached(
    core: Any,
    path: Path,
    file: GraphFile,
    artifact: Artifact,
    device: str,
    config: Mapping[str, Any],
    options: LoadOptions,
    replaced: Sequence[str],
    version: str,
) -> Compiled:
    """Compile a graph, or import what an earlier run compiled of the same.

    Raises ``ValueError`` for replaced weights that do not fit, and what OpenVINO raises.
    """
    target = device.upper()
    settings = dict(config)
    weights = _only_weights(path, file)
    if device == "cpu" and weights is not None:
        # Compiled forms then leave out the weights that lie in the file: 4 MB instead of 3.4 GB
        # for SD1.5's U-Net.
        settings |= {"CACHE_MODE": "OPTIMIZE_SIZE"}
    spare = device == "cpu" and cuts_off(describe(with_memory=False))
    folder = options.cache
    notes: list[str] = []
    key: dict[str, str] = {}
    if folder is not None and "EXPORT_IMPORT" in core.get_property(
        target, "OPTIMIZATION_CAPABILITIES"
    ):
        full = core.get_property(target, "FULL_DEVICE_NAME")
        key = compile_key(
            path,
            file,
            artifact,
            f"{device} {full}".strip(),
            f"openvino {version}",
            settings | {"bits": 7 if spare else 8},
            options,
        )
        try:
            blob = compilecache.read(folder, key)
            if blob is not None:
                origin = {"WEIGHTS_PATH": str(weights)} if weights and device == "cpu" else {}
                return core.import_model(blob, target, settings | origin), [], ()
        except Exception as error:
            text = str(error) if isinstance(error, compilecache.DamagedEntry) else words(error)
            notes.append(f"a compiled {artifact.component} in the cache was made anew: {text}")
            log.info("%s", notes[-1])
    if not key:
        settings.pop("CACHE_MODE", None)
    # An IR does not say where its weights are; an ONNX file does.
    apart = str(weights) if weights is not None and path.suffix == IR else ""
    model = core.read_model(str(path), apart)
    keep = _replace(model, options, replaced)
    _fix(model, file, options.dimensions)
    _keep_narrow(model)
    if spare:
        with_seven_bits(model)
    compiled = core.compile_model(model, target, settings)
    del model
    if folder is not None and key:
        stream = io.BytesIO()
        try:
            compiled.export_model(stream)
        except Exception as error:
            log.info("what was compiled cannot be kept: %s", words(error))
        else:
            compilecache.write(folder, key, stream.getvalue(), options.cache_limit)
    return compiled, keep, tuple(notes)


def _only_weights(path: Path, file: GraphFile) -> Path | None:
    """The one file all of a graph's large weights lie in; None when there is none or several."""
    if len(file.locations) != 1:
        return None
    return path.parent / next(iter(file.locations))


def _fix(model: Any, file: GraphFile, dimensions: Mapping[str, int]) -> None:
    """Make the dimensions that are given static; those the graph does not have do not count."""
    shapes = {}
    for spec in file.inputs:
        sizes = [dimensions.get(size, -1) if isinstance(size, str) else size for size in spec.shape]
        shapes[spec.name] = sizes
    if any(name in dimensions for spec in file.inputs for name in spec.shape):
        model.reshape(shapes)


def _replace(model: Any, options: LoadOptions, names: Sequence[str]) -> list[object]:
    """Put other weights in the place of the file's; returns what holds their memory."""
    if not names:
        return []
    from openvino import op

    constants = {
        node.get_friendly_name(): node
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
    }
    keep: list[object] = []
    for name in names:
        old = constants.get(name)
        if old is None:
            raise ValueError(f"the weight {name!r} to replace is not used as it is stored")
        given = options.weights[name]
        if tuple(old.shape) != given.shape:
            raise ValueError(
                f"the weight {name!r} has the dimensions {tuple(old.shape)}, "
                f"its replacement {given.shape}"
            )
        value = np.ascontiguousarray(given, dtype=old.get_element_type().to_dtype())
        new = op.Constant(value, shared_memory=True)
        new.set_friendly_name(name)
        for user in old.output(0).get_target_inputs():
            user.replace_source_output(new.output(0))
        keep += [value, new]
    return keep


def _keep_narrow(model: Any) -> None:
    """Mark what only widens a stored weight.

    Unmarked, OpenVINO widens those weights once, keeps the wide copy for good and packs another:
    5.8 GB private for SD1.5's U-Net in fp16. Marked, the narrow ones stay pages of the file: 1.9 GB
    private, and 1.75 GB mapped until it is open, for the same time a call.
    """
    for node in model.get_ops():
        if node.get_type_name() == "Convert":
            source = node.input_value(0)
            narrow = source.get_element_type().get_type_name() in NARROW
            if narrow and source.get_node().get_type_name() == "Constant":
                node.get_rt_info()[DECOMPRESSION] = ""
