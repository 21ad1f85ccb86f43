"""The program that measures the prompt language, on pictures whose answer is known."""

from __future__ import annotations

import re

from PIL import Image, ImageDraw

from benchmarks.quality.palette import NAMES, PALETTE
from benchmarks.quality.prompts import (
    WORDINGS,
    measure_and,
    measure_changes,
    measure_negative,
    measure_weights,
    redness,
)

FOUR = 4


def scene(colour: str, ground: str, shape: str = "circle", size: int = 28) -> Image.Image:
    """A circle or a square in the middle, with smooth edges."""
    image = Image.new("RGB", (128 * FOUR, 128 * FOUR), PALETTE[ground])
    draw = ImageDraw.Draw(image)
    corners = [(64 - size) * FOUR, (64 - size) * FOUR, (64 + size) * FOUR, (64 + size) * FOUR]
    (draw.ellipse if shape == "circle" else draw.rectangle)(corners, fill=PALETTE[colour])
    return image.resize((128, 128), Image.Resampling.BOX)


def test_redness() -> None:
    assert redness(Image.new("RGB", (4, 4), (255, 55, 0))) == 200
    assert redness(Image.new("RGB", (4, 4), (200, 255, 0))) == 0


def test_weights() -> None:
    def obeys(prompt: str, seed: int, negative: str = "") -> Image.Image:
        weight = float(re.findall(r"red:([\d.]+)", prompt)[0])
        return scene("red", "white", size=int(20 * weight))

    figures, cells = measure_weights(obeys, 5)
    assert figures["redder_at_1.5_than_at_0.5"] == 1.0
    assert figures["mean_redness"]["1.5"] > figures["mean_redness"]["0.5"] > 0
    assert len(cells) == 9
    figures, _ = measure_weights(lambda *_: scene("red", "white"), 5)
    assert (figures["redder_at_1.5_than_at_0.5"], figures["alike"]) == (0.0, 1.0)


def test_changes() -> None:
    def half_way(prompt: str, seed: int, negative: str = "") -> Image.Image:
        small = 34 if "[" in prompt else 28
        return scene("red", "white", "circle" if "red circle" in prompt else "square", small)

    def last_only(prompt: str, seed: int, negative: str = "") -> Image.Image:
        return scene("red", "white", "circle" if " circle" in prompt else "square")

    assert measure_changes(half_way, 2)[0]["differs_from_both"] == 1.0
    assert measure_changes(last_only, 1)[0]["differs_from_both"] == 0.0


def test_negative() -> None:
    def obeys(prompt: str, seed: int, negative: str = "") -> Image.Image:
        ground = prompt.split()[-2]
        free = [name for name in NAMES if name != ground and name not in negative]
        return scene(free[0], ground)

    def deaf(prompt: str, seed: int, negative: str = "") -> Image.Image:
        return obeys(prompt, seed)

    assert measure_negative(obeys, 2)[0]["removed"] == 1.0
    assert measure_negative(deaf, 2)[0] == {
        "cases": 2,
        "removed": 0.0,
        "pictures_without_one_clear_colour": 0,
    }
    figures, _ = measure_negative(lambda *_: Image.new("RGB", (128, 128), "white"), 2)
    assert (figures["cases"], figures["pictures_without_one_clear_colour"]) == (0, 4)


def test_and() -> None:
    def obeys(prompt: str, seed: int, negative: str = "") -> Image.Image:
        colours = re.findall("|".join(NAMES), prompt)
        return scene(colours[0], colours[-1])

    figures, _ = measure_and(obeys, 3)
    for kind in WORDINGS:
        assert figures[kind]["colour"] == figures[kind]["background"] == 1.0
        assert figures[kind]["all"] == figures[kind]["shape"]
