"""What is particular to OpenVINO."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdlite_runtimes import ovsupport
from sdlite_runtimes.ov import OvRuntime, OvSession

from sdlite import compilecache, hardware
from sdlite.engine import LoadOptions, report_of
from sdlite.errors import EngineError, RequestError, RuntimeUnavailable, UnknownName
from sdlite.types import Device
from tests.engines import graphs

try:
    ov: Any = ovsupport.engine()
except RuntimeUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)

CPU = Device("openvino", "cpu", "CPU")
X = np.linspace(-1, 1, 2 * graphs.SIDE, dtype=np.float32).reshape(2, graphs.SIDE)


def load(root: Path, artifact: graphs.Artifact, **options: object) -> OvSession:
    options = {"precision": "fp32", "threads": 1, **options}
    return OvRuntime().load(artifact, root, CPU, LoadOptions(**options))  # type: ignore[arg-type]


@pytest.fixture
def fresh_engine() -> Iterator[None]:
    """The engine is looked for again, now and afterwards."""
    caches = (ovsupport.engine, ovsupport.core, ovsupport.devices)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_computes(tmp_path: Path, dtype: str) -> None:
    artifact = graphs.linear(tmp_path, dtype)
    session = load(tmp_path, artifact)
    weight = (graphs.weight() / graphs.SIDE**0.5).astype(dtype).astype(np.float32)
    outputs = session.run({"x": X})
    np.testing.assert_allclose(outputs["y"], X @ weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["total"], (X @ weight).sum(1), rtol=1e-5, atol=1e-5)
    assert report_of(session).precision == "fp32"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("cached", [False, True])
def test_replaced_weights(tmp_path: Path, dtype: str, cached: bool) -> None:
    artifact = graphs.linear(tmp_path, dtype)
    replaced = graphs.weight(7).astype(dtype)
    expected = X @ replaced.astype(np.float32)
    cache = tmp_path / "cache" if cached else None
    plain = load(tmp_path, artifact, cache=cache).run({"x": X})["y"]
    for _ in range(2):
        # "other" belongs to another graph of the component: it is not this one's business.
        weights = {"w0": replaced.copy(), "other": replaced}
        session = load(tmp_path, artifact, weights=weights, cache=cache)
        del weights
        gc.collect()
        filler = [np.ones((graphs.SIDE, graphs.SIDE), dtype) for _ in range(100)]
        np.testing.assert_allclose(session.run({"x": X})["y"], expected, rtol=1e-5, atol=1e-5)
        assert len(filler) == 100
    assert not np.allclose(plain, expected)
    assert np.array_equal(load(tmp_path, artifact, cache=cache).run({"x": X})["y"], plain)
    if cached:
        assert len(compilecache.entries(tmp_path / "cache")) == 2


def test_replaced_weight_of_wrong_shape(tmp_path: Path) -> None:
    artifact = graphs.linear(tmp_path)
    with pytest.raises(EngineError, match=r"'w0' has the dimensions \(8, 8\)"):
        load(tmp_path, artifact, weights={"w0": np.zeros((3, 3), np.float32)})


@pytest.mark.parametrize("cached", [False, True])
def test_free_dimensions_become_static(tmp_path: Path, cached: bool) -> None:
    artifact = graphs.linear(tmp_path)
    for _ in range(2):
        session = load(
            tmp_path,
            artifact,
            dimensions={"batch": 2, "height": 64},
            cache=tmp_path / "cache" if cached else None,
        )
        assert session.inputs[0].shape == (2, graphs.SIDE)
        assert session.outputs[0].shape == (2, graphs.SIDE)
        assert session.run({"x": X})["y"].shape == X.shape
        with pytest.raises(EngineError, match="x has the dimensions 1 x 8; the graph takes 2 x 8"):
            session.run({"x": X[:1]})


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
    assert "src/" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_short_weights(tmp_path: Path) -> None:
    artifact = graphs.linear(tmp_path)
    (tmp_path / "unet" / "weights.bin").write_bytes(bytes(16))
    with pytest.raises(EngineError):
        load(tmp_path, artifact)


def test_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "package"
    artifact = graphs.linear(root, location="../outside.bin", write=False)
    (root / "outside.bin").write_bytes(bytes(4096))
    with pytest.raises(EngineError, match=r"outside its folder.*refused"):
        load(root, artifact)


def test_precision_is_what_the_graph_computes_in(tmp_path: Path) -> None:
    artifact = graphs.linear(tmp_path, side=64, layers=4)
    device = OvRuntime().probe()[0]
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    exact = load(tmp_path, artifact).run({"x": x})["y"]
    for precision in device.precisions:
        session = load(tmp_path, artifact, precision=precision)
        assert session.report.precision == precision
        off = np.abs(session.run({"x": x})["y"] - exact).max() / exact.std()
        assert (off > 1e-4) == (precision != "fp32"), precision
    if "fp16" not in device.precisions:
        with pytest.raises(EngineError, match="asked to compute in fp16, it chose"):
            load(tmp_path, artifact, precision="fp16")
    with pytest.raises(UnknownName, match="Did you mean 'fp16'"):
        load(tmp_path, artifact, precision="fp61")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threads": 0}, RequestError, "threads is 0"),
        ({"memory_mode": "mapped"}, RequestError, "no memory mode mapped"),
        ({"engine": {"pining": "1"}}, UnknownName, "Did you mean 'pinning'"),
        ({"engine": {"pinning": "2"}}, UnknownName, "pinning"),
    ],
)
def test_options_that_cannot_be(
    tmp_path: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    artifact = graphs.linear(tmp_path)
    with pytest.raises(error, match=message):
        load(tmp_path, artifact, **options)


class TestCache:
    def test_second_time_from_the_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifact = graphs.linear(tmp_path, "float16", side=256)
        cache = tmp_path / "cache"
        x = np.ones((2, 256), np.float32)
        first = load(tmp_path, artifact, cache=cache).run({"x": x})["y"]
        (entry,) = compilecache.entries(cache)
        assert entry.size < 64 << 10  # the weights, 128 KiB, stay in their file
        # Reading the graph again would be compiling again.
        monkeypatch.setattr(ov.Core, "read_model", None)
        session = load(tmp_path, artifact, cache=cache)
        assert np.array_equal(session.run({"x": x})["y"], first)
        assert session.inputs == artifact.inputs
        assert session.outputs == artifact.outputs
        assert session.report == dataclasses.replace(session.report, precision="fp32", notes=())

    def test_every_part_of_the_key(self, tmp_path: Path) -> None:
        artifact = graphs.linear(tmp_path)
        cache = tmp_path / "cache"

        def made(**options: object) -> int:
            load(tmp_path, options.pop("artifact", artifact), cache=cache, **options)  # type: ignore[arg-type]
            return len(compilecache.entries(cache))

        assert made() == made() == 1
        assert made(dimensions={"batch": 2}) == 2
        assert made(precision=None) == 3
        assert made(threads=2) == 4
        assert made(engine={"pinning": "0"}) == 5
        assert made(weights={"w0": graphs.weight(9)}) == 6
        assert made(artifact=dataclasses.replace(artifact, graph_sha256="ab")) == 7
        weights = tmp_path / "unet" / "weights.bin"
        weights.write_bytes(weights.read_bytes() + bytes(4096))
        assert made() == 8

    @pytest.mark.parametrize("damage", [b"", b"foreign", None])
    def test_damaged_entry_is_made_anew_and_said_once(
        self, tmp_path: Path, damage: bytes | None
    ) -> None:
        artifact = graphs.linear(tmp_path)
        cache = tmp_path / "cache"
        load(tmp_path, artifact, cache=cache)
        (entry,) = compilecache.entries(cache)
        data = entry.path.read_bytes()
        entry.path.write_bytes(data[:-100] if damage is None else damage)
        session = load(tmp_path, artifact, cache=cache)
        assert "was made anew" in session.report.notes[0]
        assert np.isfinite(session.run({"x": X})["y"]).all()
        assert load(tmp_path, artifact, cache=cache).report.notes == ()

    def test_what_the_engine_refuses_is_made_anew(self, tmp_path: Path) -> None:
        artifact = graphs.linear(tmp_path)
        cache = tmp_path / "cache"
        load(tmp_path, artifact, cache=cache)
        (entry,) = compilecache.entries(cache)
        compilecache.write(cache, entry.key, b"whole, and nothing OpenVINO wrote")
        assert "was made anew" in load(tmp_path, artifact, cache=cache).report.notes[0]
        assert load(tmp_path, artifact, cache=cache).report.notes == ()

    def test_limit(self, tmp_path: Path) -> None:
        artifact = graphs.linear(tmp_path)
        cache = tmp_path / "cache"
        load(tmp_path, artifact, cache=cache, cache_limit=100)
        assert compilecache.entries(cache) == ()
        load(tmp_path, artifact, cache=cache)
        (entry,) = compilecache.entries(cache)
        for batch in range(1, 4):
            limit = int(entry.size * 1.5)
            load(tmp_path, artifact, cache=cache, cache_limit=limit, dimensions={"batch": batch})
            assert len(compilecache.entries(cache)) == 1

    def test_interrupted_compile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        artifact = graphs.linear(tmp_path)

        def interrupted(*_arguments: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(ov.Core, "compile_model", interrupted)
            with pytest.raises(KeyboardInterrupt):
                load(tmp_path, artifact, cache=tmp_path / "cache")
        assert list((tmp_path).glob("cache/*")) == []
        assert np.isfinite(
            load(tmp_path, artifact, cache=tmp_path / "cache").run({"x": X})["y"]
        ).all()


@pytest.mark.usefixtures("fresh_engine")
class TestInstallation:
    def test_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(RuntimeUnavailable, match=r'pip install "sdlite\[cpu\]"'):
            OvRuntime().probe()

    def test_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ov, "__version__", "2024.1.0-1-releases")
        with pytest.raises(RuntimeUnavailable, match=r"2024\.1\.0.*too old.*pip install --upgrade"):
            OvRuntime().probe()

    def test_it_reports_nothing_about_its_use(self, tmp_path: Path) -> None:
        code = (
            "import sys; from sdlite import registry; registry.probe('openvino'); "
            "assert 'openvino' in sys.modules; assert 'openvino_telemetry' not in sys.modules"
        )
        home = {name: str(tmp_path) for name in ("HOME", "USERPROFILE")}
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **home})
        assert list(tmp_path.iterdir()) == []  # it would leave an identifier there

    def test_processor_it_would_crash_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        old = dataclasses.replace(
            hardware.describe(), arch="x86_64", cpu_flags=("avx",), cpu_name="Pentium"
        )
        monkeypatch.setattr(ovsupport, "describe", lambda: old)
        monkeypatch.setitem(sys.modules, "openvino", None)  # must not be reached
        with pytest.raises(
            RuntimeUnavailable, match="needs a processor with sse4_2, which Pentium"
        ):
            OvRuntime().probe()

    def test_a_driver_that_fails_leaves_its_device_out(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Core:
            available_devices = ("CPU", "GPU.0", "NPU")

            def get_property(self, name: str, key: str) -> object:
                if name == "GPU.0":
                    raise RuntimeError("Exception from src/x.cpp:1:\nclGetPlatformIDs error -1001")
                if key == "OPTIMIZATION_CAPABILITIES":
                    return ["FP16", "EXPORT_IMPORT"] if name == "NPU" else ["FP32"]
                if key == "FULL_DEVICE_NAME":
                    return f"Some {name}"
                if (name, key) == ("NPU", "NPU_DEVICE_TOTAL_MEM_SIZE"):
                    return 1 << 30
                raise RuntimeError(key)

        monkeypatch.setattr(ov, "Core", Core)
        found = OvRuntime().probe()
        assert [(device.name, device.precisions) for device in found] == [
            ("cpu", ("fp32",)),
            ("npu", ("fp16",)),
        ]
        assert [device.memory_bytes for device in found] == [None, 1 << 30]
        assert "clGetPlatformIDs error -1001" in caplog.text

    def test_no_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Core:
            available_devices = ()

        monkeypatch.setattr(ov, "Core", Core)
        with pytest.raises(RuntimeUnavailable, match="no device"):
            OvRuntime().probe()
