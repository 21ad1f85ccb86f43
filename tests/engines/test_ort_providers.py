"""ONNX Runtime's providers for GPUs and NPUs, against a fake of its sessions: none is here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdlite import compilecache, doctor, registry
from sdlite.engine import LoadOptions, report_of
from sdlite.errors import EngineError, RequestError, RuntimeUnavailable, UnknownName
from sdlite.types import Device
from tests.engines import graphs

ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
from sdlite_runtimes import nvidia, ortsupport  # noqa: E402
from sdlite_runtimes.nvidia import Gpu  # noqa: E402
from sdlite_runtimes.ort import OrtRuntime, OrtSession  # noqa: E402
from sdlite_runtimes.ortproviders import PROVIDERS  # noqa: E402

CPU = "CPUExecutionProvider"
REAL = ort.InferenceSession
ARTIFACTS: dict[Path, graphs.Artifact] = {}
"""Written once a folder: a file written again is another one to the cache."""


@dataclass
class Fake:
    """What sessions were asked for, and what they answer."""

    asked: list[Any] = field(default_factory=list)
    settings: Any = None
    opened: list[str] | None = None
    """Providers the session says it has; None: those asked for."""
    nodes: dict[str, list[str]] | None = None
    """Operations by provider; None: ONNX Runtime does not say."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A wheel that has every provider."""
    state = Fake()

    class Session:
        def __init__(self, path: str, settings: Any, providers: list[Any], **rest: Any) -> None:
            state.asked, state.settings = providers, settings
            self._real = REAL(path, providers=[CPU])

        def get_providers(self) -> list[str]:
            if state.opened is not None:
                return state.opened
            return [p if isinstance(p, str) else p[0] for p in state.asked]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            if state.nodes is None:
                raise RuntimeError("must be set to 1")
            return [
                SimpleNamespace(
                    ep_name=name,
                    get_nodes=lambda types=types: [SimpleNamespace(op_type=t) for t in types],
                )
                for name, types in state.nodes.items()
            ]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(nvidia, "find_gpu", lambda: Gpu("GTX 1650", 3 << 30, (7, 5)))
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("missing"), raising=False)
    ortsupport.trial.cache_clear()
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: [p.name for p in PROVIDERS.values()]
    )
    yield state
    ortsupport.trial.cache_clear()


def load(root: Path, device: str, opset: int = 20, **options: object) -> OrtSession:
    if root not in ARTIFACTS:
        ARTIFACTS[root] = graphs.linear(root)
    artifact = replace(ARTIFACTS[root], opset=opset)
    given = LoadOptions(threads=1, **options)  # type: ignore[arg-type]
    return OrtRuntime().load(artifact, root, Device("onnxruntime", device, ""), given)


@pytest.mark.usefixtures("fake")
def test_every_provider_of_the_wheel_is_a_device() -> None:
    found = {device.name: device for device in OrtRuntime().probe()}
    assert list(found) == list(PROVIDERS)
    assert next(iter(found)) == "cpu"
    assert found["dml"].fixed_sizes
    assert found["dml"].opset == 20
    assert found["cuda"].own_memory
    assert not found["coreml"].own_memory
    assert found["cuda"].description.startswith("GTX 1650 (ONNX Runtime")
    assert found["cuda"].memory_bytes == 3 << 30
    assert found["cuda"].precisions == ("fp16", "fp32")
    assert found["cpu"].precisions == ("fp32",)


def test_a_wheel_for_a_gpu_that_is_not_here(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Gpu:
        raise RuntimeUnavailable("there is no NVIDIA driver for CUDA here", "Install it")

    monkeypatch.setattr(nvidia, "find_gpu", missing)
    runtime = OrtRuntime()
    assert {"cuda", "tensorrt"}.isdisjoint(device.name for device in runtime.probe())
    assert set(runtime.absent()) == {"cuda", "tensorrt"}
    monkeypatch.setattr(registry, "get", lambda _: runtime)
    monkeypatch.setattr(registry, "names", lambda: ("onnxruntime",))
    with pytest.raises(RuntimeUnavailable, match=r"no NVIDIA driver for CUDA here\. Install it"):
        registry.check_device("cuda")
    registry.check_device("cpu")
    registry.check_device("toaster")  # the planner says what there is
    (entry,) = [e for e in doctor.examine("onnxruntime") if e["device"] == "cuda"]
    assert entry["fix"] == "Install it"


def test_a_gpu_whose_libraries_are_missing(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.opened = [CPU]
    runtime = OrtRuntime()
    assert "cuda" not in {device.name for device in runtime.probe()}
    told = runtime.absent()["cuda"]
    assert "CUDAExecutionProvider does not open: a library it loads is missing" in told.reason
    assert 'pip install "onnxruntime-gpu[cuda,cudnn]"' in told.fix
    assert "device cuda" in runtime.absent()["tensorrt"].fix
    assert "driver" in runtime.absent()["dml"].fix
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("fake")
def test_graphs_in_float16(tmp_path: Path) -> None:
    artifact = replace(graphs.linear(tmp_path), variant="half", opset=20)
    device = Device("onnxruntime", "cuda", "")
    for wish in (None, "fp16"):
        session = OrtRuntime().load(artifact, tmp_path, device, LoadOptions(precision=wish))
        assert report_of(session).precision == "fp16"
    with pytest.raises(RequestError, match="what the graph is written in, fp16, not in fp32"):
        OrtRuntime().load(artifact, tmp_path, device, LoadOptions(precision="fp32"))


def test_cuda(fake: Fake, tmp_path: Path) -> None:
    load(tmp_path, "cuda", device_memory=2 << 30)
    (name, told), last = fake.asked
    assert (name, last) == ("CUDAExecutionProvider", CPU)
    assert told["gpu_mem_limit"] == str(2 << 30)
    assert told["use_tf32"] == "0"
    assert told["cudnn_conv_algo_search"] == "HEURISTIC"
    load(tmp_path, "cuda")
    assert "gpu_mem_limit" not in fake.asked[0][1]


def test_directml(fake: Fake, tmp_path: Path) -> None:
    load(tmp_path, "dml", dimensions={"batch": 2})
    assert fake.asked == ["DmlExecutionProvider", CPU]
    assert not fake.settings.enable_mem_pattern
    assert fake.settings.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    with pytest.raises(
        EngineError, match=r"the graph is of opset 23, GPU by DirectML reads up to 20"
    ):
        load(tmp_path, "dml", opset=23)


def test_coreml_and_tensorrt_keep_what_they_compile_in_the_cache(
    fake: Fake, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    load(tmp_path, "coreml", cache=cache)
    told = dict(fake.asked[0][1])
    assert (told["ModelFormat"], told["RequireStaticInputShapes"]) == ("MLProgram", "1")
    folder = Path(told["ModelCacheDirectory"])
    (folder / "model.mlmodelc").write_bytes(bytes(5000))
    load(tmp_path, "coreml", cache=cache)
    assert Path(fake.asked[0][1]["ModelCacheDirectory"]) == folder
    (entry,) = compilecache.entries(cache)
    assert entry.size > 5000
    assert entry.key["device"] == "coreml"
    load(tmp_path, "tensorrt", cache=cache, cache_limit=1000)
    assert fake.asked[0][1]["trt_engine_cache_path"] != str(folder)
    assert fake.asked[1][0] == "CUDAExecutionProvider"
    assert not folder.exists()  # least recently used, and over the limit
    load(tmp_path, "coreml")
    assert "ModelCacheDirectory" not in fake.asked[0][1]
    assert len(compilecache.clear(cache)) == 1


@pytest.mark.parametrize("device", [name for name in PROVIDERS if name != "cpu"])
def test_options_are_text(fake: Fake, tmp_path: Path, device: str) -> None:
    load(tmp_path, device, device_memory=1 << 30, cache=tmp_path / "cache")
    for item in fake.asked:
        told = item[1] if isinstance(item, tuple) else {}
        assert all(isinstance(v, str) for pair in told.items() for v in pair)
    assert fake.asked[-1] == CPU


def test_a_provider_that_did_not_take_is_an_error(fake: Fake, tmp_path: Path) -> None:
    fake.opened = [CPU]
    with pytest.raises(EngineError, match=f"asked for CUDAExecutionProvider.* opened {CPU}"):
        load(tmp_path, "cuda")


def test_what_fell_back_is_reported(fake: Fake, tmp_path: Path) -> None:
    fake.nodes = {"CUDAExecutionProvider": ["MatMul"] * 3, CPU: ["Shape", "Gather", "Shape"]}
    (note,) = report_of(load(tmp_path, "cuda")).notes
    assert note == "unet: 3 of 6 nodes run on the CPU, not on cuda (Gather, Shape)"
    fake.nodes = {"CUDAExecutionProvider": ["MatMul"]}
    assert report_of(load(tmp_path, "cuda")).notes == ()
    fake.nodes = {CPU: ["MatMul"]}
    with pytest.raises(EngineError, match="cuda took no part of the graph"):
        load(tmp_path, "cuda")
    fake.nodes = None
    assert report_of(load(tmp_path, "cuda")).notes == ()


@pytest.mark.usefixtures("fake")
def test_wishes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="mapped is for the device cpu, not cuda"):
        load(tmp_path, "cuda", memory_mode="mapped")
    with pytest.raises(UnknownName, match="Did you mean 'cuda'"):
        load(tmp_path, "cude")


def test_a_device_this_wheel_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="has no DmlExecutionProvider"):
        load(tmp_path, "dml")


def test_the_real_engine_says_what_runs_where(tmp_path: Path) -> None:
    """The fake's answer has the form of the real one."""
    artifact = graphs.linear(tmp_path)
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = REAL(str(tmp_path / artifact.graph), settings, providers=[CPU])
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime does not say")
    parts = session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {CPU}
    assert {node.op_type for part in parts for node in part.get_nodes()} >= {"MatMul"}
