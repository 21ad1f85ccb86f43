"""Open graphs of one package: opened when a phase needs them, shared, closed in plan order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sdlite.chain import open_chain
from sdlite.engine import InParts, Runtime, Session, TensorSpec, nothing, report_of
from sdlite.errors import RequestError
from sdlite.memory import release_free_memory
from sdlite.package import Package
from sdlite.planner import Placement
from sdlite.types import Array, Denoise, Estimate, Float32

FindRuntime = Callable[[str], Runtime]
"""Gives the adapter of an engine by name."""


@dataclass
class Meter:
    """Adds up what a phase spends in the engine."""

    check: Callable[[], object] = nothing
    """Called before everything an engine is asked; raises when nobody wants the answer any more."""
    load_seconds: float = 0.0
    engine_seconds: float = 0.0
    calls: int = 0
    precision: str | None = None
    full: int = 0
    skipped: int = 0
    unguided: int = 0
    notes: list[str] = field(default_factory=list)

    def counting(self, denoise: Denoise, guided: bool) -> Denoise:
        """The same denoiser; what it answers is counted, in a run with guidance apart from it."""

        def counted(x: Float32, sigma: float) -> Estimate:
            found = denoise(x, sigma)
            self.full += len(x)
            self.unguided += len(x) if guided and found.x0_uncond is None else 0
            return found

        return counted

    def count(self, *_: object) -> None:
        """One call more, whose time is not taken apart."""
        self.calls += 1


class MeteredSession:
    """A session that writes the time of its calls to a meter, and asks it before each."""

    def __init__(self, session: Session, meter: Meter) -> None:
        self._session = session
        self._meter = meter

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph takes."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph gives."""
        return self._session.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once, timed."""
        self._meter.check()
        start = time.perf_counter()
        try:
            if isinstance(self._session, InParts):
                return self._session.run_in_parts(inputs, self._meter.check)
            return self._session.run(inputs)
        finally:
            self._meter.engine_seconds += time.perf_counter() - start
            self._meter.calls += 1

    def close(self) -> None:
        """Close the session itself."""
        self._session.close()


@dataclass(frozen=True)
class Replaced:
    """Weights that replace some of a component's own."""

    key: str
    """Tells them from others; the same key means the same numbers."""
    size: int
    """Bytes they take."""
    tensors: Callable[[], Mapping[str, Array]]
    """Make them, by name, in the manifest's layout; called when the component is opened."""


@dataclass
class _Open:
    placement: Placement
    key: str | None
    session: Session
    users: int = 0


class Components:
    """The open sessions of a package.

    Args:
        package: whose graphs.
        runtime: gives the adapter of an engine by name.
        replaced: by component, what reads the weights that take the place of the package's.

    Threads may share one instance: a session in use is never closed under its user, and the same
    placement is opened once.
    """

    def __init__(
        self,
        package: Package,
        runtime: FindRuntime,
        replaced: Mapping[str, Callable[[], Mapping[str, Array]]] | None = None,
    ) -> None:
        self._package = package
        self._replaced = replaced or {}
        self._runtime = runtime
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def use(
        self, placement: Placement, meter: Meter, keep: bool, replaced: Replaced | None = None
    ) -> Iterator[Session]:
        """The session of a placement; closed afterwards unless ``keep`` or still in use.

        A component that is open with other weights is opened again with those of ``replaced``.
        """
        entry, new = self._acquire(placement, meter, replaced)
        report = report_of(entry.session)
        meter.precision = report.precision
        meter.notes.extend(report.notes if new else ())
        try:
            yield MeteredSession(entry.session, meter)
        finally:
            self._release(entry, keep)

    def release(self) -> None:
        """Close what nobody uses; it is opened again when it is needed."""
        with self._lock:
            self._close_idle()
        release_free_memory()

    def _close_idle(self) -> None:
        idle = [name for name, entry in self._open.items() if entry.users == 0]
        for name in idle:
            self._open.pop(name).session.close()

    def close(self) -> None:
        """Close everything that nobody uses; what is in use closes when its user is done."""
        with self._lock:
            self._closed = True
            self._close_idle()
        release_free_memory()

    def _acquire(
        self, placement: Placement, meter: Meter, replaced: Replaced | None
    ) -> tuple[_Open, bool]:
        """The open session, and whether it was opened now."""
        # Opening under the lock keeps two threads from loading the same weights twice.
        with self._lock:
            if self._closed:
                raise RequestError("this pipeline is closed; open it again with sdlite.load")
            entry = self._open.get(placement.component)
            key = None if replaced is None else replaced.key
            if entry is not None and (entry.key, *_what(entry.placement)) != (
                key,
                *_what(placement),
            ):
                if entry.users == 0:
                    entry.session.close()
                    if entry.key is not None or key is not None:
                        # Those weights are private memory: the old ones go before new are made.
                        release_free_memory()
                del self._open[placement.component]
                entry = None
            new = entry is None
            if entry is None:
                start = time.perf_counter()
                device, options = placement.device, placement.options
                weights: dict[str, Array] = {}
                if placement.component in self._replaced:
                    weights.update(self._replaced[placement.component]())
                if replaced is not None:
                    weights.update(replaced.tensors())
                if weights:
                    options = replace(options, weights=weights)
                session = open_chain(
                    self._runtime(device.runtime),
                    placement.artifacts,
                    self._package.root,
                    device,
                    options,
                    placement.tiles,
                )
                meter.load_seconds += time.perf_counter() - start
                entry = _Open(placement, key, session)
                self._open[placement.component] = entry
            entry.users += 1
            return entry, new

    def _release(self, entry: _Open, keep: bool) -> None:
        with self._lock:
            entry.users -= 1
            component = entry.placement.component
            current = self._open.get(component) is entry
            if entry.users or (keep and current and not self._closed):
                return
            if current:
                del self._open[component]
            entry.session.close()
        release_free_memory()


def _what(placement: Placement) -> tuple[object, ...]:
    """What is open: predictions of memory differ between sizes, the session does not."""
    return placement.artifacts, placement.device, placement.options, placement.tiles
