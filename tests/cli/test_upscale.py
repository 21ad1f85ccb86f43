"""``sdlite upscale``, ``sdlite export`` of an upscaler, and a second pass that uses one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdlite_export.upscaler.config import CompactConfig

from sdlite import metadata
from tests.cli.conftest import Run
from tests.export.test_upscalers import write

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def files(home: Path) -> None:
    """A picture, one with parameters, and the file of a network."""
    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save("in.png")
    write(Path("small net.safetensors"), CompactConfig(3, 4, 1, 2))
    Path("text.png").write_text("no picture")


def test_plain_resampling(run: Run) -> None:
    done = run("upscale", "in.png", "-o", "out.png", "--scale", "1.5")
    assert done.exit_code == 0, done.output
    assert done.stdout == "out.png\n"
    assert "60x45 by Lanczos" in done.stderr
    with Image.open("out.png") as image:
        assert image.size == (60, 45)


def test_a_network_from_its_file_to_a_picture(run: Run, home: Path) -> None:
    done = run("export", "small net.safetensors", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scale"] == 2
    assert (home / "models" / "upscalers" / "small net.onnx").is_file()
    listed = run("models", "--json")
    assert [item["name"] for item in json.loads(listed.stdout)["upscalers"]] == ["small net"]
    assert "small net  x2     compact" in run("models").stdout
    run("generate", "a cat", "-o", "cat.png", "--seed", "5")
    arguments = ("--upscaler", "Small Net", "--runtime", "onnxruntime", "--tile", "32", "--json")
    done = run("upscale", "cat.png", "-o", "large.png", *arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    with Image.open("cat.png") as small, Image.open("large.png") as large:
        assert large.size == (2 * small.width, 2 * small.height)
        assert (report["width"], report["height"]) == large.size
    assert report["tiles"] > 1
    assert (report["upscaler"], report["runtime"]) == ("small net", "onnxruntime")
    fields = metadata.parse(str(metadata.read(Path("large.png")))).fields
    assert fields["Seed"] == "5"
    assert fields["Postprocess upscaler"] == "small net"
    done = run("upscale", "cat.png", "-o", "large.png", "--no-metadata", "--overwrite")
    assert done.exit_code == 0, done.output
    assert metadata.read(Path("large.png")) is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.png"], 2, "no file none.png"),
        (["text.png"], 2, "text.png is no picture of a format that can be read"),
        (["in.png", "--upscaler", "Lanzos"], 2, "Did you mean 'Lanczos'? Known: Lanczos, Nearest"),
        (["in.png", "--upscaler", "none/x.pth"], 2, "no upscaler at none/x.pth"),
        (["in.png", "--upscaler", "small net.safetensors"], 2, "has to be exported first"),
        (["in.png", "--upscaler", "./small net.safetensors"], 2, "has to be exported first"),
        (["in.png", "--scale", "0.5"], 2, "--scale '0.5' is not a number from 1 to 16"),
        (["in.png", "--scale", "nan"], 2, "--scale"),
        (["in.png", "--scale", "2", "--size", "9x9"], 2, "say the same thing twice"),
        (["in.png", "--tile", "4"], 2, "--tile '4' is not a whole number from 16"),
        (["in.png", "-o", "out.gif"], 2, "names no picture format"),
    ],
)
def test_bad_input(run: Run, arguments: list[str], code: int, words: str) -> None:
    before = sorted(Path().iterdir())
    done = run("upscale", *arguments)
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("sdlite: error: ")
    assert words in done.stderr
    assert sorted(Path().iterdir()) == before


def test_export_says_what_it_saw(run: Run, home: Path) -> None:
    Path("other.pth").write_bytes(b"PK\x03\x04nothing")
    done = run("export", "other.pth")
    assert done.exit_code == 1
    assert "other.pth: damaged archive" in done.stderr
    done = run("export", "small net.safetensors", "--prediction", "epsilon")
    assert "--prediction is about checkpoints" in done.stderr
    assert not (home / "models" / "upscalers").exists()


def test_hires_with_an_unknown_network_offers_the_nearest(run: Run) -> None:
    run("export", "small net.safetensors")
    done = run("generate", "a cat", "--hires", "2", "--hires-upscaler", "small ned")
    assert done.exit_code == 2
    assert "Did you mean 'small net'?" in done.stderr


def test_an_upscaler_in_8_bits_says_how_alike_it_is(run: Run) -> None:
    source = "small net.safetensors"
    done = run("export", source, "--precision", "int8")
    assert done.exit_code == 0, done.output
    assert "in 8 bits" in done.stderr and "dB like itself" in done.stderr
    done = run("export", source, "--precision", "w8", "--force")
    assert done.exit_code == 2 and "--precision 'w8'" in done.stderr
    done = run("export", source, "--precision", "int8", "--scan", "--force")
    assert done.exit_code == 2 and "--scan is about checkpoints" in done.stderr
