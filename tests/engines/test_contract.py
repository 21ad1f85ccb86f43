"""What every engine must do: one suite over all that are registered."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import Artifact, LoadOptions, Runtime, Session
from sdlite.errors import EngineError, RequestError, RuntimeUnavailable, UnknownName
from sdlite.types import Array, Device
from tests.engines import graphs

X = np.linspace(-1, 1, 3 * graphs.SIDE, dtype=np.float32).reshape(3, graphs.SIDE)


@pytest.fixture(params=registry.names())
def engine(request: pytest.FixtureRequest) -> tuple[Runtime, Device]:
    try:
        runtime, device = registry.get(request.param), registry.probe(request.param)[0]
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    if "onnx" not in runtime.formats:
        pytest.skip(f"{request.param} reads no ONNX graphs")
    return runtime, device


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return graphs.linear(tmp_path)


def load(
    engine: tuple[Runtime, Device],
    artifact: Artifact,
    root: Path,
    options: LoadOptions | None = None,
) -> Session:
    runtime, device = engine
    return runtime.load(artifact, root, device, options or LoadOptions(threads=1))


def test_probe_names_itself(engine: tuple[Runtime, Device]) -> None:
    runtime, device = engine
    assert device.runtime == runtime.name
    assert runtime.version()
    assert runtime.formats


def test_all_outputs_as_declared(
    engine: tuple[Runtime, Device], artifact: Artifact, tmp_path: Path
) -> None:
    session = load(engine, artifact, tmp_path)
    assert session.inputs == artifact.inputs
    assert session.outputs == artifact.outputs
    outputs = session.run({"x": X})
    assert {name: value.shape for name, value in outputs.items()} == {
        "y": (3, graphs.SIDE),
        "total": (3,),
    }
    assert all(value.dtype == np.float32 for value in outputs.values())
    session.close()


def test_outputs_belong_to_the_caller(
    engine: tuple[Runtime, Device], artifact: Artifact, tmp_path: Path
) -> None:
    session = load(engine, artifact, tmp_path)
    given = X.copy()
    first = session.run({"x": given})["y"]
    assert first.flags.c_contiguous
    assert first.flags.writeable
    assert not np.shares_memory(first, given)
    before = first.copy()
    second = session.run({"x": given + 1})["y"]
    assert not np.shares_memory(first, second)
    assert np.array_equal(first, before)
    second[:] = 0
    assert np.array_equal(session.run({"x": given})["y"], before)
    session.close()
    del session
    assert np.array_equal(first, before)
    assert np.array_equal(given, X)


def test_inputs_of_any_dtype_and_stride(
    engine: tuple[Runtime, Device], artifact: Artifact, tmp_path: Path
) -> None:
    session = load(engine, artifact, tmp_path)
    expected = session.run({"x": X})["y"]
    strided = np.asfortranarray(X.astype(np.float64))
    assert np.array_equal(session.run({"x": strided})["y"], expected)
    session.close()


@pytest.mark.parametrize(("inputs", "named"), [({}, "x"), ({"x": X, "z": X}, "z"), ({"z": X}, "x")])
def test_wrong_inputs_are_named(
    engine: tuple[Runtime, Device],
    artifact: Artifact,
    tmp_path: Path,
    inputs: dict[str, Array],
    named: str,
) -> None:
    session = load(engine, artifact, tmp_path)
    with pytest.raises(EngineError, match=rf"\b{named}\b") as caught:
        session.run(inputs)
    assert caught.value.component == "unet"
    assert caught.value.artifact == "unet/plain.onnx"
    session.close()


def test_close_twice_and_run_after(
    engine: tuple[Runtime, Device], artifact: Artifact, tmp_path: Path
) -> None:
    session = load(engine, artifact, tmp_path)
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run({"x": X})


def test_threads_share_a_session(
    engine: tuple[Runtime, Device], artifact: Artifact, tmp_path: Path
) -> None:
    session = load(engine, artifact, tmp_path)
    expected = session.run({"x": X})["y"]
    equal: list[bool] = []

    def work() -> None:
        equal.extend(np.array_equal(session.run({"x": X})["y"], expected) for _ in range(50))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert equal == [True] * 200
    session.close()


def test_mapped_equals_normal(
    engine: tuple[Runtime, Device], artifact: Artifact, tmp_path: Path
) -> None:
    results = []
    for mode in ("normal", "mapped"):
        options = LoadOptions(threads=1, memory_mode=mode)
        if (engine[0].name, mode) == ("openvino", "mapped"):
            with pytest.raises(RequestError, match="no memory mode mapped"):
                load(engine, artifact, tmp_path, options)
            return
        session = load(engine, artifact, tmp_path, options)
        results.append(session.run({"x": X})["y"])
        session.close()
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_unknown_device_option_and_file(
    engine: tuple[Runtime, Device], artifact: Artifact, tmp_path: Path
) -> None:
    runtime, device = engine
    with pytest.raises(UnknownName, match="tpu"):
        runtime.load(artifact, tmp_path, Device(runtime.name, "tpu", ""), LoadOptions())
    with pytest.raises(UnknownName, match="warp_speed"):
        load(engine, artifact, tmp_path, LoadOptions(engine={"warp_speed": "9"}))
    (tmp_path / artifact.graph).unlink()
    with pytest.raises(EngineError, match=r"unet \(unet/plain.onnx\)") as caught:
        load(engine, artifact, tmp_path)
    assert caught.value.runtime == runtime.name
    assert caught.value.device == device.name


def test_chain_runs_in_order(engine: tuple[Runtime, Device], tmp_path: Path) -> None:
    runtime, device = engine
    chain = open_chain(runtime, graphs.segments(tmp_path)[::-1], tmp_path, device, LoadOptions())
    assert [spec.name for spec in chain.inputs] == ["x", "c"]
    assert [spec.name for spec in chain.outputs] == ["y"]
    outputs = chain.run({"x": X, "c": X + 1})
    assert list(outputs) == ["y"]
    if runtime.name != "null":
        np.testing.assert_allclose(outputs["y"], (2 * X + X + 1) * 2 * X, rtol=1e-6)
    chain.close()
