"""``sdlite again``: the same picture, another one on request, and what cannot be repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlite import metadata, output
from tests.cli.conftest import Run
from tests.null.test_carried import comfy, png

A1111 = (
    "a cat\nNegative prompt: dog\nSteps: 3, Sampler: DPM++ 2M Karras, CFG scale: 2, Seed: 5, "
    "Size: 64x64, Model hash: abcdef1234, Model: dream, VAE: nice.vae, Clip skip: 2, "
    'ENSD: 31337, NGMS: 2, Lora hashes: "style: 12ab", Version: v1.10.1'
)


def carrying(name: str, text: str | None) -> None:
    Path(name).write_bytes(output.encode(Image.new("RGB", (8, 8)), "png", text))


def same(a: str, b: str) -> bool:
    return Path(a).read_bytes() == Path(b).read_bytes()


@pytest.fixture
def files(home: Path) -> None:
    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save("in.png")
    mask = Image.new("L", (60, 50))
    mask.paste(255, (10, 10, 40, 30))
    mask.save("mask.png")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sampler", "Euler a", "--negative", "b", "--size", "64x32", "--rng", "nv"],
        ["--hires", "1.5", "--hires-upscaler", "Lanczos", "--hires-prompt", "b, c"],
        ["--hires", "96x64", "--hires-steps", "2", "--hires-sampler", "Euler"],
        ["--clip-skip", "1", "--guidance-rescale", "0.5", "--guidance-interval", "0.5-10"],
        ["--variation-strength", "0.3", "--variation-seed", "4", "--seed-resize", "32x48"],
        ["--sampler", "Euler a", "--ensd", "9", "--eta", "0.5", "--s-noise", "1.1"],
        ["--sampler", "DDIM", "--eta", "0.5"],
        ["--sampler", "Heun", "--s-churn", "9", "--s-tmin", "0.1", "--s-tmax", "9"],
        ["--sigmas", "14.61464,3.3333333,0.5", "--sampler", "DPM adaptive"],
    ],
)
def test_it_is_the_same_picture(run: Run, arguments: list[str]) -> None:
    run("generate", 'a "cat", big', "--seed", "7", "--steps", "3", "-o", "a.png", *arguments)
    done = run("again", "a.png", "-o", "b.png")
    assert done.exit_code == 0, done.output
    assert done.stdout == "b.png\n"
    assert "note:" not in done.stderr
    assert same("a.png", "b.png")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--size", "32x64", "--resize", "crop", "--rules", "diffusers"],
        ["--mask", "mask.png", "--mask-content", "noise", "--mask-blur", "2", "--soft-mask"],
        ["--mask", "mask.png", "--only-masked", "--padding", "5", "--size", "64x64"],
        ["--mask", "mask.png", "--invert-mask", "--no-paste", "--mask-blur", "0"],
    ],
)
def test_an_edit_needs_its_pictures(run: Run, arguments: list[str]) -> None:
    run("edit", "in.png", "a", "--seed", "7", "--steps", "4", "-o", "a.png", *arguments)
    pictures = ["--image", "in.png"]
    missing = run("again", "a.png", "-o", "b.png")
    assert missing.exit_code == 2
    assert "give it with --image" in missing.stderr
    if "--mask" in arguments:
        missing = run("again", "a.png", "-o", "b.png", *pictures)
        assert "give it with --mask" in missing.stderr
        pictures += ["--mask", "mask.png"]
    done = run("again", "a.png", "-o", "b.png", *pictures)
    assert done.exit_code == 0, done.output
    assert "note:" not in done.stderr
    assert same("a.png", "b.png")


def test_the_second_pass_may_differ_in_words(run: Run) -> None:
    run("generate", "a", "--seed", "7", "--steps", "3", "--hires", "1.5", "-o", "a.png")
    changes = ("--change", "hires-negative=b", "--change", "hires-prompt=c")
    assert run("again", "a.png", *changes, "-o", "b.png").exit_code == 0
    fields = metadata.parse(str(metadata.read(Path("b.png")))).fields
    assert (fields["Hires negative prompt"], fields["Hires prompt"]) == ("b", "c")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "arguments",
    [
        ["outpaint", "--left", "30", "--bottom", "11", "--seam", "5", "--mask-content", "noise"],
        ["outpaint", "--top", "8", "--size", "32x32"],
        ["edit", "--enlarge", "1.5", "--overlap", "8", "--upscaler", "Nearest", "--size", "64x64"],
    ],
)
def test_jobs_of_several_runs(run: Run, arguments: list[str]) -> None:
    command, *options = arguments
    options += ["--seed", "7", "--steps", "3", "--strength", "0.8"]
    assert run(command, "in.png", "a", "-o", "a.png", *options).exit_code == 0
    done = run("again", "a.png", "-o", "b.png", "--image", "in.png")
    assert done.exit_code == 0, done.output
    assert "note:" not in done.stderr
    assert same("a.png", "b.png")


@pytest.mark.usefixtures("files")
def test_sd_upscale_of_a1111(run: Run) -> None:
    settings = (
        "Steps: 3, Sampler: Euler, CFG scale: 2, Seed: 5, Size: 64x64, Denoising strength: 0.3"
    )
    text = f"a cat\n{settings}, SD upscale overlap: 8, SD upscale upscaler: R-ESRGAN 4x+"
    enlarged = Image.new("RGB", (120, 100))
    Path("a.png").write_bytes(output.encode(enlarged, "png", text))
    done = run("again", "a.png", "-o", "b.png", "--image", "in.png")
    assert done.exit_code == 0, done.output
    assert "note: its upscaler R-ESRGAN 4x+ is not there; Lanczos is taken" in done.stderr
    with Image.open("b.png") as image:
        assert image.size == (120, 100)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("Outpaint: up 8", "parameter Outpaint names no side: 'up 8'"),
        ("Outpaint: left x", "parameter Outpaint left 'x' is not a whole number"),
        ("Outpaint: left 8, Outpaint seam: much", "parameter Outpaint seam 'much'"),
        ("SD upscale: 99", "parameter SD upscale '99' is not a number from 1 to 8"),
    ],
)
def test_runs_that_cannot_be(run: Run, fields: str, message: str) -> None:
    carrying("a.png", f"a\nSteps: 1, Seed: 1, Size: 64x64, Denoising strength: 0.5, {fields}")
    done = run("again", "a.png", "-o", "b.png", "--image", "in.png")
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not Path("b.png").exists()


@pytest.mark.usefixtures("files")
def test_another_picture_is_noticed(run: Run) -> None:
    run("edit", "in.png", "a", "--steps", "2", "-o", "a.png")
    done = run("again", "a.png", "-o", "b.png", "--image", "mask.png")
    assert "note: mask.png is not the picture it was made from" in done.stderr


def test_changes(run: Run) -> None:
    run("generate", "a", "--seed", "7", "--steps", "3", "-o", "a.png")
    changes = ["steps=4", "prompt=b=c", "sampler=euler a", "size=64x32", "guidance=3", "seed=9"]
    arguments = [word for change in changes for word in ("--change", change)]
    found = json.loads(run("again", "a.png", *arguments, "--json").stdout)["images"][0]
    assert (found["prompt"], found["steps"], found["sampler"]) == ("b=c", 4, "Euler a")
    assert (found["schedule"], found["width"], found["height"]) == ("Uniform", 64, 32)
    assert (found["guidance"], found["seed"]) == (3.0, 9)


def test_settings_of_new_pictures_do_not_touch_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("generate", "a", "--seed", "7", "--steps", "3", "-o", "a.png")
    monkeypatch.setenv("SDLITE_STEPS", "9")
    monkeypatch.setenv("SDLITE_IMAGES", "2")
    run("again", "a.png", "-o", "b.png")
    assert same("a.png", "b.png")


def test_what_cannot_be_repeated_is_named(run: Run) -> None:
    carrying("a.png", A1111)
    done = run("again", "a.png", "-o", "b.png", "--change", "clip-skip=1", "--json")
    assert done.exit_code == 0, done.output
    (image,) = json.loads(done.stdout)["images"]
    assert (image["prompt"], image["negative_prompt"], image["seed"]) == ("a cat", "dog", 5)
    assert (image["sampler"], image["schedule"], image["rng"]) == ("DPM++ 2M", "Karras", "nv")
    notes = " | ".join(image["notes"])
    assert "drawn with dream (abcdef1234), this is tiny (" in notes
    assert "drawn by v1.10.1: another engine rounds otherwise" in notes
    assert "its noise came from a graphics card" in notes
    assert "it used LoRA style: 12ab" in notes
    assert "it used another VAE, nice.vae" in notes
    assert image["seed_delta"] == 31337
    assert "parameters that are not followed: NGMS: 2" in notes


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, [], "carries no parameters"),
        ("just words", [], "neither steps nor seed"),
        ("a\nSteps: x, Seed: 1, Size: 64x64", [], "parameter Steps is 'x', no number"),
        ("a\nSteps: 1, Seed: 1, Size: 64x63", [], "height 63 is not a multiple of 8"),
        (A1111, ["--change", "steps"], "is not KEY=VALUE"),
        (A1111, ["--change", "step=3"], "Did you mean 'steps'?"),
        (A1111, ["--change", "steps=0"], "--change steps '0' is not a whole number"),
        (
            A1111,
            ["--change", "strength=0.5", "--change", "clip-skip=1"],
            "there is no strength to change",
        ),
        (A1111, ["--image", "a.png", "--change", "clip-skip=1"], "not made from another one"),
    ],
)
def test_one_line_and_exit_code_2(
    run: Run, text: str | None, arguments: list[str], message: str
) -> None:
    carrying("a.png", text)
    done = run("again", "a.png", *arguments, "-o", "b.png")
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("sdlite: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not Path("b.png").exists()


def test_a_picture_of_comfyui(run: Run) -> None:
    with_chunks("a.png", prompt=comfy(n10={"lora_name": "missing.safetensors"}))
    done = run("again", "a.png", "--change", "size=64x64", "--change", "steps=2", "-o", "b.png")
    assert done.exit_code == 0, done.output
    assert "its LoRA missing is not in the model folders: drawn without it" in done.stderr
    assert "it was drawn with dream 8, this is tiny" in done.stderr
    assert "it was drawn by ComfyUI: another engine rounds otherwise" in done.stderr
    run("generate", "a (castle:1.2)", "--negative", "ugly", "--seed", "156680208700286", "-s", "2",
        "-g", "8", "--size", "64x64", "--sampler", "DPM++ 2M", "--schedule", "Karras",
        "--emphasis", "ComfyUI", "--clip-skip", "2", "-o", "c.png")  # fmt: skip
    with Image.open("b.png") as again, Image.open("c.png") as alone:
        assert again.tobytes() == alone.tobytes()


def with_chunks(name: str, **chunks: object) -> None:
    png(**chunks).save(name, pnginfo=info_of(chunks))


def info_of(chunks: dict[str, object]) -> PngInfo:
    info = PngInfo()
    for name, value in chunks.items():
        info.add_text(name, json.dumps(value))
    return info
