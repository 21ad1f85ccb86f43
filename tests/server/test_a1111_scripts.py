"""ControlNet and the X/Y/Z plot as A1111's clients ask for them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

import sdlite
from sdlite.adapterentry import AdapterEntry
from sdlite.errors import SdliteError
from sdlite.server.a1111.controlnet import controls
from sdlite.server.intake import Intake
from sdlite.server.limits import Limits
from sdlite.types import Request
from tests.server.helpers import opened, picture
from tests.server.test_a1111 import drawn, refused

ENTRY = AdapterEntry("edges", "controlnet", "controlnet/edges", "x", "ab" * 32)
FACE = AdapterEntry(
    "face", "ip-adapter", "ip-adapter/face", "x", "cd" * 32, encoder="image-encoder/1"
)
MANIFEST: Any = SimpleNamespace(adapters=(ENTRY, FACE))
INTAKE = Intake(Limits())


def read(*units: dict[str, Any], hires: bool = False) -> tuple[sdlite.Control, ...]:
    source = Image.new("RGB", (8, 8), "blue")
    return controls(INTAKE, {"controlnet": {"args": list(units)}}, MANIFEST, source, hires)


def test_a_unit_of_an_ip_adapter_is_a_control() -> None:
    modules = ("ip-adapter-auto", "ip-adapter_clip_sd15", "ip-adapter_clip_sdxl_plus_vith", "none")
    for module in modules:
        (found,) = read(
            {
                "image": picture((16, 16)),
                "module": module,
                "model": "face [cdcdcdcd]",
                "weight": 0.6,
                "resize_mode": "Resize and Fill",
                "control_mode": "My prompt is more important",
                "guidance_end": 0.5,
            }
        )
        assert replace(found, image=None) == sdlite.Control(  # type: ignore[arg-type]
            "face",
            None,  # type: ignore[arg-type]
            weight=0.6,
            end=0.5,
        )


def test_a_unit_is_a_control() -> None:
    (found,) = read(
        {
            "image": picture((16, 16)),
            "mask": None,
            "module": "canny",
            "model": "Edges [abababab]",
            "weight": 0.8,
            "resize_mode": "Resize and Fill",
            "low_vram": False,
            "processor_res": 512,
            "threshold_a": 64,
            "threshold_b": 300,
            "guidance_start": 0.1,
            "guidance_end": 0.9,
            "control_mode": "ControlNet is more important",
            "pixel_perfect": False,
            "hr_option": "Both",
            "enabled": True,
        }
    )
    assert found.image.size == (16, 16)
    assert replace(found, image=None) == sdlite.Control(  # type: ignore[arg-type]
        "edges",
        None,  # type: ignore[arg-type]
        weight=0.8,
        start=0.1,
        end=0.9,
        mode="control",
        preprocessor="canny",
        options=(("low", 64.0), ("high", 300.0)),
        resize="fill",
    )


def test_what_is_left_out_of_a_unit() -> None:
    (found,) = read({"model": "edges", "module": "tile_resample", "threshold_a": 64})
    assert found.image.getpixel((0, 0)) == (0, 0, 255)  # the picture of img2img
    assert found.options == () and found.resize == "crop" and found.mode == "balanced"
    (found,) = read({"model": "edges", "resize_mode": 2, "control_mode": 1, "threshold_a": -1})
    assert found.resize == "fill" and found.mode == "prompt" and found.preprocessor == "none"
    (found,) = read({"model": "edges", "resize_mode": "Scale to Fit (Inner Fit)"})
    assert found.resize == "crop"
    assert read({"enabled": False}) == () and controls(INTAKE, {}, MANIFEST, None, False) == ()
    both = {"image": picture((16, 16)), "mask": picture((16, 16), "white")}
    (found,) = read({"model": "edges", "image": both})
    assert found.mask is not None and found.image.size == (16, 16)


@pytest.mark.parametrize(
    "unit, words",
    [
        ({"model": "None"}, "names no model; there are edges"),
        ({"model": "canny"}, "unknown ControlNet model 'canny'"),
        ({"model": "edges", "module": "openpose"}, "unknown preprocessor 'openpose'"),
        ({"model": "edges", "module": "/etc/x.onnx"}, "unknown preprocessor"),
        ({"model": "edges", "weight": 9}, "weight"),
        ({"model": "edges", "resize_mode": "Stretchy"}, "resize_mode 'Stretchy' is none of"),
        ({"model": "edges", "control_mode": 7}, "control_mode '7' is none of"),
        ({"model": "edges", "image": "x"}, "not valid base64"),
        ({"model": "edges", "image": 5}, "no base64"),
        ({"model": "edges", "hr_option": "High res only"}, "hr_option"),
    ],
)
def test_units_that_are_refused(unit: dict[str, Any], words: str) -> None:
    with pytest.raises(SdliteError) as error:
        read(unit, hires=True)
    assert words in str(error.value)


def test_a_unit_needs_a_picture() -> None:
    scripts = {"ControlNet": {"args": [{"model": "edges"}]}}
    with pytest.raises(SdliteError, match="ControlNet unit 0 has no image"):
        controls(INTAKE, scripts, MANIFEST, None, False)
    with pytest.raises(SdliteError, match="no list of units"):
        controls(INTAKE, {"ControlNet": {"args": ["x"]}}, MANIFEST, None, False)
    with pytest.raises(SdliteError, match="at most 8"):
        read(*[{"model": "edges"}] * 9)


def test_a_model_without_controlnets(client: Any) -> None:
    script = {"ControlNet": {"args": [{"image": picture(), "model": "edges"}]}}
    assert "unknown ControlNet model" in refused(client, 404, alwayson_scripts=script)
    script["ControlNet"]["args"][0]["model"] = "None"
    assert "sdlite export FILE --for" in refused(client, 422, alwayson_scripts=script)


def test_controlnet_routes(client: Any) -> None:
    def get(path: str) -> Any:
        return client.get("/controlnet/" + path).json()

    assert get("version") == {"version": 2} and get("settings")["control_net_unit_count"] == 8
    assert get("model_list") == {"model_list": ["None"]}
    modules = get("module_list")
    assert "canny" in modules["module_list"]
    assert modules["module_detail"]["canny"]["sliders"][0]["name"] == "low"
    assert get("control_types")["control_types"]["All"]["default_model"] == "None"


def test_detecting(client: Any) -> None:
    path = "/controlnet/detect"
    body = {"controlnet_module": "invert", "controlnet_input_images": [picture((20, 10))]}
    answer = client.post(path, json={**body, "controlnet_processor_res": 20})
    assert answer.json()["info"] == "Success"
    (shown,) = answer.json()["images"]
    assert opened(shown).size == (40, 20) and opened(shown).getpixel((3, 3)) == (0, 255, 255)
    assert client.post(path, json={}).json()["detail"] == "No image selected"
    many = {"controlnet_images": [picture((8, 8))] * 17}
    assert client.post(path, json=many).status_code == 422
    huge = {**body, "controlnet_input_images": [picture((4000, 1))]}
    assert "pixels are allowed" in client.post(path, json=huge).json()["detail"]


def plot(*arguments: Any) -> dict[str, Any]:
    return {"script_name": "X/Y/Z plot", "script_args": list(arguments)}


def test_a_plot(client: Any) -> None:
    asked = plot(4, "1,2", [], 6, "", ["1", "7"], 0, "", [], True, True, False, False)
    found = drawn(client, **asked)
    sheet, *alone = map(opened, found["images"])
    assert len(alone) == 4 and sheet.width > 2 * 64 and sheet.height > 2 * 64
    info = json.loads(found["info"])
    assert info["all_seeds"] == [5] * 4 and info["index_of_first_image"] == 1
    assert info["extra_generation_params"]["X Type"] == "steps"
    assert info["extra_generation_params"]["Y Values"] == "1, 7"
    with sdlite.load("tiny", runtime="null") as pipe:
        last = pipe.generate(Request("a", steps=2, guidance=7.0, seed=5)).images[0]
    assert alone[3].tobytes() == last.tobytes()
    # The sheet has the last cell in its lower right corner, as it is.
    pixels, cell = np.asarray(sheet), np.asarray(last)
    places = [
        (y, x)
        for y in range(pixels.shape[0] // 2, pixels.shape[0] - 63)
        for x in range(pixels.shape[1] // 2, pixels.shape[1] - 63)
        if (pixels[y, x] == cell[0, 0]).all() and (pixels[y : y + 64, x : x + 64] == cell).all()
    ]
    assert places


def test_plots_of_words_and_of_pictures(client: Any) -> None:
    found = drawn(client, prompt="a red cat", **plot("Prompt S/R", "red,blue", None))
    assert len(found["images"]) == 1 and "red cat" in json.loads(found["info"])["infotexts"][0]
    found = drawn(client, "img2img", init_images=[picture()], **plot("Denoising", "0.5,0.9"))
    assert len(found["images"]) == 1


@pytest.mark.parametrize(
    "status, arguments, words",
    [
        (422, [], "without an axis"),
        (422, [99, "1"], "there is no axis '99'"),
        (422, ["Colour", "1"], "there is no axis 'Colour'"),
        (501, ["Checkpoint name", "tiny,other"], "over Checkpoint name is not supported"),
        (400, [4, "many"], "steps"),
        (400, [4, ""], "no value"),
        (422, [4, "1-20"], "20 pictures; 1 to 16"),
        (422, [4, "1000", []], "at most 150"),
        (501, [4, "1,2", [], 0, "", [], 0, "", [], True, False, False, True], "random seed"),
    ],
)
def test_plots_that_are_refused(client: Any, status: int, arguments: list[Any], words: str) -> None:
    assert words in refused(client, status, **plot(*arguments))


def test_a_plot_of_one_picture_a_cell(client: Any) -> None:
    assert "batch_size above 1" in refused(client, 501, batch_size=2, **plot(4, "1,2"))
    assert "n_iter" in refused(client, 501, n_iter=2, **plot(4, "1,2"))
