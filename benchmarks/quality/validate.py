"""Validates the checker on real scenes: how often it is right, and what it refuses.

    python -m benchmarks.quality.validate [--scenes 2000] [--sheet FOLDER]

Draws scenes with the renderer of the training recipe (which shares no code with the checker),
judges each against its own caption, plain and disturbed as a small diffusion model's pictures are,
then against captions and pictures that are wrong in one thing. Writes results/quality-checker.json.
Scenes the checker gets wrong are kept as a contact sheet with `--sheet`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.quality.captions import (
    INVERSE,
    SIZES,
    STYLES,
    Wanted,
    WantedObject,
    parse_caption,
)
from benchmarks.quality.checker import judge_reading, read_scene
from benchmarks.quality.outlines import SHAPES
from benchmarks.quality.palette import NAMES, PALETTE
from benchmarks.quality.regions import blur
from benchmarks.quality.report import RESULTS, surroundings, write_report
from benchmarks.quality.sheet import contact_sheet

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "models" / "shapes" / "train"


def _noise(pixels: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(pixels + rng.normal(0.0, 4.0, pixels.shape), dtype=np.float32)


def _shift(pixels: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(pixels + rng.uniform(-12.0, 12.0, 3), dtype=np.float32)


def _soften(pixels: Floats, rng: np.random.Generator) -> Floats:
    return blur(pixels, 0.5)


def _all_three(pixels: Floats, rng: np.random.Generator) -> Floats:
    return _noise(_shift(_soften(pixels, rng), rng), rng)


DISTURBANCES: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "as drawn": lambda pixels, rng: pixels,
    "noise of 4 levels": _noise,
    "colours off by up to 12 levels": _shift,
    "blur of 0.5 pixels": _soften,
    "all three": _all_three,
}


def wrong_captions(wanted: Wanted, rng: np.random.Generator) -> Iterator[tuple[str, Wanted]]:
    """Captions that are wrong in one thing about a scene whose caption is `wanted`."""
    first = wanted.objects[0]
    used = {item.colour for item in wanted.objects} | {wanted.background}
    spare = _other(rng, NAMES, *used)

    def changed(which: int, item: WantedObject) -> Wanted:
        objects = list(wanted.objects)
        objects[which] = item
        return replace(wanted, objects=tuple(objects))

    which = int(rng.integers(len(wanted.objects)))
    item = wanted.objects[which]
    yield "another colour", changed(which, replace(item, colour=spare))
    yield "another shape", changed(which, replace(item, shape=_other(rng, SHAPES, item.shape)))
    yield "another size", changed(which, replace(item, size=_other(rng, SIZES, item.size)))
    yield "another background", replace(wanted, background=spare)
    yield "another style", replace(wanted, style=_other(rng, STYLES, wanted.style))
    turned = changed(which, replace(item, colour=wanted.background))
    yield "colour and background swapped", replace(turned, background=item.colour)
    if len(wanted.objects) == 1:
        extra = WantedObject(spare, _other(rng, SHAPES), "plain")
        yield "a second object", replace(wanted, objects=(first, extra), relation="left of")
        return
    second = wanted.objects[1]
    alone = replace(wanted, objects=(wanted.objects[which],), relation=None)
    yield "only one object", alone
    if wanted.relation is not None:
        yield "relation inverted", replace(wanted, relation=INVERSE[wanted.relation])
        across = ("above", "below") if wanted.relation.endswith(" of") else ("left of", "right of")
        yield "relation turned", replace(wanted, relation=_other(rng, across))
    colours = (
        replace(first, colour=second.colour),
        replace(second, colour=first.colour),
    )
    yield "colours swapped", replace(wanted, objects=colours)
    if first.shape != second.shape:
        shapes = (replace(first, shape=second.shape), replace(second, shape=first.shape))
        yield "shapes swapped", replace(wanted, objects=shapes)
    if first.size != second.size:
        sizes = (replace(first, size=second.size), replace(second, size=first.size))
        yield "sizes swapped", replace(wanted, objects=sizes)


def wrong_pictures(
    pixels: Pixels, wanted: Wanted, rng: np.random.Generator
) -> Iterator[tuple[str, Floats]]:
    """Pictures with one thing wrong, made from a scene's right picture."""
    spare = PALETTE[
        _other(rng, NAMES, wanted.background, *(item.colour for item in wanted.objects))
    ]
    if wanted.style != "soft":
        yield "blurred by 1.5 pixels", blur(pixels.astype(np.float32), 1.5)
    ground = np.abs(pixels.astype(np.int32) - pixels[0, 0]).sum(axis=2) < 12
    spotted = pixels.astype(np.float32)
    y, x = (6, 6) if ground[:26, :26].all() else (102, 102)
    spotted[y : y + 20, x : x + 20] = spare
    yield "an extra square", spotted
    rows, columns = np.nonzero(~ground)
    middle = int(np.median(columns))
    stained = pixels.astype(np.float32)
    stained[:, middle:][~ground[:, middle:]] = spare
    yield "right half in another colour", stained
    cut = pixels.astype(np.float32)
    centre = int(np.median(rows))
    cut[centre:] = pixels[0, 0]
    yield "lower half missing", cut


def _other(rng: np.random.Generator, names: Sequence[str], *taken: str | None) -> str:
    left = [name for name in names if name not in taken]
    return left[int(rng.integers(len(left)))]


def _image(pixels: npt.ArrayLike) -> Image.Image:
    rounded = np.clip(np.rint(np.asarray(pixels, dtype=np.float32)), 0, 255)
    return Image.fromarray(rounded.astype(np.uint8))


def validate(count: int, seed: int, disturbed: int) -> tuple[dict[str, Any], list[Any]]:
    """Judge `count` scenes, the first `disturbed` of them also disturbed.

    Returns the figures and, for each right picture that was refused or wrong one that was taken,
    (picture, label).
    """
    sys.path.insert(0, str(RECIPE))
    scenes: Any = importlib.import_module("scenes")
    words: Any = importlib.import_module("captions")
    rng = np.random.default_rng(seed)
    right: dict[str, list[bool]] = defaultdict(list)
    kinds: dict[str, list[bool]] = defaultdict(list)
    captions_refused: dict[str, list[bool]] = defaultdict(list)
    pictures_refused: dict[str, list[bool]] = defaultdict(list)
    failures: list[Any] = []
    seconds = 0.0
    before: Wanted | None = None
    for index in range(count):
        scene = scenes.draw_scene(rng)
        pixels: Pixels = scenes.render(scene)
        plain = words.canonical(scene, adjective=True).text
        wanted = parse_caption(plain)
        natural = words.caption(rng, scene)
        for name, disturb in DISTURBANCES.items():
            if name != "as drawn" and index >= disturbed:
                continue
            image = _image(disturb(pixels.astype(np.float32), rng))
            started = time.process_time()
            reading = read_scene(image)
            seconds += time.process_time() - started
            verdict = judge_reading(wanted, reading)
            right[name].append(verdict.wholly_right)
            if not verdict.wholly_right:
                failures.append((image, f"{name}: {plain}: {'; '.join(verdict.wrong)}"))
            if name != "as drawn":
                continue
            size = wanted.objects[0].size if len(wanted.objects) == 1 else "two"
            kinds[f"{size}, {wanted.style}"].append(verdict.wholly_right)
            if natural.complete:
                judged = judge_reading(parse_caption(natural.text), reading)
                right["natural caption"].append(judged.wholly_right)
                if not judged.wholly_right and verdict.wholly_right:
                    failures.append((image, f"{natural.text}: {'; '.join(judged.wrong)}"))
            wrong = list(wrong_captions(wanted, rng))
            if before is not None and before != wanted:
                wrong.append(("caption of another scene", before))
            for kind, other in wrong:
                refused = not judge_reading(other, reading).wholly_right
                captions_refused[kind].append(refused)
                if not refused:
                    failures.append((image, f"taken though {kind}: {plain}"))
        if index < disturbed:
            for kind, broken in wrong_pictures(pixels, wanted, rng):
                image = _image(broken)
                judged = judge_reading(wanted, read_scene(image))
                pictures_refused[kind].append(not judged.wholly_right)
                if judged.wholly_right:
                    failures.append((image, f"taken though {kind}: {plain}"))
        before = wanted
    readings = sum(len(values) for name, values in right.items() if name != "natural caption")
    figures = {
        "right": _rates(right),
        "right_by_kind": _rates(kinds),
        "wrong_captions_refused": _rates(captions_refused),
        "wrong_pictures_refused": _rates(pictures_refused),
        "cpu_seconds_per_picture": round(seconds / max(readings, 1), 4),
    }
    return figures, failures


def _rates(results: dict[str, list[bool]]) -> dict[str, dict[str, float | int]]:
    """Count and share of true values for each name, and for all together."""
    rates: dict[str, dict[str, float | int]] = {}
    everything = [value for values in results.values() for value in values]
    for name, values in [*sorted(results.items()), ("all", everything)]:
        rates[name] = {"count": len(values), "share": round(sum(values) / max(len(values), 1), 5)}
    return rates


def main(arguments: Sequence[str] | None = None) -> int:
    """Validate and write the figures; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--disturbed", type=int, default=500, help="scenes also judged disturbed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="folder for a contact sheet of what went wrong")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "quality-checker.json")
    chosen = parser.parse_args(arguments)
    figures, failures = validate(chosen.scenes, chosen.seed, chosen.disturbed)
    if chosen.sheet and failures:
        chosen.sheet.mkdir(parents=True, exist_ok=True)
        shown = failures[:96]
        sheet = contact_sheet([image for image, _ in shown], [label for _, label in shown])
        sheet.save(chosen.sheet / "checker-failures.png")
    report = {
        "what": "checker of the shapes model on real scenes",
        **surroundings(),
        "scenes": chosen.scenes,
        "disturbed": chosen.disturbed,
        "seed": chosen.seed,
        **figures,
    }
    write_report(chosen.output, report)
    sys.stdout.write(json.dumps(figures, indent=1) + f"\n{chosen.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
