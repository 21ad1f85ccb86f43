"""Analytic silhouettes of the eight shapes, and how well one fits a mask.

Every shape is described at radius 1 around its centre (x to the right, y down) by its signed
distance, negative inside; a polygon stands for all but the circle and the ring. Distances scale
with the radius, so one table of a shape serves every size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

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
    """A silhouette laid over a mask; lengths in pixels."""

    shape: str
    """One of SILHOUETTES (a ring has the silhouette of a circle)."""
    x: float
    """Centre, to the right."""
    y: float
    """Centre, down."""
    radius: float
    """The shape's radius r."""
    overlap: float
    """Intersection over union, 0..1, within the pixels that count."""


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
    if shape == "circle":
        return np.asarray(np.hypot(x, y) - 1.0, dtype=np.float32)
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


def silhouette(
    shape: str, x: float, y: float, radius: float, grown: float, size: tuple[int, int]
) -> Floats:
    """Coverage 0..1 of a filled silhouette on a (height, width) grid, grown by `grown` pixels."""
    table = _table(shape)
    scale = _CELLS / (2 * _REACH)
    column = ((np.arange(size[1], dtype=np.float32) + 0.5 - x) / radius + _REACH) * scale
    row = ((np.arange(size[0], dtype=np.float32) + 0.5 - y) / radius + _REACH) * scale
    column = np.clip(column, 0.0, _CELLS - 0.001)
    row = np.clip(row, 0.0, _CELLS - 0.001)
    left, top = column.astype(np.int32), row.astype(np.int32)
    across, down = column - left, (row - top)[:, None]
    upper = table[top][:, left] * (1 - across) + table[top][:, left + 1] * across
    lower = table[top + 1][:, left] * (1 - across) + table[top + 1][:, left + 1] * across
    sdf = (upper * (1 - down) + lower * down) * radius - grown
    return np.asarray(np.clip(0.5 - sdf, 0.0, 1.0), dtype=np.float32)


def _overlap(
    mask: Floats, counts: Floats, shape: str, at: tuple[float, float, float], grown: float
) -> float:
    """Intersection over union of a mask and a silhouette at (x, y, radius), over `counts`."""
    height, width = mask.shape
    drawn = silhouette(shape, at[0], at[1], at[2], grown, (height, width))
    both = float((np.minimum(mask, drawn) * counts).sum())
    either = float((np.maximum(mask, drawn) * counts).sum())
    return both / max(either, 1.0)


def best_fits(mask: Mask, counts: Mask, grown: float) -> list[Fit]:
    """Fit every silhouette to a mask, the best first.

    `mask` is the filled silhouette of one object, `counts` the pixels that are compared (others
    may be hidden behind a second object), `grown` how far in pixels the mask reaches beyond the
    shape's boundary. Each shape starts from the mask's bounding box; the two best are refined in
    place and radius.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    margin = 6
    y0, x0 = max(0, top - margin), max(0, left - margin)
    window = np.s_[y0 : bottom + margin, x0 : right + margin]
    pixels, weights = mask[window].astype(np.float32), counts[window].astype(np.float32)

    starts: list[tuple[float, str, tuple[float, float, float]]] = []
    for shape in SILHOUETTES:
        box = extent(shape)
        radius = max(
            2.0,
            (right - left + bottom - top - 4 * grown) / (box[2] - box[0] + box[3] - box[1]),
        )
        at = (
            (left + right) / 2 - x0 - radius * (box[0] + box[2]) / 2,
            (top + bottom) / 2 - y0 - radius * (box[1] + box[3]) / 2,
            radius,
        )
        starts.append((_overlap(pixels, weights, shape, at, grown), shape, at))
    starts.sort(reverse=True)
    fits = []
    for rank, (overlap, shape, at) in enumerate(starts):
        if rank < 2:
            overlap, at = _refined(pixels, weights, shape, at, overlap, grown)
        fits.append(Fit(shape, at[0] + x0, at[1] + y0, at[2], overlap))
    return sorted(fits, key=lambda fit: -fit.overlap)


def _refined(
    mask: Floats,
    counts: Floats,
    shape: str,
    at: tuple[float, float, float],
    overlap: float,
    grown: float,
) -> tuple[float, tuple[float, float, float]]:
    """Coordinate search over x, y and radius with halving steps; returns the best found."""
    for step in (2.0, 1.0, 0.5):
        for _ in range(2):
            before = overlap
            for axis in range(3):
                for sign in (-1.0, 1.0):
                    moved = list(at)
                    moved[axis] += sign * step
                    tried = (moved[0], moved[1], max(2.0, moved[2]))
                    value = _overlap(mask, counts, shape, tried, grown)
                    if value > overlap:
                        overlap, at = value, tried
            if overlap == before:
                break
    return overlap, at
