"""Scenes of the shapes model: what is in a picture, how one is drawn at random, how it is painted.

Lengths are fractions of the picture, x to the right and y down. The README of this folder has the
geometry in words; `captions.py` turns a scene into text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (45, 85, 215),
    "yellow": (245, 215, 50),
    "purple": (140, 60, 190),
    "orange": (245, 140, 30),
    "white": (245, 245, 245),
    "black": (20, 20, 24),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond")
SIZES: dict[str, float] = {"small": 0.13, "plain": 0.20, "large": 0.30}
STYLES = ("flat", "outline", "soft")
AXES = ("x", "y")  # two shapes: first is left of, or above, the second

PICTURE = 128
STROKE = 0.028
FEATHER = 0.04
HELD_OUT_MODULUS = 8

_EXTENT = 1.6  # the distance tables cover [-_EXTENT, _EXTENT] in units of r
_CELLS = 640


@dataclass(frozen=True)
class Item:
    """One shape of a scene."""

    color: str
    """A key of COLORS."""
    shape: str
    """One of SHAPES."""
    size: str
    """A key of SIZES."""
    x: float
    """Centre, fraction of the picture from the left."""
    y: float
    """Centre, fraction of the picture from the top."""
    r: float
    """Radius after jitter, fraction of the picture."""


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    background: str
    """A key of COLORS, not the colour of any item."""
    items: tuple[Item, ...]
    """One item, or two with the left or upper one first."""
    axis: str
    """For two items: "x" (first is left of second) or "y" (first is above); "" for one."""
    style: str
    """One of STYLES, shared by all items."""


def combination(scene: Scene) -> str:
    """The key by which combinations are held out; size and style play no part in it."""
    a = scene.items[0]
    if len(scene.items) == 1:
        return f"one:{a.color} {a.shape}:{scene.background}"
    b = scene.items[1]
    relation = "left of" if scene.axis == "x" else "above"
    return f"two:{a.color} {a.shape}:{relation}:{b.color} {b.shape}:{scene.background}"


def held_out(key: str) -> bool:
    """True for the eighth of all combinations that training never sees."""
    digest = hashlib.sha256(key.encode("ascii")).hexdigest()
    return int(digest[:8], 16) % HELD_OUT_MODULUS == 0


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


_COLOR_NAMES = tuple(COLORS)
_STYLE_P = (0.50, 0.25, 0.25)
_ONE_SIZES = (("plain", 0.44), ("small", 0.28), ("large", 0.28))
_PAIR_SIZES = (
    (("plain", "plain"), 0.46),
    (("small", "plain"), 0.11),
    (("plain", "small"), 0.11),
    (("small", "small"), 0.10),
    (("large", "small"), 0.06),
    (("small", "large"), 0.06),
    (("large", "plain"), 0.05),
    (("plain", "large"), 0.05),
)


def place(
    rng: np.random.Generator,
    background: str,
    kinds: tuple[tuple[str, str, str], ...],
    axis: str,
    style: str,
) -> Scene:
    """Put items, given as (color, shape, size), where scenes of the recipe have them."""
    radii = [SIZES[size] * rng.uniform(0.97, 1.03) for _, _, size in kinds]
    if len(kinds) == 1:
        x, y = 0.5 + rng.uniform(-0.06, 0.06, 2)
        return Scene(background, (Item(*kinds[0], float(x), float(y), radii[0]),), "", style)
    apart = max(0.45, radii[0] + radii[1] - 0.03) + rng.uniform(-0.01, 0.01)
    start = 0.5 - apart / 2 + (radii[0] - radii[1]) / 2 + rng.uniform(-0.015, 0.015)
    across = 0.5 + rng.uniform(-0.03, 0.03, 2)
    items = []
    for i, (kind, r) in enumerate(zip(kinds, radii, strict=True)):
        along = start + i * apart
        x, y = (along, across[i]) if axis == "x" else (across[i], along)
        items.append(Item(*kind, float(x), float(y), r))
    return Scene(background, tuple(items), axis, style)


def draw_scene(rng: np.random.Generator, two: float = 0.65) -> Scene:
    """A random scene of the training world; `two` is the share of scenes with two shapes."""
    while True:
        style = STYLES[int(rng.choice(3, p=_STYLE_P))]
        names = [_COLOR_NAMES[i] for i in rng.permutation(len(_COLOR_NAMES))[:3]]
        if rng.random() < two:
            sizes = _PAIR_SIZES[int(rng.choice(len(_PAIR_SIZES), p=[p for _, p in _PAIR_SIZES]))][0]
            kinds: tuple[tuple[str, str, str], ...] = (
                (names[1], _pick(rng, SHAPES), sizes[0]),
                (names[2], _pick(rng, SHAPES), sizes[1]),
            )
            scene = place(rng, names[0], kinds, _pick(rng, AXES), style)
        else:
            size = _ONE_SIZES[int(rng.choice(3, p=[p for _, p in _ONE_SIZES]))][0]
            scene = place(rng, names[0], ((names[1], _pick(rng, SHAPES), size),), "", style)
        if not held_out(combination(scene)):
            return scene


def neighbour(rng: np.random.Generator, scene: Scene) -> Scene:
    """A scene that differs from `scene` in one attribute: the hard pairs of a batch."""
    colors = [c for c in COLORS if c != scene.background and all(c != i.color for i in scene.items)]
    for _ in range(20):
        kinds = [(i.color, i.shape, i.size) for i in scene.items]
        background, axis = scene.background, scene.axis
        change = int(rng.integers(6 if len(kinds) == 2 else 3))
        which = int(rng.integers(len(kinds)))
        color, shape, size = kinds[which]
        if change == 0:
            kinds[which] = (_pick(rng, tuple(colors)), shape, size)
        elif change == 1:
            kinds[which] = (color, _pick(rng, SHAPES), size)
        elif change == 2:
            background = _pick(rng, tuple(colors))
        elif change == 3:  # the colours change places
            kinds = [(kinds[1][0], *kinds[0][1:]), (kinds[0][0], *kinds[1][1:])]
        elif change == 4:  # the shapes change places
            a, b = kinds
            kinds = [(a[0], b[1], a[2]), (b[0], a[1], b[2])]
        else:
            kinds = [kinds[1], kinds[0]]
            if rng.random() < 0.5:
                axis = "y" if axis == "x" else "x"
        other = place(rng, background, tuple(kinds), axis, scene.style)
        if not held_out(combination(other)) and combination(other) != combination(scene):
            return other
    return draw_scene(rng)


def _outline_points(shape: str) -> NDArray[np.float64]:
    """Corners of a polygonal shape of radius one, y down."""
    if shape == "square":
        h = 0.85
        return np.array([(-h, -h), (h, -h), (h, h), (-h, h)])
    if shape == "triangle":
        return np.array([(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)])
    if shape == "diamond":
        return np.array([(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)])
    if shape == "star":
        angle = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    if shape == "cross":
        w = 0.34
        quarter = [(w, -1.0), (w, -w), (1.0, -w)]
        points = list(quarter)
        for _ in range(3):
            quarter = [(-y, x) for x, y in quarter]
            points.extend(quarter)
        return np.array(points)
    t = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17, -(y + 2.53) / 17], 1)


@cache
def distance_table(shape: str) -> NDArray[np.float32]:
    """Signed distance of a shape of radius one on a square grid, negative inside."""
    axis = np.linspace(-_EXTENT, _EXTENT, _CELLS + 1)
    x, y = np.meshgrid(axis, axis)
    if shape in ("circle", "ring"):
        radius = np.hypot(x, y)
        distance = radius - 1.0
        if shape == "ring":
            distance = np.maximum(distance, 0.55 - radius)
        return distance.astype(np.float32)
    corners = _outline_points(shape)
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        dx, dy = bx - ax, by - ay
        length = dx * dx + dy * dy
        if length < 1e-12:
            continue
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / length, 0, 1)
        nearest = np.minimum(nearest, (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2)
        if dy != 0:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * dx / dy)
    return np.where(inside, -np.sqrt(nearest), np.sqrt(nearest)).astype(np.float32)


def _lookup(position: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    cell = (np.clip(position, -_EXTENT, _EXTENT) + _EXTENT) * (_CELLS / (2 * _EXTENT))
    low = np.minimum(cell.astype(np.intp), _CELLS - 1)
    return low, (cell - low).astype(np.float32)


def signed_distance(
    item: Item, columns: NDArray[np.float64], lines: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Distance to the boundary at pixel centres, fractions of the picture, (lines, columns)."""
    table = distance_table(item.shape)
    ix, fx = _lookup((columns - item.x) / item.r)
    iy, fy = _lookup((lines - item.y) / item.r)
    upper, lower = table[iy], table[iy + 1]
    rows = upper + (lower - upper) * fy[:, None]
    left, right = rows[:, ix], rows[:, ix + 1]
    return np.asarray((left + (right - left) * fx[None, :]) * np.float32(item.r), np.float32)


def coverage(distance: NDArray[np.float32], style: str, picture: int) -> NDArray[np.float32]:
    """How much of each pixel an item covers, 0 to 1, by style."""
    if style == "outline":
        return np.clip(0.5 - picture * (np.abs(distance) - STROKE / 2), 0, 1)
    if style == "soft":
        t = np.clip((distance + FEATHER) / (2 * FEATHER), 0, 1)
        return 1 - t * t * (3 - 2 * t)
    return np.clip(0.5 - picture * distance, 0, 1)


def render(scene: Scene, picture: int = PICTURE) -> NDArray[np.uint8]:
    """Paint a scene: uint8, (picture, picture, 3), RGB."""
    canvas = np.empty((picture, picture, 3), np.float32)
    canvas[:] = COLORS[scene.background]
    centres = (np.arange(picture) + 0.5) / picture
    for item in sorted(scene.items, key=lambda i: -i.r):
        reach = 1.15 * item.r + FEATHER + 2 / picture
        x0, y0 = (max(0, int((c - reach) * picture)) for c in (item.x, item.y))
        x1, y1 = (min(picture, int((c + reach) * picture) + 1) for c in (item.x, item.y))
        distance = signed_distance(item, centres[x0:x1], centres[y0:y1])
        alpha = coverage(distance, scene.style, picture)[..., None]
        part = canvas[y0:y1, x0:x1]
        part += alpha * (np.array(COLORS[item.color], np.float32) - part)
    return (canvas + 0.5).astype(np.uint8)
