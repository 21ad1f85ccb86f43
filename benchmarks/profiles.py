"""In which steps a profile asks a model that was trained, and how that is done again with another.

    python -m benchmarks.profiles [--model shapes] [--profile balanced] [--limit N]

Draws held-out prompts, 20 steps of DPM++ 2M, and keeps in which steps the profile asked the model
in the median picture, in results/profile-NAME.json. An error estimate means nothing on random
weights, so `benchmarks.pictures` has `replay` follow those steps with models of full size.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import command
from benchmarks.quality.compare import DRAWING
from benchmarks.quality.judge_folder import load_prompts
from benchmarks.quality.make_heldout import PATH as HELD_OUT
from benchmarks.quality.report import RESULTS, folder_hash, surroundings, write_report

PLACE = -1
"""Row of a sampler state's ``meter`` that holds the step the model was last asked in."""
PROMPT = "a red circle on a blue background"
PATIENT = 1e9
"""A distance and an error no run reaches."""


def asked_steps(pipe: Any, request: Any) -> tuple[int, ...]:
    """The steps of a picture in which the model was asked."""
    steps = []
    for step in pipe.steps(request):
        if int(step.state.cache["meter"][PLACE, 0]) == step.index:
            steps.append(step.index)
    return tuple(steps)


def median_sequence(found: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The most frequent of the sequences that are as long as the median one."""
    length = statistics.median_low(len(steps) for steps in found)
    return Counter(steps for steps in found if len(steps) == length).most_common(1)[0][0]


def picture(steps: int, asked: Sequence[int]) -> str:
    """A sequence as text: ``X`` where the model is asked, ``.`` where not."""
    return "".join("X" if step in asked else "." for step in range(steps))


def record(model: str, profile: str, limit: int | None) -> dict[str, Any]:
    """Draw the held-out prompts and say in which steps the model was asked."""
    sdlite: Any = importlib.import_module("sdlite")
    entries = load_prompts(HELD_OUT)
    if limit:
        entries = entries[:: max(1, len(entries) // limit)][:limit]
    found = []
    with sdlite.load(model) as pipe:
        digest = folder_hash(pipe.package.root)
        for entry in entries:
            request = sdlite.Request(
                entry["prompt"], seed=entry["seed"], profile=profile, **DRAWING
            )
            found.append(asked_steps(pipe, request))
            sys.stderr.write(f"\r{len(found)}/{len(entries)} pictures")
        sys.stderr.write("\n")
    sequence = median_sequence(found)
    counts = [len(steps) for steps in found]
    return {
        "what": "steps in which a profile asks the model",
        "model": model,
        "package_sha256": digest,
        "profile": profile,
        "steps": DRAWING["steps"],
        "prompts": len(found),
        "asked": {
            "median": statistics.median(counts),
            "mean": round(statistics.mean(counts), 2),
            "least": min(counts),
            "most": max(counts),
        },
        "sequence": list(sequence),
        "picture": picture(int(DRAWING["steps"]), sequence),
    }


def replay(profile: str, sequence: Sequence[int]) -> None:
    """From now on, ask the model in these steps and in no others where a profile forecasts."""
    from dataclasses import replace

    phases: Any = importlib.import_module("sdlite.phases")
    profiles: Any = importlib.import_module("sdlite.profiles")
    sparing: Any = importlib.import_module("sdlite.sampling.sparing").Sparing

    def fixed(denoise: Any, sigmas: Any, chosen: Any, shape: Any, _: Any, cache: Any) -> Any:
        if chosen.name != profile:
            return sparing(denoise, sigmas, chosen, shape, (), cache)
        patient = replace(chosen, first_gap=PATIENT, growth=0.0, tolerance=PATIENT)
        return sparing(denoise, sigmas, patient, shape, frozenset(sequence), cache)

    assert profile in profiles.PROFILES
    phases.Sparing = fixed


def main(arguments: Sequence[str] | None = None) -> int:
    """Record a sequence; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--profile", default="balanced")
    parser.add_argument("--limit", type=int)
    chosen = parser.parse_args(arguments)
    report = record(chosen.model, chosen.profile, chosen.limit)
    write_report(path_of(chosen.profile), {**report, **surroundings(), "command": command()})
    sys.stdout.write(f"{report['picture']} {report['asked']}\n")
    return 0


def path_of(profile: str) -> Path:
    """Where the steps of a profile are kept."""
    return RESULTS / f"profile-{profile}.json"


def read_sequence(profile: str) -> tuple[int, ...]:
    """The steps that were kept; ends the program where there are none."""
    try:
        return tuple(json.loads(path_of(profile).read_text(encoding="utf-8"))["sequence"])
    except FileNotFoundError:
        raise SystemExit(
            f"no steps of {profile} were recorded; run python -m benchmarks.profiles"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
