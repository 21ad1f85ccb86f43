"""OpenVINO adapter: processors, Intel GPUs and NPUs are its devices.

It reads the same graphs and weight file as the ONNX Runtime adapter, and IRs of its own. Free
dimensions that the options give become static, which is what makes it fast; others stay free.
Weights are packed into private memory for the precision it computes in, and the file's pages they
come from are let go of then. What was compiled is kept in the
compile cache.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sdlite.engine import Artifact, LoadOptions, SessionReport, TensorSpec
from sdlite.errors import EngineError, RequestError, UnknownName
from sdlite.memory import release_file_pages
from sdlite.types import Array, Device
from sdlite_runtimes import ovcache, ovsupport
from sdlite_runtimes.common import Place, feed_of, read_safely


class OvSession:
    """One graph compiled by OpenVINO; ``run`` may be called from several threads at once."""

    def __init__(
        self,
        compiled: Any,
        place: Place,
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        report: SessionReport,
        keep: Sequence[object],
    ) -> None:
        self._compiled: Any = compiled
        self._place = place
        self._inputs, self._outputs = specs
        self.report = report
        # Replaced weights may be read where they lie: they must live as long as the graph.
        self._keep = list(keep)
        # A request holds the activations of one call; those that are free wait here.
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph gives."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; raises ``EngineError`` for wrong inputs and what OpenVINO refuses."""
        compiled = self._compiled
        if compiled is None:
            raise self._place.error("the session is closed")
        feed = feed_of(self._inputs, inputs, self._place)
        for spec in self._inputs:
            ovsupport.check_shape(spec, feed[spec.name], self._place)
        try:
            with self._lock:
                request = self._idle.pop() if self._idle else compiled.create_infer_request()
            request.infer(feed, share_inputs=True)
            outputs = {
                spec.name: np.array(request.get_tensor(spec.name).data) for spec in self._outputs
            }
        except Exception as error:
            raise self._place.error(error, ovsupport.words(error)) from error
        with self._lock:
            if self._compiled is not None:
                self._idle.append(request)
        return outputs

    def close(self) -> None:
        """Free the graph and its weights; a call still running in another thread ends first."""
        with self._lock:
            self._compiled = None
            self._idle.clear()
        self._keep.clear()


class OvRuntime:
    """OpenVINO."""

    name: ClassVar[str] = "openvino"
    module: ClassVar[str] = "openvino"
    formats: ClassVar[frozenset[str]] = frozenset({"onnx", "openvino"})

    def version(self) -> str:
        """Version of the installed OpenVINO; raises ``RuntimeUnavailable``."""
        return ovsupport.version()

    def probe(self) -> Sequence[Device]:
        """Every device OpenVINO sees; raises ``RuntimeUnavailable``."""
        return ovsupport.devices()

    def load(
        self, artifact: Artifact, root: Path, device: Device, options: LoadOptions
    ) -> OvSession:
        """Open a graph, from the compile cache when it is there.

        Raises ``EngineError``, ``OutOfMemory``, ``RuntimeUnavailable``, ``UnknownName``,
        and ``RequestError`` for a memory mode or number of threads it does not have.
        """
        core = ovsupport.core()
        names = [known.name for known in ovsupport.devices()]
        if device.name not in names:
            raise UnknownName("openvino device", device.name, names)
        if options.memory_mode != "normal":
            raise RequestError(
                f"openvino has no memory mode {options.memory_mode}: it packs weights into memory "
                "of its own; use normal, or the runtime onnxruntime"
            )
        config = ovsupport.config(core, device.name, options)
        place = Place(self.name, device.name, artifact.component, artifact.graph)
        path = root / artifact.graph
        try:
            beside = None if artifact.weights is None else Path(artifact.weights).name
            found = read_safely(path, beside)
            # An IR does not name its free dimensions; who describes the artifact does.
            found.inputs = list(artifact.inputs) or found.inputs
            found.outputs = list(artifact.outputs) or found.outputs
            replaced = sorted(options.weights.keys() & found.initializers.keys())
            compiled, keep, notes = ovcache.compile_cached(
                core, path, found, artifact, device.name, config, options, replaced, self.version()
            )
            specs = (
                ovsupport.specs(compiled.inputs, found.inputs),
                ovsupport.specs(compiled.outputs, found.outputs),
            )
            precision = ovsupport.precision_of(compiled)
            if beside is not None:
                # Packed copies are what is computed with, but the file stays mapped.
                release_file_pages(path.parent / beside)
        except (EngineError, RequestError):
            raise
        except Exception as error:
            raise place.error(error, ovsupport.words(error)) from error
        if options.precision is not None and precision not in (None, options.precision):
            raise place.error(f"asked to compute in {options.precision}, it chose {precision}")
        return OvSession(compiled, place, specs, SessionReport(precision, notes), keep)
