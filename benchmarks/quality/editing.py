"""Measures what editing means on the shapes model: five figures, judged by the checker.

    python -m benchmarks.quality.editing [--model NAME|PATH] [--cases 100] [--only NAME ...]

inpaint    a box around the object of a scene is masked and painted as "a green star": right when a
           green star is the only object, its centre is in the mask, and no byte outside the mask
           and its blur changed.
recolour   image to image at strength 0.5 with another colour in the words: right when the object
           has the new colour, its shape, its place and the background.
outpaint   one side, or two opposite ones, grow by 32 to 64 pixels: right when the gradient at the
           border is at most twice the picture's own and what was added has the background's colour.
hires      held-out prompts drawn at 128x128, then on to 256x256: right when the large picture,
           halved, shows the first pass's scene.

seamless   held-out prompts drawn with edges that fit: right when the step over either edge is at
           most twice the picture's own gradient.

Scenes to start from are drawn by the renderer of the training recipe, so that only editing is
measured. Writes results/quality-editing.json; with `--pictures` contact sheets of all cases, with
`--sheet FILE` one of the first few of each kind.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.judge_folder import load_prompts
from benchmarks.quality.outlines import SHAPES
from benchmarks.quality.palette import NAMES, nearest_name
from benchmarks.quality.report import RESULTS, folder_hash, surroundings, write_report
from benchmarks.quality.scene import COLOUR_LIMIT, Reading, read_scene
from benchmarks.quality.sheet import contact_sheet

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "models" / "shapes" / "train"
SIDE = 128
NEAR = 0.07
"""How far an object may move, as a share of the picture."""
MASK_BLUR = 4
SEAM = 16
HIRES_STRENGTH = 0.1
"""The model knows one size: more strength draws its things anew in the larger picture."""
TARGETS = {"inpaint": 0.90, "recolour": 0.80, "outpaint": 0.90, "hires": 0.90, "seamless": 0.90}
SHOWN = 5
"""Cases of each kind in the sheet of all."""


@dataclass(frozen=True)
class Case:
    """One measured picture."""

    label: str
    """What was asked for."""
    before: Image.Image
    """What it began with."""
    after: Image.Image
    """What came of it."""
    wrong: tuple[str, ...]
    """What is wrong with it; empty when nothing is."""


Drawer = Callable[[Any, int], Iterator[Case]]
"""``(pipe, count) -> cases``."""


def scenes(count: int, seed: int) -> Iterator[tuple[Any, Image.Image]]:
    """Scenes of one flat object, and their pictures."""
    sys.path.insert(0, str(RECIPE))
    recipe: Any = importlib.import_module("scenes")
    rng = np.random.default_rng(seed)
    for _ in range(count):
        names = [NAMES[index] for index in rng.permutation(len(NAMES))]
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        size = ("plain", "large")[int(rng.integers(2))]
        scene = recipe.place(rng, names[0], ((names[1], shape, size),), "", "flat")
        yield scene, Image.fromarray(recipe.render(scene))


def words(colour: str, shape: str, background: str, size: str = "plain") -> str:
    """A caption as the model knows them."""

    def article(word: str) -> str:
        return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"

    sized = colour if size == "plain" else f"{size} {colour}"
    return f"{article(sized)} {shape} on {article(background)} background"


def inpaint(pipe: Any, count: int) -> Iterator[Case]:
    """A green star where an object was."""
    from sdlite.image.mask import reach
    from sdlite.types import Edit

    far = reach(MASK_BLUR)
    for number, (scene, image) in enumerate(scenes(4 * count, 1)):
        if scene.background == "green":
            continue
        item = scene.items[0]
        half = item.r + 0.11
        left, top = (max(round((place - half) * SIDE), 0) for place in (item.x, item.y))
        right, bottom = (min(round((place + half) * SIDE), SIDE) for place in (item.x, item.y))
        mask = Image.new("L", image.size, 0)
        mask.paste(255, (left, top, right, bottom))
        edit = Edit(image, mask=mask, strength=1.0, mask_content="noise", mask_blur=MASK_BLUR)
        prompt = words("green", "star", scene.background)
        after = pipe.generate(prompt, seed=number, edit=edit).images[0]
        wrong = []
        reading = read_scene(after)
        stars = [o for o in reading.objects if (o.colour, o.shape) == ("green", "star")]
        if len(stars) != 1 or len(reading.objects) != 1:
            wrong.append(f"shows {told(reading)}")
        elif not (left <= stars[0].x * SIDE <= right and top <= stars[0].y * SIDE <= bottom):
            wrong.append("the star is not in the mask")
        kept = np.ones((SIDE, SIDE), bool)
        kept[max(top - far, 0) : bottom + far, max(left - far, 0) : right + far] = False
        if (np.asarray(after)[kept] != np.asarray(image)[kept]).any():
            wrong.append("bytes outside the mask changed")
        yield Case(prompt, image, after, tuple(wrong))
        count -= 1
        if not count:
            return


def recolour(pipe: Any, count: int) -> Iterator[Case]:
    """Another colour, everything else as it was."""
    from sdlite.types import Edit

    rng = np.random.default_rng(2)
    for number, (scene, image) in enumerate(scenes(count, 3)):
        item = scene.items[0]
        others = [name for name in NAMES if name not in (item.color, scene.background)]
        colour = others[int(rng.integers(len(others)))]
        prompt = words(colour, item.shape, scene.background, item.size)
        after = pipe.generate(prompt, seed=number, edit=Edit(image, strength=0.5)).images[0]
        reading = read_scene(after)
        wrong = []
        if len(reading.objects) != 1 or reading.background != scene.background:
            wrong.append(f"shows {told(reading)}")
        else:
            (found,) = reading.objects
            if found.colour != colour:
                wrong.append(f"is {found.colour}, not {colour}")
            if found.shape != item.shape:
                wrong.append(f"is a {found.shape}, not a {item.shape}")
            if max(abs(found.x - item.x), abs(found.y - item.y)) > NEAR:
                wrong.append("moved")
        yield Case(f"{item.color} to {prompt}", image, after, tuple(wrong))


def outpaint(pipe: Any, count: int) -> Iterator[Case]:
    """More of the background on one side, or on two opposite ones."""
    from sdlite.outpaint import Margins
    from sdlite.outpaint import outpaint as paint
    from sdlite.types import Edit, Request

    rng = np.random.default_rng(4)
    for number, (scene, image) in enumerate(scenes(count, 5)):
        kinds = (("left",), ("top",), ("right",), ("bottom",), ("left", "right"))
        sides = kinds[int(rng.integers(len(kinds)))]
        margins = Margins(**{side: int(rng.integers(32, 65)) for side in sides})
        prompt = f"{scene.background} background"
        request = Request(prompt, seed=number, edit=Edit(image, strength=1.0))
        after = paint(pipe, request, margins, seam=SEAM).images[0]
        own, border = gradients(image, after, margins)
        wrong = []
        if border > 2 * own:
            wrong.append(f"gradient {border:.2f} at the border, {own:.2f} in the picture")
        pixels = np.asarray(after)
        added = np.ones(pixels.shape[:2], bool)
        added[margins.top :, margins.left :][:SIDE, :SIDE] = False
        colour = nearest_name(np.median(pixels[added], axis=0), COLOUR_LIMIT)
        if colour != scene.background:
            wrong.append(f"added {colour}, not {scene.background}")
        label = ", ".join(f"{side} {getattr(margins, side)}" for side in sides)
        yield Case(f"{label}: {prompt}", image, after, tuple(wrong))


def gradients(image: Image.Image, after: Image.Image, margins: Any) -> tuple[float, float]:
    """The picture's own mean gradient, and the largest at the old border or where its seam ends.

    Both are mean differences of neighbouring pixels over lines along the border, in levels. At the
    seam's inner end and at the border itself a join would show.
    """
    before, pixels = np.asarray(image, np.float32), np.asarray(after, np.float32)
    own, border = [], [0.0]
    for side in ("left", "top", "right", "bottom"):
        size = getattr(margins, side)
        if not size:
            continue
        upright = side in ("top", "bottom")
        inner = before.swapaxes(0, 1) if upright else before
        whole = pixels.swapaxes(0, 1) if upright else pixels
        own.append(float(np.abs(np.diff(inner, axis=1)).mean()))
        lines = np.abs(np.diff(whole, axis=1)).mean(axis=(0, 2))
        edge = size if side in ("left", "top") else whole.shape[1] - size
        inward = 1 if side in ("left", "top") else -1
        border += [float(lines[edge + inward * d - 1]) for d in (0, SEAM // 2, SEAM)]
    return min(own), max(border)


def hires(pipe: Any, count: int) -> Iterator[Case]:
    """The first pass's scene at twice the size."""
    from sdlite.types import Hires

    entries = load_prompts()
    entries = entries[:: max(len(entries) // count, 1)][:count]
    for entry in entries:
        first = pipe.generate(entry["prompt"], seed=entry["seed"]).images[0]
        settings = Hires(scale=2, upscaler="Lanczos", strength=HIRES_STRENGTH, steps=10)
        large = pipe.generate(entry["prompt"], seed=entry["seed"], hires=settings).images[0]
        wrong = differences(
            read_scene(first), read_scene(large.resize((SIDE, SIDE), Image.Resampling.BOX))
        )
        yield Case(entry["prompt"], first, large, tuple(wrong))


def seamless(pipe: Any, count: int) -> Iterator[Case]:
    """Pictures that repeat without a seam, shown two by two."""
    from sdlite.types import Request

    entries = load_prompts()
    for entry in entries[:: max(len(entries) // count, 1)][:count]:
        request = Request(entry["prompt"], seed=entry["seed"])
        usual = pipe.generate(request).images[0]
        picture = pipe.generate(replace(request, tiling="xy")).images[0]
        pixels = np.asarray(picture, np.float32)
        wrong = []
        for axis, name in ((0, "top and bottom"), (1, "left and right")):
            own = float(np.abs(np.diff(pixels, axis=axis)).mean())
            over = float(np.abs(pixels.take(0, axis) - pixels.take(-1, axis)).mean())
            if over > 2 * own:
                wrong.append(f"step {over:.2f} between {name}, {own:.2f} in the picture")
        four = Image.new("RGB", (2 * picture.width, 2 * picture.height))
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            four.paste(picture, (x * picture.width, y * picture.height))
        yield Case(entry["prompt"], usual, four, tuple(wrong))


def differences(first: Reading, second: Reading) -> list[str]:
    """What of a scene is not as it was."""
    if first.background != second.background or len(first.objects) != len(second.objects):
        return [f"showed {told(first)}, shows {told(second)}"]
    wrong = []
    rest = list(second.objects)
    for item in first.objects:
        near = min(rest, key=lambda other: abs(other.x - item.x) + abs(other.y - item.y))
        rest.remove(near)
        if (near.colour, near.shape) != (item.colour, item.shape):
            wrong.append(f"{item.colour} {item.shape} became {near.colour} {near.shape}")
        elif max(abs(near.x - item.x), abs(near.y - item.y)) > NEAR:
            wrong.append(f"{item.colour} {item.shape} moved")
    return wrong


def told(reading: Reading) -> str:
    """A scene in words."""
    found = ", ".join(f"{item.colour} {item.shape}" for item in reading.objects) or "nothing"
    return f"{found} on {reading.background}"


DRAWERS: dict[str, Drawer] = {
    "inpaint": inpaint,
    "recolour": recolour,
    "outpaint": outpaint,
    "hires": hires,
    "seamless": seamless,
}


def sheet(cases: Sequence[Case]) -> Image.Image:
    """Before and after side by side, wrong ones marked."""
    pairs = []
    for case in cases:
        height = max(case.before.height, case.after.height)
        pair = Image.new("RGB", (case.before.width + 4 + case.after.width, height), (128, 128, 128))
        pair.paste(case.before, (0, 0))
        pair.paste(case.after, (case.before.width + 4, 0))
        pairs.append(pair)
    labels = ["\n".join((case.label, *case.wrong)) for case in cases]
    return contact_sheet(pairs, labels, good=[not case.wrong for case in cases], columns=5)


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below the other."""
    size = (max(item.width for item in sheets), sum(item.height for item in sheets))
    whole = Image.new("RGB", size, (250, 250, 250))
    top = 0
    for item in sheets:
        whole.paste(item, (0, top))
        top += item.height
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, judge, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="shapes", help="name or path of a package")
    parser.add_argument("--cases", type=int, default=100, help="pictures for each figure")
    parser.add_argument("--only", nargs="+", choices=list(DRAWERS), default=list(DRAWERS))
    parser.add_argument("--pictures", type=Path, help="keep contact sheets here")
    parser.add_argument("--sheet", type=Path, help="a sheet of the first few of each kind")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "quality-editing.json")
    chosen = parser.parse_args(arguments)
    sdlite: Any = importlib.import_module("sdlite")
    figures: dict[str, Any] = {}
    shown: list[Image.Image] = []
    with sdlite.load(chosen.model) as pipe:
        package = folder_hash(pipe.package.root)
        for name in chosen.only:
            started = time.perf_counter()
            cases = list(DRAWERS[name](pipe, chosen.cases))
            right = sum(not case.wrong for case in cases)
            figures[name] = {
                "right": right,
                "cases": len(cases),
                "share": round(right / len(cases), 3),
                "target": TARGETS[name],
                "seconds_per_case": round((time.perf_counter() - started) / len(cases), 3),
                "wrong": [f"{case.label}: {'; '.join(case.wrong)}" for case in cases if case.wrong],
            }
            sys.stdout.write(f"{name:10} {right}/{len(cases)} right, target {TARGETS[name]:.0%}\n")
            sys.stdout.flush()
            shown.append(sheet(cases[:SHOWN]))
            if chosen.pictures:
                chosen.pictures.mkdir(parents=True, exist_ok=True)
                sheet(cases).save(chosen.pictures / f"{name}.png")
    if chosen.sheet:
        stacked(shown).save(chosen.sheet, optimize=True)
    report = {
        "what": "editing with the shapes model, judged by the checker",
        "model": Path(chosen.model).name,
        **surroundings(),
        "package_sha256": package,
        "figures": figures,
    }
    write_report(chosen.output, report)
    sys.stdout.write(f"{chosen.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
