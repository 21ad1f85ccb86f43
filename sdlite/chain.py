"""Run a component that is cut into a chain of graphs as if it were one.

Segments run in order. What a segment takes is looked up by name among the chain's inputs and what
earlier segments gave, and dropped after its last use, so that only live tensors stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sdlite.engine import (
    Artifact,
    LoadOptions,
    Runtime,
    Session,
    SessionReport,
    TensorSpec,
    nothing,
    report_of,
)
from sdlite.errors import EngineError, PackageInvalid
from sdlite.memory import release_free_memory, reuse_freed_memory
from sdlite.tiles import TiledSession
from sdlite.types import Array, Device

LARGE_BYTES = 256 << 20
"""Activations of a segment from which on its leftovers are not worth keeping for the next."""


class ChainSession:
    """Several sessions in a row behind the interface of one."""

    def __init__(
        self,
        sessions: Sequence[Session],
        where: Callable[[str], Exception],
        release: bool = False,
        pooled: bool = False,
    ) -> None:
        """Work out who takes what.

        Args:
            sessions: the segments in order.
            where: makes the error for a chain that does not fit.
            release: give freed memory back to the system after each segment.
            pooled: the sessions share memory, and what they give lies in it.
        """
        self._release = release
        self._pooled = pooled
        self._sessions = tuple(sessions)
        self._where = where
        made: set[str] = set()
        needs: dict[str, TensorSpec] = {}
        last_use: dict[str, int] = {}
        gives: dict[str, TensorSpec] = {}
        for index, session in enumerate(self._sessions):
            for spec in session.inputs:
                last_use[spec.name] = index
                if spec.name not in made:
                    needs.setdefault(spec.name, spec)
            for spec in session.outputs:
                if spec.name in made or spec.name in needs:
                    raise where(f"segment {index} makes {spec.name!r}, which is there already")
                made.add(spec.name)
                gives[spec.name] = spec
        final = {spec.name for spec in self._sessions[-1].outputs}
        self._inputs = tuple(needs.values())
        self._outputs = tuple(
            spec for name, spec in gives.items() if name in final or name not in last_use
        )
        keep = {spec.name for spec in self._outputs}
        self._drop: list[list[str]] = [[] for _ in self._sessions]
        for name, index in last_use.items():
            if name not in keep:
                self._drop[index].append(name)

    @property
    def report(self) -> SessionReport:
        """What all segments compute in, where that is the same, and what each has to say."""
        reports = [report_of(session) for session in self._sessions]
        precisions = {report.precision for report in reports}
        precision = precisions.pop() if len(precisions) == 1 else None
        return SessionReport(precision, tuple(note for each in reports for note in each.notes))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What segments take that no earlier segment makes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the last segment gives, and what no later segment takes."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run all segments; raises ``EngineError`` for a missing or unknown input."""
        return self.run_in_parts(inputs, nothing)

    def run_in_parts(
        self, inputs: Mapping[str, Array], between: Callable[[], object]
    ) -> dict[str, Array]:
        """The same; ``between`` is called before each segment and may raise."""
        known = [spec.name for spec in self._inputs]
        wrong = [f"{name} is missing" for name in known if name not in inputs]
        wrong += [f"{name} is unknown" for name in inputs if name not in known]
        if wrong:
            raise self._where(f"wrong inputs: {', '.join(wrong)}; it takes {', '.join(known)}")
        values = dict(inputs)
        for index, session in enumerate(self._sessions):
            between()
            values.update(session.run({spec.name: values[spec.name] for spec in session.inputs}))
            for name in self._drop[index]:
                del values[name]
            if self._release:
                release_free_memory()
        found = {spec.name: values[spec.name] for spec in self._outputs}
        # What a caller keeps must not keep the pool.
        return {name: value.copy() for name, value in found.items()} if self._pooled else found

    def close(self) -> None:
        """Close every segment."""
        for session in self._sessions:
            session.close()


def open_chain(
    runtime: Runtime,
    artifacts: Sequence[Artifact],
    root: Path,
    device: Device,
    options: LoadOptions,
    tiles: int = 1,
) -> Session:
    """Open one graph, or a chain of them in the order of their ``index``, as one session.

    In mapped mode the graphs of a chain share a pool of memory, which is kept between calls. Where
    they hold whole pictures, as in a decoder, freed memory goes back to the system after each.

    A chain of the variant ``tiles`` runs in bands of rows, ``tiles`` of them where most is needed;
    its graphs are opened while it runs. Raises ``PackageInvalid`` when indices are not 0..n-1,
    ``EngineError`` when a graph does not open or the segments do not fit together; nothing stays
    open then.
    """
    if not artifacts:
        raise PackageInvalid(f"{root}: no graph to open")
    if options.memory_mode == "mapped":
        reuse_freed_memory()
    chain = sorted(artifacts, key=lambda artifact: artifact.index)
    if len(chain) == 1 and chain[0].variant != "segment":
        return runtime.load(chain[0], root, device, options)
    first = chain[0]
    if [artifact.index for artifact in chain] != list(range(len(chain))):
        raise PackageInvalid(f"{root}: segments of {first.component} are not numbered 0, 1, 2 ...")

    if first.variant == "tiles":

        def opens(artifact: Artifact, fixed: Mapping[str, int]) -> Session:
            sizes = fixed if device.fixed_sizes else {}
            return runtime.load(artifact, root, device, replace(options, dimensions=sizes))

        return TiledSession(chain, opens, tiles, keep=options.memory_mode != "mapped")

    mapped = options.memory_mode == "mapped"
    pooled = mapped and not is_heavy(chain)
    options = replace(options, pooled=pooled)

    def where(detail: str) -> EngineError:
        graph = f"{first.graph} ... {chain[-1].graph}"
        return EngineError(runtime.name, device.name, first.component, graph, detail)

    sessions: list[Session] = []
    try:
        for artifact in chain:
            sessions.append(runtime.load(artifact, root, device, options))
        return ChainSession(sessions, where, mapped and not pooled, pooled)
    except BaseException:
        for session in sessions:
            session.close()
        raise


def is_heavy(chain: Sequence[Artifact]) -> bool:
    """Whether segments hold so much that what they leave is not worth keeping for the next."""
    return max(artifact.activation_bytes for artifact in chain) >= LARGE_BYTES
