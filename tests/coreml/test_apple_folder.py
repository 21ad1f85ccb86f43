"""Folders of resources that Apple's tools make, with the interpreter in the place of Core ML."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sdlite
from sdlite import home
from sdlite.applefolder import open_apple
from sdlite.errors import PackageInvalid, PackageMissing, SdliteError, UnknownFamily
from tests.tiny import TEXT, UNET, VAE, Tiny, make_tiny_checkpoint, tiny_vocabulary

TINY = Tiny(
    text=replace(TEXT, hidden_size=768, intermediate_size=8),
    unet=replace(UNET, cross_dim=768),
    vae=replace(VAE, scale=0.18215),
)
PORTS: dict[str, tuple[dict[str, list[int]], dict[str, list[int]]]] = {
    "TextEncoder": (
        {"input_ids": [1, 77]},
        {"last_hidden_state": [1, 77, 768], "pooled_outputs": [1, 768]},
    ),
    "Unet": (
        {"sample": [2, 4, 4, 4], "timestep": [2], "encoder_hidden_states": [2, 768, 1, 77]},
        {"noise_pred": [2, 4, 4, 4]},
    ),
    "VAEDecoder": ({"z": [1, 4, 4, 4]}, {"image": [1, 3, 32, 32]}),
    "VAEEncoder": ({"x": [1, 3, 32, 32]}, {"latent": [1, 8, 4, 4]}),
}


def schema(ports: dict[str, list[int]], dtype: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "type": "MultiArray", "dataType": dtype, "shape": json.dumps(shape)}
        for name, shape in ports.items()
    ]


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    """As ``--bundle-resources-for-swift-cli`` leaves them, without programs."""
    folder = tmp_path / "Resources"
    for name, (inputs, outputs) in PORTS.items():
        (folder / f"{name}.mlmodelc").mkdir(parents=True)
        described = {"inputSchema": schema(inputs, "Float16" if name == "Unet" else "Float32")}
        described["outputSchema"] = schema(outputs, "Float32")
        (folder / f"{name}.mlmodelc" / "metadata.json").write_text(json.dumps([described]))
    vocabulary, merges = tiny_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")
    return folder


def test_what_a_folder_holds_is_read_from_its_descriptions(resources: Path) -> None:
    manifest = open_apple(resources).manifest
    assert (manifest.family, manifest.prediction) == ("sd1", "epsilon")
    assert (manifest.defaults.width, manifest.defaults.height) == (32, 32)
    assert manifest.latent.scale == 0.18215
    (unet,) = (a for a in manifest.artifacts if a.component == "unet")
    assert {spec.name: (spec.dtype, spec.shape) for spec in unet.inputs} == {
        "sample": ("float16", (2, 4, 4, 4)),
        "timestep": ("float16", (2,)),
        "encoder_hidden_states": ("float16", (2, 768, 1, 77)),
    }
    assert [model.kind for model in home.models([resources.parent])][:1] == ["coreml"]
    assert home.find_model(resources) == resources


def rewrite(place: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / place / "metadata.json"
        data = json.loads(path.read_text())
        change(data[0])
        path.write_text(json.dumps(data))

    return apply


@pytest.mark.parametrize(
    ("defect", "kind", "message"),
    [
        (lambda f: shutil.rmtree(f / "VAEDecoder.mlmodelc"), PackageMissing, "no VAEDecoder"),
        (lambda f: (f / "merges.txt").unlink(), PackageMissing, "merges.txt is missing"),
        (lambda f: (f / "vocab.json").write_text("[]"), PackageInvalid, "no vocabulary"),
        (lambda f: (f / "TextEncoder2.mlmodelc").mkdir(), UnknownFamily, "holds TextEncoder2"),
        (
            lambda f: (f / "Unet.mlmodelc" / "metadata.json").unlink(),
            PackageMissing,
            "metadata.json is missing",
        ),
        (
            lambda f: (f / "Unet.mlmodelc" / "metadata.json").write_text("{}"),
            PackageInvalid,
            "describes no program",
        ),
        (
            rewrite(
                "Unet.mlmodelc", lambda d: d["inputSchema"][0].update(shape="__import__('os')")
            ),
            PackageInvalid,
            "describes no program",
        ),
        (
            rewrite("Unet.mlmodelc", lambda d: d["inputSchema"][0].update(shape="[2, 0]")),
            PackageInvalid,
            r"the shape '\[2, 0\]' of 'sample'",
        ),
        (
            rewrite("Unet.mlmodelc", lambda d: d["inputSchema"].pop(2)),
            PackageInvalid,
            "its U-Net takes sample, timestep",
        ),
        (
            rewrite("Unet.mlmodelc", lambda d: d["inputSchema"][2].update(shape="[2, 9, 1, 77]")),
            UnknownFamily,
            "text features 9 wide",
        ),
    ],
)
def test_defects_are_named(
    resources: Path, defect: Callable[[Path], object], kind: type[SdliteError], message: str
) -> None:
    defect(resources)
    with pytest.raises(kind, match=message):
        open_apple(resources)


def test_velocity_at_768_pixels(resources: Path) -> None:
    rewrite("Unet.mlmodelc", lambda d: d["inputSchema"][0].update(shape="[2, 4, 96, 96]"))(
        resources
    )
    rewrite("Unet.mlmodelc", lambda d: d["inputSchema"][2].update(shape="[2, 1024, 1, 77]"))(
        resources
    )
    manifest = open_apple(resources).manifest
    assert (manifest.family, manifest.prediction) == ("sd2", "v_prediction")
    assert manifest.defaults.width == 768
    # OpenCLIP's padding.
    assert manifest.tokenizers[0].pad == 0


def test_packages_are_read_like_compiled_programs(
    resources: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    pytest.importorskip("coremltools", reason="the extra [coreml] writes Core ML packages")
    from sdlite_export.emit.coreml.package import CoremlOptions

    from tests.coreml.compare import emit

    (artifact,) = emit(tiny_checkpoint, tmp_path / "x", CoremlOptions(), ["vae_decoder"])
    shutil.rmtree(resources / "VAEDecoder.mlmodelc")
    place = resources / "VAEDecoder.mlpackage"
    shutil.copytree(tmp_path / "x" / Path(artifact.graph).parents[2], place)
    (decoder,) = open_apple(resources).find("vae_decoder", "original", format="coreml")
    assert (decoder.inputs, decoder.outputs) == (artifact.inputs, artifact.outputs)
    assert decoder.size == artifact.size
    program = place / "Data" / "com.apple.CoreML" / "model.mlmodel"
    program.write_bytes(program.read_bytes()[:20])
    with pytest.raises(PackageInvalid, match=r"model\.mlmodel describes no program"):
        open_apple(resources)


def test_it_draws_what_our_own_package_draws(
    resources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("coremltools", reason="the extra [coreml] writes Core ML packages")
    from sdlite_export.emit.coreml.package import CoremlOptions
    from sdlite_export.export import export_package
    from sdlite_runtimes import coremlsupport

    from tests.coreml.interpreter import Program

    ours = tmp_path / "ours"
    source = make_tiny_checkpoint(tmp_path / "source", TINY)
    export_package(source, ours, format="coreml", coreml=CoremlOptions(size=(32, 32)))
    folders = {
        "TextEncoder.mlmodelc": "text_encoder",
        "Unet.mlmodelc": "unet",
        "VAEDecoder.mlmodelc": "vae_decoder",
        "VAEEncoder.mlmodelc": "vae_encoder",
    }

    class Apples:
        """One of our programs behind the names and shapes of Apple's."""

        def __init__(self, path: str, units: str) -> None:
            name = Path(path).name
            self.name = folders.get(name)
            folder = ours / self.name / "original.mlpackage" if self.name else Path(path)
            self.program = Program(folder)

        def predict(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if self.name is None:
                return self.program.run(feed)
            if self.name == "text_encoder":
                return self._text(feed)
            if self.name == "unet":
                parts = [self._unet(feed, index) for index in range(2)]
                return {"noise_pred": np.concatenate(parts)}
            renamed = {"z": "latent_sample", "x": "sample"}
            (result,) = self.program.run({renamed[k]: v for k, v in feed.items()}).values()
            return {"image" if self.name == "vae_decoder" else "latent": result}

        def _text(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert feed["input_ids"].dtype == np.float32
            found = self.program.run({"input_ids": feed["input_ids"].astype(np.int32)})
            return {"pooled_outputs": found["pooler_output"], **found}

        def _unet(self, feed: dict[str, np.ndarray], index: int) -> np.ndarray:
            item = {k: v[index : index + 1].astype(np.float32) for k, v in feed.items()}
            turned = item["encoder_hidden_states"][:, :, 0].transpose(0, 2, 1)
            return self.program.run({**item, "encoder_hidden_states": turned})["out_sample"]

    tools = SimpleNamespace(
        __version__="9.0",
        ComputeUnit=SimpleNamespace(CPU_AND_GPU="gpu", CPU_AND_NE="ne", ALL="all"),
        models=SimpleNamespace(
            CompiledMLModel=Apples,
            utils=SimpleNamespace(compile_model=lambda a, b: shutil.copytree(a, b)),
        ),
    )
    monkeypatch.setattr(coremlsupport, "engine", lambda: tools)
    pictures = []
    for folder in (resources, ours):
        with sdlite.load(folder, cache_limit=0) as pipe:
            result = pipe.generate("a red circle", seed=3, steps=2)
            again = pipe.generate(
                "a blue square",
                seed=3,
                steps=4,
                edit=sdlite.Edit(result.images[0], strength=0.5),
            )
        pictures.append([np.asarray(r.images[0], np.float64) for r in (result, again)])
    for apple, own in zip(*pictures, strict=True):
        assert apple.std() > 1
        # Apple's U-Net takes float16, which rounds the latents.
        assert 10 * np.log10(255**2 / max(np.square(apple - own).mean(), 1e-9)) >= 35
