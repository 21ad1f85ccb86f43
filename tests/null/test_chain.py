from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from sdlite import chain
from sdlite.chain import ChainSession, open_chain
from sdlite.engine import Artifact, LoadOptions, TensorSpec
from sdlite.errors import Cancelled, EngineError, PackageInvalid
from sdlite.types import Array, Device

DEVICE = Device("fake", "fake", "")


class Adds:
    """Gives the sum of its inputs under each of its output names."""

    def __init__(self, takes: str, gives: str) -> None:
        self.inputs = tuple(TensorSpec(name, "float32", ("n",)) for name in takes.split())
        self.outputs = tuple(TensorSpec(name, "float32", ("n",)) for name in gives.split())
        self.closed = 0
        self.made: list[weakref.ref[Array]] = []
        self.alive_before: int | None = None
        self.others: list[Adds] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert set(inputs) == {spec.name for spec in self.inputs}
        made = [ref for other in self.others for ref in other.made]
        self.alive_before = sum(ref() is not None for ref in made)
        results = {spec.name: np.asarray(sum(inputs.values())) for spec in self.outputs}
        results = {name: value.copy() for name, value in results.items()}
        self.made = [weakref.ref(value) for value in results.values()]
        return results

    def close(self) -> None:
        self.closed += 1


def chain_of(*sessions: Adds) -> ChainSession:
    for session in sessions:
        session.others = [other for other in sessions if other is not session]
    return ChainSession(sessions, lambda detail: EngineError("fake", "fake", "unet", "u", detail))


def segments(activations: int, count: int = 46) -> list[Artifact]:
    facts = ("unet", "onnx", "segment", "fp16", "g", 1, "", (), ())
    return [Artifact(*facts, activation_bytes=activations)] * count


def test_who_shares_memory_and_who_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    given = []

    class Fake:
        name: ClassVar[str] = "fake"

        def load(
            self, artifact: Artifact, root: Path, device: Device, options: LoadOptions
        ) -> Adds:
            asked.append(options.pooled)
            return Adds(f"x{artifact.index}", f"x{artifact.index + 1}")

    monkeypatch.setattr(chain, "release_free_memory", lambda: given.append(1))
    x = np.ones(1, np.float32)
    for activations, mode, pooled, releases in (
        (100 << 20, "mapped", True, 0),
        (300 << 20, "mapped", False, 3),
        (100 << 20, "normal", False, 0),
    ):
        asked.clear()
        given.clear()
        options = LoadOptions(memory_mode=mode)
        artifacts = [replace(part, index=i) for i, part in enumerate(segments(activations, 3))]
        session = open_chain(Fake(), artifacts, tmp_path, DEVICE, options)  # type: ignore[arg-type]
        outputs = session.run({"x0": x})
        assert asked == [pooled] * 3
        assert (list(outputs), len(given)) == (["x3"], releases)


def test_routes_by_name_and_drops_after_last_use() -> None:
    parts = (Adds("x t", "a skip"), Adds("a t", "b"), Adds("b", "c"), Adds("c skip", "y"))
    chain = chain_of(*parts)
    assert [spec.name for spec in chain.inputs] == ["x", "t"]
    assert [spec.name for spec in chain.outputs] == ["y"]
    x, t = np.full(2, 1.0, np.float32), np.full(2, 10.0, np.float32)
    outputs = chain.run({"x": x, "t": t})
    # a = skip = 11, b = 21, c = 21, y = 32
    assert {name: value.tolist() for name, value in outputs.items()} == {"y": [32.0, 32.0]}
    # Before c: skip and b live, a is gone; before y: skip and c.
    assert [part.alive_before for part in parts] == [0, 2, 2, 2]
    assert x.tolist() == [1.0, 1.0]


def test_outputs_nobody_takes_are_given() -> None:
    chain = chain_of(Adds("x", "a extra"), Adds("a", "y"))
    assert set(chain.run({"x": np.ones(1, np.float32)})) == {"extra", "y"}


def test_output_of_the_last_may_be_taken_earlier_too() -> None:
    chain = chain_of(Adds("x", "a"), Adds("a", "b y"), Adds("b", "z"))
    assert set(chain.run({"x": np.ones(1, np.float32)})) == {"y", "z"}


@pytest.mark.parametrize("inputs", [{}, {"x": np.ones(1), "w": np.ones(1)}])
def test_wrong_inputs(inputs: dict[str, Array]) -> None:
    with pytest.raises(EngineError, match="it takes x"):
        chain_of(Adds("x", "y")).run(inputs)


@pytest.mark.parametrize("second", [Adds("a", "a"), Adds("a", "x")])
def test_names_made_twice(second: Adds) -> None:
    with pytest.raises(EngineError, match="is there already"):
        chain_of(Adds("x", "a"), second)


class FakeRuntime:
    name: ClassVar[str] = "fake"
    formats: ClassVar[frozenset[str]] = frozenset({"onnx"})

    def __init__(self, *sessions: Adds | None) -> None:
        self.sessions = sessions

    def version(self) -> str:
        return "0"

    def probe(self) -> tuple[Device, ...]:
        return (DEVICE,)

    def load(self, artifact: Artifact, root: Path, device: Device, options: LoadOptions) -> Adds:
        session = self.sessions[artifact.index]
        if session is None:
            raise EngineError("fake", "fake", artifact.component, artifact.graph, "broken")
        return session


def artifact(index: int, variant: str = "segment") -> Artifact:
    return Artifact("unet", "onnx", variant, "fp32", f"{index}.onnx", 1, "", (), (), index=index)


def opened(runtime: FakeRuntime, *artifacts: Artifact) -> object:
    return open_chain(runtime, artifacts, Path(), DEVICE, LoadOptions())


def test_one_whole_graph_is_itself() -> None:
    session = Adds("x", "y")
    assert opened(FakeRuntime(session), artifact(0, "plain")) is session


def test_opens_in_order_and_closes_all() -> None:
    parts = (Adds("x", "a"), Adds("a", "y"))
    chain = opened(FakeRuntime(*parts), artifact(1), artifact(0))
    assert isinstance(chain, ChainSession)
    assert chain.run({"x": np.ones(1, np.float32)})["y"].tolist() == [1.0]
    chain.close()
    chain.close()
    assert [part.closed for part in parts] == [2, 2]


def test_nothing_stays_open_when_one_fails() -> None:
    first = Adds("x", "a")
    with pytest.raises(EngineError, match="broken"):
        opened(FakeRuntime(first, None), artifact(0), artifact(1))
    assert first.closed == 1
    parts = (Adds("x", "a"), Adds("a", "x"))
    with pytest.raises(EngineError, match="is there already"):
        opened(FakeRuntime(*parts), artifact(0), artifact(1))
    assert [part.closed for part in parts] == [1, 1]


@pytest.mark.parametrize("indices", [[0, 2], [1, 2], [0, 0], [1]])
def test_gaps(indices: list[int]) -> None:
    with pytest.raises(PackageInvalid, match="not numbered"):
        opened(FakeRuntime(*[Adds("x", "y")] * 3), *map(artifact, indices))


def test_no_graph() -> None:
    with pytest.raises(PackageInvalid, match="no graph"):
        opened(FakeRuntime())


def test_left_between_segments() -> None:
    chain = chain_of(Adds("a", "b"), Adds("b", "c"), Adds("c", "d"))
    calls = []

    def leave() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled("stopped as asked")

    with pytest.raises(Cancelled):
        chain.run_in_parts({"a": np.ones(1, np.float32)}, leave)
    assert len(calls) == 3
    # What was left half done is no matter to the next run.
    assert chain.run({"a": np.ones(1, np.float32)})["d"] == 1
