"""What control networks read: edges as OpenCV finds them, the other preprocessors, sizes, masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdlite.control.canny import canny
from sdlite.control.hints import hint_of, preprocessed
from sdlite.control.preprocess import PREPROCESSORS, find_preprocessor
from sdlite.controls import Control
from sdlite.errors import UnknownName
from sdlite.types import Device

CPU = Device("null", "cpu", "")
CASES = np.load(Path(__file__).with_name("fixtures") / "canny.npz")


def noise(width: int = 40, height: int = 24) -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def disc(side: int = 64, radius: float = 20.0) -> Image.Image:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = np.hypot(x, y) < radius
    colours = np.where(inside[..., None], (220, 40, 40), (40, 80, 210))
    return Image.fromarray(colours.astype(np.uint8))


def shown(name: str, image: Image.Image, **numbers: float) -> np.ndarray:
    control = Control("x", image, preprocessor=name, options=tuple(numbers.items()))
    return np.asarray(preprocessed(control, image.size, CPU))


@pytest.mark.parametrize("case", range(16))
def test_edges_are_those_opencv_finds(case: int) -> None:
    low, high = CASES[f"limits{case}"]
    found = canny(CASES[f"picture{case}"], low, high)
    np.testing.assert_array_equal(found, CASES[f"edges{case}"])


def test_edges_of_a_disc_lie_on_its_rim() -> None:
    edges = shown("canny", disc())
    y, x = np.nonzero(edges[..., 0])
    radii = np.hypot(x - 31.5, y - 31.5)
    assert len(radii) > 90
    assert radii.min() > 18.5
    assert radii.max() < 21.5


def test_no_edges_beyond_high_thresholds() -> None:
    assert not shown("canny", disc(), low=2000, high=2040).any()


def test_a_weak_edge_counts_where_a_strong_one_leads_to_it() -> None:
    ramp = np.zeros((20, 40), np.uint8)
    ramp[10:] = np.linspace(20, 120, 40).astype(np.uint8)
    assert canny(ramp, 60, 380)[:, 5].any(), "weak, but hangs together with the strong end"
    assert not canny(ramp, 370, 380)[:, 5].any()


def test_scribbles_are_white_lines_on_black() -> None:
    drawing = np.full((64, 64, 3), 240, np.uint8)
    drawing[30:33, 8:56] = 20
    lines = shown("scribble", Image.fromarray(drawing))
    assert set(np.unique(lines)) == {0, 255}
    assert (lines[30:33, 8:56] == 255).all()
    assert not lines[:20].any(), "nothing happens where there is no line"


def test_inverting_twice_gives_the_picture() -> None:
    picture = noise()
    once = Image.fromarray(shown("invert", picture))
    np.testing.assert_array_equal(shown("invert", once), np.asarray(picture))


def test_tile_keeps_the_picture_or_takes_detail_away() -> None:
    picture = noise()
    np.testing.assert_array_equal(shown("tile", picture), np.asarray(picture))
    coarse = shown("tile", picture, rate=8).astype(float)
    assert coarse.std() < np.asarray(picture, float).std() / 3


def test_colour_squares_have_one_colour_each() -> None:
    squares = shown("colour", noise(64, 64), cell=16)
    blocks = squares.reshape(4, 16, 4, 16, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert len(np.unique(squares.reshape(-1, 3), axis=0)) == 16


def test_shuffling_moves_everything_the_same_way_for_a_seed() -> None:
    picture = disc()
    first, again = (shown("shuffle", picture, cell=16, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = shown("shuffle", picture, cell=16, seed=5)
    assert (first != other).any()
    assert (first != np.asarray(picture)).any()
    seen = np.unique(np.asarray(picture).reshape(-1, 3), axis=0)
    assert (first.min(axis=(0, 1)) >= seen.min(axis=0)).all()
    assert (first.max(axis=(0, 1)) <= seen.max(axis=0)).all()


def test_every_preprocessor_keeps_size_and_mode() -> None:
    for item in PREPROCESSORS:
        numbers = {name: number.default for name, number in item.numbers.items()}
        made = item.apply(noise(), numbers)
        assert made.size == (40, 24)
        assert made.mode == "RGB"


def test_names_of_the_extension_are_known() -> None:
    assert find_preprocessor("t2ia_color_grid").name == "colour"
    assert find_preprocessor("Canny").name == "canny"
    with pytest.raises(UnknownName, match="Did you mean 'canny'"):
        find_preprocessor("cany")


@pytest.mark.parametrize("resize", ["stretch", "crop", "fill"])
def test_the_picture_comes_to_the_size_of_the_request(resize: str) -> None:
    halves = np.zeros((20, 40, 3), np.uint8)
    halves[:, 20:] = 255
    control = Control("x", Image.fromarray(halves), resize=resize)
    hint = hint_of(control, (32, 32), CPU)
    assert hint.shape == (1, 3, 32, 32)
    assert hint.dtype == np.float32
    assert hint[..., 0].max() == 0.0
    assert hint[..., -1].min() == 1.0
    width = (hint[0, 0, 16] > 0.5).sum()
    assert width == 16


def test_what_a_mask_hides_is_minus_one() -> None:
    mask = np.zeros((24, 40), np.uint8)
    mask[:, 20:] = 255
    control = Control("x", noise(), preprocessor="inpaint", mask=Image.fromarray(mask))
    hint = hint_of(control, (40, 24), CPU)
    assert (hint[..., 20:] == -1).all()
    expected = np.asarray(noise(), np.float32)[:, :20].transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(hint[0, :, :, :20], expected)
