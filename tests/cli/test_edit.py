"""``sdlite edit`` and ``sdlite outpaint``: what they write and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdlite import metadata
from tests.cli.conftest import Run


@pytest.fixture
def files(home: Path) -> None:
    """A picture, masks, and files that are neither."""
    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save("in.png")
    mask = Image.new("L", (60, 50))
    mask.paste(255, (10, 10, 40, 30))
    mask.save("mask.png")
    Image.new("L", (60, 50)).save("empty.png")
    hole = Image.open("in.png").convert("RGBA")
    hole.putalpha(Image.fromarray(255 - np.asarray(mask)))
    hole.save("hole.png")
    Path("text.png").write_text("no picture")


pytestmark = pytest.mark.usefixtures("files")


def pixels(name: str) -> np.ndarray:
    with Image.open(name) as image:
        return np.asarray(image)


def test_image_to_image(run: Run) -> None:
    done = run("edit", "in.png", "a cat", "-o", "out.png", "--strength", "0.5", "--steps", "10")
    assert done.exit_code == 0, done.output
    assert done.stdout == "out.png\n"
    assert pixels("out.png").shape == (50, 60, 3)
    fields = metadata.parse(str(metadata.read(Path("out.png")))).fields
    assert fields["Denoising strength"] == "0.5"
    assert "Mask blur" not in fields


@pytest.mark.parametrize("name", ["mask.png", "alpha"])
@pytest.mark.parametrize("only", [[], ["--only-masked", "--size", "64x64", "--padding", "2"]])
def test_inpainting(run: Run, name: str, only: list[str]) -> None:
    image = "hole.png" if name == "alpha" else "in.png"
    arguments = ["--mask", name, "--mask-blur", "0", "--mask-content", "noise", "--steps", "4"]
    done = run("edit", image, "a cat", "-o", "out.png", "--strength", "1", *arguments, *only)
    assert done.exit_code == 0, done.output
    after, before = pixels("out.png"), pixels("in.png")
    kept = np.ones((50, 60), bool)
    kept[10:30, 10:40] = False
    assert (after[kept] == before[kept]).all()
    assert (after[~kept] != before[~kept]).any()


def test_json_tells_sizes_not_pixels(run: Run) -> None:
    done = run("edit", "in.png", "a", "--mask", "mask.png", "--steps", "2", "--json")
    found = json.loads(done.stdout)["images"][0]
    assert found["edit"]["image"] == {"width": 60, "height": 50}
    assert found["edit"]["mask_blur"] == 4.0
    assert [phase["name"] for phase in found["phases"]] == ["text", "encode", "denoise", "decode"]


def test_several_pictures_count_seeds_up(run: Run) -> None:
    done = run("edit", "in.png", "a", "-n", "2", "--seed", "7", "--steps", "2", "--json")
    assert [item["seed"] for item in json.loads(done.stdout)["images"]] == [7, 8]


def test_a_size_from_the_settings_is_for_new_pictures(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLITE_SIZE", "64x64")
    run("edit", "in.png", "a", "-o", "own.png", "--steps", "1")
    run("edit", "in.png", "a", "-o", "asked.png", "--steps", "1", "--size", "32x32")
    assert pixels("own.png").shape == (50, 60, 3)
    assert pixels("asked.png").shape == (32, 32, 3)


def test_a_mask_of_another_size_is_told(run: Run) -> None:
    Image.open("mask.png").resize((30, 25)).save("small.png")
    done = run("edit", "in.png", "a", "--mask", "small.png", "--steps", "1")
    assert done.exit_code == 0
    assert (
        "note: the mask has 30x25 pixels and the image 60x50: the mask was resized" in done.stderr
    )


def test_outpainting(run: Run) -> None:
    arguments = ["--left", "30", "--bottom", "11", "--seam", "4", "--steps", "2"]
    done = run("outpaint", "in.png", "a", "-o", "out.png", *arguments)
    assert done.exit_code == 0, done.output
    after = pixels("out.png")
    assert after.shape == (61, 90, 3)
    assert (after[:46, 34:] == pixels("in.png")[:46, 4:]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit", "none.png", "a"], "no file none.png"),
        (["edit", "text.png", "a"], "text.png is no picture"),
        (["edit", "in.png", "a", "--mask", "none.png"], "no file none.png"),
        (["edit", "in.png", "a", "--mask", "text.png"], "text.png is no picture"),
        (["edit", "in.png", "a", "--mask", "empty.png"], "the mask is empty"),
        (["edit", "in.png", "a", "--mask", "alpha"], "no transparent pixels"),
        (["edit", "in.png", "a", "--strength", "1.1"], "--strength '1.1' is not a number from 0"),
        (["edit", "in.png", "a", "--strength", "nan"], "--strength 'nan'"),
        (["edit", "in.png", "a", "--strength", "-1"], "--strength '-1'"),
        (
            ["edit", "in.png", "a", "--strength", "0.01", "--rules", "diffusers"],
            "leaves no step to run",
        ),
        (["edit", "in.png", "a", "--rules", "mine"], "unknown rules 'mine'"),
        (["edit", "in.png", "a", "--resize", "squash"], "unknown resize 'squash'"),
        (["edit", "in.png", "a", "--only-masked"], "--only-masked is about a mask"),
        (["edit", "in.png", "a", "--mask-content", "fill"], "--mask-content is about a mask"),
        (["edit", "in.png", "a", "--mask", "mask.png", "--mask-content", "x"], "unknown mask con"),
        (["edit", "in.png", "a", "--mask", "mask.png", "--mask-blur", "1e9"], "--mask-blur '1e9'"),
        (["edit", "in.png"], "Missing argument"),
        (["outpaint", "in.png"], "nothing to add"),
        (["outpaint", "in.png", "--left", "-8"], "--left '-8' is not a whole number"),
        (["outpaint", "in.png", "--left", "8", "--seam", "x"], "--seam 'x'"),
        (["outpaint", "text.png", "--left", "8"], "text.png is no picture"),
    ],
)
def test_one_line_and_exit_code_2(run: Run, arguments: list[str], message: str) -> None:
    before = sorted(Path().iterdir())
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("sdlite: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert sorted(Path().iterdir()) == before
