"""Predictions of Core ML itself, against ONNX Runtime: for a Mac."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML predicts on macOS only")
pytest.importorskip("coremltools", reason="the extra [coreml] runs Core ML programs")
from sdlite_export.emit.coreml.mil import Attention  # noqa: E402
from sdlite_export.emit.coreml.package import CoremlOptions  # noqa: E402
from sdlite_export.export import export_package  # noqa: E402
from sdlite_runtimes.coremlsupport import UNITS  # noqa: E402

import sdlite  # noqa: E402

SHAPES = Path(__file__).resolve().parents[2] / "models" / "shapes"


@pytest.mark.parametrize("device", UNITS)
@pytest.mark.parametrize("attention", ["original", "split_einsum"])
def test_a_picture_is_that_of_onnx_runtime(
    tmp_path: Path, attention: Attention, device: str
) -> None:
    options = CoremlOptions(attention, chunks=attention == "split_einsum")
    export_package(SHAPES / "diffusers", tmp_path / "ml", format="coreml", coreml=options)
    prompt = "a red circle on a blue background"
    with sdlite.load(tmp_path / "ml", device=device) as pipe:
        picture = np.asarray(pipe.generate(prompt, seed=7).images[0], np.float64)
    with sdlite.load(SHAPES / "package", runtime="onnxruntime") as pipe:
        wanted = np.asarray(pipe.generate(prompt, seed=7).images[0], np.float64)
    assert 10 * np.log10(255**2 / np.square(picture - wanted).mean()) >= 30
