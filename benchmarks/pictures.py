"""Whole pictures end to end: sdlite's ways to draw against each other and against other programs.

    python -m benchmarks.profiles                                  # steps that `balanced` asks in
    python benchmarks/peers/install.py FOLDER                      # other programs, once
    python -m benchmarks.pictures whole=WAY balanced=WAY [lcm=WAY lcm_whole=WAY]
        [--genai FOLDER] [--sdcpp FILE [--sdcpp-steps N]] [--rounds N] [--steps N]

A way is a package and settings as in benchmarks.quality.compare, e.g.
`build/int8,runtime=openvino,profile=balanced`. Names with a target are `whole` (16 bits, nothing
left out), `balanced`, `lcm` and `lcm_whole` (8 and 16 bits of the same few steps), `genai` and
`sdcpp`. Every round each contender has a process of its own, alone in memory: it opens its model,
draws one step that is not counted, then the picture that is. Text, U-Net and decoder are in it,
opening is not. Ways with the profile follow the steps recorded on a model that was trained.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, package_identity
from benchmarks.profiles import picture, read_sequence
from benchmarks.quality.compare import read_way
from benchmarks.record import RESULTS, Measurement, write

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
PROMPT = "a red circle on a blue background"
RATIOS = {
    ("balanced", "whole"): 1 / 4,
    ("balanced", "genai"): 1 / 6,
    ("balanced", "sdcpp"): 1 / 40,
    ("whole", "genai"): 1 / 1.5,
    ("lcm", "lcm_whole"): 1 / 1.5,
}
"""Longest time of one contender over another's."""
MEMORY_RATIOS = {("whole", "genai"): 0.8}
"""Most memory of one contender over another's."""
PRIVATE_TARGET, PEAK_TARGET = 1.3e9, 2.2e9
"""Memory of ``balanced``, in bytes."""


def draw(words: Sequence[str], job: Mapping[str, Any]) -> dict[str, Any]:
    """One picture in a process of its own, and what opening took."""
    command = [*words, json.dumps(dict(job))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        opened = process.stdout.readline()
        if opened:
            process.stdin.write("draw\n")
            process.stdin.flush()
        answer = process.stdout.readline() if opened else ""
        process.stdin.close()
        if not answer:
            sys.exit(f"{' '.join(words)} ended with exit code {process.wait()}")
    facts: dict[str, Any] = json.loads(answer)
    return {**facts, "opened": json.loads(opened)}


def take_turns(
    contenders: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Every contender's pictures; stable-diffusion.cpp, minutes a picture, draws one."""
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(rounds):
        for name in order:
            if name == "sdcpp" and number:
                continue
            words, job = contenders[name]
            facts = draw(words, job)
            taken[name].append(facts)
            print(f"{name}: {facts['seconds']:.1f} s", file=sys.stderr)
        order.reverse()
    return taken


def longer(short: Sequence[Mapping[str, Any]], steps: int, of: int) -> list[dict[str, Any]]:
    """Two pictures of few steps, extended to ``of`` steps: every step takes the same."""
    first, second = (facts["seconds"] for facts in short)
    each = (second - first) / (steps - 1)
    return [{**short[1], "seconds": first + each * (of - 1)}]


def measurements(
    taken: Mapping[str, Sequence[Mapping[str, Any]]], words: Mapping[str, str]
) -> list[Measurement]:
    """Seconds and memory of each contender, and the ratios that have a target."""
    found = []
    for name, pictures in taken.items():
        text = words[name]
        seconds = tuple(float(facts["seconds"]) for facts in pictures)
        found.append(Measurement(f"{name}_seconds", text, "s", seconds))
        opening = tuple(float(facts["opened"]["seconds"]) for facts in pictures)
        found.append(
            Measurement(
                f"{name}_open_seconds", f"Opening and a picture of one step: {text}", "s", opening
            )
        )
        ours = name == "balanced"
        for key, what, target in (
            ("private_peak", "Private memory while drawing", PRIVATE_TARGET if ours else None),
            ("resident_peak", "Peak memory while drawing", PEAK_TARGET if ours else None),
        ):
            samples = tuple(float(facts[key] or 0) for facts in pictures)
            found.append(
                Measurement(f"{name}_{key}", f"{what}: {text}", "bytes", samples, "max", target)
            )
        phases = pictures[-1].get("phases", {})
        for phase in phases:
            samples = tuple(facts["phases"][phase]["seconds"] for facts in pictures)
            calls = phases[phase]["calls"]
            found.append(
                Measurement(
                    f"{name}_{phase}_seconds",
                    f"Phase {phase}: {text}",
                    "s",
                    samples,
                    note=f"{calls} call(s), computed in {phases[phase]['precision']}",
                )
            )
    for (ours, theirs), target in RATIOS.items():
        found += _ratio("time", "seconds", ours, theirs, target, taken, words)
    for (ours, theirs), target in MEMORY_RATIOS.items():
        found += _ratio("peak memory", "resident_peak", ours, theirs, target, taken, words)
    return found


def _ratio(
    what: str,
    key: str,
    ours: str,
    theirs: str,
    target: float,
    taken: Mapping[str, Sequence[Mapping[str, Any]]],
    words: Mapping[str, str],
) -> list[Measurement]:
    """Ratios of the pictures of each round, where both contenders were measured."""
    if ours not in taken or theirs not in taken:
        return []
    pairs = list(zip(taken[ours], taken[theirs], strict=False))
    return [
        Measurement(
            f"{ours}_over_{theirs}_{key}",
            f"{words[ours]}: {what} over {words[theirs]}",
            "ratio",
            tuple(a[key] / b[key] for a, b in pairs),
            target=target,
            note="median of the ratios of each round",
        )
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("ways", nargs="+", metavar="NAME=WAY")
    parser.add_argument("--genai", type=lambda text: Path(text).resolve())
    parser.add_argument("--sdcpp", type=lambda text: Path(text).resolve())
    parser.add_argument("--sdcpp-steps", type=int, help="draw so many and count up to --steps")
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--guidance", type=float, default=7.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", default="balanced")
    parser.add_argument("--file", default="pictures.json", help="name of the result file")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="a test of the program, no figure")
    options = parser.parse_args(arguments)
    before = machine()
    base = {
        "prompt": PROMPT,
        "side": options.side,
        "steps": options.steps,
        "guidance": options.guidance,
        "threads": options.threads,
    }
    contenders: dict[str, tuple[Sequence[str], dict[str, Any]]] = {}
    words, packages = {}, {}
    for text in options.ways:
        name, _, way = text.partition("=")
        read = read_way(way)
        replayed = options.profile if read.drawing.get("profile") == options.profile else ""
        job = {**base, "way": way, "replay": replayed}
        contenders[name] = ((sys.executable, "-m", "benchmarks.drawer"), job)
        place = Path(read.model).resolve()
        settings = {**read.opening, **read.drawing}
        words[name] = " ".join(
            ["sdlite,", place.name, *(f"{key}={value}" for key, value in settings.items())]
        )
        packages[place] = package_identity(place)
    for name, model in (("genai", options.genai), ("sdcpp", options.sdcpp)):
        if model is not None:
            job = {**base, "model": str(model)}
            contenders[name] = ((str(options.peers), "-m", f"benchmarks.peers.{name}"), job)
    words |= {"genai": "OpenVINO GenAI", "sdcpp": "stable-diffusion.cpp"}
    extended = options.sdcpp is not None and options.sdcpp_steps is not None
    if extended:
        command, job = contenders.pop("sdcpp")
        few = [draw(command, {**job, "steps": steps}) for steps in (1, options.sdcpp_steps)]
    taken = take_turns(contenders, options.rounds)
    if extended:
        taken["sdcpp"] = longer(few, options.sdcpp_steps, options.steps)
        words["sdcpp"] += f", counted up from {options.sdcpp_steps} steps"
    notes = [
        f"{words[name]}: {note}" for name in contenders for note in taken[name][-1].get("notes", ())
    ]
    if any(job.get("replay") for _, job in contenders.values()):
        steps = picture(options.steps, read_sequence(options.profile))
        notes.insert(0, f"{options.profile} asked the model in the steps {steps}")
    write(
        options.output / options.file,
        "pictures",
        f"{options.side}x{options.side} pictures end to end, {options.steps} steps of DPM++ 2M, "
        f"guidance {options.guidance:g}, {options.threads} threads",
        measurements(taken, words),
        packages=list(packages.values()),
        peers={
            words[name]: {"versions": {name: taken[name][0]["opened"]["version"]}}
            for name in ("genai", "sdcpp")
            if name in taken
        },
        machine_before=before,
        quick=options.quick,
        notes=notes,
    )


if __name__ == "__main__":
    main()
