"""Measures whether the shapes model draws where the edges are.

    python -m benchmarks.quality.control [--model NAME|PATH ...] [--runtime NAME ...] [--cases 100]

Pictures of one or two shapes anywhere and of any size are drawn by the renderer of the training
recipe; their edges (canny) steer a picture whose prompt has the same shapes in other colours. Right
is a picture with as many objects, each of its shape and colour, its centre within 0.05 of the
picture of where the edges have it and its radius within a fifth, on the background that was asked
for. The same prompts and seeds without the ControlNet are judged the same way. `--model` is a
package that has it (sdlite export models/shapes-edges/diffusers --for shapes FOLDER --name edges).

Writes results/control-shapes.json, and with `--sheet FILE` a contact sheet of the first cases.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.palette import NAMES
from benchmarks.quality.report import RESULTS, folder_hash, surroundings, write_report
from benchmarks.quality.scene import Reading, SceneObject, read_scene
from benchmarks.quality.sheet import contact_sheet

ROOT = Path(__file__).resolve().parents[2]
RECIPES = (ROOT / "models" / "shapes" / "train", ROOT / "models" / "shapes-edges" / "train")
NAME = "edges"
EDGES = (("low", 40.0), ("high", 80.0))
"""Thresholds of canny: with the usual ones soft shapes of colours alike have no edges at all."""
NEAR = 0.05
"""How far a centre may lie from where the edges have it, as a share of the picture."""
ALIKE = 0.2
"""How far a radius may be off, as a share of it."""
SEED = 77
SHOWN = 8
TARGET = 0.9


@dataclass(frozen=True)
class Case:
    """One prompt and the picture whose edges steer it."""

    prompt: str
    """With the colours wanted."""
    scene: Any
    """Where things are to be, with those colours."""
    steering: Image.Image
    """The same things in other colours."""
    seed: int
    """Of the drawing."""


def cases(count: int) -> list[Case]:
    """The first ``count`` cases."""
    for folder in RECIPES:
        sys.path.insert(0, str(folder))
    anywhere: Any = importlib.import_module("anywhere")
    captions: Any = importlib.import_module("captions")
    scenes: Any = importlib.import_module("scenes")
    rng = np.random.default_rng(SEED)
    made = []
    for number in range(count):
        scene = anywhere.draw_anywhere(rng, 0.4)
        background, *colours = (NAMES[index] for index in rng.permutation(len(NAMES)))
        items = tuple(
            replace(item, color=colour) for item, colour in zip(scene.items, colours, strict=False)
        )
        wanted = replace(scene, background=background, items=items)
        said = captions.canonical(wanted, suffix=wanted.style != "flat")
        steering = Image.fromarray(scenes.render(scene))
        made.append(Case(said.text, wanted, steering, number))
    return made


def wrong(case: Case, reading: Reading) -> tuple[str, ...]:
    """What is wrong with a picture; nothing when all is where and as it should be."""
    items = case.scene.items
    found = [] if reading.background == case.scene.background else ["background"]
    if len(reading.objects) != len(items):
        return (*found, f"{len(reading.objects)} objects, not {len(items)}")
    orders = permutations(reading.objects)
    faults = [
        [fault for item, seen in zip(items, order, strict=True) for fault in _faults(item, seen)]
        for order in orders
    ]
    return (*found, *min(faults, key=len))


def _faults(item: Any, seen: SceneObject) -> list[str]:
    faults = [
        f"{item.color} {item.shape}: {what}"
        for what, right in (
            ("shape", seen.shape == item.shape),
            ("colour", seen.colour == item.color),
            ("place", np.hypot(seen.x - item.x, seen.y - item.y) <= NEAR),
            ("size", abs(seen.radius / item.r - 1) <= ALIKE),
        )
        if not right
    ]
    return faults


def measure(
    pipe: Any, listed: Sequence[Case], steered: bool
) -> tuple[dict[str, Any], list[tuple[Image.Image, bool]]]:
    """Draw and judge all cases."""
    sdlite: Any = importlib.import_module("sdlite")
    pictures, verdicts = [], []
    for case in listed:
        controls = []
        if steered:
            controls = [sdlite.Control(NAME, case.steering, preprocessor="canny", options=EDGES)]
        image = pipe.generate(case.prompt, seed=case.seed, controls=controls).images[0]
        verdicts.append(wrong(case, read_scene(image)))
        pictures.append((image, not verdicts[-1]))
        sys.stderr.write(f"\r{len(pictures)}/{len(listed)} pictures")
    sys.stderr.write("\n")
    right = sum(not verdict for verdict in verdicts)
    placed = sum(
        not any(word in fault for fault in verdict for word in ("place", "objects", "size"))
        for verdict in verdicts
    )
    return {
        "right": round(right / len(listed), 4),
        "where_the_edges_are": round(placed / len(listed), 4),
        "wrong": [
            {"prompt": case.prompt, "seed": case.seed, "wrong": list(verdict)}
            for case, verdict in zip(listed, verdicts, strict=True)
            if verdict
        ]
        if steered
        else [],
    }, pictures


def sheet(listed: Sequence[Case], drawn: Sequence[Sequence[tuple[Image.Image, bool]]]) -> Any:
    """What steered, its edges, and the pictures with and without, one below the other."""
    preprocess: Any = importlib.import_module("sdlite.control.preprocess")
    edges = preprocess.find_preprocessor("canny")
    numbers = dict(EDGES)
    shown = listed[:SHOWN]
    cells = [(case.steering, "what steers", True) for case in shown]
    cells += [(edges.apply(case.steering, numbers), "its edges", True) for case in shown]
    for pictures in drawn:
        cells += [
            (image, case.prompt, right)
            for case, (image, right) in zip(shown, pictures, strict=False)
        ]
    images, labels, good = zip(*cells, strict=True)
    return contact_sheet(images, labels, good=good, columns=len(shown))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every package on every engine; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", required=True, help="name or path of a package")
    parser.add_argument("--runtime", action="append", help="engine; all that are given")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "control-shapes.json")
    chosen = parser.parse_args(arguments)
    sdlite: Any = importlib.import_module("sdlite")
    listed = cases(chosen.cases)
    ways = []
    drawn = []
    for model in chosen.model:
        for runtime in chosen.runtime or ["onnxruntime"]:
            with sdlite.load(model, runtime=runtime) as pipe:
                if not ways:
                    plain, without = measure(pipe, listed, steered=False)
                figures, pictures = measure(pipe, listed, steered=True)
                precision = pipe.package.weight_file("unet").precision
                root = pipe.package.root
            drawn.append(pictures)
            ways.append(
                {
                    "model": Path(model).name,
                    "package_sha256": folder_hash(root),
                    "weights": precision,
                    "runtime": runtime,
                    **figures,
                }
            )
            sys.stdout.write(f"{model} {runtime}: {figures['right']:.0%} right\n")
    if chosen.sheet:
        sheet(listed, [drawn[0], without]).save(chosen.sheet)
    write_report(
        chosen.output,
        {
            "what": "an edge ControlNet on the shapes model: pictures with everything where the "
            "edges are",
            **surroundings("control"),
            "cases": len(listed),
            "target": TARGET,
            "reached": all(way["right"] >= TARGET for way in ways),
            "without_the_controlnet": {k: v for k, v in plain.items() if k != "wrong"},
            "ways": ways,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
