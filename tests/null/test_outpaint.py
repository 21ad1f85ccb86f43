"""Outpainting on the fake engine: sizes, windows, what stays, what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import registry
from sdlite.errors import RequestError
from sdlite.outpaint import Margins, _along, _edges_drawn_out, _ramp, _windows, outpaint
from sdlite.types import Edit, Request, Step


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sdlite.Pipeline]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._runtimes, "null", NullRuntime())
        package = write_null_package(tmp_path_factory.mktemp("out") / "tiny")
        with sdlite.load(package, runtime="null") as opened:
            yield opened


def picture(width: int = 64, height: int = 64) -> Image.Image:
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def job(image: Image.Image, steps: int = 1, **settings: object) -> Request:
    return Request("x", seed=1, steps=steps, edit=Edit(image, strength=1.0), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(64, 64), (50, 37), (200, 90), (10, 10)])
@pytest.mark.parametrize(
    "margins", [Margins(left=20), Margins(0, 100, 0, 7), Margins(9, 8, 70, 33), Margins(bottom=1)]
)
def test_the_picture_stays_but_for_the_seam(
    pipe: sdlite.Pipeline, size: tuple[int, int], margins: Margins
) -> None:
    image = picture(*size)
    result = outpaint(pipe, job(image), margins, seam=4)
    whole = np.asarray(result.images[0])
    assert result.images[0].size == margins.check(size)
    inner = whole[margins.top : margins.top + size[1], margins.left : margins.left + size[0]]
    kept = np.ones(inner.shape[:2], bool)
    if margins.left:
        kept[:, :4] = False
    if margins.right:
        kept[:, -4:] = False
    if margins.top:
        kept[:4] = False
    if margins.bottom:
        kept[-4:] = False
    assert (inner[kept] == np.asarray(image)[kept]).all()


@pytest.mark.parametrize("place", [(30, 40, 94, 104), (0, 0, 300, 20), (200, 100, 210, 300)])
@pytest.mark.parametrize("window", [(64, 64), (32, 96)])
def test_windows_cover_everything_and_see_something(
    place: tuple[int, int, int, int], window: tuple[int, int]
) -> None:
    known = np.zeros((400, 400), bool)
    known[place[1] : place[3], place[0] : place[2]] = True
    for left, top, right, bottom in _windows(place, (400, 400), window):
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 400
        assert right - left <= window[0]
        assert bottom - top <= window[1]
        part = known[top:bottom, left:right]
        assert part.any()
        assert not part.all()
        known[top:bottom, left:right] = True
    assert known.all()


def test_windows_along_an_edge_overlap() -> None:
    assert list(_along(5, 60, 64)) == [(5, 60)]
    pieces = list(_along(0, 200, 64))
    assert pieces[0][0] == 0
    assert pieces[-1][1] == 200
    assert all(b[0] <= a[1] - 16 for a, b in itertools.pairwise(pieces))


def test_edges_are_drawn_out() -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[1:3, 1:3] = [[[10] * 3, [20] * 3], [[30] * 3, [40] * 3]]
    known = np.zeros((4, 5), bool)
    known[1:3, 1:3] = True
    drawn = np.asarray(_edges_drawn_out(Image.fromarray(pixels), known))[:, :, 0]
    assert drawn.tolist() == [
        [10, 10, 20, 20, 20],
        [10, 10, 20, 20, 20],
        [30, 30, 40, 40, 40],
        [30, 30, 40, 40, 40],
    ]


def test_the_mask_falls_off_over_the_seam() -> None:
    unknown = np.zeros((3, 8), bool)
    unknown[:, :2] = True
    assert _ramp(unknown, 4)[1].tolist() == [255, 255, 191, 128, 64, 0, 0, 0]
    assert _ramp(unknown, 0)[1].tolist() == [255, 255, 0, 0, 0, 0, 0, 0]


def test_steps_are_counted_over_all_windows(pipe: sdlite.Pipeline) -> None:
    steps: list[Step] = []
    result = outpaint(pipe, job(picture(), steps=2), Margins(left=64), on_step=steps.append)
    assert [(step.index, step.total) for step in steps] == [(i, 8) for i in range(8)]
    assert [phase.name for phase in result.phases] == ["text", "encode", "denoise", "decode"] * 4
    assert result.seeds == (1,)
    assert "Outpaint: left 64, Outpaint seam: 16, Outpaint window: 64x64, V" in result.infotexts[0]
    assert "Size: 128x64" in result.infotexts[0]
    again = outpaint(pipe, job(picture(), steps=2), Margins(left=64))
    assert again.images[0].tobytes() == result.images[0].tobytes()


def test_what_cannot_be(pipe: sdlite.Pipeline) -> None:
    with pytest.raises(RequestError, match="nothing to add"):
        outpaint(pipe, job(picture()), Margins())
    with pytest.raises(RequestError, match="left -1 is not between 0 and 4096"):
        outpaint(pipe, job(picture()), Margins(left=-1))
    with pytest.raises(RequestError, match="a picture of 12288x12288: at most"):
        Margins(4096, 4096, 4096, 4096).check((4096, 4096))
    with pytest.raises(RequestError, match="seam -2"):
        outpaint(pipe, job(picture()), Margins(left=1), seam=-2)
    with pytest.raises(RequestError, match="without a mask"):
        outpaint(pipe, Request("x", edit=Edit(picture(), mask=picture())), Margins(left=8))
    with pytest.raises(RequestError, match="takes one picture"):
        outpaint(pipe, Request("x"), Margins(left=8))
    with pytest.raises(RequestError, match="steps 0"):
        outpaint(pipe, job(picture(), steps=0), Margins(left=8))
