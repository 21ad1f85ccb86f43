"""Pictures that should be the same: in tiles, on another engine, in another precision.

``python -m benchmarks.agree [MODEL]`` draws prompts with the same seeds in several ways and
compares each with its reference as bytes: the root of the mean square difference, of 255, and the
same as PSNR in dB. Targets: tiles at least 40 dB (2.55 of 255), OpenVINO in fp32 at least 45 dB
(1.43) from ONNX Runtime; bf16 is reported. ``--latents`` compares what the U-Net leaves instead,
which also says something of weights that draw nothing: the distance of OpenVINO's latents in fp32
from ONNX Runtime's over their length, at most 1e-3.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import sdlite
from benchmarks.machine import label, machine, package_identity
from benchmarks.quality.judge_folder import HELD_OUT, load_prompts
from benchmarks.record import RESULTS, Measurement, write
from sdlite.home import find_model

Pixels = npt.NDArray[np.uint8]
LATENT_TARGET = 1e-3
ORT: dict[str, Any] = {"runtime": "onnxruntime"}
OPENVINO: dict[str, Any] = {"runtime": "openvino", "precision": "fp32"}
WAYS: tuple[tuple[str, str, dict[str, Any], dict[str, Any], float | None], ...] = (
    ("tiles", "Decoder in 8 tiles against the whole one", {**ORT, "vae_tiles": 8}, ORT, 40.0),
    ("mapped", "Memory mode mapped against normal", {**ORT, "memory_mode": "mapped"}, ORT, 45.0),
    ("openvino_fp32", "OpenVINO fp32 against ONNX Runtime fp32", OPENVINO, ORT, 45.0),
    (
        "openvino_bf16",
        "OpenVINO bf16 against fp32",
        {"runtime": "openvino", "precision": "bf16"},
        OPENVINO,
        None,
    ),
)
"""Key, words, way, reference, least dB."""


def difference(found: Pixels, expected: Pixels) -> float:
    """Root of the mean square difference of bytes."""
    return float(np.sqrt(np.mean((found.astype(np.float64) - expected) ** 2)))


def decibels(error: float) -> str:
    """A difference as peak signal-to-noise ratio."""
    return "identical" if error == 0 else f"{20 * np.log10(255 / error):.1f} dB"


def draw(
    model: str, prompts: Sequence[str], steps: int, threads: int, loading: dict[str, Any]
) -> list[Pixels]:
    """A picture of each prompt; the seed is its number."""
    with sdlite.load(model, threads=threads, **loading) as pipe:
        return [
            np.asarray(pipe.generate(prompt, seed=seed, steps=steps).images[0])
            for seed, prompt in enumerate(prompts)
        ]


def latents(
    model: str, steps: int, threads: int, size: int | None, loading: dict[str, Any]
) -> npt.NDArray[np.float64]:
    """What is left after the last step."""
    request = sdlite.Request(
        "a red circle on a blue background", seed=1, steps=steps, width=size, height=size
    )
    with sdlite.load(model, threads=threads, **loading) as pipe:
        *_, last = pipe.steps(request)
    return last.x.astype(np.float64)


def compare_latents(options: argparse.Namespace) -> None:
    """OpenVINO in fp32 against ONNX Runtime, by their latents."""
    before, package = machine(), find_model(options.model)
    ours, expected = (
        latents(options.model, options.steps, options.threads, options.size, way)
        for way in (OPENVINO, ORT)
    )
    height, width = (8 * cells for cells in ours.shape[2:])
    write(
        options.output / f"agree-latents-{label(package)}.json",
        "agree",
        f"Latents that should be the same: {label(package)}, {width}x{height}, "
        f"{options.steps} steps",
        [
            Measurement(
                "latents_openvino_fp32",
                f"{label(package)}: OpenVINO fp32 against ONNX Runtime fp32, latents after "
                f"{options.steps} steps",
                "relative error",
                (float(np.linalg.norm(ours - expected) / np.linalg.norm(expected)),),
                target=LATENT_TARGET,
                note="length of the difference over the length of the latents",
            )
        ],
        packages=[package_identity(package)],
        machine_before=before,
        quick=options.quick,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agree", description=__doc__)
    parser.add_argument("model", nargs="?", default="shapes")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=[way[0] for way in WAYS])
    parser.add_argument("--latents", action="store_true", help="compare latents, not pictures")
    parser.add_argument("--size", type=int, help="of the latents' picture; default: the model's")
    parser.add_argument("--quick", action="store_true", help="two pictures; proves that it runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.pictures, options.steps = 2, 2
    if options.latents:
        compare_latents(options)
        return
    before = machine()
    entries = load_prompts(HELD_OUT)
    prompts = [
        str(entry["prompt"]) for entry in entries[:: max(1, len(entries) // options.pictures)]
    ]
    prompts = prompts[: options.pictures]
    drawn: dict[str, list[Pixels]] = {}

    def pictures(loading: dict[str, Any]) -> list[Pixels]:
        key = repr(sorted(loading.items()))
        if key not in drawn:
            drawn[key] = draw(options.model, prompts, options.steps, options.threads, loading)
        return drawn[key]

    found, notes = [], []
    for key, words, way, reference, least in WAYS:
        if key not in options.ways:
            continue
        try:
            pairs = zip(pictures(way), pictures(reference), strict=True)
        except (sdlite.SdliteError, ExceptionGroup) as error:
            notes.append(f"{words}: not here, {error}")
            continue
        values = tuple(difference(a, b) for a, b in pairs)
        median, worst = decibels(statistics.median(values)), decibels(max(values))
        told = f"median {median}, worst {worst}"
        notes.append(f"{words}: {told}" + ("" if least is None else f"; {least:g} dB wanted"))
        found.append(
            Measurement(
                f"difference_{key}",
                f"{words}, worst picture",
                "of 255",
                values,
                "max",
                None if least is None else 255 / 10 ** (least / 20),
                told,
            )
        )
    package = find_model(options.model)
    write(
        options.output / f"agree-{label(package)}.json",
        "agree",
        f"Pictures that should be the same: {options.pictures} of {label(package)}, "
        f"{options.steps} steps",
        found,
        packages=[package_identity(package)],
        machine_before=before,
        quick=options.quick,
        notes=notes,
    )
    print("\n".join(notes))


if __name__ == "__main__":
    main()
