"""Scenes whose shapes stand anywhere and have any size: what edges tell and captions do not."""

from __future__ import annotations

import numpy as np
from scenes import SIZES, Item, Scene, draw_scene

MARGIN = 0.03
LEAST, MOST = 0.11, 0.33
"""Radii, fractions of the picture."""


def draw_anywhere(rng: np.random.Generator, two: float = 0.5) -> Scene:
    """A random scene of the shapes model, its shapes moved and scaled at random.

    Two shapes keep the relation the caption tells and do not touch. A shape is called small, plain
    or large by the size it comes nearest to.
    """
    while True:
        scene = draw_scene(rng, two)
        for _ in range(20):
            items = tuple(_moved(rng, item, len(scene.items)) for item in scene.items)
            if len(items) == 1 or _apart(items[0], items[1], scene.axis):
                return Scene(scene.background, items, scene.axis, scene.style)


def _moved(rng: np.random.Generator, item: Item, count: int) -> Item:
    r = float(rng.uniform(LEAST, MOST if count == 1 else 0.24))
    x, y = rng.uniform(r + MARGIN, 1 - r - MARGIN, 2)
    size = min(SIZES, key=lambda name: abs(np.log(SIZES[name] / r)))
    return Item(item.color, item.shape, size, float(x), float(y), r)


def _apart(first: Item, second: Item, axis: str) -> bool:
    across, down = second.x - first.x, second.y - first.y
    along, aside = (across, down) if axis == "x" else (down, across)
    return float(np.hypot(across, down)) > first.r + second.r + MARGIN and along > 1.4 * abs(aside)
