"""What the safety checker's scores mean, how pictures come to it, and models without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite.errors import RequestError
from sdlite.image.clip import DEVIATION, MEAN, clip_pixels
from sdlite.safety import objects
from sdlite.types import Request


@pytest.mark.parametrize(
    ("special", "concepts", "bad"),
    [
        ([-0.1, -0.2], [-0.1, -0.2], False),
        ([-0.1, -0.2], [-0.1, 0.002], True),
        ([-0.1, -0.2], [-0.1, 0.0004], False),
        ([-0.1, -0.2], [-0.1, -0.008], False),
        ([-0.1, 0.01], [-0.1, -0.008], True),
        ([-0.1, 0.5], [-0.1, -0.2], False),
    ],
)
def test_verdicts(special: list[float], concepts: list[float], bad: bool) -> None:
    assert objects(np.array(special, np.float32), np.array(concepts, np.float32)) is bad


def test_pictures_are_cut_to_the_middle_square() -> None:
    wide = Image.new("RGB", (60, 20))
    wide.paste((255, 0, 0), (20, 0, 40, 20))
    given = clip_pixels(wide, 10)
    assert given.shape == (1, 3, 10, 10) and given.dtype == np.float32
    for channel, value in enumerate((1.0, 0.0, 0.0)):
        expected = (value - MEAN[channel]) / DEVIATION[channel]
        np.testing.assert_allclose(given[0, channel, 4:6, 4:6], expected, atol=1e-3)


def test_a_model_without_one_says_so_before_drawing(tmp_path: Path) -> None:
    write_null_package(tmp_path / "tiny")
    calls: list[object] = []
    with (
        sdlite.load(tmp_path / "tiny", runtime="null") as pipe,
        pytest.raises(RequestError, match="has no safety checker; export it from a diffusers"),
    ):
        pipe.generate(Request("a", safety_checker=True), on_step=calls.append)
    assert not calls
