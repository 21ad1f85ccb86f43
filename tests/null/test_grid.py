"""Axes of grids, what their cells are, and how they are laid out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite.controls import Control
from sdlite.errors import OutputError, RequestError, UnknownName
from sdlite.grid.axes import cells, read_axis
from sdlite.grid.draw import Kept, draw_grid
from sdlite.grid.picture import compose
from sdlite.loras import LoraUse
from sdlite.types import Edit, Hires, Request


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("steps=10,20", ("10", "20")),
        ("steps=1-3", ("1", "2", "3")),
        ("Steps = 3-1", ("3", "2", "1")),
        ("seed=10-50 (+20)", ("10", "30", "50")),
        ("steps=5-1 (-2)", ("5", "3", "1")),
        ("CFG scale=1-2 (+0.5),7", ("1", "1.5", "2", "7")),
        ("steps=1-10 [4]", ("1", "4", "7", "10")),
        ("guidance=0-1[3]", ("0", "0.5", "1")),
        ("ensd=-3--1", ("-3", "-2", "-1")),
        ('sampler=Euler a,"DPM++ 2M"', ("Euler a", "DPM++ 2M")),
        ('prompt="a cat, sleeping",a dog', ("a cat, sleeping", "a dog")),
        ("negative=,ugly", ("", "ugly")),
        ("size=64x64,128x64", ("64x64", "128x64")),
        ("lora:ink=0-1 (+0.5)", ("0", "0.5", "1")),
        ("model=a-1,b", ("a-1", "b")),
        ("replace=red, green,", ("red", "green", "")),
    ],
)
def test_values(text: str, texts: tuple[str, ...]) -> None:
    assert read_axis(text).texts == texts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps", r"--x 'steps' is not NAME=VALUE,VALUE, like steps=10,20,30"),
        ("stpes=1,2", r"unknown axis 'stpes'. Did you mean 'steps'\?"),
        ("steps=", "has no value between two commas, or none at all"),
        ("steps=1,,2", "has no value between two commas"),
        ("steps=0", "--x steps '0' is not a whole number from 1 to 1000"),
        ("steps=1-5 (-1)", r"'1-5 \(-1\)' never gets from 1 to 5"),
        ("seed=1-100000", "has 100000 values; at most 500"),
        ("seed=1-9 [0]", r"1 to 500 values"),
        ('prompt="a', "close the quotes"),
        ("replace=red", "give the words to look for"),
        ("lora:ink=much", "'much' is not a number from -100 to 100"),
        ("guidance=nan", "guidance"),
        ("size=big", "size"),
    ],
)
def test_axes_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read_axis(text)


def test_cells_are_every_combination() -> None:
    request = Request("a red circle <lora:ink:1>", seed=5, hires=Hires(2))
    axes = [
        read_axis("replace=red,red,blue"),
        read_axis("hires-strength=0.2,0.4"),
        read_axis("model=a,b"),
    ]
    found = cells(request, axes)
    assert len(found) == 3 * 2 * 2
    assert [cell.model for cell in found] == ["a"] * 6 + ["b"] * 6
    assert len({cell.place for cell in found}) == 12
    last = next(cell for cell in found if cell.place == (2, 1, 1))
    assert last.request.prompt == "a blue circle <lora:ink:1>"
    assert last.request.hires is not None and last.request.hires.strength == 0.4
    assert last.labels == ("blue", "hires-strength 0.4", "model b")
    tagged = cells(request, [read_axis("lora:INK=0.5")])[0].request
    assert tagged.prompt == "a red circle <lora:INK:0.5>" and not tagged.loras
    given = Request("a", loras=(LoraUse("ink", 1.0, 0.3),))
    assert cells(given, [read_axis("lora:ink=0.5")])[0].request.loras == (LoraUse("ink", 0.5),)
    assert cells(given, [read_axis("lora:oil=2")])[0].request.loras[1] == LoraUse("oil", 2.0)


def test_words_are_replaced_in_the_prompts_of_another_axis() -> None:
    axes = [read_axis("replace=red,red,blue"), read_axis("prompt=a red cat,a dog,red")]
    found = {cell.place: cell.request.prompt for cell in cells(Request("x"), axes)}
    assert found[(1, 0)] == "a red cat" and found[(2, 0)] == "a blue cat"
    assert found[(2, 1)] == "a dog" and found[(2, 2)] == "blue"


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (["replace=green,blue"], "'green' is not in the prompt, so nothing can replace it"),
        (["steps=1", "steps=2"], "two axes are both steps"),
        (["strength=0.5"], "there is no strength to change: the picture is drawn from nothing"),
        (["hires-steps=5"], "hires-steps is about a second pass, and there is none"),
        (["seed=1-500", "steps=1-100"], "a grid of 50000 pictures; at most 10000"),
        ([], "one to three axes"),
    ],
)
def test_combinations_that_cannot_be(axes: list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        cells(Request("a red circle"), [read_axis(axis) for axis in axes])


def test_layout() -> None:
    """Cells lie in their row and column, unscaled, and labels are dark on white beside them."""
    axes = [read_axis("seed=1-3"), read_axis("steps=1,2"), read_axis("guidance=3,4")]
    rng = np.random.default_rng(0)
    pictures = {
        (x, y, z): Image.fromarray(rng.integers(0, 200, (40, 60, 3), np.uint8))
        for x in range(3)
        for y in range(2)
        for z in range(2)
    }
    sheet = np.asarray(compose(pictures, axes))
    found = {}
    for place, picture in pictures.items():
        first = np.asarray(picture)[0, :8]
        rows, columns = np.where((sheet[:, :-8] == first[0]).all(-1))
        hits = [
            (r, c)
            for r, c in zip(rows, columns, strict=True)
            if (sheet[r : r + 40, c : c + 60] == np.asarray(picture)).all()
        ]
        assert len(hits) == 1
        found[place] = hits[0]
    assert found[0, 0, 0][0] == found[2, 0, 0][0] < found[0, 1, 0][0] < found[0, 0, 1][0]
    assert found[0, 0, 0][1] == found[0, 1, 1][1] < found[1, 0, 0][1] < found[2, 0, 0][1]
    assert (sheet[: found[0, 0, 0][0]] < 100).any() and (sheet[:, : found[0, 0, 0][1]] < 100).any()
    assert (sheet[0] == 255).all() and (sheet[:, 0] == 255).all()


def test_long_labels_and_missing_cells() -> None:
    axis = read_axis(f"prompt={'incomprehensibilities ' * 40},b")
    sheet = compose({(1,): Image.new("RGB", (64, 64))}, [axis])
    assert sheet.width < 64 * 3 and sheet.height < 300


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write_null_package(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_grid_is_its_pictures_and_goes_on_where_it_was(tmp_path: Path, package: Path) -> None:
    axes = [read_axis("steps=2,3"), read_axis("seed=1-2")]
    kept = Kept(tmp_path / "cells")
    with sdlite.load(package, runtime="null") as pipe:
        request = Request("a cat")
        result = draw_grid(pipe, request, axes, kept=kept)
        alone = pipe.generate("a cat", steps=3, seed=2).images[0]
        with Image.open(tmp_path / "cells" / "x2-y2.png") as cell:
            assert cell.tobytes() == alone.tobytes()
            assert "Steps: 3" in cell.info["parameters"]
        assert 'X Type: steps, X Values: "2, 3"' in result.infotexts[0]
        seed = json.loads((tmp_path / "cells" / "grid.json").read_text())["seed"]
        assert result.seeds == (seed,)
        (tmp_path / "cells" / "x1-y2.png").unlink()
        (tmp_path / "cells" / "x1-y1.png").write_bytes(b"half a picture")
        calls = []
        second = draw_grid(pipe, request, axes, kept=kept, on_step=calls.append)
        assert len(calls) == 4
        assert "2 pictures were there already" in second.notes
        assert second.images[0].tobytes() == result.images[0].tobytes()
        assert second.seeds == result.seeds
        with pytest.raises(OutputError, match="holds pictures of another grid; give another"):
            draw_grid(pipe, Request("a dog"), axes, kept=kept)
        (tmp_path / "cells" / "grid.json").write_text("{")
        with pytest.raises(OutputError, match=r"grid\.json cannot be read"):
            draw_grid(pipe, request, axes, kept=kept)


def test_bad_cells_are_found_before_anything_is_drawn(tmp_path: Path, package: Path) -> None:
    with sdlite.load(package, runtime="null") as pipe:
        calls: list[object] = []
        axes = [read_axis("sampler=Euler,Euler b")]
        with pytest.raises(UnknownName, match="unknown sampler 'Euler b'"):
            draw_grid(pipe, Request("a cat"), axes, on_step=calls.append)
        with pytest.raises(RequestError, match="an axis of models needs something that opens"):
            draw_grid(pipe, Request("a cat"), [read_axis("model=a,b")], on_step=calls.append)
        with pytest.raises(RequestError, match="one picture a cell, not 2"):
            draw_grid(pipe, Request("a cat", images=2), axes, on_step=calls.append)
        assert not calls


@pytest.mark.parametrize(
    ("axis", "error"),
    [("model=tiny,none", "unknown model 'none'"), ("lora:ink=0,1", "unknown LoRA 'ink'")],
)
def test_a_grid_that_cannot_be_drawn_leaves_nothing_behind(
    tmp_path: Path, package: Path, axis: str, error: str
) -> None:
    def open_model(name: str) -> sdlite.Pipeline:
        return sdlite.load(package if name == "tiny" else name, runtime="null")

    kept = Kept(tmp_path / "cells")
    with sdlite.load(package, runtime="null") as pipe, pytest.raises(UnknownName, match=error):
        draw_grid(pipe, Request("a"), [read_axis(axis)], open_model=open_model, kept=kept)
    assert not kept.folder.exists()


def test_pictures_belong_to_the_grid(tmp_path: Path, package: Path) -> None:
    axes = [read_axis("steps=1,2")]
    kept = Kept(tmp_path / "cells")

    def asked(colour: str) -> Request:
        image = Image.new("RGB", (8, 8), colour)
        return Request("a", edit=Edit(image), controls=(Control("canny", image),))

    with sdlite.load(package, runtime="null") as pipe:
        kept.begin(asked("red"), axes, pipe, 5)
        assert kept.seeded(asked("red"), axes, pipe).seed == 5
        with pytest.raises(OutputError, match="another grid"):
            kept.seeded(asked("blue"), axes, pipe)


def test_models_are_opened_one_after_the_other(package: Path) -> None:
    opened: list[str] = []

    def open_model(name: str) -> sdlite.Pipeline:
        opened.append(name)
        return sdlite.load(package, runtime="null")

    with sdlite.load(package, runtime="null") as pipe:
        axes = [read_axis("model=a,b"), read_axis("steps=1,2")]
        result = draw_grid(pipe, Request("a cat", seed=1), axes, open_model=open_model)
    # First to see that all of them can be drawn with.
    assert opened == ["a", "b", "a", "b"]
    assert result.images[0].width > 2 * 32
