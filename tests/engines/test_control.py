"""Pictures that follow pictures, on each installed engine: tiny networks with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")

from sdlite_export.adapters import add_adapter
from sdlite_export.configs import T2IAdapterConfig
from sdlite_export.export import export_package

import sdlite
from sdlite import metadata, registry
from sdlite.edit.state import pack_request, unpack_request
from sdlite.errors import RequestError, RuntimeUnavailable, UnknownName
from tests.tiny import make_tiny_checkpoint, make_tiny_controlnet, make_tiny_t2i

DRAWN = {"seed": 3, "steps": 4, "guidance": 5.0}
PROMPT = "a red circle on blue"


def installed(name: str) -> bool:
    try:
        return bool(registry.probe(name))
    except RuntimeUnavailable:
        return False


ENGINES = [name for name in ("onnxruntime", "openvino") if installed(name)]
if not ENGINES:
    pytest.skip("no engine is installed", allow_module_level=True)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    source = make_tiny_checkpoint(folder / "source")
    export_package(source, folder / "package", precision="fp32")
    for number, name in enumerate(("edges", "depth")):
        network = make_tiny_controlnet(folder / name, seed=30 + number)
        add_adapter(network, folder / "package", precision="fp32")
    sketch = make_tiny_t2i(folder / "sketch", T2IAdapterConfig("full", (8, 16), 2))
    add_adapter(sketch, folder / "package", precision="fp32")
    return folder / "package"


def picture(seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))


def control(name: str = "edges", **settings) -> sdlite.Control:
    return replace(sdlite.Control(name, picture()), **settings)


def drawn(pipe, *controls, **more) -> np.ndarray:
    result = pipe.generate(PROMPT, controls=controls, **{**DRAWN, **more})
    return np.asarray(result.images[0], np.int16)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_control_changes_the_picture_and_none_does_not(package: Path, engine: str) -> None:
    with sdlite.load(package, runtime=engine, precision="fp32") as pipe:
        without = drawn(pipe)
        assert np.abs(drawn(pipe, control()) - without).mean() > 3
        assert np.abs(drawn(pipe, control(weight=0.0)) - without).max() == 0
        late = drawn(pipe, control(start=0.9))
        assert np.abs(late - without).max() <= 1, "it acts in no whole step"
        alone = drawn(pipe, control())
        assert np.abs(drawn(pipe, control(), control("depth")) - alone).mean() > 3
        # Random weights of the adapter say little of a picture of noise.
        sketch = control("sketch", weight=4.0)
        assert np.abs(drawn(pipe, control(), sketch) - alone).mean() > 0.1
        softly = drawn(pipe, replace(sketch, mode="prompt"))
        assert 0 < np.abs(softly - without).mean() < np.abs(drawn(pipe, sketch) - without).mean()


def test_engines_and_memory_modes_agree(package: Path) -> None:
    pictures = []
    for engine in ENGINES:
        for mode in ("normal", "mapped") if engine == "onnxruntime" else ("normal",):
            with sdlite.load(package, runtime=engine, memory_mode=mode, precision="fp32") as pipe:
                both = (control("sketch"), control("depth", mode="guess"))
                pictures.append(drawn(pipe, control(), *both))
                chosen = pipe.plan(sdlite.Request(PROMPT, controls=(control(),)))
        ending = chosen.placement("unet").artifacts[0].variant
        assert ending.endswith("+control")
    for other in pictures[1:]:
        assert np.abs(other - pictures[0]).max() <= 1


def test_a_batch_is_its_pictures_one_by_one(package: Path) -> None:
    with sdlite.load(package) as pipe:
        both = pipe.generate(PROMPT, images=2, controls=[control(mode="control")], **DRAWN)
        second = drawn(pipe, control(mode="control"), seed=DRAWN["seed"] + 1)
        assert np.abs(np.asarray(both.images[1], np.int16) - second).max() <= 1


def test_the_negative_prompt_is_not_asked_where_it_does_not_count(package: Path) -> None:
    def calls(mode: str) -> float:
        with sdlite.load(package, memory_mode="mapped", runtime="onnxruntime") as pipe:
            result = pipe.generate(PROMPT, controls=[control(mode=mode)], **DRAWN)
        return next(phase.calls for phase in result.phases if phase.name == "denoise")

    if "onnxruntime" in ENGINES:
        assert calls("balanced") == 4 * (2 + 2), "one item a call: U-Net and network, both prompts"
        assert calls("guess") == 4 * (2 + 1)


def test_a_second_pass_and_an_edit_follow_too(package: Path) -> None:
    with sdlite.load(package) as pipe:
        hires = sdlite.Hires(scale=1.5, steps=2)
        with_it = drawn(pipe, control(), hires=hires)
        assert with_it.shape == (48, 48, 3)
        assert np.abs(with_it - drawn(pipe, hires=hires)).mean() > 3
        edit = sdlite.Edit(picture(5), strength=0.6)
        assert np.abs(drawn(pipe, control(), edit=edit) - drawn(pipe, edit=edit)).mean() > 1


def test_parameters_say_what_the_picture_followed(package: Path) -> None:
    with sdlite.load(package) as pipe:
        seen = control("EDGES", weight=0.8, end=0.7, preprocessor="canny", options=(("low", 50.0),))
        result = pipe.generate(PROMPT, controls=[seen], **DRAWN)
    entry = pipe.package.manifest.adapters[0]
    field = metadata.parse(result.infotexts[0]).fields["ControlNet 0"]
    assert field == (
        f"Module: canny, Model: edges [{entry.sha256[:8]}], Weight: 0.8, "
        "Resize Mode: Crop and Resize, Threshold A: 50, Guidance Start: 0, Guidance End: 0.7, "
        "Pixel Perfect: True, Control Mode: Balanced"
    )


def test_requests_with_controls_are_kept_whole(package: Path) -> None:
    mask = Image.new("L", (32, 32), 255)
    request = sdlite.Request(
        PROMPT, controls=(control(), control("depth", preprocessor="inpaint", mask=mask))
    )
    job, pictures = pack_request(request)
    again = unpack_request(json.loads(json.dumps(job)), pictures)
    assert again == request


BAD = {
    "a name the package has not": (control("edgs"), UnknownName, "Did you mean 'edges'"),
    "no picture": (sdlite.Control("edges", "x.png"), RequestError, "no PIL picture"),  # type: ignore[arg-type]
    "weight": (control(weight=5.0), RequestError, "weight 5.0 is not between 0 and 4"),
    "not a number": (control(weight=float("nan")), RequestError, "weight nan"),
    "share": (control(start=0.8, end=0.2), RequestError, "start 0.8 and end 0.2"),
    "mode": (control(mode="strict"), UnknownName, "unknown control mode 'strict'"),
    "resize": (control(resize="squeeze"), UnknownName, "unknown resize 'squeeze'"),
    "preprocessor": (control(preprocessor="cany"), UnknownName, "Did you mean 'canny'"),
    "option": (
        control(preprocessor="canny", options=(("high", -1.0),)),
        RequestError,
        "high -1.0 is not between 0 and 2040",
    ),
    "no option": (
        control(preprocessor="canny", options=(("hgh", 1.0),)),
        UnknownName,
        "Did you mean 'high'",
    ),
    "mask missing": (control(preprocessor="inpaint"), RequestError, "give the mask"),
    "mask too much": (control(mask=picture()), RequestError, "name inpaint, or leave it out"),
    "layers": (control(layers=(1.0,)), RequestError, "1 factors for its layers, it has 5"),
    "no file": (control(preprocessor="none.onnx"), RequestError, "no file none.onnx"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(package: Path, case: str) -> None:
    bad, error, words = BAD[case]
    with sdlite.load(package) as pipe, pytest.raises(error, match=words):
        drawn(pipe, bad)


def test_a_preprocessor_may_be_a_file(package: Path, tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    def written(name: str, op: str, inputs: int = 1) -> Path:
        takes = [
            helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, [1, 3, "h", "w"])
            for n in range(inputs)
        ]
        gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "h", "w"])]
        nodes = [helper.make_node(op, [item.name for item in takes], ["y"])]
        graph = helper.make_graph(nodes, "g", takes, gives)
        opsets = [helper.make_opsetid("", 17)]
        save(helper.make_model(graph, ir_version=8, opset_imports=opsets), tmp_path / name)
        return tmp_path / name

    negative = str(written("neg.onnx", "Neg"))
    with sdlite.load(package) as pipe:
        inverted = drawn(pipe, control(preprocessor="invert"))
        # -x, stretched from its least to its most, is 1 - x; 32 pixels are the file's size too.
        options = (("side", 32.0),)
        by_file = drawn(pipe, control(preprocessor=negative, options=options))
        assert np.abs(by_file - inverted).max() <= 8
        (tmp_path / "text.onnx").write_text("no network")
        for name, words in (("text.onnx", "no ONNX file"), ("two.onnx", "takes one picture")):
            if name == "two.onnx":
                written(name, "Add", inputs=2)
            with pytest.raises(RequestError, match=words):
                drawn(pipe, control(preprocessor=str(tmp_path / name)))
