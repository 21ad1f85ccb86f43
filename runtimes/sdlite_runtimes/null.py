"""The fake engine: an analytic model in numpy, for tests of everything above the seam.

It never opens a graph's contents. From the artifact's outputs it knows what to give back, and from
the component what it should mean:

- ``text_encoder``: features are sines of token ids and positions;
- ``unet``: the exact denoiser of Gaussian data whose mean depends on the prompt and whose deviation
  is ``nullmodel.DEVIATION``, under the usual noise table of Stable Diffusion 1.x;
- ``vae_decoder`` and ``vae_encoder``: a linear map between latents and colours, and its inverse;
- anything else: the mean of its inputs.

The same inputs give the same outputs, to the bit, alone or in a batch. Failures are simulated
through engine options, given to ``load`` or, as defaults for every load, to ``NullRuntime``:

- ``component``, ``variant``, ``device``, ``memory_mode``, ``precision``: the other options hold
  only where a graph is opened with these;
- ``most_items``: calls with more items run out of memory;
- ``delay``: seconds every call takes;
- ``fail_load``: ``error`` or ``memory``: opening raises ``EngineError`` or ``OutOfMemory``;
- ``fail_call``: number of the call, from 1, that fails as ``fail_with`` says;
- ``fail_with``: ``error`` (default), ``memory``, or ``nan`` (the outputs are not numbers);
- ``prediction``: ``epsilon`` (default) or ``v_prediction``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from sdlite.engine import Artifact, LoadOptions, TensorSpec
from sdlite.errors import EngineError, OutOfMemory, UnknownName
from sdlite.types import Array, Device
from sdlite_runtimes import nullmodel

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "component": (),
    "variant": (),
    "device": (),
    "memory_mode": (),
    "precision": (),
    "most_items": (),
    "delay": (),
    "fail_load": ("error", "memory"),
    "fail_call": (),
    "fail_with": ("error", "memory", "nan"),
    "prediction": ("epsilon", "v_prediction"),
}
"""Engine options and, where they are few, their values."""
Event = Callable[[str, Artifact], object]


class NullSession:
    """One artifact as the fake model."""

    def __init__(self, artifact: Artifact, options: Mapping[str, str], event: Event | None) -> None:
        self._artifact = artifact
        self._options = options
        self._event = event
        self._calls = 0
        self._closed = False
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the manifest says the graph takes."""
        return self._artifact.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the manifest says the graph gives."""
        return self._artifact.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the outputs; raises ``EngineError`` for wrong inputs and simulated failures."""
        with self._lock:
            self._calls += 1
            failing = self._options.get("fail_call") == str(self._calls)
        if self._event is not None:
            self._event("run", self._artifact)
        if self._closed:
            raise failure(self._artifact, "error", "the session is closed")
        known = {spec.name for spec in self.inputs}
        if known != set(inputs):
            wrong = ", ".join(sorted(known ^ set(inputs)))
            raise failure(self._artifact, "error", f"wrong inputs, missing or unknown: {wrong}")
        time.sleep(float(self._options.get("delay", "0")))
        items = max((len(value) for value in inputs.values() if np.ndim(value)), default=0)
        if items > int(self._options.get("most_items", items)):
            raise failure(self._artifact, "memory", f"simulated: {items} items are too many")
        how = self._options.get("fail_with", "error")
        if failing and how != "nan":
            raise failure(self._artifact, how, "simulated failure of a call")
        # Contiguous: sums over other strides round differently.
        feeds = {
            spec.name: np.array(inputs[spec.name], spec.dtype, order="C") for spec in self.inputs
        }
        component = self._artifact.component
        prediction = self._options.get("prediction", "epsilon")
        outputs = {}
        for spec in self.outputs:
            shape = nullmodel.shape_of(spec, self.inputs, feeds)
            value = nullmodel.value_of(component, spec, shape, feeds, prediction)
            outputs[spec.name] = np.full_like(value, np.nan) if failing else value
        return outputs

    def close(self) -> None:
        """Close; a second time does nothing."""
        if not self._closed and self._event is not None:
            self._event("close", self._artifact)
        self._closed = True


class NullRuntime:
    """The fake engine.

    Args:
        engine: engine options that hold for every ``load``, under the ones given there.
        event: called with ``load``, ``run`` or ``close`` and the artifact.
        devices: names of its devices, and what each computes in.
    """

    name: ClassVar[str] = "null"
    formats: ClassVar[frozenset[str]] = frozenset({"onnx", "null"})

    def __init__(
        self,
        engine: Mapping[str, str] | None = None,
        event: Event | None = None,
        devices: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._engine = dict(engine or {})
        self._event = event
        self._devices = dict(devices or {"null": ("fp32",)})

    def version(self) -> str:
        """Version of the model it computes."""
        return "1"

    def probe(self) -> Sequence[Device]:
        """One device, everywhere, unless it was made with others."""
        return tuple(
            Device(self.name, name, "fake engine (no model is run)", precisions=precisions)
            for name, precisions in self._devices.items()
        )

    def load(
        self, artifact: Artifact, root: Path, device: Device, options: LoadOptions
    ) -> NullSession:
        """Open; raises ``EngineError`` when the file is missing or as the options say."""
        if device.name not in self._devices:
            raise UnknownName("null device", device.name, self._devices)
        engine = {**self._engine, **options.engine}
        for key, value in engine.items():
            if key not in OPTIONS:
                raise UnknownName("null option", key, OPTIONS)
            if OPTIONS[key] and value not in OPTIONS[key]:
                raise UnknownName(f"value of null option {key}", value, OPTIONS[key])
        facts = {
            "component": artifact.component,
            "variant": artifact.variant,
            "device": device.name,
            "memory_mode": options.memory_mode,
            "precision": options.precision or device.precisions[0],
        }
        if any(engine.get(key, value) != value for key, value in facts.items()):
            engine = {}
        if not (root / artifact.graph).is_file():
            raise failure(artifact, "error", "the graph file is missing")
        if "fail_load" in engine:
            raise failure(artifact, engine["fail_load"], "simulated failure of loading")
        if self._event is not None:
            self._event("load", artifact)
        return NullSession(artifact, engine, self._event)


def failure(artifact: Artifact, how: str, detail: str) -> EngineError:
    """The error of a simulated failure."""
    kind = OutOfMemory if how == "memory" else EngineError
    return kind("null", "null", artifact.component, artifact.graph, detail)
