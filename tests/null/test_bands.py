"""Bands of rows, maps in float16 and statistics gathered band by band."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sdlite.tiles import LEAST_ROWS, FeatureMap, Statistics, bands


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("rows", "count"), [(64, 4), (66, 4), (8, 3), (100, 7), (512, 32), (24, 64)]
)
def test_bands_cover_every_row_once_and_look_beyond_their_own(
    rows: int, count: int, scale: float
) -> None:
    pieces = list(bands(rows, count, scale))
    assert len(pieces) == min(count, rows // LEAST_ROWS)
    heights = {piece.window.stop - piece.window.start for piece in pieces}
    assert len(heights) == 1, "one size, so that an engine may fix it"
    assert pieces[0].target.start == 0 and pieces[-1].target.stop == rows * scale
    for before, after in pairwise(pieces):
        assert before.target.stop == after.target.start
    beyond = 2 if scale < 1 else 1
    for piece in pieces:
        assert piece.window.start >= 0 and piece.window.stop <= rows
        first, last = piece.target.start / scale, piece.target.stop / scale
        assert piece.window.start == 0 or piece.window.start <= first - beyond
        assert piece.window.stop == rows or piece.window.stop >= last + beyond
        if scale < 1:
            assert piece.window.start % 2 == 0, "halving pairs the same rows as for the whole"
        assert piece.window.start * scale + piece.keep.start == piece.target.start
        assert piece.keep.stop - piece.keep.start == piece.target.stop - piece.target.start


def test_a_band_never_reads_what_two_bands_before_it_overwrote() -> None:
    # The answer of a band may go over the map it came from, once the next band was read.
    for rows in range(LEAST_ROWS, 200):
        for count in range(1, rows // LEAST_ROWS + 1):
            pieces = list(bands(rows, count, 1.0))
            for earlier, later in zip(pieces, pieces[2:], strict=False):
                assert later.window.start >= earlier.target.stop


def test_a_map_keeps_values_beyond_float16_by_rows() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 6, 5)).astype(np.float32)
    values[:, 2] *= 1e6
    values[:, 4] = 0
    kept = FeatureMap(np.empty(values.shape, np.float16))
    kept.write(slice(0, 3), values[:, :3])
    kept.write(slice(3, 6), values[:, 3:])
    read = kept.read(slice(0, 6))
    assert read.shape == (1, 3, 6, 5) and read.dtype == np.float32
    np.testing.assert_allclose(read[0], values, rtol=2**-11, atol=1e-6)


def test_a_map_keeps_what_is_not_finite() -> None:
    kept = FeatureMap(np.empty((1, 2, 2), np.float16))
    kept.write(slice(0, 2), np.array([[[np.nan, 1], [np.inf, 2]]], np.float32))
    read = kept.read(slice(0, 2))[0, 0]
    assert np.isnan(read[0, 0]) and not np.isfinite(read[1, 0])
    assert (read[:, 1] == [1, 2]).all()


def test_statistics_of_bands_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    # Far from zero, where sums of squares alone would cancel.
    values = (rng.standard_normal((8, 40, 30)) + 50).astype(np.float32)
    found = Statistics(4)
    for rows in (slice(0, 13), slice(13, 14), slice(14, 40)):
        found.add(values[:, rows])
    groups = values.reshape(4, -1).astype(np.float64)
    np.testing.assert_allclose(found.mean, groups.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.variance, groups.var(axis=1), rtol=1e-3)
