"""ONNX Runtime adapter. Its execution providers are devices, whichever the installed wheel has.

Normal mode lets ONNX Runtime repack weights and fold constants: fastest, and the weights become
private memory. Mapped mode keeps them pages of the weight file, which the system may drop and read
again: no prepacking, no constant folding (a folded ``Cast`` of a weight is a private copy), no
arena and no memory pattern (both keep memory that a phase no longer needs).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sdlite.compilecache import engine_folder
from sdlite.engine import Artifact, LoadOptions, SessionReport, TensorSpec, nothing
from sdlite.errors import EngineError, RequestError, RuntimeUnavailable, UnknownName
from sdlite.types import Array, Device
from sdlite_runtimes import ortpool, ortproviders, ortsupport
from sdlite_runtimes.common import Place, compile_key, feed_of, read_safely
from sdlite_runtimes.ortproviders import PROVIDERS

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


class OrtSession:
    """One graph opened by ONNX Runtime; ``run`` may be called from several threads at once."""

    def __init__(
        self,
        session: Any,
        place: Place,
        keep: Sequence[object],
        report: SessionReport,
        closed: Callable[[], None] = nothing,
    ) -> None:
        self._session: Any = session
        self.report = report
        self._place = place
        # Replaced weights are read where they lie: they must live as long as the session.
        self._keep = list(keep)
        self._closed = closed
        self._inputs = tuple(ortsupport.spec_of(node, place) for node in session.get_inputs())
        self._outputs = tuple(ortsupport.spec_of(node, place) for node in session.get_outputs())

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph gives."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; raises ``EngineError`` for a missing or unknown input and what ORT refuses."""
        session = self._session
        if session is None:
            raise self._place.error("the session is closed")
        feed = feed_of(self._inputs, inputs, self._place)
        names = [spec.name for spec in self._outputs]
        try:
            values = session.run(names, feed)
        except Exception as error:
            raise _refused(self._place, error) from error
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        """Free the graph and its weights; a call still running in another thread ends first."""
        self._session = None
        self._keep.clear()
        self._closed()


class OrtRuntime:
    """ONNX Runtime."""

    name: ClassVar[str] = "onnxruntime"
    module: ClassVar[str] = "onnxruntime"
    formats: ClassVar[frozenset[str]] = frozenset({"onnx"})

    def __init__(self) -> None:
        self._absent: dict[str, RuntimeUnavailable] = {}

    def version(self) -> str:
        """Version of the installed ONNX Runtime; raises ``RuntimeUnavailable``."""
        return str(ortsupport.engine().__version__)

    def probe(self) -> Sequence[Device]:
        """Devices of the providers this wheel has, the processor first.

        Raises ``RuntimeUnavailable`` when ONNX Runtime is missing, too old, or there twice.
        """
        available = ortsupport.engine().get_available_providers()
        devices, self._absent = [], {}
        for provider in PROVIDERS.values():
            if provider.name not in available:
                continue
            try:
                found = ortproviders.device_of(provider, self.version(), ortsupport.trial)
                devices.append(found)
            except RuntimeUnavailable as error:
                self._absent[provider.device] = error
        if not devices:
            raise RuntimeUnavailable(
                f"this ONNX Runtime offers only {', '.join(available)}", ortsupport.FIX
            )
        return tuple(devices)

    def absent(self) -> Mapping[str, RuntimeUnavailable]:
        """Devices this wheel is made for that are not here, after ``probe``: why, and the fix."""
        return dict(self._absent)

    def load(
        self, artifact: Artifact, root: Path, device: Device, options: LoadOptions
    ) -> OrtSession:
        """Open a graph; raises ``EngineError``, ``OutOfMemory``, ``RuntimeUnavailable``.

        A provider that does not take, or takes no part of the graph, is an ``EngineError``; what it
        leaves to the processor stands in the session's report.
        """
        ort = ortsupport.engine()
        if device.name not in PROVIDERS:
            raise UnknownName("onnxruntime device", device.name, PROVIDERS)
        provider = PROVIDERS[device.name]
        place = Place(self.name, device.name, artifact.component, artifact.graph)
        if provider.name not in ort.get_available_providers():
            raise place.error(f"this ONNX Runtime has no {provider.name}")
        if provider.opset and artifact.opset > provider.opset:
            raise place.error(
                f"the graph is of opset {artifact.opset}, {provider.description} reads "
                f"up to {provider.opset}"
            )
        computes = ortproviders.computes_in(artifact.variant)
        if options.precision not in (None, computes):
            raise RequestError(
                f"onnxruntime computes in what the graph is written in, {computes}, "
                f"not in {options.precision}"
            )
        path = root / artifact.graph
        settings, disabled = ortsupport.session_options(ort, options, provider)
        try:
            file = read_safely(path)
            folder = None
            if provider.compiles and options.cache is not None:
                key = compile_key(
                    path, file, artifact, device.name, f"onnxruntime {self.version()}", {}, options
                )
                folder = engine_folder(options.cache, key, options.cache_limit)
            external = {name for name, data in file.initializers.items() if data is not None}
            keep = ortsupport.replace_weights(ort, settings, options.weights, external)
            if options.pooled:
                ortpool.join(ort, settings)
            session = ort.InferenceSession(
                str(path),
                settings,
                providers=ortproviders.asked(device.name, options, folder),
                disabled_optimizers=disabled,
                enable_fallback=False,
            )
        except Exception as error:
            raise _refused(place, error) from error
        opened = session.get_providers()[0]
        if opened != provider.name:
            raise place.error(f"asked for {provider.name}, ONNX Runtime opened {opened}")
        report = _report(session, artifact, place)
        closed = ortpool.enter(ort) if options.pooled else nothing
        return OrtSession(session, place, keep, report, closed)


def _report(session: Any, artifact: Artifact, place: Place) -> SessionReport:
    """What runs elsewhere; raises ``EngineError`` when that is everything."""
    computes = ortproviders.computes_in(artifact.variant)
    nodes = None if place.device == "cpu" else ortproviders.left_over(session, place.device)
    if nodes is None:
        return SessionReport(computes)
    on, off, operations = nodes
    if on == 0:
        raise place.error(f"{place.device} took no part of the graph: all of it is on the CPU")
    if off == 0:
        return SessionReport(computes)
    told = f"{artifact.component}: {off} of {on + off} nodes run on the CPU, not on {place.device}"
    return SessionReport(computes, (f"{told} ({', '.join(operations)})",))


def _refused(place: Place, error: Exception) -> EngineError:
    """The error of a place in ONNX Runtime's words, without its code."""
    return place.error(error, _PREFIX.sub("", str(error).strip()))
