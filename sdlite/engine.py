"""The seam between sdlite and the engines that run its graphs.

An adapter is one file that implements ``Runtime`` and, on what ``load`` returns, ``Session``:

- ``probe`` is cheap, imports the engine, and raises ``RuntimeUnavailable(reason, fix)`` when the
  engine cannot be used. It never downloads and never crashes the process.
- ``load`` opens one graph file on one device. It raises ``EngineError`` (or ``OutOfMemory``) that
  names runtime, device, component and artifact, with the engine's exception as its cause.
- ``run`` takes and returns contiguous numpy arrays by name; results are owned by the caller. The
  adapter casts to the dtype the graph declares; the library never does.
- ``close`` frees the weights and may be called twice.

An adapter knows nothing of prompts, model names, downloads or pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from sdlite.types import Array, Device


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a graph's input or output."""

    name: str
    """Name in the graph."""
    dtype: str
    """``float32``, ``float16``, ``int64`` or ``int32``."""
    shape: tuple[int | str, ...]
    """Sizes; a string names a dimension that is free until run time."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a package."""

    path: str
    """Relative to the package, forward slashes, inside it."""
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""


@dataclass(frozen=True)
class Artifact:
    """One graph of a package."""

    component: str
    """``text_encoder``, ``unet``, ``vae_encoder``, ``vae_decoder`` ..."""
    format: str
    """``onnx``, ``openvino`` (an IR) or ``coreml``."""
    variant: str
    """``plain``, ``fused``, ``segment``, ``embeddings`` ...; ``+control`` ends those that also take
    what ControlNets say, ``+image`` those that take an image prompt. Of Core ML graphs how
    attention is written: ``original`` or ``split_einsum``."""
    precision: str
    """Precision of the stored weights: ``fp32``, ``fp16``; ``int8``, and ``w8`` or ``w4`` where
    only weights are narrow; ``palette4``, ``palette6`` and ``palette8`` are indices of so many bits
    into float16 values."""
    graph: str
    """Graph file, relative to the package, with forward slashes."""
    graph_size: int
    """Bytes of the graph file."""
    graph_sha256: str
    """Hash of the graph file, hexadecimal."""
    inputs: tuple[TensorSpec, ...]
    """What the graph takes."""
    outputs: tuple[TensorSpec, ...]
    """What the graph gives."""
    weights: str | None = None
    """Weight file the graph refers to, relative to the package; None when it holds its own."""
    index: int = 0
    """Place in the chain, for graphs that are cut into several."""
    opset: int = 0
    """ONNX opset of the default domain; 0 for other formats."""
    domains: tuple[str, ...] = ()
    """Operator domains beyond ONNX's own, e.g. ``com.microsoft``."""
    activation_bytes: int = 0
    """Estimate of private bytes at peak for one item of the reference size, for the planner."""
    widened_bytes: int = 0
    """Private bytes of weights that are stored narrow and widened anew in every call."""
    files: tuple[FileEntry, ...] = ()
    """Further files the graph consists of, where it is a folder; ``graph`` is then the file in it
    that holds the program."""

    @property
    def size(self) -> int:
        """Bytes of the graph's own files, without a weight file it refers to."""
        return self.graph_size + sum(entry.size for entry in self.files)


@dataclass(frozen=True)
class LoadOptions:
    """How a graph is opened."""

    threads: int | None = None
    """Compute threads; None lets the engine decide."""
    memory_mode: str = "normal"
    """``normal`` (fastest) or ``mapped`` (weights stay evictable file pages)."""
    pooled: bool = False
    """Whether sessions so opened share memory for what they compute, and keep it until all of them
    are closed: for graphs that run one after another."""
    dimensions: Mapping[str, int] = field(default_factory=dict)
    """Values for free dimensions, by name; those given become static."""
    weights: Mapping[str, Array] = field(default_factory=dict)
    """Tensors that replace the file's, by name, in the layout the manifest records."""
    precision: str | None = None
    """What to compute in: ``fp32``, ``bf16`` or ``fp16``; None lets the engine decide."""
    device_memory: int | None = None
    """Most bytes of a device's own memory to take; None leaves it to the engine."""
    cache: Path | None = None
    """Folder for compiled forms; None turns caching off."""
    cache_limit: int | None = None
    """Most bytes all compiled forms in that folder may take; None does not limit them."""
    engine: Mapping[str, str] = field(default_factory=dict)
    """Engine-specific options; the adapter refuses keys it does not know."""


@dataclass(frozen=True)
class SessionReport:
    """What an engine made of a graph, as far as it says."""

    precision: str | None = None
    """What it computes in, as the opened graph reports it."""
    notes: tuple[str, ...] = ()
    """What the user should know, one sentence each."""


def report_of(session: Session) -> SessionReport:
    """A session's ``report``, which it need not have."""
    report = getattr(session, "report", None)
    return report if isinstance(report, SessionReport) else SessionReport()


class Session(Protocol):
    """One loaded graph on one device.

    It may also have an attribute ``report``, a ``SessionReport``.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph takes, as the engine sees it."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph gives, as the engine sees it."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; all outputs by name, owned by the caller."""
        ...

    def close(self) -> None:
        """Free the weights; may be called twice."""
        ...


def nothing() -> None:
    """Where something may be called and nothing has to be."""


@runtime_checkable
class InParts(Protocol):
    """A session that runs in parts, between which it can be left."""

    def run_in_parts(
        self, inputs: Mapping[str, Array], between: Callable[[], object]
    ) -> dict[str, Array]:
        """As ``Session.run``; ``between`` is called before each part and may raise."""
        ...


class Runtime(Protocol):
    """One engine.

    It may also have an attribute ``module``, the name of what ``probe`` imports, which is then
    tried in another process where it may end this one (``sdlite.trial``); and a method ``absent``,
    which gives, after ``probe``, devices it is made for that are not here: a ``RuntimeUnavailable``
    by device name.
    """

    name: ClassVar[str]
    formats: ClassVar[frozenset[str]]

    def version(self) -> str:
        """Version of the engine that is installed."""
        ...

    def probe(self) -> Sequence[Device]:
        """Devices that can be used now; raises ``RuntimeUnavailable``."""
        ...

    def load(self, artifact: Artifact, root: Path, device: Device, options: LoadOptions) -> Session:
        """Open one graph of the package at ``root``."""
        ...
