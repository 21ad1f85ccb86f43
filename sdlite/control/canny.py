"""Edges of a picture by Canny's method (Canny 1986), with OpenCV's choices of detail.

Gradients are 3x3 Sobel differences with repeated borders, their size the sum of both absolute
values (the L1 norm), taken from the channel where it is largest; directions are quantised to four.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SHIFT = 15
TANGENT = round(np.tan(np.pi / 8) * (1 << SHIFT))
"""The tangent of 22.5 degrees as OpenCV has it, a fixed-point number of 15 bits."""


def canny(picture: npt.NDArray[np.uint8], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Edges of a picture: 255 on them, 0 elsewhere.

    Args:
        picture: uint8 ``(height, width)`` or ``(height, width, channels)``.
        low: size of a gradient from which on a pixel may continue an edge; up to 2040 can occur.
        high: size from which on it starts one.

    Returns:
        uint8 ``(height, width)``.
    """
    low, high = min(low, high), max(low, high)
    across, down = _gradients(picture)
    size = np.abs(across) + np.abs(down)
    ridge = (size > np.floor(low)) & _is_ridge(size, across, down)
    edges = _follow(ridge, ridge & (size > np.floor(high)))
    return np.where(edges, 255, 0).astype(np.uint8)


def _gradients(picture: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], ...]:
    """Sobel differences to the right and down, of each pixel's channel with the larger ones."""
    planes = picture.reshape(*picture.shape[:2], -1).astype(np.int32)
    wide = np.pad(planes, ((1, 1), (1, 1), (0, 0)), mode="edge")
    columns = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    rows = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    across, down = columns[:, 2:] - columns[:, :-2], rows[2:] - rows[:-2]
    best = (np.abs(across) + np.abs(down)).argmax(axis=2)[..., None]
    return (
        np.take_along_axis(across, best, 2)[..., 0],
        np.take_along_axis(down, best, 2)[..., 0],
    )


def _is_ridge(
    size: npt.NDArray[np.int32], across: npt.NDArray[np.int32], down: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    """Where a gradient is larger than its neighbours along its own direction."""
    wide = np.pad(size, 1)

    def neighbour(y: int, x: int) -> npt.NDArray[np.int32]:
        return wide[1 + y : 1 + y + size.shape[0], 1 + x : 1 + x + size.shape[1]]

    width = np.abs(across).astype(np.int64)
    height = np.abs(down).astype(np.int64) << SHIFT
    flat = height < width * TANGENT
    steep = height > width * TANGENT + (width << (SHIFT + 1))
    falling = (across ^ down) < 0
    # One side may be equal, so that of two equal neighbours exactly one is kept.
    sideways = (size > neighbour(0, -1)) & (size >= neighbour(0, 1))
    upright = (size > neighbour(-1, 0)) & (size >= neighbour(1, 0))
    diagonal = np.where(
        falling,
        (size > neighbour(-1, 1)) & (size > neighbour(1, -1)),
        (size > neighbour(-1, -1)) & (size > neighbour(1, 1)),
    )
    return np.where(flat, sideways, np.where(steep, upright, diagonal))


def _follow(ridge: npt.NDArray[np.bool_], start: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels of ``ridge`` that hang together with ``start``, corners included."""
    width = ridge.shape[1] + 2
    left = np.pad(ridge & ~start, 1).reshape(-1)
    found = np.pad(start, 1).reshape(-1)
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    front = np.flatnonzero(found)
    while front.size:
        near = (front[:, None] + steps).reshape(-1)
        front = np.unique(near[left[near]])
        found[front] = True
        left[front] = False
    return found.reshape(ridge.shape[0] + 2, width)[1:-1, 1:-1]
