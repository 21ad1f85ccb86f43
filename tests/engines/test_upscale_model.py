"""An upscaler by diffusion, tiny and random, from export to picture, on ONNX Runtime.

What it draws is compared with diffusers in ``tests/parity``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sdlite
from sdlite.sampling import batch_noise
from sdlite.types import Array

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx", reason="exporting needs the extra [export]")

from sdlite_export.adapters import add_adapter
from sdlite_export.calibrate import something
from sdlite_export.export import export_package
from sdlite_export.source import open_source

from sdlite.errors import PackageInvalid, SourceCorrupt, UnknownFamily
from sdlite.manifest import read_manifest
from sdlite.outpaint import Margins, outpaint
from sdlite.tiled import draw_larger
from tests.families import UPSCALE
from tests.tiny import make_tiny_checkpoint, make_tiny_controlnet

SETTINGS = {"steps": 2, "guidance": 4.0, "seed": 1, "sampler": "Euler"}


def noise(width: int = 8, height: int = 6) -> Image.Image:
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upscaler")
    export_package(make_tiny_checkpoint(folder / "source", UPSCALE), folder / "x4")
    return folder / "x4"


@pytest.fixture(scope="module")
def pipe(model: Path) -> Iterator[sdlite.Pipeline]:
    with sdlite.load(model, runtime="onnxruntime") as opened:
        yield opened


def draw(pipe: sdlite.Pipeline, edit: sdlite.Edit, **options: object) -> Array:
    made = pipe.generate("a red circle", edit=edit, **{**SETTINGS, **options})  # type: ignore[arg-type]
    return np.stack([np.asarray(item) for item in made.images])


def test_a_picture_becomes_four_times_as_large(pipe: sdlite.Pipeline) -> None:
    assert draw(pipe, sdlite.Edit(noise())).shape == (1, 24, 32, 3)
    # Sizes need not be multiples of anything.
    assert draw(pipe, sdlite.Edit(noise(7, 5))).shape == (1, 20, 28, 3)
    # A size is the result's: the picture is brought to a quarter of it.
    small = noise().resize((4, 4))
    given = draw(pipe, sdlite.Edit(noise()), width=16, height=16)
    assert given.shape == (1, 16, 16, 3) and draw(pipe, sdlite.Edit(small)).shape == given.shape
    assert draw(pipe, sdlite.Edit(noise()), width=64).shape == (1, 48, 64, 3)


def test_what_it_draws_depends_on_picture_level_and_seed(pipe: sdlite.Pipeline) -> None:
    first = draw(pipe, sdlite.Edit(noise()))
    assert (first == draw(pipe, sdlite.Edit(noise(), noise_level=20, strength=1.0))).all()
    assert (first != draw(pipe, sdlite.Edit(noise(), noise_level=300))).any()
    assert (first != draw(pipe, sdlite.Edit(Image.new("RGB", (8, 6), "red")))).any()
    both = draw(pipe, sdlite.Edit(noise()), images=2)
    assert (both[:1] == first).all()
    assert (both[1:] == draw(pipe, sdlite.Edit(noise()), seed=2)).all()
    # Without guidance one item a call is told.
    assert draw(pipe, sdlite.Edit(noise()), guidance=1.0, images=2).shape == (2, 24, 32, 3)


def test_a_run_goes_on_from_any_step_to_the_bit(pipe: sdlite.Pipeline) -> None:
    request = sdlite.Request(
        "a red circle", edit=sdlite.Edit(noise()), steps=4, seed=3, sampler="Euler a", images=2
    )
    whole = list(pipe.steps(request))
    *_, last = pipe.steps(request, resume=whole[1].state)
    assert (last.x == whole[-1].x).all()
    brown = replace(request, sampler="DPM++ SDE")
    states = list(pipe.steps(brown))
    *_, last = pipe.steps(brown, resume=states[0].state)
    assert (last.x == states[-1].x).all()


@pytest.mark.parametrize("rng", ["cpu", "nv", "numpy"])
def test_its_noise_comes_after_the_small_picture_s(rng: str) -> None:
    shape, before = (4, 3, 8), 3 * 3 * 8
    source = batch_noise(rng, (7, 8), shape, before=before)
    drawn = source(1.0, 1.0), source(1.0, 1.0)
    source.seek(1)
    assert (source(1.0, 1.0) == drawn[1]).all()
    other = batch_noise(rng, (7, 8), shape)(1.0, 1.0)
    assert (other != drawn[0]).any()
    if rng == "numpy":
        stream = np.random.RandomState(7).standard_normal(before + 4 * 3 * 8)
        assert (drawn[0][0].ravel() == stream[before:].astype(np.float32)).all()


def test_the_plan_has_no_encoder_and_counts_the_large_picture(pipe: sdlite.Pipeline) -> None:
    request = sdlite.Request("a", edit=sdlite.Edit(noise(64, 64)))
    made = pipe.plan(request)
    assert [item.component for item in made.placements] == ["text_encoder", "unet", "vae_decoder"]
    assert (made.shape.width, made.shape.height) == (256, 256)
    small = pipe.plan(sdlite.Request("a", edit=sdlite.Edit(noise(32, 32))))
    for component in ("unet", "vae_decoder"):
        mine, theirs = made.placement(component), small.placement(component)
        assert mine.private_bytes > theirs.private_bytes
    # Without a picture it is the plan of the model's own size.
    assert pipe.plan(sdlite.Request("a")).shape.width == 32


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({"noise_level": 351}, "noise level 351 is not a whole number from 0 to 350; 20 is usual"),
        ({"noise_level": -1}, "noise level -1 is not"),
        ({"noise_level": True}, "noise level True is not"),
        ({"mask": Image.new("L", (8, 6), 255)}, "draws the whole picture; leave the mask out"),
        ({"strength": 0.5}, "so there is no strength 0.5"),
        (
            {"image": Image.new("RGB", (1025, 3))},
            "makes of a picture of 1025x3 one of 4100x12; at most 4096 .* at most 1024 a side",
        ),
    ],
)
def test_what_it_cannot_do_is_told(
    pipe: sdlite.Pipeline, edit: dict[str, object], told: str
) -> None:
    with pytest.raises(sdlite.RequestError, match=told):
        draw(pipe, replace(sdlite.Edit(noise()), **edit))  # type: ignore[arg-type]


def test_other_ways_of_drawing_are_refused(pipe: sdlite.Pipeline) -> None:
    with pytest.raises(sdlite.RequestError, match="is an upscaler: it enlarges a picture, and"):
        pipe.generate("a red circle")
    request = sdlite.Request("a", edit=sdlite.Edit(noise(), strength=1.0))
    with pytest.raises(sdlite.RequestError, match="enlarges by itself"):
        draw_larger(pipe, request)
    with pytest.raises(sdlite.RequestError, match="it cannot outpaint"):
        outpaint(pipe, request, Margins(left=8))


def test_a_noise_level_is_for_upscalers_only(shapes: sdlite.Pipeline) -> None:
    with pytest.raises(sdlite.RequestError, match="noise level 20, but shapes is no upscaler"):
        shapes.generate("a", edit=sdlite.Edit(noise(), noise_level=20))


@pytest.fixture(scope="module")
def shapes() -> Iterator[sdlite.Pipeline]:
    with sdlite.load("shapes", runtime="onnxruntime") as opened:
        yield opened


def test_too_little_memory_is_told(model: Path) -> None:
    with (
        sdlite.load(model, runtime="onnxruntime", max_memory=60 << 20) as tight,
        pytest.raises(sdlite.NoPlan, match="4096x4096 needs in memory mode"),
    ):
        tight.generate("a", edit=sdlite.Edit(noise(1024, 1024)))


def test_the_command_and_again(model: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from sdlite.cli import main

    noise().save(tmp_path / "small.png")
    usual = ("--model", str(model), "--runtime", "onnxruntime", "--no-progress")
    done = CliRunner().invoke(
        main,
        [
            *("edit", str(tmp_path / "small.png"), "a red circle", "--noise-level", "100"),
            *("--steps", "2", "--seed", "1", "-o", str(tmp_path / "large.png"), *usual),
        ],
    )
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "large.png") as picture:
        assert picture.size == (32, 24)
        assert (
            "CFG scale: 9.0, Noise level: 100, Seed: 1, Size: 32x24" in picture.info["parameters"]
        )
        first = np.asarray(picture)
    done = CliRunner().invoke(
        main,
        [
            *("again", str(tmp_path / "large.png"), "--image", str(tmp_path / "small.png")),
            *("-o", str(tmp_path / "again.png"), *usual),
        ],
    )
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "again.png") as picture:
        assert (np.asarray(picture) == first).all()


def test_upscale_names_the_command_for_such_a_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdlite.upscalers.enlarge import find_upscaling

    monkeypatch.setattr("sdlite.upscalers.enlarge.look_up", lambda name: name == "x4" or None)
    with pytest.raises(sdlite.RequestError, match="sdlite edit PICTURE PROMPT --model x4"):
        find_upscaling("x4")
    with pytest.raises(sdlite.UnknownName):
        find_upscaling("x5")


def test_networks_that_steer_are_refused(model: Path, tmp_path: Path) -> None:
    network = make_tiny_controlnet(tmp_path / "network")
    with pytest.raises(sdlite.RequestError, match="is an upscaler: it follows the picture"):
        add_adapter(network, model, tmp_path / "both")


def test_in_8_bits_and_what_it_is_shown_for_that(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", UPSCALE)
    export_package(source, tmp_path / "narrow", precision="int8")
    manifest = read_manifest(tmp_path / "narrow")
    assert manifest.calibration is not None and manifest.task == "upscale"
    shown = something(manifest, 1)
    assert shown.size == (8, 8) and shown != something(manifest, 2)
    with sdlite.load(tmp_path / "narrow", runtime="onnxruntime") as narrow:
        assert draw(narrow, sdlite.Edit(noise())).shape == (1, 24, 32, 3)


def change(path: Path, **changes: object) -> None:
    stated = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**stated, **changes}), encoding="utf-8")


def test_configurations_that_make_no_sense_are_told(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", UPSCALE)
    change(source / "model_index.json", max_noise_level=400)
    with pytest.raises(SourceCorrupt, match="max_noise_level 400 is not between 0 and 399"):
        open_source(source)
    change(source / "model_index.json", max_noise_level=None)
    checkpoint = open_source(source)
    assert checkpoint.low_res is not None and checkpoint.low_res.most == 350
    change(source / "unet" / "config.json", only_cross_attention=[True])
    with pytest.raises(SourceCorrupt, match=r"only_cross_attention .* a list of 3 of them"):
        open_source(source)
    change(source / "unet" / "config.json", only_cross_attention=True)
    assert open_source(source).unet.cross_only == (False, True, True)
    change(source / "vae" / "config.json", scaling_factor=0.18215)
    checkpoint = open_source(source)
    assert checkpoint.latent.scale == 0.08333 and "0.08333" in checkpoint.notes[0]
    change(source / "unet" / "config.json", in_channels=8)
    with pytest.raises(UnknownFamily, match="400 classes"):
        open_source(source)


def test_the_manifest_says_it_all_or_is_refused(model: Path, tmp_path: Path) -> None:
    stated = json.loads((model / "sdlite.json").read_text(encoding="utf-8"))
    assert (stated["reader"], stated["task"]) == (5, "upscale")
    level = {**stated["low_res"], "most": 1000}
    for wrong, told in (
        ({"low_res": None}, "task upscale, but low_res is None"),
        ({"task": "text"}, "task text, but low_res is LowRes"),
        ({"low_res": level}, "noise levels of the small picture .* make no sense"),
    ):
        (tmp_path / "sdlite.json").write_text(json.dumps({**stated, **wrong}), encoding="utf-8")
        with pytest.raises(PackageInvalid, match=told):
            read_manifest(tmp_path)
