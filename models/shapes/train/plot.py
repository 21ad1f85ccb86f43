"""The course of a run as one picture: reconstruction, noise error, accuracy.

Reads the logs of `runs/NAME`, and `accuracy.jsonl` beside them if it is there: one line for every
checkpoint that was judged, with `iteration`, `one` and `two`, the shares of prompts of one and of
two shapes that were wholly right. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import common
import matplotlib.pyplot as plt


def lines(path: Path, key: str) -> list[dict[str, Any]]:
    """The lines of a log that have a value of this name, in order; later runs win."""
    if not path.exists():
        return []
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        if key in values:
            # a run that was interrupted repeats what it had done since its last checkpoint
            found = {at: kept for at, kept in found.items() if at < values["iteration"]}
            found[values["iteration"]] = values
    return list(found.values())


def main() -> None:
    """Draw runs/NAME into a PNG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--run", default="main")
    args = parser.parse_args()
    folder = common.RUNS / args.run
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    for ax, name, key, title in (
        (axes[0], "vae.jsonl", "psnr", "autoencoder: PSNR of fresh scenes, dB"),
        (axes[1], "unet.jsonl", "noise_error", "U-Net: mean squared error of the noise"),
    ):
        points = lines(folder / name, key)
        ax.plot([p["iteration"] for p in points], [p[key] for p in points])
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("iterations")
    axes[1].set_yscale("log")
    judged = lines(folder / "accuracy.jsonl", "one")
    for key, label in (("one", "one shape"), ("two", "two shapes")):
        at = [p["iteration"] for p in judged]
        axes[2].plot(at, [100 * p[key] for p in judged], "o-", label=label)
    axes[2].set_title("held-out prompts wholly right, %", fontsize=10)
    axes[2].set_xlabel("iterations of the U-Net")
    axes[2].set_ylim(0, 100)
    axes[2].legend()
    for ax in axes:
        ax.grid(alpha=0.3)
    figure.savefig(args.output, dpi=100)


if __name__ == "__main__":
    main()
