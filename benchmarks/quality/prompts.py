"""Measures what the prompt language does to pictures of the shapes model.

    python -m benchmarks.quality.prompts [--model NAME|PATH] [--cases N] [--sheet sheet.png]

Four questions, each over prompts and seeds drawn from a fixed generator, 20 steps of DPM++ 2M with
Karras sigmas:

- weights: where two colours compete, is `a COLOUR (red:1.5) SHAPE` redder than the same with 0.5?
- changes: does `a COLOUR [circle:square:0.5]` differ from the circle and from the square?
- negative: a picture that leaves the colour open came out in some colour; with that colour as the
  negative prompt, is the colour gone?
- and: does `a COLOUR SHAPE AND a COLOUR background` show both? The model was never told a
  background alone, so `a COLOUR SHAPE AND a SHAPE on a COLOUR background` is asked too, also
  with weights that sum to 1, which leave guidance as strong as it is for one prompt.

Writes results/prompts-NAME.json; with --sheet also a contact sheet of the first cases of each.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.checker import read_scene
from benchmarks.quality.outlines import SHAPES
from benchmarks.quality.palette import NAMES
from benchmarks.quality.report import RESULTS, folder_hash, surroundings, write_report
from benchmarks.quality.sheet import contact_sheet

Draw = Callable[..., Image.Image]
"""``draw(prompt, seed, negative="") -> picture``."""
Cell = tuple[Image.Image, str, bool]
"""A picture, its label, and whether it is as it should be."""
SEED = 20
LEAST_SHIFT = 0.2
"""Redness, of 255 over the whole picture, that counts as a difference."""
LEAST_LEVELS = 32
"""Difference in a channel, of 255, that counts as another colour."""
LEAST_CHANGE = 0.01
"""Share of such pixels from which on two pictures count as different."""
SHOWN = 3
"""Cases of each question on the contact sheet."""


def redness(image: Image.Image) -> float:
    """How much red exceeds the other channels, over the whole picture, of 255."""
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.float64), -1, 0)
    return float(np.clip(red - np.maximum(green, blue), 0, None).mean())


def change(first: Image.Image, second: Image.Image) -> float:
    """Share of pixels that two pictures have in different colours."""
    pair = [np.asarray(image.convert("RGB"), np.int16) for image in (first, second)]
    return float((np.abs(pair[0] - pair[1]).max(axis=-1) > LEAST_LEVELS).mean())


def measure_weights(draw: Draw, cases: int) -> tuple[dict[str, Any], list[Cell]]:
    """Redness at weights 0.5, 1 and 1.5."""
    random = Random(SEED)
    others = [name for name in NAMES if name not in ("red", "orange")]
    found: list[list[float]] = []
    cells: list[Cell] = []
    for case in range(cases):
        shape, seed = random.choice(SHAPES), random.randrange(2**31)
        colour, ground = random.sample(others, 2)
        prompts = [
            f"a {colour} (red:{weight}) {shape} on a {ground} background"
            for weight in (0.5, 1.0, 1.5)
        ]
        images = [draw(prompt, seed) for prompt in prompts]
        values = [redness(image) for image in images]
        found.append(values)
        if case < SHOWN:
            right = values[2] > values[0]
            cells += [(i, p, right) for i, p in zip(images, prompts, strict=True)]
    means = np.mean(found, axis=0)
    shifts = [values[2] - values[0] for values in found]
    return {
        "cases": cases,
        "redder_at_1.5_than_at_0.5": share(shift >= LEAST_SHIFT for shift in shifts),
        "less_red": share(shift <= -LEAST_SHIFT for shift in shifts),
        "alike": share(abs(shift) < LEAST_SHIFT for shift in shifts),
        "mean_redness": {
            str(weight): round(float(mean), 2)
            for weight, mean in zip((0.5, 1.0, 1.5), means, strict=True)
        },
    }, cells


def measure_changes(draw: Draw, cases: int) -> tuple[dict[str, Any], list[Cell]]:
    """How far a picture whose shape changes half way is from either shape's."""
    random = Random(SEED + 1)
    found: list[tuple[float, float]] = []
    shapes: dict[str, int] = {}
    cells: list[Cell] = []
    for case in range(cases):
        colour, ground = random.sample(NAMES, 2)
        seed = random.randrange(2**31)
        prompts = [
            f"a {colour} {shape} on a {ground} background"
            for shape in ("circle", "[circle:square:0.5]", "square")
        ]
        circle, both, square = images = [draw(prompt, seed) for prompt in prompts]
        found.append((change(both, circle), change(both, square)))
        objects = read_scene(both).objects
        name = (objects[0].shape or "unclear") if objects else "nothing"
        shapes[name] = shapes.get(name, 0) + 1
        if case < SHOWN:
            right = min(found[-1]) >= LEAST_CHANGE
            cells += [(i, p, right) for i, p in zip(images, prompts, strict=True)]
    return {
        "cases": cases,
        "differs_from_both": share(min(pair) >= LEAST_CHANGE for pair in found),
        "mean_share_of_pixels_unlike_the_circle": round(float(np.mean([a for a, _ in found])), 4),
        "mean_share_of_pixels_unlike_the_square": round(float(np.mean([b for _, b in found])), 4),
        "shapes_read": dict(sorted(shapes.items())),
    }, cells


def measure_negative(draw: Draw, cases: int) -> tuple[dict[str, Any], list[Cell]]:
    """Whether a colour that was drawn is gone once the negative prompt names it."""
    random = Random(SEED + 2)
    gone: list[bool] = []
    cells: list[Cell] = []
    unread = 0
    while len(gone) < cases and unread < 2 * cases:
        shape, ground, seed = random.choice(SHAPES), random.choice(NAMES), random.randrange(2**31)
        prompt = f"a {shape} on a {ground} background"
        before = draw(prompt, seed)
        colours = {item.colour for item in read_scene(before).objects}
        if len(colours) != 1 or None in colours:
            unread += 1
            continue
        (colour,) = colours
        after = draw(prompt, seed, negative=f"{colour} {shape}")
        gone.append(colour not in {item.colour for item in read_scene(after).objects})
        if len(gone) <= SHOWN:
            cells.append((before, prompt, True))
            cells.append((after, f"{prompt} | negative: {colour} {shape}", gone[-1]))
    return {
        "cases": len(gone),
        "removed": share(gone),
        "pictures_without_one_clear_colour": unread,
    }, cells


WORDINGS = {
    "background_alone": "a {colour} {shape} AND a {ground} background",
    "shape_on_background": "a {colour} {shape} AND a {shape} on a {ground} background",
    "weights_sum_to_1": ("a {colour} {shape} :0.7 AND a {shape} on a {ground} background :0.3"),
    "one_prompt": "a {colour} {shape} on a {ground} background",
}


def measure_and(draw: Draw, cases: int) -> tuple[dict[str, Any], list[Cell]]:
    """Whether an object and a background joined by AND are both there."""
    random = Random(SEED + 3)
    right: dict[str, list[tuple[bool, ...]]] = {kind: [] for kind in WORDINGS}
    cells: list[Cell] = []
    for case in range(cases):
        shape, seed = random.choice(SHAPES), random.randrange(2**31)
        colour, ground = random.sample(NAMES, 2)
        for kind, wording in WORDINGS.items():
            prompt = wording.format(colour=colour, shape=shape, ground=ground)
            image = draw(prompt, seed)
            reading = read_scene(image)
            one = reading.objects[0] if len(reading.objects) == 1 else None
            seen = (
                one is not None and one.colour == colour,
                one is not None and one.shape == shape,
                reading.background == ground,
            )
            right[kind].append(seen)
            if case < SHOWN:
                cells.append((image, prompt, all(seen)))
    return {
        "cases": cases,
        **{
            kind: {
                "all": share(all(seen) for seen in results),
                "colour": share(seen[0] for seen in results),
                "shape": share(seen[1] for seen in results),
                "background": share(seen[2] for seen in results),
            }
            for kind, results in right.items()
        },
    }, cells


def share(results: Any) -> float:
    """Share of true ones."""
    listed = list(results)
    return round(sum(listed) / max(len(listed), 1), 4)


MEASURES = {
    "weights": (measure_weights, 24),
    "changes": (measure_changes, 20),
    "negative": (measure_negative, 50),
    "and": (measure_and, 24),
}
"""Questions and how many cases each has."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, measure, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="shapes", help="name or path of a package")
    parser.add_argument("--cases", type=int, help="so many of each question instead")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--sheet", type=Path, help="contact sheet of the first cases")
    parser.add_argument("-o", "--output", type=Path, help="result file")
    chosen = parser.parse_args(arguments)
    sdlite: Any = importlib.import_module("sdlite")
    drawn = 0
    figures: dict[str, Any] = {}
    cells: list[Cell] = []
    with sdlite.load(chosen.model) as pipe:

        def draw(prompt: str, seed: int, negative: str = "") -> Image.Image:
            nonlocal drawn
            result = pipe.generate(
                prompt,
                negative_prompt=negative,
                seed=seed,
                steps=chosen.steps,
                guidance=chosen.guidance,
            )
            drawn += 1
            sys.stderr.write(f"\r{drawn} pictures")
            image: Image.Image = result.images[0]
            return image

        for name, (measure, cases) in MEASURES.items():
            figures[name], shown = measure(draw, chosen.cases or cases)
            cells += shown
        package = folder_hash(pipe.package.root)
    sys.stderr.write("\n")
    report = {
        "what": "what the prompt language does to pictures of the shapes model",
        "model": Path(chosen.model).name,
        **surroundings(),
        "package_sha256": package,
        "steps": chosen.steps,
        "guidance": chosen.guidance,
        **figures,
    }
    if chosen.sheet:
        images, labels, marks = zip(*cells, strict=True)
        contact_sheet(images, labels, good=marks, columns=6).save(chosen.sheet)
    output = chosen.output or RESULTS / f"prompts-{Path(chosen.model).name}.json"
    write_report(output, report)
    for name in MEASURES:
        sys.stdout.write(f"{name}: {figures[name]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
