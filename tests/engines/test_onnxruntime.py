"""What is particular to ONNX Runtime."""

from __future__ import annotations

import gc
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sdlite import registry
from sdlite.engine import LoadOptions, TensorSpec
from sdlite.errors import EngineError, OutOfMemory, RequestError, RuntimeUnavailable, UnknownName
from sdlite.onnxfile import read_onnx
from sdlite.types import Device
from tests.engines import graphs

ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
from sdlite_runtimes import ortsupport  # noqa: E402
from sdlite_runtimes.ort import OrtRuntime, OrtSession  # noqa: E402

CPU = Device("onnxruntime", "cpu", "CPU")
X = np.linspace(-1, 1, 2 * graphs.SIDE, dtype=np.float32).reshape(2, graphs.SIDE)


def load(root: Path, artifact: graphs.Artifact, **options: object) -> OrtSession:
    return OrtRuntime().load(artifact, root, CPU, LoadOptions(threads=1, **options))  # type: ignore[arg-type]


@pytest.fixture
def fresh_engine() -> Iterator[None]:
    """The engine is looked for again, now and afterwards."""
    ortsupport.engine.cache_clear()
    yield
    ortsupport.engine.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mode", ["normal", "mapped"])
def test_computes(tmp_path: Path, dtype: str, mode: str) -> None:
    artifact = graphs.linear(tmp_path, dtype)
    session = load(tmp_path, artifact, memory_mode=mode)
    weight = (graphs.weight() / graphs.SIDE**0.5).astype(dtype).astype(np.float32)
    outputs = session.run({"x": X})
    np.testing.assert_allclose(outputs["y"], X @ weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["total"], (X @ weight).sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mode", ["normal", "mapped"])
def test_replaced_weights(tmp_path: Path, dtype: str, mode: str) -> None:
    artifact = graphs.linear(tmp_path, dtype)
    replaced = graphs.weight(7).astype(dtype)
    expected = X @ replaced.astype(np.float32)
    # "other" belongs to another segment of the component: it is not this graph's business.
    weights = {"w0": replaced, "other": replaced}
    session = load(tmp_path, artifact, memory_mode=mode, weights=weights)
    del weights, replaced
    gc.collect()
    filler = [np.ones((graphs.SIDE, graphs.SIDE), dtype) for _ in range(100)]
    np.testing.assert_allclose(session.run({"x": X})["y"], expected, rtol=1e-5, atol=1e-5)
    assert len(filler) == 100
    # The file is what it was.
    plain = load(tmp_path, artifact).run({"x": X})["y"]
    assert not np.allclose(plain, expected)


def test_replaced_weight_of_wrong_shape(tmp_path: Path) -> None:
    artifact = graphs.linear(tmp_path)
    with pytest.raises(EngineError, match="dimensions"):
        load(tmp_path, artifact, weights={"w0": np.zeros((3, 3), np.float32)})


def test_free_dimensions_become_static(tmp_path: Path) -> None:
    artifact = graphs.linear(tmp_path)
    session = load(tmp_path, artifact, dimensions={"batch": 2, "height": 64})
    assert session.inputs[0].shape == (2, graphs.SIDE)
    assert session.outputs[0].shape == (2, graphs.SIDE)
    assert session.run({"x": X})["y"].shape == X.shape
    with pytest.raises(EngineError, match="dimension"):
        session.run({"x": X[:1]})


def test_scalar_and_integer_inputs(tmp_path: Path) -> None:
    artifact = graphs.save(
        tmp_path,
        "unet/plain.onnx",
        [
            helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "f"], ["y"]),
        ],
        [TensorSpec("x", "float32", ("batch", graphs.SIDE)), TensorSpec("t", "int64", ())],
        [TensorSpec("y", "float32", ("batch", graphs.SIDE))],
    )
    session = load(tmp_path, artifact)
    assert session.inputs[1] == TensorSpec("t", "int64", ())
    outputs = session.run({"x": X, "t": np.float32(3.0)})
    np.testing.assert_array_equal(outputs["y"], X * 3)


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "a/../../outside.bin"])
def test_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    root = tmp_path / "package"
    artifact = graphs.linear(root, location=location, write=False)
    (root / "outside.bin").write_bytes(bytes(4096))
    with pytest.raises(EngineError, match=r"outside its folder.*refused"):
        load(root, artifact)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_links(tmp_path: Path) -> None:
    root = tmp_path / "package"
    artifact = graphs.linear(root)
    secret = tmp_path / "secret.bin"
    weights = root / "unet" / "weights.bin"
    weights.rename(secret)
    weights.symlink_to(secret)
    with pytest.raises(EngineError, match="outside its folder"):
        load(root, artifact)
    # A download cache: the graph itself is a link, its data lies beside the file it leads to.
    graph = root / artifact.graph
    graph.rename(tmp_path / "blob.onnx")
    graph.symlink_to(tmp_path / "blob.onnx")
    weights.unlink()
    weights.symlink_to(secret)
    secret.rename(tmp_path / "weights.bin")
    weights.unlink()
    weights.symlink_to(tmp_path / "weights.bin")
    session = load(root, artifact)
    assert np.isfinite(session.run({"x": X})["y"]).all()


def test_missing_data(tmp_path: Path) -> None:
    artifact = graphs.linear(tmp_path, write=False)
    with pytest.raises(EngineError, match=r"data file 'weights.bin' is missing"):
        load(tmp_path, artifact)


@pytest.mark.parametrize("content", [b"", b"no graph at all", bytes(64), None])
def test_damaged_graph(
    tmp_path: Path, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    artifact = graphs.linear(tmp_path)
    path = tmp_path / artifact.graph
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(EngineError) as caught:
        load(tmp_path, artifact)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_failing_call_is_quiet_and_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = load(tmp_path, graphs.linear(tmp_path))
    with pytest.raises(EngineError) as caught:
        session.run({"x": np.zeros((2, graphs.SIDE + 1), np.float32)})
    assert "\n" not in str(caught.value)
    assert not str(caught.value.detail).startswith("[")
    assert capfd.readouterr().err == ""


def test_out_of_memory(tmp_path: Path) -> None:
    artifact = graphs.save(
        tmp_path,
        "unet/plain.onnx",
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        [TensorSpec("x", "float32", (1,)), TensorSpec("shape", "int64", (3,))],
        [TensorSpec("y", "float32", ("a", "b", "c"))],
    )
    session = load(tmp_path, artifact)
    side = np.full(3, 1 << 15, np.int64)  # 2**47 bytes
    with pytest.raises(OutOfMemory):
        session.run({"x": np.zeros(1, np.float32), "shape": side})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"engine": {"optimization": "most"}}, UnknownName),
        ({"engine": {"spinning": "yes"}}, UnknownName),
        ({"memory_mode": "maped"}, UnknownName),
        ({"threads": 0}, RequestError),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], error: type[Exception]) -> None:
    artifact = graphs.linear(tmp_path)
    with pytest.raises(error):
        OrtRuntime().load(artifact, tmp_path, CPU, LoadOptions(**options))  # type: ignore[arg-type]


def test_good_options(tmp_path: Path) -> None:
    artifact = graphs.linear(tmp_path)
    for level in ortsupport.LEVELS:
        engine = {"optimization": level, "spinning": "0", "disabled_optimizers": "A,B"}
        assert load(tmp_path, artifact, engine=engine).run({"x": X})["y"].shape == X.shape
    load(tmp_path, artifact, engine={"profile": str(tmp_path / "profile")}).run({"x": X})
    gc.collect()
    assert list(tmp_path.glob("profile*.json"))


def test_other_provider_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = graphs.linear(tmp_path)
    monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda self: ["OtherProvider"])
    with pytest.raises(EngineError, match=r"asked for CPU.*opened OtherProvider"):
        load(tmp_path, artifact)


# In a process of its own: in one that has run other tests, freed memory may be used again, and
# what a session takes is not seen.
GROWTH = """
import sys
from pathlib import Path
import numpy as np
from sdlite.memory import release_free_memory, snapshot
from tests.engines import graphs
from tests.engines.test_onnxruntime import load

root, mode = Path(sys.argv[1]), sys.argv[2]
load(root / "small", graphs.linear(root / "small")).close()  # the engine itself is not counted
artifact = graphs.linear(root, "float16", side=1024, layers=16)
x = np.ones((1, 1024), np.float32)
release_free_memory()
before = snapshot().private_bytes
session = load(root, artifact, memory_mode=mode)
session.run({"x": x})
release_free_memory()
print(snapshot().private_bytes - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="exact only with Linux's figures")
@pytest.mark.parametrize(
    ("mode", "least", "most"),
    [("mapped", 0, 8 << 20), ("normal", 48 << 20, 160 << 20)],  # 32 MiB stored, 64 as float32
)
def test_mapped_weights_stay_in_the_file(tmp_path: Path, mode: str, least: int, most: int) -> None:
    command = [sys.executable, "-c", GROWTH, str(tmp_path), mode]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)
    assert least <= grown < most


POOL = """
import sys
from pathlib import Path
import numpy as np
from sdlite.memory import release_free_memory, snapshot
from tests.engines import graphs
from tests.engines.test_onnxruntime import load

def private():
    release_free_memory()
    return snapshot().private_bytes >> 20

root = Path(sys.argv[1])
artifact = graphs.linear(root, "float16", side=1024, layers=8)
x = np.ones((4096, 1024), np.float32)  # 16 MiB, and so is every layer's output
plain = load(root, artifact, memory_mode="mapped")
expected = plain.run({"x": x})["y"]
plain.close()
start = private()
sessions = [load(root, artifact, memory_mode="mapped", pooled=True) for _ in range(3)]
opened = private()
for session in sessions:
    assert np.array_equal(session.run({"x": x})["y"], expected)
ran = private()
last = sessions[0].run({"x": x})["y"]
for session in sessions:
    session.close()
    session.close()
assert np.array_equal(last, expected)  # an array outlives what made it
del last
again = load(root, artifact, memory_mode="mapped", pooled=True)
again.close()
print(opened - start, ran - start, private() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="exact only with Linux's figures")
def test_sessions_share_a_pool_until_all_are_closed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", POOL, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    opened, ran, closed = map(int, done.stdout.split())
    assert opened < 8
    assert 30 < ran < 80  # what one of them needs, not all three, and kept
    assert closed < 8


@pytest.mark.usefixtures("fresh_engine")
def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match=r'pip install "sdlite\[cpu\]"'):
        OrtRuntime().probe()


@pytest.mark.usefixtures("fresh_engine")
def test_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", "1.9.0")
    with pytest.raises(RuntimeUnavailable, match=r"1\.9\.0 is too old, 1\.23.*pip install"):
        OrtRuntime().probe()


@pytest.mark.usefixtures("fresh_engine")
def test_two_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.23.0")
    with pytest.raises(RuntimeUnavailable, match="onnxruntime, onnxruntime-gpu") as caught:
        OrtRuntime().probe()
    assert "pip uninstall" in caught.value.fix


@pytest.mark.usefixtures("fresh_engine")
def test_no_cpu_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["FooProvider"])
    with pytest.raises(RuntimeUnavailable, match="FooProvider"):
        registry.probe("onnxruntime")


def test_file_reader_agrees_with_the_engine(tmp_path: Path) -> None:
    artifact = graphs.linear(tmp_path, "float16", layers=3)
    found = read_onnx(tmp_path / artifact.graph)
    assert tuple(found.inputs) == artifact.inputs
    assert tuple(found.outputs) == artifact.outputs
    assert found.opsets == {"": 21}
    assert found.precision == "fp16"
    assert found.locations == {"weights.bin"}
    here = "weights.bin"
    assert found.initializers == {"w0": here, "w1": here, "w2": here, "axes": None}


def test_data_hidden_in_a_subgraph_is_refused(tmp_path: Path) -> None:
    hidden = graphs.external("h", np.zeros(2, np.float32), "../../../etc/shadow")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["o"], value=hidden)],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    cast = helper.make_node("Cast", ["x"], ["c"], to=TensorProto.BOOL)
    artifact = graphs.save(
        tmp_path,
        "unet/plain.onnx",
        [cast, node],
        [TensorSpec("x", "float32", ())],
        [TensorSpec("y", "float32", (2,))],
    )
    assert read_onnx(tmp_path / artifact.graph).locations == {"../../../etc/shadow"}
    with pytest.raises(EngineError, match="refused"):
        load(tmp_path, artifact)


@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 399), st.integers(1, 255))))
def test_file_reader_survives_damage(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.getbasetemp() / "damage"
    artifact = graphs.linear(root)
    path = root / artifact.graph
    data = bytearray(path.read_bytes())
    for place, value in flips:
        data[place % len(data)] ^= value
    path.write_bytes(data[: len(data) - cut])
    try:
        read_onnx(path)
    except ValueError as error:
        assert "\n" not in str(error)
