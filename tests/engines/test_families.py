"""Every family draws: tiny random models on ONNX Runtime, where it is installed.

What they draw is compared with diffusers in ``tests/parity``; here it is only sure that settings
reach the network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sdlite
from sdlite.engines import precision_for
from sdlite.types import Array, Device

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx", reason="exporting needs the extra [export]")

from sdlite_export.export import export_package

from tests.families import EDIT, INPAINT, LCM, REFINER, SDXL
from tests.tiny import Tiny, make_tiny_checkpoint


def package(folder: Path, tiny: Tiny) -> Path:
    export_package(make_tiny_checkpoint(folder / "source", tiny), folder / "package")
    return folder / "package"


def draw(pipe: sdlite.Pipeline, prompt: str = "a red circle", **options: object) -> Array:
    settings = {"steps": 2, "guidance": 4.0, "seed": 1, "sampler": "Euler", **options}
    return np.stack([np.asarray(item) for item in pipe.generate(prompt, **settings).images])


def test_sdxl(tmp_path: Path) -> None:
    with sdlite.load(package(tmp_path, SDXL), runtime="onnxruntime") as pipe:
        first = draw(pipe, images=2)
        assert first.shape == (2, 32, 32, 3)
        assert (first == draw(pipe, images=2)).all()
        assert (first != draw(pipe, "a blue square", images=2)).any()
        # An empty negative prompt is zeros; a word, even in an otherwise random model, is not.
        assert (first != draw(pipe, negative_prompt="circle", images=2)).any()
        # Two long prompts in a composition need two more chunks and one more call.
        assert (first != draw(pipe, "a red " * 40 + "AND circle", images=2)).any()
        plan = pipe.plan(sdlite.Request("a"))
        names = [placement.component for placement in plan.placements]
        assert names == ["text_encoder", "text_encoder_2", "unet", "vae_decoder"]
        skipped = sdlite.Request("a red circle", steps=2, guidance=4.0, seed=1, sampler="Euler")
        same, other = (
            np.asarray(pipe.generate(sdlite.Request(**{**vars(skipped), "clip_skip": skip})).images)
            for skip in (2, 3)
        )
        assert (same[0] == draw(pipe)[0]).all() and (other[0] != same[0]).any()


def test_the_refiner_goes_on_from_a_picture(tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 32), "red")
    with sdlite.load(package(tmp_path, REFINER), runtime="onnxruntime") as pipe:
        edit = sdlite.Edit(picture, strength=0.5)
        assert draw(pipe, edit=edit).shape == (1, 32, 32, 3)


def test_a_model_that_is_told_its_guidance(tmp_path: Path) -> None:
    with sdlite.load(package(tmp_path, LCM), runtime="onnxruntime") as pipe:
        result = pipe.generate("a red circle", seed=1)
        assert (result.request.steps, result.request.guidance) == (4, 8.0)
        assert result.request.sampler == "LCM"
        # One item a call: the scale is an input, so nothing is computed for a negative prompt.
        assert not result.plan.shape.guided
        assert (draw(pipe, guidance=2.0) != draw(pipe, guidance=9.0)).any()


def test_an_inpainting_model_sees_the_picture(tmp_path: Path) -> None:
    with sdlite.load(package(tmp_path, INPAINT), runtime="onnxruntime") as pipe:
        mask = Image.new("L", (32, 32), 255)
        red, blue = (
            draw(pipe, edit=sdlite.Edit(Image.new("RGB", (32, 32), colour), 1.0, mask))
            for colour in ("red", "blue")
        )
        assert red.shape == blue.shape == draw(pipe).shape


def test_a_model_that_edits_follows_the_picture(tmp_path: Path) -> None:
    with sdlite.load(package(tmp_path, EDIT), runtime="onnxruntime") as pipe:
        picture = Image.new("RGB", (32, 32), "red")
        little, much = (
            draw(pipe, edit=sdlite.Edit(picture, 1.0, image_guidance=scale)) for scale in (1.0, 3.0)
        )
        assert (little != much).any() and (little != draw(pipe)).any()
        with pytest.raises(sdlite.RequestError, match="image guidance -1 is not between 0 and 100"):
            draw(pipe, edit=sdlite.Edit(picture, 1.0, image_guidance=-1))


def test_an_autoencoder_beyond_float16_is_computed_in_float32() -> None:
    gpu = Device("any", "gpu", "a GPU", precisions=("fp16", "fp32"))
    assert precision_for("vae_decoder", gpu, None) == "fp16"
    assert precision_for("vae_decoder", gpu, None, force_upcast=True) == "fp32"
    assert precision_for("vae_decoder", gpu, "fp16", force_upcast=True) == "fp32"
    assert precision_for("unet", gpu, None, force_upcast=True) == "fp16"
    narrow = Device("any", "npu", "an NPU", precisions=("fp16",))
    assert precision_for("vae_decoder", narrow, None, force_upcast=True) == "fp16"
    wide = Device("any", "cpu", "a CPU", precisions=("bf16", "fp32"))
    assert precision_for("vae_decoder", wide, None, force_upcast=True) == "bf16"


def test_the_command_takes_a_scale_for_the_picture(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from sdlite.cli import main

    model = package(tmp_path, EDIT)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    done = CliRunner().invoke(
        main,
        [
            *("edit", str(tmp_path / "red.png"), "make it blue", "--model", str(model)),
            *("--strength", "1", "--image-guidance", "1.7", "--steps", "2", "--no-progress"),
            *("--runtime", "onnxruntime", "--seed", "1", "-o", str(tmp_path / "blue.png")),
        ],
    )
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "blue.png") as picture:
        assert "CFG scale: 7.0, Image CFG scale: 1.7, Seed: 1" in picture.info["parameters"]
