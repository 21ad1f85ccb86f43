"""The tiny model's graphs against stored outputs of diffusers and transformers.

``tests/parity/make_component_fixture.py`` wrote them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sdlite_export.export import export_package
from sdlite_export.verify import deviation

from sdlite.package import Package
from sdlite.types import Array
from tests.export.test_export_graphs import run
from tests.tiny import Tiny, make_tiny_checkpoint

pytest.importorskip("onnxruntime")

LIMIT = 1e-4
VARIANTS = [
    ("text_encoder", "plain"),
    ("unet", "plain"),
    ("unet", "fused"),
    ("unet", "segment"),
    ("vae_decoder", "plain"),
    ("vae_decoder", "fused"),
    ("vae_decoder", "segment"),
    ("vae_encoder", "plain"),
    ("vae_encoder", "fused"),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("reference")
    source = make_tiny_checkpoint(folder / "source", Tiny(dtype="float16"))
    export_package(source, folder / "package")
    return Package.open(folder / "package")


@pytest.fixture(scope="module")
def stored() -> dict[str, Array]:
    with np.load(Path(__file__).parent / "fixtures" / "tiny-reference.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("component, variant", VARIANTS)
def test_graphs_give_what_diffusers_gives(
    package: Package, stored: dict[str, Array], component: str, variant: str
) -> None:
    inputs = {
        name.rpartition(".")[2]: value
        for name, value in stored.items()
        if name.startswith(f"{component}.in.")
    }
    expected = {
        name.rpartition(".")[2]: value
        for name, value in stored.items()
        if name.startswith(f"{component}.out.")
    }
    found = run(package, component, variant, inputs)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert deviation(found[name], value) <= LIMIT
