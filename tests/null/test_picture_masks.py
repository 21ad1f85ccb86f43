"""Laying pictures out and masks: sizes, blur, regions, and what stays untouched."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdlite.errors import RequestError
from sdlite.image import fit, mask
from sdlite.image.canvas import Canvas, lay_out, mask_for
from sdlite.image.content import filled, without_holes

RNG = np.random.default_rng(1)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8))


def box(width: int, height: int, *inner: int) -> Image.Image:
    made = Image.new("L", (width, height), 0)
    made.paste(255, inner)
    return made


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (64, 64), (65, 8), (100, 333)])
def test_padding_and_back_changes_nothing(size: tuple[int, int]) -> None:
    image = noise(*size)
    lay = fit.pad(size, 8)
    canvas = lay.apply(image)
    assert canvas.width % 8 == canvas.height % 8 == 0
    assert 0 <= canvas.width - size[0] < 8
    assert (array(canvas)[:, -1] == array(canvas)[:, size[0] - 1]).all()
    assert lay.undo(canvas, size).tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(40, 40), (200, 30), (30, 200), (9000, 1), (1, 1)])
def test_proportions(size: tuple[int, int]) -> None:
    image = noise(*size)
    for make in (fit.crop, fit.fill):
        assert make(size, (64, 48)).apply(image).size == (64, 48)
    assert fit.stretch((64, 48)).apply(image).size == (64, 48)


def test_crop_cuts_evenly_and_fill_draws_edges_out() -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:6] = 200
    image = Image.fromarray(pixels)
    assert (array(fit.crop((8, 4), (4, 4)).apply(image)) == 200).all()
    canvas = array(fit.fill((8, 4), (8, 8)).apply(image))
    assert (canvas[2:6] == pixels).all()
    assert (canvas[:2] == pixels[0]).all()


@pytest.mark.parametrize("blur", [0.5, 1.0, 4.0, 10.0])
def test_a_blur_reaches_as_far_as_it_says(blur: float) -> None:
    soft = array(mask.blurred(box(101, 101, 50, 50, 51, 101), blur))
    rows, columns = np.nonzero(soft)
    assert 50 - columns.min() <= mask.reach(blur)
    hard = array(mask.blurred(box(101, 101, 50, 0, 101, 101), blur)).astype(int)
    assert (np.diff(hard, axis=1) >= 0).all()
    assert abs(int(hard[50, 49]) + int(hard[50, 50]) - 255) <= 2
    assert 50 - np.nonzero(hard[50])[0].min() <= mask.reach(blur)
    assert rows.max() == 100


def test_a_blur_of_nothing_is_nothing() -> None:
    shape = box(8, 8, 2, 2, 4, 4)
    assert mask.blurred(shape, 0) is shape
    assert mask.blurred(Image.new("L", (1, 1), 255), 4).getpixel((0, 0)) == 255


@pytest.mark.parametrize(
    ("inner", "padding", "canvas", "expected"),
    [
        # A1111's own example: 128x32 worked on as a square grows to 128x128.
        ((200, 200, 328, 232), 0, (512, 512), (200, 152, 328, 280)),
        ((0, 0, 10, 10), 32, (512, 512), (0, 0, 42, 42)),
        ((500, 0, 512, 100), 0, (64, 64), (412, 0, 512, 100)),
        ((0, 0, 512, 10), 0, (64, 64), (0, 0, 512, 400)),
        ((100, 100, 150, 150), 10, (128, 64), (55, 90, 195, 160)),
    ],
)
def test_the_region_of_a_mask(
    inner: tuple[int, ...], padding: int, canvas: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert mask.region(box(512, 400, *inner), padding, canvas) == expected


def test_latent_cells() -> None:
    shape = box(64, 32, 0, 0, 24, 32)
    hard = mask.latent_mask(shape, (8, 4), soft=False)
    assert hard.shape == (1, 1, 4, 8)
    assert hard.dtype == np.float32
    assert (hard[0, 0, :, :3] == 1).all()
    assert hard.sum() == 12
    grey = mask.latent_mask(Image.new("L", (64, 32), 102), (8, 4), soft=True)
    assert np.allclose(grey, 0.4, atol=0.01)


def test_the_mask_of_a_file() -> None:
    drawn = Image.new("RGBA", (4, 1), (0, 0, 0, 0))
    drawn.putpixel((1, 0), (0, 0, 0, 200))
    assert list(mask.read_mask(drawn).get_flattened_data()) == [0, 255, 0, 0]
    assert list(mask.read_mask(drawn, soft=True).get_flattened_data()) == [0, 200, 0, 0]
    assert list(mask.transparent(drawn).get_flattened_data()) == [255, 55, 255, 255]
    assert mask.read_mask(Image.new("RGB", (1, 1), (255, 255, 255))).getpixel((0, 0)) == 255


def test_fill_takes_the_colours_around() -> None:
    image = Image.new("RGB", (64, 64), (10, 200, 30))
    shape = box(64, 64, 16, 16, 48, 48)
    image.paste((255, 0, 0), (20, 20, 44, 44))
    inside = array(filled(image, shape)).astype(int)
    assert abs(inside - [10, 200, 30]).max() <= 6
    half = Image.new("RGB", (64, 64), (0, 0, 255))
    half.paste((255, 255, 0), (32, 0, 64, 64))
    both = array(filled(half, box(64, 64, 24, 0, 40, 64))).astype(int)
    assert both[32, 25, 2] > both[32, 38, 2]


def test_holes_take_the_colours_around() -> None:
    rng = np.random.default_rng(2)
    image = Image.fromarray(rng.integers(100, 110, (64, 64, 3), np.uint8)).convert("RGBA")
    image.paste((255, 0, 0, 0), (20, 20, 44, 44))
    closed = array(without_holes(image))
    hole = array(image)[:, :, 3] == 0
    assert (closed[~hole] == array(image)[~hole][:, :3]).all()
    assert closed[hole].min() >= 95 and closed[hole].max() <= 115
    assert without_holes(Image.new("RGBA", (8, 8), (9, 9, 9, 0))).getextrema() == ((0, 0),) * 3


def finish(canvas: Canvas) -> np.ndarray:
    return array(canvas.finish(Image.new("RGB", canvas.picture.size, (255, 0, 255))))


@pytest.mark.parametrize("size", [(64, 64), (67, 91), (200, 120)])
@pytest.mark.parametrize("only_masked", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("blur", [0.0, 3.0])
def test_outside_mask_and_blur_every_byte_stays(
    size: tuple[int, int], only_masked: bool, soft: bool, blur: float
) -> None:
    image = noise(*size)
    shape = box(*size, 20, 30, 40, 50)
    work = (64, 64) if only_masked else fit.pad(size, 8).size
    canvas = lay_out(
        image, shape, work, resize="pad", blur=blur, soft=soft, only_masked=only_masked, padding=8
    )
    assert canvas.picture.size == work
    after, before = finish(canvas), array(image)
    far = mask.reach(blur)
    kept = np.ones(before.shape[:2], bool)
    kept[30 - far : 50 + far, 20 - far : 40 + far] = False
    assert (after[kept] == before[kept]).all()
    assert (after[30 + far : 50 - far, 20 + far : 40 - far] == (255, 0, 255)).all()


def test_without_paste_the_whole_picture_is_the_models() -> None:
    image, shape = noise(64, 64), box(64, 64, 0, 0, 8, 8)
    assert (
        finish(lay_out(image, shape, (64, 64), resize="pad", paste=False)) == (255, 0, 255)
    ).all()


def test_a_shade_of_grey_is_a_share() -> None:
    image = Image.new("RGB", (64, 64), (0, 0, 0))
    grey = Image.new("L", (64, 64), 51)
    assert finish(lay_out(image, grey, (64, 64), resize="pad", soft=True))[9, 9, 0] == 51
    assert finish(lay_out(image, grey, (64, 64), resize="pad"))[9, 9, 0] == 102


@pytest.mark.parametrize("resize", ["stretch", "crop", "fill"])
def test_another_size_keeps_what_it_made_of_the_original(resize: str) -> None:
    image, shape = noise(100, 50), box(100, 50, 0, 0, 30, 50)
    canvas = lay_out(image, shape, (64, 64), resize=resize)
    after = finish(canvas)
    assert after.shape == (64, 64, 3)
    assert (after[:, 40:] == array(canvas.original)[:, 40:]).all()


def test_without_a_mask_everything_is_repainted() -> None:
    canvas = lay_out(noise(67, 91), None, (72, 96), resize="pad")
    assert canvas.mask is None
    assert (finish(canvas) == (255, 0, 255)).all()
    assert finish(canvas).shape == (91, 67, 3)
    assert finish(lay_out(noise(67, 91), None, (64, 64), resize="crop")).shape == (64, 64, 3)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(RequestError, match="the mask is empty"):
        lay_out(noise(64, 64), Image.new("L", (64, 64), 0), (64, 64), resize="pad")


def test_which_mask() -> None:
    image = noise(8, 8)
    shape, notes = mask_for(image, noise(4, 4), alpha=False, invert=False, soft=False)
    assert shape is not None
    assert shape.size == (8, 8)
    assert notes == ("the mask has 4x4 pixels and the image 8x8: the mask was resized",)
    assert mask_for(image, None, alpha=False, invert=False, soft=False) == (None, ())
    hole = image.convert("RGBA")
    hole.putpixel((2, 3), (0, 0, 0, 0))
    shape, _ = mask_for(hole, None, alpha=True, invert=False, soft=False)
    assert shape is not None
    assert shape.getbbox() == (2, 3, 3, 4)
    shape, _ = mask_for(hole, None, alpha=True, invert=True, soft=False)
    assert shape is not None
    assert shape.getpixel((2, 3)) == 0
    with pytest.raises(RequestError, match="no transparent pixels"):
        mask_for(image, None, alpha=True, invert=False, soft=False)
    with pytest.raises(RequestError, match="two masks"):
        mask_for(hole, image, alpha=True, invert=False, soft=False)
