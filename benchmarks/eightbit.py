"""Seconds of calls in 8 bits against those in 16, on one engine, taking turns.

``python -m benchmarks.eightbit WHOLE NARROW`` times the U-Net of a package exported with
``--precision fp16`` and of one with ``--precision int8``, with one and two items a call, and the
decoder, on OpenVINO with static sizes, each computing the rest in what the processor is fastest in.
Contenders live in processes of their own.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.machine import machine, package_identity
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.speed import calls, ratios, take_turns
from benchmarks.worker import Spec

GAIN = 1.35
"""How many times as fast as 16 bits a U-Net call has to be."""
SECONDS = {1: 0.85, 2: 1.7}
"""Longest U-Net call by items, of SD1.5 at 512x512 on two cores with AVX-512 VNNI."""


def compare(
    whole: Path, narrow: Path, component: str, base: Spec, rounds: int
) -> list[Measurement]:
    """Calls of one component in both packages."""
    contenders = {"whole": whole, "narrow": narrow}
    specs = {
        name: replace(base, path=str(path), component=component, variant="plain", fixed=True)
        for name, path in contenders.items()
    }
    taken, opened = take_turns(specs, rounds)
    label = f"{component}_{base.batch}"
    named = {f"{label}_{name}": facts for name, facts in taken.items()}
    words = {
        f"{label}_whole": f"{component}, {base.batch} item(s) a call, weights in 16 bits",
        f"{label}_narrow": f"{component}, {base.batch} item(s) a call, in 8 bits",
    }
    found = calls(named, words)
    gain = ratios(taken["whole"], taken["narrow"])
    found.append(
        Measurement(
            f"{label}_gain",
            f"{component}, {base.batch} item(s) a call: seconds in 16 bits over those in 8",
            "ratio",
            gain,
            note="median of the ratios of each round; more is better",
        )
    )
    found += [
        Measurement(f"{label}_{name}_open_seconds", f"Opening, {name}", "s", (facts["seconds"],))
        for name, facts in opened.items()
    ]
    return found


def main() -> None:
    """Measure and write ``speed-eightbit.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("whole", type=Path, help="package exported with --precision fp16")
    parser.add_argument("narrow", type=Path, help="package exported with --precision int8")
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--precision", help="what to compute in; the engine decides without it")
    parser.add_argument("--cells", type=int, default=64, help="latent width and height")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--no-decoder", action="store_true")
    parser.add_argument("--quick", action="store_true", help="mark the result as no measurement")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = machine()
    base = Spec(
        "",
        threads=options.threads,
        cells=options.cells,
        runtime=options.runtime,
        precision=options.precision,
    )
    found: list[Measurement] = []
    for batch in options.batches:
        sized = replace(base, batch=batch)
        found += compare(options.whole, options.narrow, "unet", sized, options.rounds)
    if not options.no_decoder:
        one = replace(base, batch=1)
        found += compare(options.whole, options.narrow, "vae_decoder", one, options.rounds)
    write(
        options.output / "speed-eightbit.json",
        "speed",
        f"8 bits against 16 on {options.runtime}, {8 * options.cells}x{8 * options.cells}, "
        f"{options.threads} threads; targets for SD1.5: U-Net call {SECONDS[1]} s with one item, "
        f"{SECONDS[2]} s with two, {GAIN} times as fast",
        found,
        packages=[package_identity(options.whole), package_identity(options.narrow)],
        peers={},
        machine_before=before,
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
