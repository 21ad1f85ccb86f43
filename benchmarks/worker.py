"""One session in a process of its own, run on command: contenders alternate and share nothing.

The parent starts ``python -m benchmarks.worker SPEC`` (JSON of ``Spec``), reads one JSON line when
the session is open, and then one for every line it writes. Inputs are random, of the sizes asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from sdlite_runtimes import ortproviders, ortsupport, ovsupport

from benchmarks.watch import Memory, Watch
from sdlite.chain import open_chain
from sdlite.engine import LoadOptions, Session, TensorSpec
from sdlite.package import Package
from sdlite.registry import get
from sdlite.types import Array, Device

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Spec:
    """What a worker opens."""

    path: str
    """Package folder, or somebody else's ONNX file, opened with the same options."""
    component: str = "unet"
    """Component of the package."""
    variant: str = "fused"
    """Graph variant."""
    mode: str = "normal"
    """Memory mode."""
    threads: int = 2
    """Compute threads."""
    batch: int = 2
    """Batch of the calls."""
    cells: int = 64
    """Latent width and height."""
    tokens: int = 77
    """Text tokens."""
    fixed: bool = False
    """Tell the engine the sizes when opening."""
    watch: bool = False
    """Sample memory during calls (costs a little time)."""
    engine: dict[str, str] = field(default_factory=dict)
    """Options of the adapter."""
    runtime: str = "onnxruntime"
    """Engine of a package's graph."""
    precision: str | None = None
    """What to compute in; None lets the engine decide."""
    bare: bool = False
    """Open the package's graph with OpenVINO itself, nothing of sdlite between."""


class ForeignSession:
    """Somebody else's ONNX file, opened with the options our adapter would open it with."""

    def __init__(self, spec: Spec) -> None:
        ort = ortsupport.engine()
        options = LoadOptions(threads=spec.threads, memory_mode=spec.mode, engine=spec.engine)
        provider = ortproviders.PROVIDERS["cpu"]
        settings, disabled = ortsupport.session_options(ort, options, provider)
        self._session: Any = ort.InferenceSession(
            spec.path,
            settings,
            providers=[provider.name],
            disabled_optimizers=disabled,
        )
        dtypes = {
            "tensor(float)": "float32",
            "tensor(int64)": "int64",
            "tensor(float16)": "float16",
        }
        self.inputs = tuple(
            TensorSpec(node.name, dtypes[node.type], tuple(node.shape))
            for node in self._session.get_inputs()
        )

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        names = [node.name for node in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, inputs), strict=True))


class BareOpenvino:
    """A package's graph as OpenVINO's own documentation opens it for latency, sizes static."""

    def __init__(self, spec: Spec) -> None:
        import openvino

        sizes = {"batch": spec.batch, "height": spec.cells, "width": spec.cells}
        package = Package.open(Path(spec.path))
        (artifact,) = package.find(spec.component, spec.variant)
        core = openvino.Core()
        model = core.read_model(str(package.path(artifact.graph)))
        self.inputs = artifact.inputs
        shapes = {
            tensor.name: [
                sizes.get(n, spec.tokens) if isinstance(n, str) else n for n in tensor.shape
            ]
            for tensor in artifact.inputs
        }
        model.reshape(shapes)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": spec.threads,
        }
        if spec.precision is not None:
            settings["INFERENCE_PRECISION_HINT"] = ovsupport.PRECISIONS[spec.precision]
        self._request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
        self._names = [tensor.name for tensor in artifact.outputs]

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        self._request.infer(inputs, share_inputs=True)
        return {name: self._request.get_tensor(name).data for name in self._names}


def open_session(spec: Spec) -> Session | ForeignSession | BareOpenvino:
    """Open what the spec names."""
    if spec.bare:
        return BareOpenvino(spec)
    root = Path(spec.path)
    if root.is_file():
        return ForeignSession(spec)
    package = Package.open(root)
    sizes = {"batch": spec.batch, "height": spec.cells, "width": spec.cells, "tokens": spec.tokens}
    options = LoadOptions(
        threads=spec.threads,
        memory_mode=spec.mode,
        dimensions=sizes if spec.fixed else {},
        engine=spec.engine,
        precision=spec.precision,
    )
    artifacts = package.find(spec.component, spec.variant)
    if not artifacts:
        sys.exit(f"{root.name} has no {spec.variant} graph of {spec.component}")
    device = Device(spec.runtime, "cpu", "CPU")
    return open_chain(get(spec.runtime), artifacts, root, device, options)


def inputs_for(specs: Sequence[TensorSpec], spec: Spec) -> dict[str, Array]:
    """Random inputs of realistic size for our graphs and for torch's."""
    generator = np.random.Generator(np.random.PCG64(0))
    # Free dimensions by name; torch's fixed graphs state numbers.
    sizes = {"batch": spec.batch, "height": spec.cells, "width": spec.cells, "tokens": spec.tokens}
    feeds: dict[str, Array] = {}
    for tensor in specs:
        names = enumerate(tensor.shape)
        shape = tuple(size if isinstance(size, int) else sizes.get(size, 0) for _, size in names)
        if 0 in shape:
            shape = _guess(tensor, spec)
        if tensor.dtype == "int64":
            feeds[tensor.name] = generator.integers(0, 400, shape)
        elif tensor.name == "timestep":
            feeds[tensor.name] = np.full(shape, 500.0, dtype=tensor.dtype)
        else:
            feeds[tensor.name] = generator.standard_normal(shape).astype(tensor.dtype)
    return feeds


def _guess(tensor: TensorSpec, spec: Spec) -> tuple[int, ...]:
    """Sizes by place, for graphs whose free dimensions have other names."""
    by_rank = {
        1: (spec.batch,),
        2: (spec.batch, spec.tokens),
        3: (spec.batch, spec.tokens, 768),
        4: (spec.batch, 4, spec.cells, spec.cells),
    }
    guess = by_rank[len(tensor.shape)]
    return tuple(
        size if isinstance(size, int) else guess[axis] for axis, size in enumerate(tensor.shape)
    )


def _facts(watch: Watch, start: float, times: os.times_result) -> dict[str, Any]:
    seconds, spent = time.perf_counter() - start, os.times()
    now = watch.read() or Memory(0, 0)
    return {
        "seconds": seconds,
        "user_seconds": spent.user - times.user,
        "system_seconds": spent.system - times.system,
        "private_now": now.private,
        "mapped_now": now.mapped,
        "private_peak": watch.private_peak,
        "mapped_peak": watch.mapped_peak,
    }


def serve(spec: Spec) -> None:
    """Open, then run once for every line on standard input."""
    with Watch() as watch:
        before = watch.read() or Memory(0, 0)
        start, times = time.perf_counter(), os.times()
        get(spec.runtime).probe()
        loaded = time.perf_counter() - start
        start = time.perf_counter()
        session = open_session(spec)
        facts = _facts(watch, start, times)
        _say({**facts, "private_before": before.private, "import_seconds": loaded})
        feeds = inputs_for(session.inputs, spec)
        if not spec.watch:
            watch.pause()
        for _ in sys.stdin:
            watch.reset()
            start, times = time.perf_counter(), os.times()
            outputs = session.run(feeds)
            facts = _facts(watch, start, times)
            finite = all(bool(np.isfinite(value).all()) for value in outputs.values())
            deviation = max(float(np.std(value)) for value in outputs.values())
            _say({**facts, "finite": finite, "deviation": deviation})


def _say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


class Worker:
    """The parent's side of one worker process."""

    def __init__(self, spec: Spec) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", json.dumps(asdict(spec))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.opened = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with exit code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self) -> dict[str, Any]:
        """One call: seconds and memory; raises when the output is not finite."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        facts = self._read()
        if not facts["finite"]:
            raise RuntimeError("the output is not finite: this measures nothing")
        return facts

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    serve(Spec(**json.loads(sys.argv[1])))
