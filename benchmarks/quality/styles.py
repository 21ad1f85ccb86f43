"""Measures what the side models of the shapes model mean: two styles and a word.

    python -m benchmarks.quality.styles [--model NAME|PATH ...] [--runtime NAME ...] [--cases 50]

outline    a LoRA, and
soft       a LoHa: prompts that say nothing of style are drawn at strengths 0, 0.5 and 1 with the
           same seed. Right at 0 is flat, at 1 the style; how far the picture at 0.5 has gone from
           the one at 0 to the one at 1 is given as the share of the way (its projection), 0 to 1.
zork       an embedding: `a zork on a COLOUR background` is right when the checker reads a purple
           heart of plain size on that background and nothing else; the same words without the
           embedding are counted too.

The files are those of models/shapes-styles. Writes results/styles-shapes.json, and with `--sheet
FILE` a contact sheet.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.checker import judge
from benchmarks.quality.outlines import SHAPES
from benchmarks.quality.palette import NAMES
from benchmarks.quality.report import RESULTS, folder_hash, surroundings, write_report
from benchmarks.quality.scene import read_scene
from benchmarks.quality.sheet import contact_sheet

FILES = Path(__file__).resolve().parents[2] / "models" / "shapes-styles"
STYLES = ("outline", "soft")
STRENGTHS = (0.0, 0.5, 1.0)
WORD, THING = "zork", "purple heart"
SEED, SHOWN, TARGET = 30, 6, 0.9
Cell = tuple[Image.Image, str, bool]


def article(word: str) -> str:
    """With the article English has for it."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def measure_style(pipe: Any, style: str, count: int) -> tuple[dict[str, Any], list[Cell]]:
    """Pictures at each strength: their styles, and how far half way is."""
    sdlite: Any = importlib.import_module("sdlite")
    random = Random(SEED)
    flat, reached, way, still = 0, 0, [], []
    cells: list[Cell] = []
    for case in range(count):
        shape, (colour, ground) = random.choice(SHAPES), random.sample(NAMES, 2)
        prompt = f"{article(colour)} {shape} on {article(ground)} background"
        images = []
        for strength in STRENGTHS:
            use = sdlite.LoraUse(style, strength, path=FILES / f"{style}.safetensors")
            images.append(pipe.generate(prompt, seed=case, loras=[use]).images[0])
        plain = pipe.generate(prompt, seed=case).images[0]
        still.append(np.array_equal(np.asarray(plain), np.asarray(images[0])))
        right = [judge(prompt, images[0]).wholly_right]
        right += [True, judge(f"{prompt}, {style} style", images[2]).wholly_right]
        styles = [{item.style for item in read_scene(image).objects} for image in images]
        flat += styles[0] == {"flat"}
        reached += styles[2] == {style}
        none, half, whole = (np.asarray(image, np.float64) for image in images)
        length = float(((whole - none) ** 2).sum())
        if length:
            way.append(float(((half - none) * (whole - none)).sum()) / length)
        if case < SHOWN:
            cells += [
                (image, f"{style} {strength:g}: {prompt}", good)
                for image, strength, good in zip(images, STRENGTHS, right, strict=True)
            ]
    between = sum(0.05 < share < 0.95 for share in way)
    return {
        "cases": count,
        "unchanged_at_0": round(sum(still) / count, 4),
        "flat_at_0": round(flat / count, 4),
        f"{style}_at_1": round(reached / count, 4),
        "between_at_half": round(between / count, 4),
        "mean_share_of_the_way_at_half": round(float(np.mean(way)), 3) if way else None,
    }, cells


def measure_word(pipe: Any, count: int) -> tuple[dict[str, Any], list[Cell]]:
    """Whether the new word is drawn as it was taught, and what is drawn without it."""
    grounds = [name for name in NAMES if name != THING.split()[0]]
    taught = without = 0
    cells: list[Cell] = []
    for case in range(count):
        ground = grounds[case % len(grounds)]
        prompt = f"a {WORD} on {article(ground)} background"
        wanted = f"a {THING} on {article(ground)} background"
        files = [FILES / f"{WORD}.safetensors"]
        image = pipe.generate(prompt, seed=case, embeddings=files).images[0]
        bare = pipe.generate(prompt, seed=case).images[0]
        right = judge(wanted, image).wholly_right
        taught += right
        without += judge(wanted, bare).wholly_right
        if case < SHOWN:
            cells += [(image, prompt, right), (bare, f"not known: {prompt}", True)]
    return {
        "cases": count,
        "as_taught": round(taught / count, 4),
        "without_the_embedding": round(without / count, 4),
    }, cells


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every package on every engine; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", help="name or path of a package")
    parser.add_argument("--runtime", action="append", help="engine; all that are given")
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "styles-shapes.json")
    chosen = parser.parse_args(arguments)
    sdlite: Any = importlib.import_module("sdlite")
    ways = []
    shown: list[Cell] = []
    for model in chosen.model or ["shapes"]:
        for runtime in chosen.runtime or ["onnxruntime"]:
            with sdlite.load(model, runtime=runtime) as pipe:
                figures: dict[str, Any] = {}
                cells: list[Cell] = []
                for style in (s for s in STYLES if (FILES / f"{s}.safetensors").is_file()):
                    figures[style], more = measure_style(pipe, style, chosen.cases)
                    cells += more
                    sys.stdout.write(f"{model} {runtime} {style}: {figures[style]}\n")
                figures[WORD], more = measure_word(pipe, chosen.cases)
                sys.stdout.write(f"{model} {runtime} {WORD}: {figures[WORD]}\n")
                shown = shown or [*cells, *more]
                ways.append(
                    {
                        "model": Path(model).name,
                        "package_sha256": folder_hash(pipe.package.root),
                        "weights": pipe.package.weight_file("unet").precision,
                        "runtime": runtime,
                        **figures,
                    }
                )
    if chosen.sheet:
        images, labels, good = zip(*shown, strict=True)
        contact_sheet(images, labels, good=good, columns=9).save(chosen.sheet)
    write_report(
        chosen.output,
        {
            "what": "a style LoRA, a style LoHa and an embedding for the shapes model",
            **surroundings("styles"),
            "target": TARGET,
            "reached": all(
                way[WORD]["as_taught"] >= TARGET
                and all(style in way and way[style][f"{style}_at_1"] >= TARGET for style in STYLES)
                for way in ways
            ),
            "ways": ways,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
