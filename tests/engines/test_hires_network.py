"""A second pass whose pixels a network enlarges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sdlite_export.export import export_package
from sdlite_export.upscaler.config import CompactConfig
from sdlite_export.upscaler.export import export_upscaler

import sdlite
from sdlite import Hires
from sdlite.upscalers.enlarge import upscale
from tests.export.test_upscalers import write
from tests.tiny import make_tiny_checkpoint

pytest.importorskip("onnxruntime")


def test_a_network_between_the_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDLITE_HOME", str(tmp_path))
    source = write(tmp_path / "net.safetensors", CompactConfig(3, 4, 1, 2))
    network = tmp_path / "models" / "upscalers" / "net.onnx"
    export_upscaler(source, network)
    package = tmp_path / "package"
    export_package(make_tiny_checkpoint(tmp_path / "tiny"), package)
    with sdlite.load(package, runtime="onnxruntime") as pipe:
        hires = Hires(scale=2, upscaler="NET", steps=1, strength=0.01)
        result = pipe.generate("a red circle", steps=2, seed=3, hires=hires)
        first = pipe.generate("a red circle", steps=2, seed=3)
        other = pipe.generate(
            "a red circle", steps=2, seed=3, hires=Hires(2, upscaler="Nearest", steps=1)
        )
    assert result.images[0].size == (64, 64)
    assert result.request.hires is not None and result.request.hires.upscaler == "net"
    assert "Hires upscaler: net" in result.infotexts[0]
    names = [phase.name for phase in result.phases]
    assert names.count("upscale") == 1 and names.index("upscale") < names.index("encode")
    assert next(phase for phase in result.phases if phase.name == "upscale").calls == 1
    assert np.asarray(result.images[0]).tobytes() != np.asarray(other.images[0]).tobytes()
    assert upscale(first.images[0], network).image.size == (64, 64)
