"""The autoencoder run tile by tile gives the answer of the whole, in either engine."""

from __future__ import annotations

import numpy as np
import pytest

from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import Artifact, LoadOptions, Session
from sdlite.errors import PackageInvalid
from sdlite.package import Package
from sdlite.tiles import TiledSession
from sdlite.types import Float32


def run(
    package: Package,
    component: str,
    variant: str,
    given: Float32,
    runtime: str = "onnxruntime",
    tiles: int = 1,
    mode: str = "normal",
) -> Float32:
    pytest.importorskip(runtime)
    device = registry.probe(runtime)[0]
    precision = "fp32" if runtime == "openvino" else None
    options = LoadOptions(threads=1, memory_mode=mode, precision=precision)
    artifacts = package.find(component, variant)
    session = open_chain(registry.get(runtime), artifacts, package.root, device, options, tiles)
    try:
        (spec,) = session.inputs
        values = session.run({spec.name: given})
        return next(iter(values.values()))
    finally:
        session.close()


def given_to(component: str, batch: int, height: int, width: int) -> Float32:
    rng = np.random.default_rng(height)
    if component == "vae_decoder":
        return rng.standard_normal((batch, 4, height, width), dtype=np.float32)
    return rng.uniform(-1, 1, (batch, 3, 8 * height, 8 * width)).astype(np.float32)


def decibels(found: Float32, expected: Float32) -> float:
    return float(20 * np.log10(expected.std() / np.sqrt(np.mean((found - expected) ** 2))))


@pytest.mark.parametrize("component", ["vae_decoder", "vae_encoder"])
@pytest.mark.parametrize(
    ("runtime", "batch", "height", "width", "tiles"),
    [
        ("onnxruntime", 1, 12, 9, 6),
        ("onnxruntime", 2, 9, 16, 3),
        ("onnxruntime", 1, 5, 4, 1),
        ("openvino", 1, 9, 8, 3),
    ],
)
def test_tiles_give_what_the_whole_gives(
    tiny_package: Package,
    component: str,
    runtime: str,
    batch: int,
    height: int,
    width: int,
    tiles: int,
) -> None:
    given = given_to(component, batch, height, width)
    whole = run(tiny_package, component, "plain", given)
    tiled = run(tiny_package, component, "tiles", given, runtime, tiles)
    assert tiled.shape == whole.shape
    assert decibels(tiled, whole) > 55


def test_seams_are_not_there(tiny_package: Package) -> None:
    """What is left of the difference, from keeping maps in float16, is no larger at the edges."""
    given = given_to("vae_decoder", 1, 16, 16)
    whole = run(tiny_package, "vae_decoder", "plain", given)
    tiled = run(tiny_package, "vae_decoder", "tiles", given, tiles=4)
    rows = np.sqrt(np.mean((tiled - whole) ** 2, axis=(0, 1, 3)))
    edges = rows[[31, 32, 63, 64, 95, 96]]
    assert edges.max() < 2 * rows.mean()


def test_mapped_mode_gives_the_same(tiny_package: Package) -> None:
    given = given_to("vae_decoder", 1, 12, 9)
    normal = run(tiny_package, "vae_decoder", "tiles", given, tiles=4)
    mapped = run(tiny_package, "vae_decoder", "tiles", given, tiles=4, mode="mapped")
    # A last bit of float32 may change how a value is rounded to float16.
    assert decibels(mapped, normal) > 55


@pytest.mark.parametrize("keep", [False, True])
def test_one_graph_is_open_at_a_time_unless_they_are_kept(
    tiny_package: Package, keep: bool
) -> None:
    pytest.importorskip("onnxruntime")
    runtime, device = registry.get("onnxruntime"), registry.probe("onnxruntime")[0]
    artifacts = tiny_package.find("vae_decoder", "tiles")
    given = given_to("vae_decoder", 1, 8, 8)
    opened: list[str] = []
    running: set[Session] = set()

    def opens(artifact: Artifact, _fixed: object) -> Session:
        opened.append(artifact.graph)
        session = runtime.load(artifact, tiny_package.root, device, LoadOptions())
        close = session.close

        def closed() -> None:
            running.discard(session)
            close()

        session.close = closed  # type: ignore[method-assign]
        running.add(session)
        return session

    session = TiledSession(artifacts, opens, 2, keep)
    for _ in range(2):
        session.run({"latent_sample": given})
        assert len(running) == (len(artifacts) if keep else 0)
    assert len(opened) == len(artifacts) * (1 if keep else 2)
    session.close()
    assert not running


def test_a_chain_that_lacks_a_graph_is_refused(tiny_package: Package) -> None:
    artifacts = tiny_package.find("vae_decoder", "tiles")
    runtime, device = registry.get("onnxruntime"), registry.probe("onnxruntime")[0]
    with pytest.raises(PackageInvalid, match="not numbered 0, 1, 2"):
        open_chain(runtime, artifacts[1:], tiny_package.root, device, LoadOptions())
