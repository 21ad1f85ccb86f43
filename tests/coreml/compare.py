"""Core ML packages through the interpreter against ONNX Runtime on the same checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from sdlite_export.emit.coreml.package import CoremlOptions, plan_coreml, write_coreml
from sdlite_export.source import open_source

from sdlite import registry
from sdlite.chain import ChainSession
from sdlite.engine import Artifact, LoadOptions, TensorSpec
from sdlite.package import Package
from tests.coreml.interpreter import Program

Array = np.ndarray


class Interpreted:
    """A package of one program as a session."""

    def __init__(self, root: Path, artifact: Artifact) -> None:
        self.artifact = artifact
        self.program = Program(root / Path(artifact.graph).parents[2])
        self.inputs: tuple[TensorSpec, ...] = artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        feed = {spec.name: inputs[spec.name].astype(spec.dtype) for spec in self.inputs}
        return self.program.run(feed)

    def close(self) -> None:
        pass


def emit(
    source: Path, folder: Path, options: CoremlOptions, components: Iterable[str] | None = None
) -> list[Artifact]:
    """Write some components of a checkpoint for Core ML."""
    checkpoint = open_source(source)
    artifacts = []
    for plan in plan_coreml(checkpoint, options):
        name = plan.component.name
        if components is None or name in components:
            (folder / name).mkdir(parents=True)
            artifacts += write_coreml(checkpoint, plan, folder, lambda count: None)
    return artifacts


def sessions(root: Path, artifacts: Sequence[Artifact]) -> dict[str, ChainSession]:
    """Every component as one session, by name."""
    parts: dict[str, list[Interpreted]] = {}
    for artifact in artifacts:
        parts.setdefault(artifact.component, []).append(Interpreted(root, artifact))
    return {name: ChainSession(chain, AssertionError) for name, chain in parts.items()}


def inputs_of(specs: Sequence[TensorSpec], eos: int, seed: int = 0) -> dict[str, Array]:
    """Token ids that end twice, a late time, and normal numbers."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for spec in specs:
        shape = tuple(int(size) for size in spec.shape)
        if spec.name == "input_ids":
            found[spec.name] = rng.integers(0, eos, shape)
            found[spec.name][:, shape[1] // 3 :: 7] = eos
        elif spec.name == "timestep":
            found[spec.name] = np.full(shape, 981.25, np.float32)
        elif spec.name == "time_ids":
            found[spec.name] = rng.integers(0, 1024, shape).astype(np.float32)
        else:
            found[spec.name] = rng.standard_normal(shape, dtype=np.float32)
    return found


def errors(root: Path, artifacts: Sequence[Artifact], package: Package) -> dict[str, float]:
    """The largest relative error (Euclidean) among each component's outputs."""
    device = registry.probe("onnxruntime")[0]
    runtime = registry.get("onnxruntime")
    found = {}
    for name, session in sessions(root, artifacts).items():
        (plain,) = package.find(name, "plain")
        reference = runtime.load(plain, package.root, device, LoadOptions())
        eos = package.manifest.tokenizers[0].eos
        feed = inputs_of(session.inputs, eos)
        wanted = reference.run({spec.name: feed[spec.name] for spec in reference.inputs})
        reference.close()
        given = session.run(feed)
        assert given.keys() == wanted.keys()
        for key, value in given.items():
            assert value.shape == wanted[key].shape, key
        found[name] = max(_relative(given[key], wanted[key]) for key in wanted)
    return found


def _relative(given: Array, wanted: Array) -> float:
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))
