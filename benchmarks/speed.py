"""Seconds: U-Net calls against a peer, the segmented graph against the whole one, whole pictures.

``python -m benchmarks.speed unet PACKAGE [--peer model.onnx]`` times the fused graph and torch's
exported graph; ``segments PACKAGE`` times the chain of mapped segments against the whole graph;
``generate PACKAGE`` draws a picture and reports every phase. Contenders live in processes of their
own and take turns, so that what else the machine does hits all of them alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, package_identity
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.runs import generate
from benchmarks.worker import Spec, Worker

UNET_TARGET = 1.0
SEGMENT_TARGET = 1.2
OPEN_TARGET = 0.6
OVERHEAD_TARGET = 3.0


def take_turns(
    specs: Mapping[str, Spec], rounds: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, Any]]]:
    """Facts of each contender's calls, in order, and what opening it took.

    One call each is left out (first calls allocate); the order turns round every time, so that no
    contender always follows the same other.
    """
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in specs}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(spec)) for name, spec in specs.items()}
        opened = {name: worker.opened for name, worker in workers.items()}
        for worker in workers.values():
            worker.run()
        order = list(workers)
        for _ in range(rounds):
            for name in order:
                taken[name].append(workers[name].run())
            order.reverse()
    return taken, opened


def ratios(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> tuple[float, ...]:
    """Ratio of seconds in each round: both calls of a round saw the same machine."""
    return tuple(a["seconds"] / b["seconds"] for a, b in zip(ours, theirs, strict=True))


def calls(
    taken: Mapping[str, Sequence[Mapping[str, Any]]], words: Mapping[str, str]
) -> list[Measurement]:
    """Wall-clock and processor seconds of each contender."""
    found = []
    for name, facts in taken.items():
        wall = tuple(call["seconds"] for call in facts)
        busy = tuple(call["user_seconds"] + call["system_seconds"] for call in facts)
        found.append(Measurement(f"{name}_seconds", words[name], "s", wall))
        found.append(
            Measurement(
                f"{name}_cpu_seconds",
                f"Processor seconds of all threads: {words[name]}",
                "s",
                busy,
                note="other work on the machine changes this less than wall-clock seconds",
            )
        )
    return found


def unet(options: argparse.Namespace) -> None:
    """U-Net call, batch 2, whole fused graph, against the peer's graph."""
    before = machine()
    base = Spec(
        str(options.package), threads=options.threads, batch=options.batch, cells=options.cells
    )
    specs = {"fused": base, "fused_fixed": replace(base, fixed=True)}
    if options.plain:
        specs["plain"] = replace(base, variant="plain")
    words = {
        "fused": "U-Net call, our fused graph, free sizes",
        "fused_fixed": "U-Net call, our fused graph, sizes fixed when opened",
        "plain": "U-Net call, our plain graph",
        "torch": "U-Net call, torch's exported opset-23 graph",
    }
    peers = {}
    if options.peer is not None:
        specs["torch"] = replace(base, path=str(options.peer))
        facts = options.peer.with_suffix(".json")
        peers["torch.onnx.export"] = json.loads(facts.read_text()) if facts.is_file() else {}
    taken, opened = take_turns(specs, options.rounds)
    found = calls(taken, words)
    if "torch" in taken:
        for name in [name for name in specs if name != "torch"]:
            found.append(
                Measurement(
                    f"{name}_over_torch",
                    f"{words[name]}: time over torch's graph",
                    "ratio",
                    ratios(taken[name], taken["torch"]),
                    target=UNET_TARGET if name == "fused" else None,
                    note="median of the ratios of each round",
                )
            )
    found += [
        Measurement(f"{name}_open_seconds", f"Opening: {words[name]}", "s", (facts["seconds"],))
        for name, facts in opened.items()
    ]
    write(
        options.output / "speed-unet.json",
        "speed",
        f"U-Net call, batch {options.batch}, {8 * options.cells}x{8 * options.cells}, "
        f"{options.threads} threads",
        found,
        packages=[package_identity(options.package)],
        peers=peers,
        machine_before=before,
        quick=options.quick,
    )


def segments(options: argparse.Namespace) -> None:
    """The chain of segments in mapped mode against the whole graph, batch 1."""
    before = machine()
    whole = Spec(str(options.package), threads=options.threads, batch=1, cells=options.cells)
    specs = {
        "segments_mapped": replace(whole, variant="segment", mode="mapped"),
        "whole_normal": whole,
        "whole_mapped": replace(whole, mode="mapped"),
    }
    words = {
        "segments_mapped": "U-Net call, segments, mapped",
        "whole_normal": "U-Net call, whole fused graph, normal mode",
        "whole_mapped": "U-Net call, whole fused graph, mapped",
    }
    taken, opened = take_turns(specs, options.rounds)
    opens = [opened["segments_mapped"]["seconds"]]
    for _ in range(options.opens - 1):
        with Worker(specs["segments_mapped"]) as worker:
            opens.append(worker.opened["seconds"])
    found = calls(taken, words)
    for name in ("whole_normal", "whole_mapped"):
        found.append(
            Measurement(
                f"segments_over_{name}",
                f"Segments, mapped: time over the {words[name].removeprefix('U-Net call, ')}",
                "ratio",
                ratios(taken["segments_mapped"], taken[name]),
                target=SEGMENT_TARGET,
                note="median of the ratios of each round",
            )
        )
    found.append(
        Measurement(
            "segments_open_seconds",
            "Opening all segments, mapped",
            "s",
            tuple(opens),
            target=OPEN_TARGET,
            note="manifest read, small files hashed, sessions made; engine imported before, "
            "weight file in the file cache",
        )
    )
    found.append(
        Measurement(
            "engine_import_seconds",
            "Importing the engine",
            "s",
            tuple(facts["import_seconds"] for facts in opened.values()),
        )
    )
    for name in ("whole_normal", "whole_mapped"):
        found.append(
            Measurement(
                f"{name}_open_seconds", f"Opening: {words[name]}", "s", (opened[name]["seconds"],)
            )
        )
    write(
        options.output / "speed-segments.json",
        "speed",
        f"Segments against the whole U-Net, batch 1, {8 * options.cells}x{8 * options.cells}, "
        f"{options.threads} threads",
        found,
        packages=[package_identity(options.package)],
        machine_before=before,
        quick=options.quick,
    )


def picture(options: argparse.Namespace) -> None:
    """One picture end to end, every phase with its seconds and memory."""
    before = machine()
    settings = {
        "steps": options.steps,
        "width": 8 * options.cells,
        "height": 8 * options.cells,
        "seed": 1,
    }
    runs = [
        generate(options.package, options.mode, options.threads, settings)
        for _ in range(options.rounds)
    ]
    found = phase_measurements(runs, options.mode, options.steps)
    side = 8 * options.cells
    write(
        options.output / f"generate-{options.mode}.json",
        "speed",
        f"{side}x{side} picture, {options.steps} steps, {options.mode} mode, "
        f"{options.threads} threads",
        found,
        packages=[package_identity(options.package)],
        machine_before=before,
        quick=options.quick,
        notes=runs[0]["plan"],
    )


def phase_measurements(
    runs: Sequence[Mapping[str, Any]], mode: str, steps: int
) -> list[Measurement]:
    """Figures of whole pictures, from ``Result.phases`` and the process's own counters."""
    found = [
        Measurement("total_seconds", "Whole call of generate", "s", _all(runs, "seconds")),
        Measurement(
            "unet_call_seconds",
            "U-Net call",
            "s",
            tuple(_phase(run, "denoise")["engine_seconds"] / _calls(run) for run in runs),
            note=f"engine seconds over {_calls(runs[0])} calls of {steps} steps with guidance",
        ),
    ]
    for phase in ("text", "denoise", "decode"):
        for key, what in (("load_seconds", "opening"), ("run_seconds", "running")):
            samples = tuple(_phase(run, phase)[key] for run in runs)
            found.append(Measurement(f"{phase}_{key}", f"Phase {phase}, {what}", "s", samples))
        for key, what in (("private_bytes", "private"), ("mapped_bytes", "mapped")):
            samples = tuple(_phase(run, phase)[key] or 0 for run in runs)
            found.append(
                Measurement(
                    f"{phase}_{key}", f"Phase {phase}, {what} memory", "bytes", samples, "max"
                )
            )
    overhead = tuple(
        100
        * sum(phase["run_seconds"] - phase["engine_seconds"] for phase in run["phases"])
        / sum(phase["run_seconds"] for phase in run["phases"])
        for run in runs
    )
    found.append(
        Measurement(
            "overhead_percent",
            "Time outside engine calls",
            "percent",
            overhead,
            target=OVERHEAD_TARGET,
            note="(run - engine) / run seconds, summed over the phases",
        )
    )
    for key, what in (
        ("private_peak", "Private memory at its highest"),
        ("mapped_peak", "Mapped memory at its highest"),
        ("max_rss", "Peak RSS, the kernel's high-water mark"),
    ):
        found.append(Measurement(key, what, "bytes", _all(runs, key), "max"))
    return found


def _all(runs: Sequence[Mapping[str, Any]], key: str) -> tuple[float, ...]:
    return tuple(float(run[key] or 0) for run in runs)


def _phase(run: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(phase for phase in run["phases"] if phase["name"] == name)
    return found


def _calls(run: Mapping[str, Any]) -> int:
    return int(_phase(run, "denoise")["calls"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("section", choices=("unet", "segments", "generate"))
    parser.add_argument("package", type=lambda text: Path(text).resolve())
    parser.add_argument(
        "--peer", type=lambda text: Path(text).resolve(), help="U-Net exported by benchmarks.peers"
    )
    parser.add_argument("--plain", action="store_true", help="time the plain graph as well")
    parser.add_argument("--mode", choices=("normal", "mapped"), default="normal")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--cells", type=int, default=64, help="latent width and height")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--opens", type=int, default=5, help="samples of the opening time")
    parser.add_argument("--quick", action="store_true", help="small sizes; proves that it runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.cells, options.rounds, options.opens, options.steps = 8, 2, 2, 2
    {"unet": unet, "segments": segments, "generate": picture}[options.section](options)


if __name__ == "__main__":
    main()
