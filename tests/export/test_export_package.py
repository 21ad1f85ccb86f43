"""The export as a whole: what is in the package, what is reported, what failure leaves."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sdlite_export.export import export_package
from sdlite_export.source import SourceHash

from sdlite import __version__, registry
from sdlite.errors import OutputError, RuntimeUnavailable, SourceError, UnknownName
from sdlite.manifest import read_manifest
from sdlite.package import Package
from tests.tiny import Tiny, make_tiny_checkpoint


def test_manifest(tiny_package: Package) -> None:
    manifest = tiny_package.manifest
    assert manifest.name == "tiny"
    assert (manifest.family, manifest.prediction) == ("sd1", "epsilon")
    assert manifest.exporter == __version__
    assert (manifest.latent.channels, manifest.latent.factor, manifest.latent.scale) == (4, 8, 0.5)
    assert (manifest.defaults.width, manifest.defaults.height) == (32, 32)
    assert manifest.noise.train_steps == 1000
    assert set(manifest.weights) == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    (tokenizer,) = manifest.tokenizers
    assert [entry.path for entry in tokenizer.files] == [
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
    ]
    assert len(manifest.source.sha256) == 64
    tiny_package.verify()


def test_files_are_exactly_those_of_the_manifest(tiny_package: Package) -> None:
    there = {
        path.relative_to(tiny_package.root).as_posix()
        for path in tiny_package.root.rglob("*")
        if path.is_file()
    }
    assert there == {entry.path for entry in tiny_package.files()} | {"sdlite.json"}


def test_variants_were_compared(tiny_package: Package) -> None:
    pytest.importorskip("onnxruntime")
    found = {(item.component, item.variant): item.max_abs for item in tiny_package.manifest.parity}
    assert set(found) == {
        ("text_encoder", "embeddings"),
        ("text_encoder", "segment"),
        ("unet", "fused"),
        ("unet", "half"),
        ("unet", "segment"),
        ("vae_decoder", "fused"),
        ("vae_decoder", "half"),
        ("vae_decoder", "segment"),
        ("vae_decoder", "tiles"),
        ("vae_encoder", "fused"),
        ("vae_encoder", "tiles"),
        ("unet", "seamless"),
        ("vae_decoder", "seamless"),
        ("vae_encoder", "seamless"),
    }
    narrow = {key: found.pop(key) for key in list(found) if key[1] in ("half", "tiles")}
    assert max(found.values()) < 1e-4
    # Computed in float16, and with maps between graphs kept in it.
    assert min(narrow.values()) > 0
    assert max(narrow.values()) < 0.05
    assert found["unet", "fused"] > 0


def test_no_engine_means_no_comparison(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> None:
        raise RuntimeUnavailable("not here", "install it")

    monkeypatch.setattr(registry, "probe", missing)
    report = export_package(tiny_checkpoint, tmp_path / "package")
    assert report.parity == ()
    assert Package.open(tmp_path / "package").manifest.parity == ()


def test_same_source_same_package(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_package(tiny_checkpoint, tmp_path / name, name="tiny")
    first, second = (read_manifest(tmp_path / name) for name in ("a", "b"))
    assert first == second


def test_checkpoints_of_a_family_have_the_same_graphs(
    tiny_package: Package, tmp_path: Path
) -> None:
    """Files of graphs say where numbers lie, not what they are: one model runs another's."""
    other = make_tiny_checkpoint(tmp_path / "other", Tiny(seed=1))
    export_package(other, tmp_path / "package", name="other")
    opened = Package.open(tmp_path / "package")
    first, second = (
        [(a.graph, a.graph_sha256) for a in package.manifest.artifacts]
        for package in (tiny_package, opened)
    )
    assert first == second
    for component, file in opened.manifest.weights.items():
        known = tiny_package.manifest.weights[component]
        assert known.tensors == file.tensors
        assert (known.file.size, known.file.sha256 != file.file.sha256) == (file.file.size, True)


def test_report(tiny_checkpoint: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []

    def progress(label: str, done: int, total: int) -> None:
        calls.append((label, done, total))

    report = export_package(tiny_checkpoint, tmp_path / "p", precision="fp32", progress=progress)
    package = Package.open(report.path)
    assert report.name == package.manifest.name == tiny_checkpoint.name
    assert report.precision == "fp32"
    assert report.size == package.size() + (report.path / "sdlite.json").stat().st_size
    assert report.sizes == {k: w.file.size for k, w in package.manifest.weights.items()}
    assert report.seconds > 0
    assert report.peak_bytes is None or report.peak_bytes > 1 << 20
    assert report.licence == package.manifest.licence.id == "unknown"
    assert [label for label, _, _ in calls] == sorted(
        (label for label, _, _ in calls), key=list(report.sizes).index
    )
    assert calls[-1][1] == calls[-1][2] == sum(report.sizes.values())


def test_unknown_precision_and_format(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'fp16'"):
        export_package(tiny_checkpoint, tmp_path / "p", precision="fp61")
    with pytest.raises(UnknownName, match="Known: onnx, openvino, coreml"):
        export_package(tiny_checkpoint, tmp_path / "p", format="gguf")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_export_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def stop(label: str, done: int, total: int) -> None:
        if label == "vae_decoder":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_package(tiny_checkpoint, tmp_path / "p", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_replacing_needs_force(tiny_checkpoint: Path, tmp_path: Path) -> None:
    dest = tmp_path / "p"
    export_package(tiny_checkpoint, dest)
    with pytest.raises(OutputError):
        export_package(tiny_checkpoint, dest, precision="fp32")
    assert read_manifest(dest).weights["unet"].precision == "fp16"
    export_package(tiny_checkpoint, dest, precision="fp32", force=True)
    assert read_manifest(dest).weights["unet"].precision == "fp32"
    assert list(tmp_path.iterdir()) == [dest]


def test_broken_source_leaves_nothing(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")
    file = source / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SourceError):
        export_package(source, tmp_path / "dest" / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_v_prediction_is_recorded(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", Tiny(prediction="v_prediction"))
    export_package(source, tmp_path / "p")
    assert read_manifest(tmp_path / "p").prediction == "v_prediction"


def test_licence_is_kept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint, source)
    (source / "LICENSE").write_text("MIT License\n\nDo what you like.\n")
    export_package(source, tmp_path / "p")
    manifest = read_manifest(tmp_path / "p")
    assert manifest.licence.file is not None
    kept = (tmp_path / "p" / manifest.licence.file.path).read_text()
    assert kept == "MIT License\n\nDo what you like.\n"


def test_failing_export_does_not_wait_for_the_hash(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []
    failing = threading.Event()

    def slow(self: SourceHash, progress: Callable[[int], object]) -> str:
        assert failing.wait(60)
        while True:
            hashed.append(1)
            progress(1)
            time.sleep(0.001)

    def fail(*_: object) -> None:
        failing.set()
        raise OutputError("cannot write")

    monkeypatch.setattr(SourceHash, "__call__", slow)
    monkeypatch.setattr("sdlite_export.export.write_weights", fail)
    with pytest.raises(OutputError):
        export_package(tiny_checkpoint, tmp_path / "p")
    assert hashed
