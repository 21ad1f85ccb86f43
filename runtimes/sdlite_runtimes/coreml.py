"""Core ML adapter: a Mac's processor, GPU and Neural Engine in the combinations Core ML offers.

It runs packages (``.mlpackage``) and what they compile to (``.mlmodelc``), through coremltools, on
macOS only. Core ML decides where each operation runs. A package is compiled once, and what comes of
it is kept in the compile cache; the first time after that, the system also fits it to the device,
which takes minutes on the Neural Engine and is remembered by the system.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sdlite.engine import Artifact, LoadOptions, SessionReport, TensorSpec
from sdlite.errors import RequestError, UnknownName
from sdlite.types import Array, Device
from sdlite_runtimes import coremlsupport
from sdlite_runtimes.common import Place, feed_of

log = logging.getLogger("sdlite.runtimes.coreml")


class CoremlSession:
    """One program loaded by Core ML; calls from several threads run one after the other."""

    def __init__(
        self,
        model: Any,
        place: Place,
        artifact: Artifact,
        report: SessionReport,
        closed: Callable[[], None],
    ) -> None:
        self._model: Any = model
        self._closed = closed
        self._place = place
        self._inputs, self._outputs = artifact.inputs, artifact.outputs
        self.report = report
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the program takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the program gives."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; raises ``EngineError`` for wrong inputs and what Core ML refuses."""
        feed = feed_of(self._inputs, inputs, self._place)
        for spec in self._inputs:
            if feed[spec.name].shape != spec.shape:
                raise self._place.error(
                    f"input {spec.name} is {feed[spec.name].shape}, "
                    f"the program takes {spec.shape} only"
                )
        with self._lock:
            if self._model is None:
                raise self._place.error("the session is closed")
            try:
                given = self._model.predict(feed)
                # Core ML may hand out memory it uses again, so everything is copied.
                return {
                    spec.name: np.array(given[spec.name], spec.dtype, order="C")
                    for spec in self._outputs
                }
            except Exception as error:
                raise self._place.error(error) from error

    def close(self) -> None:
        """Free the program and its weights; a call still running in another thread ends first."""
        with self._lock:
            self._model = None
            self._closed()


class CoremlRuntime:
    """Core ML."""

    name: ClassVar[str] = "coreml"
    formats: ClassVar[frozenset[str]] = frozenset({"coreml"})

    def version(self) -> str:
        """Versions of macOS, whose part Core ML is, and of coremltools."""
        return coremlsupport.version()

    def probe(self) -> Sequence[Device]:
        """The combinations of compute units; raises ``RuntimeUnavailable`` elsewhere than on macOS
        and without coremltools."""
        coremlsupport.engine()
        told = f"Core ML of {self.version()}"
        return tuple(
            Device(self.name, name, f"{what} ({told})", precisions=("fp16",), fixed_sizes=True)
            for name, (_, what) in coremlsupport.UNITS.items()
        )

    def load(
        self, artifact: Artifact, root: Path, device: Device, options: LoadOptions
    ) -> CoremlSession:
        """Open a package, compiled now or by an earlier run, or a compiled program.

        Raises ``EngineError``, ``OutOfMemory``, ``RuntimeUnavailable``, ``UnknownName``, and
        ``RequestError`` for replaced weights, a memory mode or an option it does not have.
        """
        tools = coremlsupport.engine()
        if device.name not in coremlsupport.UNITS:
            raise UnknownName("coreml device", device.name, coremlsupport.UNITS)
        if options.weights:
            raise RequestError(coremlsupport.FIXED_WEIGHTS)
        if options.memory_mode != "normal":
            raise RequestError(
                f"coreml has no memory mode {options.memory_mode}: Core ML holds its weights as it "
                "likes; use normal"
            )
        for name in options.engine:
            raise UnknownName("coreml option", name, ())
        place = Place(self.name, device.name, artifact.component, artifact.graph)
        units = getattr(tools.ComputeUnit, coremlsupport.UNITS[device.name][0])
        try:
            model, notes, closed = coremlsupport.open_cached(
                tools, coremlsupport.folder_of(root / artifact.graph), artifact, units, options
            )
        except Exception as error:
            raise place.error(error) from error
        precision = "fp32" if artifact.precision == "fp32" else "fp16"
        return CoremlSession(model, place, artifact, SessionReport(precision, notes), closed)
