"""Pictures as prompts, on each installed engine: tiny networks with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")

from sdlite_export.adapters import add_adapter
from sdlite_export.export import export_package

import sdlite
from sdlite import metadata
from sdlite.edit.state import pack_request, unpack_request
from sdlite.errors import RequestError
from tests.engines.test_control import DRAWN, ENGINES, PROMPT, drawn
from tests.looking import FULL, PLAIN, PLUS, make_encoder, make_ip_adapter
from tests.tiny import make_tiny_checkpoint, make_tiny_controlnet


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    export_package(make_tiny_checkpoint(folder / "source"), folder / "package", precision="fp32")
    encoder = make_encoder(folder / "encoder")
    for name, config in (("plain", PLAIN), ("plus", PLUS), ("full", FULL)):
        file = make_ip_adapter(folder / f"{name}.safetensors", config)
        add_adapter(file, folder / "package", image_encoder=encoder, precision="fp32")
    add_adapter(make_tiny_controlnet(folder / "edges"), folder / "package", precision="fp32")
    return folder / "package"


def picture(seed: int = 0, size: tuple[int, int] = (48, 30)) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize(size)


def prompt(name: str = "plain", seed: int = 0, **settings: object) -> sdlite.Control:
    return replace(sdlite.Control(name, picture(seed)), **settings)


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["plain", "plus", "full"])
def test_a_picture_changes_what_is_drawn_and_none_does_not(
    package: Path, engine: str, name: str
) -> None:
    with sdlite.load(package, runtime=engine, precision="fp32") as pipe:
        without = drawn(pipe)
        whole = drawn(pipe, prompt(name))
        assert far(whole, without) > 3
        assert far(drawn(pipe, prompt(name, seed=1)), whole) > 1, "another picture, another answer"
        assert far(drawn(pipe, prompt(name, weight=0.0)), without) == 0
        assert np.abs(drawn(pipe, prompt(name, start=0.9)) - without).max() <= 1
        half = drawn(pipe, prompt(name, weight=0.5))
        assert 0 < far(half, without) < far(whole, without)
        early = drawn(pipe, prompt(name, end=0.5))
        assert far(early, without) > 0 and far(early, whole) > 0


def test_engines_and_memory_modes_agree(package: Path) -> None:
    pictures = []
    for engine in ENGINES:
        for mode in ("normal", "mapped") if engine == "onnxruntime" else ("normal",):
            with sdlite.load(package, runtime=engine, memory_mode=mode, precision="fp32") as pipe:
                several = (prompt("plus"), prompt("plus", seed=1, end=0.5), prompt("edges"))
                pictures.append(drawn(pipe, *several))
                request = sdlite.Request(PROMPT, controls=several)
                chosen = pipe.plan(request)
        unet = chosen.placement("unet").artifacts
        assert unet[0].variant.endswith("+control+image")
        assert [p.component for p in chosen.placements if "/" in p.component] == list(
            chosen.shape.controls
        )
    for other in pictures[1:]:
        assert np.abs(other - pictures[0]).max() <= 1


def test_with_a_controlnet_both_count(package: Path) -> None:
    with sdlite.load(package) as pipe:
        strong = prompt(weight=2.0)
        both = drawn(pipe, strong, prompt("edges"))
        assert far(both, drawn(pipe, strong)) > 3
        # Next to a random ControlNet, whose say is large, a random adapter says little.
        assert far(both, drawn(pipe, prompt("edges"))) > 0.5


def test_several_pictures_are_seen_side_by_side(package: Path) -> None:
    with sdlite.load(package) as pipe:
        one, two = prompt(), prompt(seed=1)
        both = drawn(pipe, one, two)
        assert np.abs(both - drawn(pipe, two, one)).max() <= 1, "in no order"
        assert np.abs(drawn(pipe, one, one) - drawn(pipe, one)).max() <= 1, "twice is once"
        assert far(both, drawn(pipe, one)) > 0.5
        over = drawn(pipe, one, replace(two, start=0.9))
        assert np.abs(over - drawn(pipe, one)).max() <= 1, "what does not act takes no share"


def test_each_layer_has_a_strength(package: Path) -> None:
    with sdlite.load(package) as pipe:
        assert (
            np.abs(drawn(pipe, prompt(layers=(0.5,) * 4)) - drawn(pipe, prompt(weight=0.5))).max()
            <= 1
        )
        assert far(drawn(pipe, prompt(layers=(0.0,) * 4)), drawn(pipe)) < 0.01
        first = drawn(pipe, prompt(layers=(1.0, 0.0, 0.0, 0.0)))
        last = drawn(pipe, prompt(layers=(0.0, 0.0, 0.0, 1.0)))
        assert far(first, last) > 0.1


def test_a_picture_is_brought_to_a_square_as_asked(package: Path) -> None:
    with sdlite.load(package) as pipe:
        ways = [drawn(pipe, prompt(resize=way)) for way in ("crop", "stretch", "fill")]
        assert far(ways[0], ways[1]) > 0.05
        assert far(ways[1], ways[2]) > 0.05
        clear = picture().convert("RGBA")
        assert far(drawn(pipe, replace(prompt(), image=clear)), ways[0]) == 0


def test_a_batch_a_second_pass_and_an_edit_follow_too(package: Path) -> None:
    with sdlite.load(package) as pipe:
        both = pipe.generate(PROMPT, images=2, controls=[prompt()], **DRAWN)
        second = drawn(pipe, prompt(), seed=DRAWN["seed"] + 1)
        assert np.abs(np.asarray(both.images[1], np.int16) - second).max() <= 1
        hires = sdlite.Hires(scale=1.5, steps=2)
        result = pipe.generate(PROMPT, controls=[prompt()], hires=hires, **DRAWN)
        assert result.images[0].size == (48, 48)
        assert [phase.name for phase in result.phases].count("look") == 1, "once a job"
        edit = sdlite.Edit(picture(5, (32, 32)), strength=0.6)
        assert far(drawn(pipe, prompt(), edit=edit), drawn(pipe, edit=edit)) > 1


def test_a_run_goes_on_where_it_stopped(package: Path) -> None:
    request = sdlite.Request(PROMPT, controls=(prompt("plus", end=0.8),), **DRAWN)
    with sdlite.load(package) as pipe:
        steps = list(pipe.steps(request))
        again = list(pipe.steps(request, resume=steps[1].state))
        assert (again[-1].x == steps[-1].x).all()
        job, pictures = pack_request(request)
    assert unpack_request(json.loads(json.dumps(job)), pictures) == request


def test_encoders_are_closed_before_the_unet_opens(package: Path) -> None:
    with sdlite.load(package, memory_mode="mapped", runtime=ENGINES[0]) as pipe:
        chosen = pipe.plan(sdlite.Request(PROMPT, controls=(prompt(),)))
        place = {p.component: p for p in chosen.placements}
        base = chosen.private_bytes - max(p.private_bytes for p in place.values())
        assert base < 64 << 20, "the peak is that of one phase"


def test_parameters_say_what_the_picture_followed(package: Path) -> None:
    with sdlite.load(package) as pipe:
        result = pipe.generate(PROMPT, controls=[prompt("PLUS", weight=0.8, end=0.7)], **DRAWN)
        entry = next(e for e in pipe.package.manifest.adapters if e.name == "plus")
    field = metadata.parse(result.infotexts[0]).fields["ControlNet 0"]
    assert field == (
        f"Module: ip-adapter-auto, Model: plus [{entry.sha256[:8]}], Weight: 0.8, "
        "Resize Mode: Crop and Resize, Guidance Start: 0, Guidance End: 0.7, "
        "Pixel Perfect: True, Control Mode: Balanced"
    )


BAD = {
    "preprocessor": (prompt(preprocessor="canny"), "preprocessor 'canny' is for ControlNets"),
    "mode": (prompt(mode="control"), "mode 'control' is for ControlNets"),
    "mask": (
        prompt(preprocessor="inpaint", mask=picture()),
        "preprocessor 'inpaint' is for ControlNets",
    ),
    "layers": (prompt(layers=(1.0,)), "1 factors for its layers, it has 4"),
    "weight": (prompt(weight=-1.0), "weight -1.0 is not between 0 and 4"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(package: Path, case: str) -> None:
    bad, words = BAD[case]
    with sdlite.load(package) as pipe, pytest.raises(RequestError, match=words):
        drawn(pipe, bad)


def test_one_ip_adapter_at_a_time(package: Path) -> None:
    with sdlite.load(package) as pipe:
        with pytest.raises(RequestError, match="plain and plus are both IP-Adapters"):
            drawn(pipe, prompt(), prompt("plus"))
        assert far(drawn(pipe, prompt(), prompt("plus", weight=0.0)), drawn(pipe, prompt())) == 0
        with pytest.raises(RequestError, match="seamless picture cannot follow controls"):
            pipe.generate(sdlite.Request(PROMPT, controls=(prompt(),), tiling="xy"))
