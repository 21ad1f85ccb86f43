"""The figures of benchmarks/quality/editing.py: what they count as wrong."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import editing
from benchmarks.quality.scene import read_scene
from sdlite.outpaint import Margins


def scene(x: int = 64, colour: tuple[int, int, int] = (220, 40, 40)) -> Image.Image:
    made = Image.new("RGB", (128, 128), (45, 85, 215))
    made.paste(colour, (x - 26, 38, x + 26, 90))
    return made


def test_scenes_that_differ_are_told() -> None:
    first = read_scene(scene())
    assert editing.differences(first, read_scene(scene(66))) == []
    assert editing.differences(first, read_scene(scene(84))) == ["red square moved"]
    (wrong,) = editing.differences(first, read_scene(scene(64, (245, 215, 50))))
    assert wrong == "red square became yellow square"
    (wrong,) = editing.differences(first, read_scene(Image.new("RGB", (128, 128))))
    assert wrong.startswith("showed red square on blue, shows nothing")


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_a_seam_shows_in_the_gradient(side: str) -> None:
    image = scene()
    margins = Margins(**{side: 32})
    left, top = margins.left, margins.top
    for step, seen in ((0, False), (40, True)):
        colour = (45, 85, 215 - step)
        after = Image.new("RGB", margins.check(image.size), colour)
        after.paste(image, (left, top))
        own, border = editing.gradients(image, after, margins)
        assert own > 0.5
        assert (border > 2 * own) == seen


def test_captions_are_the_models() -> None:
    assert editing.words("green", "star", "orange") == "a green star on an orange background"
    assert editing.words("orange", "cross", "red", "large") == (
        "a large orange cross on a red background"
    )


def test_a_sheet_shows_both_pictures() -> None:
    case = editing.Case("a", scene(), Image.fromarray(np.zeros((256, 256, 3), np.uint8)), ("x",))
    assert editing.sheet([case, case]).width > 2 * (128 + 256)


def test_sheets_are_stacked_whole() -> None:
    sheets = [Image.new("RGB", (40, 20), (1, 2, 3)), Image.new("RGB", (60, 30), (4, 5, 6))]
    whole = editing.stacked(sheets)
    assert whole.size == (60, 50)
    assert whole.getpixel((39, 19)) == (1, 2, 3) and whole.getpixel((59, 49)) == (4, 5, 6)
    assert set(editing.TARGETS) == set(editing.DRAWERS)
