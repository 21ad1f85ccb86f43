"""Prompts to judge a model by while it is made, so that nothing is chosen on the held-out lists.

Scenes are drawn as training draws them, so none of their combinations is held out; every style
gets as many as `--flat`, `--outline` and `--soft` say. The list is what
`python -m benchmarks.quality.run --prompts` reads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from captions import canonical
from scenes import STYLES, draw_scene


def entries(rng: np.random.Generator, wanted: dict[str, int]) -> list[dict[str, str | int]]:
    """As many prompts of each style as wanted, half with two shapes, and their seeds."""
    left = {(style, n): count // 2 for style, count in wanted.items() for n in (1, 2)}
    found: list[dict[str, str | int]] = []
    while any(left.values()):
        scene = draw_scene(rng, 0.5)
        kind = (scene.style, len(scene.items))
        if not left[kind]:
            continue
        left[kind] -= 1
        order = int(rng.integers(len(scene.items)))
        styled = scene.style != "flat"
        adjective = styled and rng.random() < 0.5
        sizes = [item.size for item in scene.items]
        found.append(
            {
                "id": f"{len(found):03d}",
                "prompt": canonical(scene, order, adjective, styled and not adjective).text,
                "seed": int(rng.integers(2**31)),
                "shapes": len(scene.items),
                "size": next((size for size in sizes if size != "plain"), "plain"),
                "style": scene.style,
            }
        )
    return found


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="a JSON file")
    parser.add_argument("--seed", type=int, default=1)
    for style in STYLES:
        parser.add_argument(f"--{style}", type=int, default=100, help="prompts of this style")
    args = parser.parse_args()
    wanted = {style: getattr(args, style) for style in STYLES}
    # another stream of scenes than any stage of the training draws
    listed = entries(np.random.default_rng((777, args.seed)), wanted)
    lines = ",\n".join(json.dumps(entry) for entry in listed)
    args.output.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
