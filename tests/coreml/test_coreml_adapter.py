"""The adapter and whole pictures, with the interpreter in the place of Core ML."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools", reason="the extra [coreml] writes Core ML packages")
pytest.importorskip("onnxruntime", reason="pictures are compared with ONNX Runtime's")
from sdlite_export.emit.coreml.package import CoremlOptions
from sdlite_export.export import export_package
from sdlite_runtimes import coremlsupport

import sdlite
from sdlite import compilecache, registry
from sdlite.engine import Artifact, LoadOptions, Session, report_of
from sdlite.errors import (
    EngineError,
    RequestError,
    RuntimeUnavailable,
    UnknownName,
)
from sdlite.loras import LoraUse
from sdlite.package import Package
from tests.coreml.interpreter import Program

SHAPES = Path(__file__).resolve().parents[2] / "models" / "shapes"


@dataclass
class Fake:
    """What coremltools was asked for on this Mac that is none."""

    compiled: list[str] = field(default_factory=list)
    opened: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False
    """Whether compiling breaks off."""


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    state = Fake()

    class CompiledMLModel:
        def __init__(self, path: str, compute_units: str) -> None:
            state.opened.append((path, compute_units))
            self.program = Program(Path(path))

        def predict(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return self.program.run(data)

    def compile_model(path: str, destination: str) -> str:
        assert path.endswith(".mlpackage") and destination.endswith(".mlmodelc")
        state.compiled.append(Path(path).name)
        shutil.copytree(path, destination)
        if state.broken:
            raise RuntimeError("Error compiling model: the disk is full\nand more")
        return destination

    tools = SimpleNamespace(
        __version__="9.0",
        ComputeUnit=SimpleNamespace(CPU_AND_GPU="gpu", CPU_AND_NE="ne", ALL="all"),
        models=SimpleNamespace(
            CompiledMLModel=CompiledMLModel, utils=SimpleNamespace(compile_model=compile_model)
        ),
    )
    monkeypatch.setattr(coremlsupport, "engine", lambda: tools)
    yield state


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Package:
    folder = tmp_path_factory.mktemp("coreml") / "tiny"
    options = CoremlOptions("split_einsum", chunks=True, size=(32, 32))
    export_package(tiny_checkpoint, folder, format="coreml", coreml=options)
    return Package.open(folder)


def decoder(package: Package) -> Artifact:
    (artifact,) = package.find("vae_decoder", "original", format="coreml")
    return artifact


def load(package: Package, **options: Any) -> Session:
    device = next(d for d in registry.probe("coreml") if d.name == "cpu_and_gpu")
    runtime = registry.get("coreml")
    return runtime.load(decoder(package), package.root, device, LoadOptions(**options))


LATENTS = {"latent_sample": np.zeros((1, 4, 4, 4))}


def test_a_picture_is_that_of_onnx_runtime(mac: Fake, tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    options = CoremlOptions("split_einsum", chunks=True, size=(64, 64))
    export_package(SHAPES / "diffusers", folder, format="coreml", coreml=options)
    request: dict[str, Any] = {"seed": 7, "steps": 4, "width": 64, "height": 64}
    prompt = "a red circle on a blue background"
    with sdlite.load(folder) as pipe:
        result = pipe.generate(prompt, **request)
    with sdlite.load(SHAPES / "package", runtime="onnxruntime") as pipe:
        wanted = pipe.generate(prompt, **request)
    pictures = (np.asarray(r.images[0], np.float64) for r in (result, wanted))
    noise = np.square(np.subtract(*pictures)).mean()
    assert 10 * np.log10(255**2 / max(noise, 1e-9)) >= 45
    unet = result.plan.placement("unet")
    assert (unet.device.runtime, unet.device.name) == ("coreml", "cpu_and_ne")
    assert [artifact.index for artifact in unet.artifacts] == [0, 1]
    assert {units for _, units in mac.opened} == {"ne"}
    assert "cpu_and_ne, because the U-Net's attention is written for it" in result.plan.explain()
    assert any("was compiled for Core ML" in note for note in result.notes)
    assert {phase.precision for phase in result.phases} == {"fp16"}, result.phases
    # One size: the others are refused before anything is opened.
    with sdlite.load(folder) as pipe, pytest.raises(RequestError, match="draws 64x64 only, not 72"):
        pipe.generate(prompt, width=72, height=64)


def test_compiled_once_and_kept(mac: Fake, package: Package, tmp_path: Path) -> None:
    first = load(package, cache=tmp_path)
    second = load(package, cache=tmp_path)
    assert mac.compiled == ["original.mlpackage"]
    assert "was compiled for Core ML" in report_of(first).notes[0]
    assert report_of(second).notes == ()
    (a, b) = (session.run(LATENTS)["sample"] for session in (first, second))
    np.testing.assert_array_equal(a, b)
    assert (a.dtype, a.shape) == (np.float32, (1, 3, 32, 32))
    (entry,) = compilecache.entries(tmp_path)
    assert entry.key["component"] == "vae_decoder" and "coreml" in entry.key["engine"]


def test_what_does_not_open_is_compiled_anew(mac: Fake, package: Package, tmp_path: Path) -> None:
    load(package, cache=tmp_path).close()
    (program,) = tmp_path.rglob("model.mlmodel")
    program.unlink()
    notes = report_of(load(package, cache=tmp_path)).notes
    assert len(mac.compiled) == 2
    assert "compiled anew: what was kept does not open" in notes[0]


def test_compiling_that_breaks_off_leaves_nothing(
    mac: Fake, package: Package, tmp_path: Path
) -> None:
    mac.broken = True
    with pytest.raises(EngineError, match=r"coreml.*vae_decoder.*the disk is full$"):
        load(package, cache=tmp_path)
    assert not list(tmp_path.rglob("*.mlmodelc"))
    mac.broken = False
    load(package, cache=tmp_path).run(LATENTS)


def test_without_a_cache_it_is_compiled_each_time(mac: Fake, package: Package) -> None:
    for count in (1, 2):
        session = load(package)
        session.run(LATENTS)
        place = Path(mac.opened[-1][0])
        assert place.exists()
        session.close()
        assert not place.exists()
        assert len(mac.compiled) == count


def test_what_is_compiled_already_is_opened_as_it_is(
    mac: Fake, package: Package, tmp_path: Path
) -> None:
    artifact = decoder(package)
    shutil.copytree(
        package.root / Path(artifact.graph).parents[2], tmp_path / "VAEDecoder.mlmodelc"
    )
    other = replace(artifact, graph="VAEDecoder.mlmodelc/Data/com.apple.CoreML/model.mlmodel")
    device = registry.probe("coreml")[0]
    session = registry.get("coreml").load(other, tmp_path, device, LoadOptions())
    assert session.run(LATENTS).keys() == {"sample"}
    assert not mac.compiled


def test_wrong_inputs_are_named(mac: Fake, package: Package, tmp_path: Path) -> None:
    session = load(package, cache=tmp_path)
    with pytest.raises(EngineError, match="latent_sample is missing"):
        session.run({})
    with pytest.raises(EngineError, match=r"latent_sample is \(1, 4, 8, 4\)"):
        session.run({"latent_sample": np.zeros((1, 4, 8, 4), np.float32)})
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(LATENTS)


def test_what_it_has_not_is_refused(mac: Fake, package: Package) -> None:
    with pytest.raises(RequestError, match="sdlite bake"):
        load(package, weights={"conv_in.weight": np.zeros(1, np.float32)})
    with pytest.raises(RequestError, match="memory mode mapped"):
        load(package, memory_mode="mapped")
    with pytest.raises(UnknownName, match="coreml option"):
        load(package, engine={"profile": "x"})
    device = replace(registry.probe("coreml")[0], name="ne")
    with pytest.raises(UnknownName, match="cpu_and_ne"):
        registry.get("coreml").load(decoder(package), package.root, device, LoadOptions())


def test_weights_stay_as_they_are(mac: Fake, package: Package, tmp_path: Path) -> None:
    lora = LoraUse("x", path=tmp_path / "x.safetensors")
    lora.path.write_bytes(b"")  # type: ignore[union-attr]
    with sdlite.load(package.root) as pipe, pytest.raises(RequestError, match="sdlite bake"):
        pipe.generate("a circle", loras=[lora])


def test_elsewhere_it_says_that_core_ml_is_macos(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(RuntimeUnavailable, match="Core ML is a part of macOS, and this is Linux"):
        registry.probe("coreml")
    with pytest.raises(RuntimeUnavailable, match=r"macOS.*--format onnx"):
        sdlite.load(package.root)
    with pytest.raises(RequestError, match="has coreml graphs, which onnxruntime cannot read"):
        sdlite.load(package.root, runtime="onnxruntime")


def test_an_old_macos_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("12.7.1", ("", "", ""), "arm64"))
    with pytest.raises(RuntimeUnavailable, match=r"macOS 12.7.1 is too old"):
        registry.probe("coreml")


def test_a_package_for_others_is_not_for_it(mac: Fake, tiny_package: Package) -> None:
    with pytest.raises(RequestError, match=r"has onnx graphs.*--format coreml"):
        sdlite.load(tiny_package.root, runtime="coreml")
    with sdlite.load(tiny_package.root) as pipe:
        assert pipe.plan(sdlite.Request("a circle")).placement("unet").device.runtime != "coreml"
