"""Draws the same prompts with the same seeds in several ways and compares pictures in pairs.

    python -m benchmarks.quality.compare REFERENCE OTHER [OTHER ...] [--limit N] [--seeds N]
        [--sheet PNG] [-o REPORT]

A way is a package, then settings, all joined with commas: `shapes`,
`build/int8,runtime=openvino,precision=bf16` or `shapes,steps=10,sampler=Euler a`. Settings of
`sdlite.load` open the package, all others are fields of a request; values are JSON or plain words.
Every other way is compared with the first: PSNR and SSIM of each pair, and how many of the
captions' attributes are right in one and in the other, with the 95 % confidence interval of the
paired difference. 20 steps of DPM++ 2M Karras at guidance 5 unless a way says otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.checker import Verdict, judge, shares
from benchmarks.quality.judge_folder import Entry, load_prompts
from benchmarks.quality.likeness import paired_difference, psnr, ssim
from benchmarks.quality.make_heldout import PATH as HELD_OUT
from benchmarks.quality.report import RESULTS, folder_hash, surroundings, write_report
from benchmarks.quality.sheet import contact_sheet

DRAWING = {"steps": 20, "guidance": 5.0, "sampler": "DPM++ 2M", "schedule": "Karras"}
SEED_STEP = 1_000_003
"""Between the seeds of one prompt."""
_COMMA = re.compile(r",(?![^\[]*\])")


@dataclass(frozen=True)
class Way:
    """One way to draw: a package and settings."""

    text: str
    """As written."""
    model: str
    """Name or path of the package."""
    opening: Mapping[str, Any] = field(default_factory=dict)
    """Settings of ``sdlite.load``."""
    drawing: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a request."""


def read_way(text: str) -> Way:
    """Read ``package,key=value,...``; raises ``ValueError`` for a word that is no setting."""
    model, *words = _COMMA.split(text)
    sdlite: Any = importlib.import_module("sdlite")
    opens = set(inspect.signature(sdlite.load).parameters) - {"model"}
    draws = set(sdlite.Request.__dataclass_fields__) - {"prompt", "seed", "images"}
    opening: dict[str, Any] = {}
    drawing: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in opens | draws:
            raise ValueError(
                f"{word!r} in {text!r} is no setting; of the package: {', '.join(sorted(opens))}; "
                f"of the request: {', '.join(sorted(draws))}"
            )
        try:
            read: Any = json.loads(value)
        except ValueError:
            read = value
        (opening if key in opens else drawing)[key] = tuple(read) if type(read) is list else read
    return Way(text, model, opening, drawing)


def draw(way: Way, jobs: Sequence[tuple[Entry, int]]) -> tuple[list[Image.Image], dict[str, Any]]:
    """One picture a job, each an entry and its seed; returns them and what the way cost."""
    sdlite: Any = importlib.import_module("sdlite")
    images: list[Image.Image] = []
    facts: dict[str, Any] = {"way": way.text}
    with sdlite.load(way.model, **way.opening) as pipe:
        facts["package_sha256"] = folder_hash(pipe.package.root)
        started = time.perf_counter()
        for entry, seed in jobs:
            request = sdlite.Request(entry["prompt"], seed=seed, **{**DRAWING, **way.drawing})
            result = pipe.generate(request)
            images.append(result.images[0])
            sys.stderr.write(f"\r{way.text}: {len(images)}/{len(jobs)} pictures")
        sys.stderr.write("\n")
        facts["seconds_per_picture"] = round((time.perf_counter() - started) / len(jobs), 3)
        facts["notes"] = list(result.notes)
        facts["runs"] = {
            placement.component: " ".join(
                (placement.device.runtime, placement.device.name, placement.artifacts[0].precision)
            )
            for placement in result.plan.placements
        }
        facts["computed_in"] = {phase.name: phase.precision for phase in result.phases}
    return images, facts


def attributes_right(verdict: Verdict) -> float:
    """Share of a caption's attributes that are right."""
    return sum(verdict.attributes.values()) / len(verdict.attributes)


def compare(
    reference: Sequence[tuple[Image.Image, Verdict]], other: Sequence[tuple[Image.Image, Verdict]]
) -> dict[str, Any]:
    """Figures of one way beside the reference's, in pairs."""
    likeness = np.array([psnr(a, b) for (a, _), (b, _) in zip(reference, other, strict=True)])
    structure = np.array([ssim(a, b) for (a, _), (b, _) in zip(reference, other, strict=True)])
    before, after = ([verdict for _, verdict in way] for way in (reference, other))
    return {
        "psnr": {
            "median": round(float(np.median(likeness)), 2),
            "worst_twentieth": round(float(np.quantile(likeness, 0.05)), 2),
            "least": round(float(likeness.min()), 2),
        },
        "ssim": {
            "median": round(float(np.median(structure)), 4),
            "worst_twentieth": round(float(np.quantile(structure, 0.05)), 4),
        },
        "attributes": paired_difference(
            [attributes_right(v) for v in before], [attributes_right(v) for v in after]
        ),
        "wholly_right": paired_difference(
            [float(v.wholly_right) for v in before], [float(v.wholly_right) for v in after]
        ),
        "shares": shares(after),
    }


def sheet_of(
    jobs: Sequence[tuple[Entry, int]],
    ways: Sequence[tuple[Way, Sequence[Image.Image]]],
    rows: int = 12,
) -> Image.Image:
    """The pairs that differ most from the reference, one prompt a row, one way a column."""
    first = ways[0][1]
    worst = [
        min(psnr(first[index], images[index]) for _, images in ways[1:])
        for index in range(len(jobs))
    ]
    chosen = np.argsort(worst, kind="stable")[:rows]
    pictures, labels = [], []
    for index in map(int, chosen):
        for way, images in ways:
            pictures.append(images[index])
            told = "" if images is first else f" {psnr(first[index], images[index]):.1f} dB"
            labels.append(f"{Path(way.model.partition(',')[0]).name}{told}")
        labels[-len(ways)] = jobs[index][0]["prompt"]
    return contact_sheet(pictures, labels, columns=len(ways))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, compare, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ways", nargs="+", metavar="WAY", help="PACKAGE[,SETTING=VALUE...]")
    parser.add_argument("--prompts", type=Path, default=HELD_OUT)
    parser.add_argument("--limit", type=int, help="only this many prompts, spread over the list")
    parser.add_argument("--seeds", type=int, default=1, help="pictures of each prompt")
    parser.add_argument("--sheet", type=Path, help="PNG of the pairs that differ most")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "quality-compare.json")
    chosen = parser.parse_args(arguments)
    if len(chosen.ways) < 2 or chosen.seeds < 1:
        parser.error("give a reference and at least one other way, and one seed or more")
    entries = load_prompts(chosen.prompts)
    if chosen.limit:
        entries = entries[:: max(1, len(entries) // chosen.limit)][: chosen.limit]
    jobs = [
        (entry, entry["seed"] + index * SEED_STEP)
        for index in range(chosen.seeds)
        for entry in entries
    ]
    try:
        ways = [read_way(text) for text in chosen.ways]
    except ValueError as error:
        parser.error(str(error))
    drawn: list[list[Image.Image]] = []
    judged: list[list[tuple[Image.Image, Verdict]]] = []
    reports: list[dict[str, Any]] = []
    for way in ways:
        images, facts = draw(way, jobs)
        drawn.append(images)
        pairs = zip(jobs, images, strict=True)
        judged.append([(image, judge(entry["prompt"], image)) for (entry, _), image in pairs])
        if reports:
            facts |= compare(judged[0], judged[-1])
        else:
            facts["shares"] = shares([verdict for _, verdict in judged[0]])
        reports.append(facts)
        sys.stdout.write(f"{summary(facts)}\n")
    if chosen.sheet:
        sheet_of(jobs, list(zip(ways, drawn, strict=True))).save(chosen.sheet)
    report = {
        "what": "the same prompts and seeds drawn in several ways, each compared with the first",
        **surroundings(),
        "prompts": chosen.prompts.name,
        "pairs": len(jobs),
        **DRAWING,
        "ways": reports,
    }
    write_report(chosen.output, report)
    sys.stdout.write(f"{chosen.output}\n")
    return 0


def summary(facts: Mapping[str, Any]) -> str:
    """One way in one line."""
    line = f"{facts['way']}: {facts['seconds_per_picture']} s a picture"
    if "psnr" not in facts:
        return f"{line}, wholly right {facts['shares']['wholly_right']:.4f}"
    both = facts["psnr"], facts["attributes"]
    return (
        f"{line}, PSNR {both[0]['median']} dB (worst twentieth {both[0]['worst_twentieth']}), "
        f"SSIM {facts['ssim']['median']}, attributes right {both[1]['difference']:+.4f} "
        f"[{both[1]['low']:+.4f}, {both[1]['high']:+.4f}], wholly right "
        f"{facts['wholly_right']['difference']:+.4f}"
    )


if __name__ == "__main__":
    sys.exit(main())
