"""The picture that grows: linear map from latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdlite import preview
from sdlite.errors import RequestError
from sdlite.manifest import LatentSpace

SD1 = LatentSpace(channels=4, factor=8, scale=0.18215)


def test_sd1_has_a_map_and_others_bring_theirs() -> None:
    assert preview.map_for(SD1) is not None
    assert preview.map_for(replace(SD1, scale=0.5)) is None
    assert preview.map_for(replace(SD1, channels=16)) is None
    rows = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.5, 0.5))
    own = preview.map_for(replace(SD1, channels=2, preview=rows))
    assert own is not None
    assert own.weights.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert own.bias.tolist() == [0.5, 0.5, 0.5]


def test_zero_latents_are_grey() -> None:
    picture = preview.to_picture(np.zeros((4, 5, 7), np.float32), preview.map_for(SD1))
    assert picture.shape == (5, 7, 3)
    assert picture.dtype == np.uint8
    assert (np.abs(picture.astype(int) - 128) <= 1).all()


def test_the_first_sd1_channel_is_brightness() -> None:
    linear = preview.map_for(SD1)
    up = np.zeros((4, 1, 1), np.float32)
    up[0] = 2
    assert (preview.to_picture(up, linear) > preview.to_picture(-up, linear)).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 16])
def test_latents_without_a_map_still_show_shapes(channels: int) -> None:
    latents = np.zeros((channels, 8, 8), np.float32)
    latents[-1, :, 4:] = 3
    picture = preview.to_picture(latents, None).astype(int)
    assert np.abs(picture[:, 5] - picture[:, 2]).max() > 60
    assert (picture[:, 0] == picture[:, 3]).all()


def test_values_that_are_no_numbers_do_not_break_it() -> None:
    latents = np.full((4, 2, 2), np.nan, np.float32)
    preview.to_picture(latents, None)
    preview.to_picture(latents, preview.map_for(SD1))


def test_a_map_for_other_latents_is_refused() -> None:
    with pytest.raises(RequestError, match="4 channels, the latents have 16"):
        preview.to_picture(np.zeros((16, 2, 2), np.float32), preview.map_for(SD1))


def test_fit_finds_a_linear_decoder() -> None:
    generator = np.random.default_rng(0)
    latents = generator.uniform(-1, 1, (3, 4, 6, 5)).astype(np.float32)
    weights = generator.uniform(-0.3, 0.3, (4, 3))
    rgb = np.einsum("bchw,ck->bhwk", latents, weights) - 0.1
    pictures = np.rint((rgb + 1) * 127.5).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    rows = preview.fit(latents, pictures)
    assert np.allclose(rows[:-1], weights, atol=0.01)
    assert np.allclose(rows[-1], -0.1, atol=0.01)
    linear = preview.map_for(replace(SD1, preview=rows))
    shown = preview.to_picture(latents[0], linear).astype(int)
    assert np.abs(shown - pictures[0, ::8, ::8]).max() <= 2
