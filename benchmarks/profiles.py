"""How much faster a profile draws a large model, end to end, against the model's own steps.

    python -m benchmarks.profiles sequence [--model shapes] [--profile balanced] [--limit N]
    python -m benchmarks.profiles run WAY WAY [WAY ...] [--rounds N] [--steps N] [-o REPORT]

`sequence` draws held-out prompts with a model that was trained, 20 steps of DPM++ 2M, and keeps in
which steps the profile asked the model in the median picture, in results/profile-NAME.json. An
error estimate means nothing on random weights, so `run` replays that sequence where a way has the
profile.
A way is a package and settings as in benchmarks.quality.compare, e.g.
`build/int8,runtime=openvino,profile=balanced`. Models are opened before and stay open; pictures are
drawn in turns, a round each, and every phase is reported beside the whole.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import command
from benchmarks.quality.compare import DRAWING, Way, read_way
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


def draw_in_turns(
    ways: Sequence[Way], steps: int, rounds: int, width: int | None
) -> list[dict[str, Any]]:
    """Every way's pictures, a round each, after one that is not counted."""
    sdlite: Any = importlib.import_module("sdlite")
    samples: list[list[Any]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for way, kept in zip(ways, samples, strict=True):
            # One model at a time is in memory, so that the machine is the same for each.
            with sdlite.load(way.model, **way.opening) as pipe:
                size = {"width": width, "height": width}
                settings = {"steps": steps, "guidance": 7.0, **size, **way.drawing}
                # Opens what stays open; one step is enough for that.
                pipe.generate(sdlite.Request(PROMPT, seed=1, **{**settings, "steps": 1}))
                request = sdlite.Request(PROMPT, seed=1, **settings)
                result = pipe.generate(request) if number else None
            gc.collect()
            if result is not None:
                kept.append(result)
                sys.stderr.write(f"{way.text}: {result.seconds:.1f} s\n")
    return [_facts(way, kept) for way, kept in zip(ways, samples, strict=True)]


def _facts(way: Way, results: Sequence[Any]) -> dict[str, Any]:
    last = results[-1]
    loads = [sum(phase.load_seconds for phase in result.phases) for result in results]
    seconds = [result.seconds - load for result, load in zip(results, loads, strict=True)]
    phases = {
        phase.name: {
            "seconds": round(
                statistics.median(result.phases[index].run_seconds for result in results), 3
            ),
            "calls": phase.calls,
            "precision": phase.precision,
            "full": phase.full,
            "unguided": phase.unguided,
            "skipped": phase.skipped,
        }
        for index, phase in enumerate(last.phases)
    }
    return {
        "way": way.text,
        "seconds": [round(value, 3) for value in seconds],
        "median": round(statistics.median(seconds), 3),
        "phases": phases,
        "plan": list(last.plan.reasons),
        "peak_bytes": max((r.peak_bytes or 0) for r in results) or None,
        "notes": list(last.notes),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Record a sequence, or time ways; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("sequence")
    first.add_argument("--model", default="shapes")
    first.add_argument("--limit", type=int)
    second = verbs.add_parser("run")
    second.add_argument("ways", nargs="+", metavar="WAY")
    second.add_argument("--rounds", type=int, default=3)
    second.add_argument("--steps", type=int, default=20)
    second.add_argument("--size", type=int, help="width and height; the model's by default")
    for part in (first, second):
        part.add_argument("--profile", default="balanced")
        part.add_argument("-o", "--output", type=Path)
    chosen = parser.parse_args(arguments)
    kept = RESULTS / f"profile-{chosen.profile}.json"
    if chosen.verb == "sequence":
        report = record(chosen.model, chosen.profile, chosen.limit)
        write_report(chosen.output or kept, {**report, **_surroundings()})
        sys.stdout.write(f"{report['picture']} {report['asked']}\n")
        return 0
    sequence = _read_sequence(kept)
    replay(chosen.profile, sequence)
    draw = partial(draw_in_turns, steps=chosen.steps, rounds=chosen.rounds, width=chosen.size)
    found = draw([read_way(text) for text in chosen.ways])
    for facts in found:
        facts["faster"] = round(found[0]["median"] / facts["median"], 2)
        sys.stdout.write(f"{facts['median']:8.1f} s {facts['faster']:5.2f}x  {facts['way']}\n")
    report = {
        "what": "pictures end to end, models open, in turns",
        "steps": chosen.steps,
        "sequence": picture(chosen.steps, sequence),
        "ways": found,
    }
    write_report(chosen.output or RESULTS / "profiles.json", {**report, **_surroundings()})
    return 0


def _surroundings() -> dict[str, Any]:
    return {**surroundings(), "command": command()}


def _read_sequence(path: Path) -> tuple[int, ...]:
    import json

    try:
        return tuple(json.loads(path.read_text(encoding="utf-8"))["sequence"])
    except FileNotFoundError:
        raise SystemExit(f"{path} is not there; run the verb sequence first") from None


if __name__ == "__main__":
    sys.exit(main())
