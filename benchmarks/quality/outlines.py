"""Analytic outlines of the eight shapes, and how well one fits a mask.

Every shape is described at radius 1 around its centre (x to the right, y down) by its signed
distance, negative inside; a polygon stands for all but the circle and the ring. Distances scale
with the radius, so one table of a shape serves every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from benchmarks.quality.regions import dilate

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "ring",
    "cross",
    "diamond",
)
SILHOUETTES: tuple[str, ...] = tuple(name for name in SHAPES if name != "ring")
RING_HOLE = 0.55

_REACH = 1.7
_CELLS = 340
_HEART_POINTS = 160


@dataclass(frozen=True)
class Fit:
    """A shape laid over a mask; lengths in pixels."""

    shape: str
    """One of SHAPES; of SILHOUETTES when a filled shape was fitted (a ring fills to a circle)."""
    x: float
    """Centre, to the right."""
    y: float
    """Centre, down."""
    radius: float
    """The shape's radius r."""
    score: float
    """How well it fits, 0..1: intersection over union, or for strokes the mean of two shares."""


def corners(shape: str) -> list[tuple[float, float]]:
    """Corner points (x, y) of a shape of radius 1, y down; raises KeyError for the round ones."""
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)]
    if shape == "diamond":
        return [(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)]
    if shape == "cross":
        arm = 0.34
        quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
        points: list[tuple[float, float]] = []
        for _ in range(4):
            points.extend(quarter)
            quarter = [(-y, x) for x, y in quarter]
        return points
    if shape == "star":
        turns = [(index * math.pi / 5, 1.0 if index % 2 == 0 else 0.42) for index in range(10)]
        return [(length * math.sin(turn), -length * math.cos(turn)) for turn, length in turns]
    if shape == "heart":
        points = []
        for index in range(_HEART_POINTS):
            t = 2 * math.pi * index / _HEART_POINTS
            right = 16 * math.sin(t) ** 3
            up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((right / 17, -(up + 2.53) / 17))
        return points
    raise KeyError(shape)


@cache
def _table(shape: str) -> Floats:
    """Signed distances of a shape of radius 1 on a square grid of _CELLS + 1 points a side."""
    axis = np.linspace(-_REACH, _REACH, _CELLS + 1)
    x, y = np.meshgrid(axis, axis)
    if shape in ("circle", "ring"):
        away = np.hypot(x, y)
        hole = RING_HOLE - away if shape == "ring" else -np.inf
        return np.asarray(np.maximum(away - 1.0, hole), dtype=np.float32)
    points = np.array(corners(shape))
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
        nearest = np.minimum(nearest, np.hypot(x - x0 - along * dx, y - y0 - along * dy))
        if dy != 0.0:
            crosses = (y0 <= y) != (y1 <= y)
            inside ^= crosses & (x < x0 + (y - y0) * dx / dy)
    return np.where(inside, -nearest, nearest).astype(np.float32)


@cache
def extent(shape: str) -> tuple[float, float, float, float]:
    """Bounding box (left, top, right, bottom) of a shape of radius 1 around its centre."""
    if shape in ("circle", "ring"):
        return (-1.0, -1.0, 1.0, 1.0)
    points = np.array(corners(shape))
    left, top = points.min(axis=0).tolist()
    right, bottom = points.max(axis=0).tolist()
    return (left, top, right, bottom)


def signed_distance(shape: str, x: float, y: float, radius: float, size: tuple[int, int]) -> Floats:
    """Distance in pixels to a shape's boundary, negative inside, on a (height, width) grid."""
    table = _table(shape)
    scale = _CELLS / (2 * _REACH)
    column = ((np.arange(size[1], dtype=np.float32) + 0.5 - x) / radius + _REACH) * scale
    row = ((np.arange(size[0], dtype=np.float32) + 0.5 - y) / radius + _REACH) * scale
    column = np.clip(column, 0.0, _CELLS - 0.001)
    row = np.clip(row, 0.0, _CELLS - 0.001)
    left, top = column.astype(np.int32), row.astype(np.int32)
    across, down = column - left, (row - top)[:, None]
    upper, lower = table[top], table[top + 1]
    lines = upper + (lower - upper) * down
    start, stop = lines[:, left], lines[:, left + 1]
    return np.asarray((start + (stop - start) * across) * radius, dtype=np.float32)


def fit_filled(mask: Mask, counts: Mask) -> list[Fit]:
    """Fit every silhouette to a filled mask, the best first.

    `counts` holds the pixels that are compared: others may be hidden behind a second object. The
    score is the intersection over union.
    """
    weights = counts.astype(np.float32)
    pixels = mask.astype(np.float32)

    def score(window: tuple[slice, slice], sdf: Floats) -> float:
        drawn = np.clip(0.5 - sdf, 0.0, 1.0)
        part, weight = pixels[window], weights[window]
        both = float((np.minimum(part, drawn) * weight).sum())
        return both / max(float((np.maximum(part, drawn) * weight).sum()), 1.0)

    return _fits(mask, SILHOUETTES, 0.0, score)


def fit_stroke(mask: Mask, hidden: Mask, half: float) -> list[Fit]:
    """Fit the outline of every shape to a stroke about 2 `half` pixels wide, the best first.

    The score is the harmonic mean of two shares, each forgiving an error of a pixel or two: of
    the mask that lies on the outline, and of the outline that is drawn in the mask or may be
    hidden by what lies over it.
    """
    drawn = (dilate(mask, 1) | hidden).astype(np.float32)
    visible = (mask & ~hidden).astype(np.float32)
    total = max(float(visible.sum()), 1.0)

    def score(window: tuple[slice, slice], sdf: Floats) -> float:
        away = np.abs(sdf) - half
        on_outline = float((np.clip(1.5 - away / 2, 0.0, 1.0) * visible[window]).sum()) / total
        outline = np.clip(0.5 - away, 0.0, 1.0)
        seen = float((outline * drawn[window]).sum()) / max(float(outline.sum()), 1.0)
        return 2 * on_outline * seen / max(on_outline + seen, 1e-6)

    return _fits(mask, SHAPES, half, score)


def _fits(
    mask: Mask,
    shapes: tuple[str, ...],
    grown: float,
    score: Callable[[tuple[slice, slice], Floats], float],
) -> list[Fit]:
    """Lay shapes over the bounding box of a mask, refine the three best, sort by score.

    `grown` is how far in pixels the mask reaches beyond the shape's boundary.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    margin = 8
    y0, x0 = max(0, top - margin), max(0, left - margin)
    y1, x1 = min(mask.shape[0], bottom + margin), min(mask.shape[1], right + margin)
    window, size = (slice(y0, y1), slice(x0, x1)), (y1 - y0, x1 - x0)

    def value(shape: str, at: Sequence[float]) -> float:
        return score(window, signed_distance(shape, at[0] - x0, at[1] - y0, at[2], size))

    starts: list[tuple[float, str, list[float]]] = []
    for shape in shapes:
        box = extent(shape)
        lengths = (right - left - 2 * grown, bottom - top - 2 * grown)
        radius = max(2.0, sum(lengths) / (box[2] - box[0] + box[3] - box[1]))
        at = [
            (left + right) / 2 - radius * (box[0] + box[2]) / 2,
            (top + bottom) / 2 - radius * (box[1] + box[3]) / 2,
            radius,
        ]
        starts.append((value(shape, at), shape, at))
    starts.sort(reverse=True)

    fits = []
    for rank, (reached, shape, at) in enumerate(starts):
        hopeful = rank < 3 and reached > starts[0][0] - 0.25
        for step in (2.0, 1.0, 0.5) if hopeful else ():
            for _ in range(3):
                before = reached
                for axis, sign in product(range(3), (-step, step)):
                    moved = at.copy()
                    moved[axis] = max(moved[axis] + sign, 2.0)
                    tried = value(shape, moved)
                    if tried > reached:
                        reached, at = tried, moved
                if reached == before:
                    break
        fits.append(Fit(shape, at[0], at[1], at[2], reached))
    return sorted(fits, key=lambda fit: -fit.score)
