"""Drawing a picture larger in tiles."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite.errors import Cancelled, RequestError, UnknownName
from sdlite.tiled import _share, _starts, draw_larger
from sdlite.types import Edit, Hires, Request, Step


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(64, 64, 8), (65, 64, 8), (200, 64, 16), (1000, 128, 0)]
)
def test_tiles_cover_everything(length: int, tile: int, overlap: int) -> None:
    starts = _starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] == length - tile
    steps = np.diff(starts)
    assert (steps <= tile - overlap).all() and (steps > 0).all()


def test_a_tile_fades_in_where_another_was() -> None:
    share = _share((10, 0, 42, 32), 8)
    assert share[0, 0] < 20 and share[0, 8] == 255 and (share[:, 20] == 255).all()
    assert (np.diff(share[5, :9].astype(int)) > 0).all()
    assert (_share((0, 0, 32, 32), 8) == 255).all()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write_null_package(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_it_is_larger_and_still_the_picture(package: Path) -> None:
    y, x = np.mgrid[:48, :72]
    image = Image.fromarray(np.stack([x * 3, y * 4, x + y], -1).astype(np.uint8))
    counted: list[Step] = []
    with sdlite.load(package, runtime="null") as pipe:
        request = Request("a", seed=3, steps=10, edit=Edit(image, strength=0.05))
        result = draw_larger(pipe, request, overlap=8, on_step=counted.append)
        again = draw_larger(pipe, request, overlap=8)
    assert result.images[0].size == (144, 96)
    assert result.images[0].tobytes() == again.images[0].tobytes()
    small = result.images[0].resize(image.size, Image.Resampling.BOX)
    error = np.abs(np.asarray(small, float) - np.asarray(image, float)).mean()
    assert error < 30
    assert "SD upscale: 2, SD upscale upscaler: Lanczos" in result.infotexts[0]
    assert [step.index for step in counted] == list(range(counted[-1].total))
    assert (result.request.width, result.request.height) == (144, 96)


def test_what_cannot_be_is_told(package: Path) -> None:
    image = Image.new("RGB", (40, 40))
    good = Request("a", steps=2, edit=Edit(image, strength=0.5))
    cancel = threading.Event()
    cancel.set()
    with sdlite.load(package, runtime="null") as pipe:
        for request, options, words in (
            (Request("a"), {}, "takes one picture, without a mask"),
            (Request("a", edit=Edit(image, mask=image)), {}, "takes one picture, without a mask"),
            (Request("a", edit=Edit(image), hires=Hires()), {}, "leave tiling, controls and hires"),
            (good, {"scale": 1.0}, r"scale 1\.0 is not a number above 1"),
            (good, {"scale": float("nan")}, "scale nan"),
            (good, {"overlap": 300}, "overlap 300 is not from 0 to"),
        ):
            with pytest.raises(RequestError, match=words):
                draw_larger(pipe, request, **options)  # type: ignore[arg-type]
        with pytest.raises(UnknownName, match="unknown upscaler 'x'"):
            draw_larger(pipe, good, upscaler="x", overlap=4)
        with pytest.raises(Cancelled):
            draw_larger(pipe, good, overlap=4, cancel=cancel)
