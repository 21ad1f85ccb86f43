"""Draws the held-out prompts with a model through sdlite and judges the pictures.

    python -m benchmarks.quality.run [--model NAME|PATH] [--pictures FOLDER] [--limit N]

20 steps of DPM++ 2M with Karras sigmas at guidance 5, each prompt with its committed seed. Writes
results/quality-NAME.json (machine, versions, command, hash of the package, shares by kind,
failures in words); with `--pictures` also every picture and a contact sheet of the failures.
`--judge FOLDER` draws nothing and judges pictures made earlier.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.quality.judge_folder import (
    Entry,
    failure_sheet,
    file_name,
    judge_pictures,
    load_prompts,
    summary,
)
from benchmarks.quality.make_heldout import PATH as HELD_OUT
from benchmarks.quality.report import RESULTS, folder_hash, surroundings, write_report


def draw(
    pipe: Any, entries: Sequence[Entry], steps: int, guidance: float, folder: Path | None
) -> tuple[list[Image.Image], float]:
    """Draw every prompt with its seed; returns the pictures and the seconds a picture took."""
    images: list[Image.Image] = []
    started = time.perf_counter()
    for entry in entries:
        result = pipe.generate(entry["prompt"], seed=entry["seed"], steps=steps, guidance=guidance)
        image: Image.Image = result.images[0]
        images.append(image)
        if folder is not None:
            image.save(folder / file_name(entry))
        sys.stderr.write(f"\r{len(images)}/{len(entries)} pictures")
    sys.stderr.write("\n")
    return images, (time.perf_counter() - started) / max(len(entries), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw or read, judge, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="shapes", help="name or path of a package")
    parser.add_argument(
        "--package", type=Path, help="package folder to hash, if not found by the name"
    )
    parser.add_argument("--prompts", type=Path, default=HELD_OUT)
    parser.add_argument("--limit", type=int, help="only every so many prompts, this many in all")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--pictures", type=Path, help="keep pictures and contact sheet here")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="judge these pictures instead")
    parser.add_argument("-o", "--output", type=Path, help="result file")
    chosen = parser.parse_args(arguments)

    entries = load_prompts(chosen.prompts)
    if chosen.limit:
        entries = entries[:: max(1, len(entries) // chosen.limit)][: chosen.limit]
    if chosen.pictures:
        chosen.pictures.mkdir(parents=True, exist_ok=True)
    package = chosen.package or Path(chosen.model)
    if not package.is_dir():
        package = Path(__file__).resolve().parents[2] / "models" / chosen.model / "package"
    report: dict[str, Any] = {
        "what": "held-out prompts of the shapes model",
        "model": Path(chosen.model).name,
        **surroundings(),
        "prompts": chosen.prompts.name,
        "package_sha256": folder_hash(package) if package.is_dir() else None,
        "steps": chosen.steps,
        "guidance": chosen.guidance,
    }
    if chosen.judge:
        images = [Image.open(chosen.judge / file_name(e)).convert("RGB") for e in entries]
    else:
        sdlite: Any = importlib.import_module("sdlite")
        with sdlite.load(chosen.model) as pipe:
            images, seconds = draw(pipe, entries, chosen.steps, chosen.guidance, chosen.pictures)
        report["seconds_per_picture"] = round(seconds, 3)
    figures, verdicts = judge_pictures(entries, images)
    sheet = failure_sheet(entries, images, verdicts) if chosen.pictures else None
    if sheet is not None:
        sheet.save(chosen.pictures / "failures.png")
    output = chosen.output or RESULTS / f"quality-{Path(chosen.model).name}.json"
    write_report(output, {**report, **figures})
    sys.stdout.write(summary(figures) + f"{output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
