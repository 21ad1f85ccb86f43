"""Memory: activations of the fused U-Net, the segmented one, and a run under a hard limit.

``python -m benchmarks.memory unet PACKAGE`` gives the private activation peak at batch 2;
``segments PACKAGE`` the private peak of the mapped chain at batch 1; ``limit PACKAGE`` draws in a
control group with a hard limit, and without one; ``smallest PACKAGE`` lowers the limit as long as a
picture comes out. Private is anonymous resident memory, mapped is resident file
pages.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.limit import memory_limit
from benchmarks.machine import label, machine, package_identity
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.runs import evict, generate
from benchmarks.worker import Spec, Worker

ACTIVATION_TARGET = 1.0e9
SEGMENT_TARGET = 0.45e9
LIMIT_TARGET = 2.0


def watch_calls(spec: Spec, rounds: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What opening took, and each call with its memory."""
    with Worker(replace(spec, watch=True)) as worker:
        return worker.opened, [worker.run() for _ in range(rounds)]


def _peaks(calls: Sequence[dict[str, Any]], key: str) -> tuple[float, ...]:
    return tuple(float(call[key] or 0) for call in calls)


def unet(options: argparse.Namespace) -> None:
    """Activations of the whole fused graph."""
    before = machine()
    found = []
    for mode in ("mapped", "normal"):
        spec = Spec(
            str(options.package),
            mode=mode,
            threads=options.threads,
            batch=options.batch,
            cells=options.cells,
        )
        opened, calls = watch_calls(spec, options.rounds)
        base = opened["private_now"]
        found += [
            Measurement(
                f"activations_{mode}",
                f"Activations of the fused U-Net, {mode} mode",
                "bytes",
                tuple(peak - base for peak in _peaks(calls, "private_peak")),
                "max",
                target=ACTIVATION_TARGET if mode == "mapped" else None,
                note="highest private memory during a call less private memory before the first "
                "call, session open",
            ),
            Measurement(
                f"open_{mode}", f"Private memory, session open, {mode} mode", "bytes", (base,)
            ),
            Measurement(
                f"private_{mode}",
                f"Private memory of the process at its highest, {mode} mode",
                "bytes",
                _peaks([opened, *calls], "private_peak"),
                "max",
                note="first sample: while opening",
            ),
            Measurement(
                f"mapped_{mode}",
                f"Mapped memory of the process at its highest, {mode} mode",
                "bytes",
                _peaks([opened, *calls], "mapped_peak"),
                "max",
            ),
        ]
    side = 8 * options.cells
    write(
        options.output / "memory-unet.json",
        "memory",
        f"Memory of a U-Net call, batch {options.batch}, {side}x{side}, whole fused graph",
        found,
        packages=[package_identity(options.package)],
        machine_before=before,
        quick=options.quick,
    )


def segments(options: argparse.Namespace) -> None:
    """The mapped chain of segments at batch 1, and the whole graph mapped for comparison."""
    before = machine()
    found = []
    for variant, word in (("segment", "segments"), ("fused", "whole fused graph")):
        spec = Spec(
            str(options.package),
            variant=variant,
            mode="mapped",
            threads=options.threads,
            batch=1,
            cells=options.cells,
        )
        opened, calls = watch_calls(spec, options.rounds)
        key = "segments" if variant == "segment" else "whole"
        found += [
            Measurement(
                f"private_{key}",
                f"Private memory of the process at its highest, {word}, mapped",
                "bytes",
                _peaks([opened, *calls], "private_peak"),
                "max",
                target=SEGMENT_TARGET if variant == "segment" else None,
                note="interpreter and libraries included; first sample: while opening",
            ),
            Measurement(
                f"mapped_{key}",
                f"Mapped memory of the process at its highest, {word}, mapped",
                "bytes",
                _peaks([opened, *calls], "mapped_peak"),
                "max",
                note="the system may drop these pages",
            ),
            Measurement(
                f"before_{key}",
                f"Private memory before opening: interpreter and numpy ({word})",
                "bytes",
                (opened["private_before"],),
            ),
        ]
    side = 8 * options.cells
    write(
        options.output / "memory-segments.json",
        "memory",
        f"Memory of a mapped U-Net call, batch 1, {side}x{side}",
        found,
        packages=[package_identity(options.package)],
        machine_before=before,
        quick=options.quick,
    )


def limited(
    options: argparse.Namespace, settings: dict[str, Any], megabytes: int
) -> dict[str, Any]:
    """A picture under a hard limit, the package's files not cached at the start."""
    evict(options.package)
    with memory_limit(megabytes * 1_000_000) as wrap:
        return generate(options.package, "mapped", options.threads, settings, wrap=wrap)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    side = 8 * options.cells
    return {"steps": options.steps, "width": side, "height": side, "seed": 1}


def limit(options: argparse.Namespace) -> None:
    """A picture in a control group with a hard limit, against the same without one."""
    before = machine()
    side, settings = 8 * options.cells, _settings(options)
    free = generate(options.package, "mapped", options.threads, settings)
    facts = limited(options, settings, options.megabytes)
    denoise = next(phase for phase in facts["phases"] if phase["name"] == "denoise")
    words = f"Whole call of generate, {options.steps} steps"
    found = [
        Measurement(
            "limited_seconds",
            f"{words}, hard limit {options.megabytes} MB",
            "s",
            (facts["seconds"],),
            note="files not in the file cache at the start",
        ),
        Measurement("free_seconds", f"{words}, no limit", "s", (free["seconds"],)),
        Measurement(
            "limited_over_free",
            f"Hard limit {options.megabytes} MB: time over the run without one",
            "ratio",
            (facts["seconds"] / free["seconds"],),
            target=LIMIT_TARGET,
        ),
        Measurement(
            "limited_call_seconds",
            "U-Net call under the limit",
            "s",
            (denoise["engine_seconds"] / denoise["calls"],),
        ),
    ]
    for phase in facts["phases"]:
        name = phase["name"]
        for key, word in (("private_bytes", "private"), ("mapped_bytes", "mapped")):
            found.append(
                Measurement(
                    f"limited_{name}_{key}",
                    f"Phase {name}, {word} memory under the limit",
                    "bytes",
                    (phase[key] or 0,),
                    "max",
                )
            )
    write(
        options.output / "memory-limit.json",
        "memory",
        f"{side}x{side} picture in a hard memory limit of {options.megabytes} MB, mapped mode",
        found,
        packages=[package_identity(options.package)],
        machine_before=before,
        quick=options.quick,
        notes=["file cache of the package dropped before the run", *facts["plan"]],
    )


def smallest(options: argparse.Namespace) -> None:
    """The least of several hard limits in which a picture comes out."""
    before = machine()
    side, settings = 8 * options.cells, _settings(options)
    notes: list[str] = []
    least, seconds = None, 0.0
    for megabytes in sorted(options.limits, reverse=True):
        try:
            facts = limited(options, settings, megabytes)
        except RuntimeError as error:
            notes.append(f"{megabytes} MB: {str(error).splitlines()[-1][:200]}")
            break
        least, seconds = megabytes, facts["seconds"]
        private = max(phase["private_bytes"] or 0 for phase in facts["phases"])
        notes.append(f"{megabytes} MB: {seconds:.0f} s, {private / 1e6:.0f} MB private")
        print(notes[-1], flush=True)
    if least is None:
        raise SystemExit(f"no limit was enough: {notes[-1]}")
    name = label(options.package)
    found = [
        Measurement(
            "smallest_limit_bytes",
            f"Smallest hard limit in which {name} draws {side}x{side}",
            "bytes",
            (least * 1e6,),
            "max",
            target=options.target * 1e6,
            note=f"of {', '.join(map(str, options.limits))} MB",
        ),
        Measurement(
            "smallest_limit_seconds",
            f"Whole call of generate there, {options.steps} steps",
            "s",
            (seconds,),
        ),
    ]
    write(
        options.output / f"memory-smallest-{name}.json",
        "memory",
        f"Smallest memory limit for a {side}x{side} picture of {name}",
        found,
        packages=[package_identity(options.package)],
        machine_before=before,
        quick=options.quick,
        notes=notes,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("section", choices=("unet", "segments", "limit", "smallest"))
    parser.add_argument("package", type=lambda text: Path(text).resolve())
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--cells", type=int, default=64, help="latent width and height")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=512, help="hard limit, in 10^6 bytes")
    parser.add_argument("--limits", type=int, nargs="+", default=[512, 448, 400, 350, 300])
    parser.add_argument("--target", type=int, default=448, help="of the smallest limit, likewise")
    parser.add_argument("--quick", action="store_true", help="small sizes; proves that it runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.cells, options.rounds, options.steps = 8, 2, 1
    sections = {"unet": unet, "segments": segments, "limit": limit, "smallest": smallest}
    sections[options.section](options)


if __name__ == "__main__":
    main()
