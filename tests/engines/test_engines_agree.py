"""The same seed gives the same picture on every engine; the model that ships, real runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sdlite
from sdlite import compilecache, registry
from sdlite.errors import RequestError, RuntimeUnavailable, UnknownName

SHAPES = Path(__file__).resolve().parents[2] / "models" / "shapes" / "package"
PROMPT = "a large yellow star on a purple background"

for engine in ("onnxruntime", "openvino"):
    try:
        registry.probe(engine)
    except RuntimeUnavailable as error:
        pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDLITE_HOME", str(tmp_path))
    return tmp_path


def load(runtime: str, **options: object) -> sdlite.Pipeline:
    try:
        return sdlite.load(SHAPES, runtime=runtime, threads=2, **options)  # type: ignore[arg-type]
    except RuntimeUnavailable as error:
        pytest.skip(str(error))


def picture(pipe: sdlite.Pipeline, **options: object) -> np.ndarray:
    result = pipe.generate(PROMPT, seed=7, **options)  # type: ignore[arg-type]
    return np.asarray(result.images[0], np.float64)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(20 * np.log10(255 / max(np.sqrt(np.mean((a - b) ** 2)), 1e-9)))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[np.ndarray]:
    with sdlite.load(SHAPES, runtime="onnxruntime", threads=2) as pipe:
        yield picture(pipe)


def test_openvino_f32_is_onnxruntime(reference: np.ndarray, home: Path) -> None:
    with load("openvino", precision="fp32") as pipe:
        result = pipe.generate(PROMPT, seed=7)
        assert psnr(np.asarray(result.images[0], np.float64), reference) >= 45
        assert {phase.precision for phase in result.phases} == {"fp32"}
        assert result.notes == ()
    assert len(compilecache.entries(home / "cache" / "compiled")) == 3


def test_openvino_from_the_cache_and_damaged_cache(reference: np.ndarray, home: Path) -> None:
    folder = home / "cache" / "compiled"
    for damaged in (False, False, True):
        if damaged:
            for entry in compilecache.entries(folder):
                if entry.key["component"] == "unet":
                    entry.path.write_bytes(b"foreign")
        with load("openvino", precision="fp32") as pipe:
            result = pipe.generate(PROMPT, seed=7)
            assert psnr(np.asarray(result.images[0], np.float64), reference) >= 45
            assert len(result.notes) == damaged
            assert pipe.generate(PROMPT, seed=7, steps=1).notes == ()


def test_narrow_precision_is_close(reference: np.ndarray) -> None:
    with load("openvino") as pipe:
        best = pipe.plan(sdlite.Request(PROMPT)).placement("unet").device.precisions[0]
        if best == "fp32":
            pytest.skip("this processor computes in fp32")
        result = pipe.generate(PROMPT, seed=7)
        assert {phase.name: phase.precision for phase in result.phases} == {
            "text": "fp32",
            "denoise": best,
            "decode": best,
        }
        assert psnr(np.asarray(result.images[0], np.float64), reference) >= 30


def test_sizes_batches_and_no_guidance() -> None:
    """Every shape is compiled for itself; what fits no compiled shape must not be met."""
    with load("openvino", precision="fp32") as one, load("onnxruntime") as other:
        for options in (
            {"width": 96, "height": 160, "steps": 3},
            {"images": 3, "steps": 2},
            {"guidance": 1.0, "steps": 2},
        ):
            assert psnr(picture(one, **options), picture(other, **options)) >= 45


def test_cache_off(home: Path) -> None:
    with load("openvino", precision="fp32", cache_limit=0) as pipe:
        pipe.generate(PROMPT, seed=7, steps=1)
    assert not (home / "cache").exists()


def test_cancel() -> None:
    cancel = threading.Event()
    with load("openvino") as pipe, pytest.raises(sdlite.Cancelled):
        pipe.generate(PROMPT, seed=7, on_step=lambda _step: cancel.set(), cancel=cancel)


def test_bad_wishes() -> None:
    with pytest.raises(UnknownName, match=r"unknown device 'cpuu'\. Did you mean 'cpu'"):
        load("openvino", device="cpuu")
    with pytest.raises(UnknownName, match="Did you mean 'openvino'"):
        load("openvinno")
    with pytest.raises(RequestError, match="no memory mode mapped"):
        load("openvino", memory_mode="mapped")
    with pytest.raises(
        RequestError, match="nothing here computes in fp16: onnxruntime cpu in fp32"
    ):
        load("onnxruntime", precision="fp16")
