"""Pictures whose opposite edges fit: everything moves round, also over an edge, unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdlite_export.export import export_package

import sdlite
from sdlite import Edit, registry
from sdlite.chain import open_chain
from sdlite.engine import LoadOptions
from sdlite.errors import NoPlan, RequestError, RuntimeUnavailable, UnknownName
from sdlite.outpaint import Margins, outpaint
from sdlite.package import Package
from sdlite.seamless import SeamlessSession
from sdlite.types import Request
from tests.tiny import VAE, Tiny, make_tiny_checkpoint

pytest.importorskip("onnxruntime")

AXES = {"x": (3,), "y": (2,), "xy": (2, 3)}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seamless")
    # The tiny autoencoder's usual weights make flat pictures; these have something at the edges.
    tiny = Tiny(vae=replace(VAE, block_channels=(8, 8, 8, 8)), seed=4)
    export_package(make_tiny_checkpoint(folder / "tiny", tiny), folder / "package")
    return folder / "package"


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    try:
        registry.probe(request.param)
    except RuntimeUnavailable as error:
        pytest.skip(error.reason)
    return str(request.param)


@pytest.mark.parametrize("component", ["unet", "vae_decoder", "vae_encoder"])
def test_graphs_do_not_know_where_the_edge_is(package: Path, runtime: str, component: str) -> None:
    """What goes in moved round comes out moved round, along the axes asked for alone."""
    device = registry.probe(runtime)[0]
    artifacts = Package.open(package).find(component, "seamless")
    options = LoadOptions(precision="fp32" if runtime == "openvino" else None)
    session = open_chain(registry.get(runtime), artifacts, package, device, options)
    rng = np.random.default_rng(0)
    free = {"batch": 1, "height": 8, "width": 12, "tokens": 77}
    free |= {"image_height": 64, "image_width": 96}
    for tiling, axes in AXES.items():
        wrapped = SeamlessSession(session, tiling)
        assert "wrap" not in {spec.name for spec in wrapped.inputs}
        inputs = {}
        for spec in wrapped.inputs:
            shape = tuple(free[dim] if isinstance(dim, str) else dim for dim in spec.shape)
            inputs[spec.name] = rng.standard_normal(shape, dtype=np.float32)
        (before,) = wrapped.run(inputs).values()
        for moving in AXES.values():
            moved = {name: _moved(value, 4, moving) for name, value in inputs.items()}
            (after,) = wrapped.run(moved).values()
            worst = np.abs(after - _moved(before, 4, moving)).max() / before.std()
            assert worst < 2e-4 if set(moving) <= set(axes) else worst > 1e-2
    session.close()


def _moved(value: np.ndarray, cells: int, axes: tuple[int, ...]) -> np.ndarray:
    if value.ndim != 4:
        return value
    # Whatever it is made of, a map of 8 times the size moves 8 times as far.
    step = cells * (8 if value.shape[3] > 12 else 1)
    return np.ascontiguousarray(np.roll(value, [step] * len(axes), axes))


def test_edges_fit_along_the_axes_asked_for(package: Path) -> None:
    """Across an edge that fits, colours differ no more than between any two neighbours."""
    with sdlite.load(package, runtime="onnxruntime") as pipe:
        steps = {}
        for tiling in ("", "x", "y", "xy"):
            ratios = []
            for seed in range(4):
                request = Request("a red circle", seed=seed, steps=3, tiling=tiling)
                result = pipe.generate(request)
                pixels = np.asarray(result.images[0], np.float32)
                ratios.append([_ratio(pixels, axis) for axis in (0, 1)])
            steps[tiling] = np.mean(ratios, 0)
            shown = {"": None, "xy": "Tiling: True"}.get(tiling, f"Tiling: {tiling},")
            assert (shown or "Version") in result.infotexts[0]
            assert shown or "Tiling" not in result.infotexts[0]
    assert (steps["xy"] < 1.3).all()
    assert steps["x"][1] < 1.3 and steps["y"][0] < 1.3
    assert (steps[""] > 1.5).all() and steps["x"][0] > 1.5 and steps["y"][1] > 1.5


def _ratio(pixels: np.ndarray, axis: int) -> float:
    """The step over the edge in typical steps between neighbours."""
    inside = np.abs(np.diff(pixels, axis=axis)).mean()
    first, last = pixels.take(0, axis), pixels.take(-1, axis)
    return float(np.abs(first - last).mean() / inside)


def test_editing_and_a_second_pass_keep_it(package: Path) -> None:
    with sdlite.load(package, runtime="onnxruntime") as pipe:
        first = pipe.generate(Request("a", seed=1, steps=2, tiling="xy"))
        edited = pipe.generate(
            Request("b", seed=2, steps=2, tiling="both", edit=Edit(first.images[0]))
        )
        assert edited.request.tiling == "xy"
        larger = pipe.generate(
            Request("a", seed=1, steps=2, tiling="x", hires=sdlite.Hires(2, steps=1))
        )
        assert larger.images[0].size == (64, 64)
        for placement in larger.plan.placements:
            expected = "plain" if placement.component == "text_encoder" else "seamless"
            assert {artifact.variant for artifact in placement.artifacts} == {expected}


def test_what_cannot_be_is_told(package: Path, tmp_path: Path) -> None:
    from sdlite_runtimes.nullpackage import write_null_package

    with sdlite.load(package, runtime="onnxruntime") as pipe:
        with pytest.raises(UnknownName, match="unknown tiling 'z'"):
            pipe.generate(Request("a", tiling="z"))
        picture = Image.new("RGB", (32, 32))
        with (
            sdlite.load(package, runtime="onnxruntime", vae_tiles=2) as tiled,
            pytest.raises(RequestError, match="decoded whole; leave --vae-tiles or --tiling out"),
        ):
            tiled.generate(Request("a", tiling="x"))
        mask = Image.new("L", (32, 32), 255)
        only = Edit(picture, mask=mask, only_masked=True)
        with pytest.raises(RequestError, match="leave tiling or only masked"):
            pipe.generate(Request("a", tiling="x", edit=only))
        with pytest.raises(RequestError, match="beyond its edges; leave tiling"):
            outpaint(pipe, Request("a", tiling="x", edit=Edit(picture)), Margins(left=8))
    write_null_package(tmp_path / "null")
    with (
        sdlite.load(tmp_path / "null", runtime="null") as pipe,
        pytest.raises(NoPlan, match=r"has no seamless unet graph for null on .* export it again"),
    ):
        pipe.generate(Request("a", tiling="x"))
