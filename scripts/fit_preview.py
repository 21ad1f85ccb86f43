"""Give a package its preview map: the best linear map from its latents to colours.

    python scripts/fit_preview.py models/shapes/package prompts.txt

Draws every prompt of the file (one a line; about 40 that use all colours are plenty), fits latents
to pictures, and writes the rows into ``sdlite.json``; with ``--source models/shapes/diffusers``
also into that ``model_index.json``, from which the next export takes them. SD1.x models need none:
their map is known.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import sdlite
from sdlite.manifest import MANIFEST, dump_manifest
from sdlite.output import write_whole
from sdlite.preview import fit, map_for, to_picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--source", type=Path, help="diffusers folder the package is made of")
    arguments = parser.parse_args()
    prompts = arguments.prompts.read_text(encoding="utf-8").split("\n")
    codes, drawn = [], []
    with sdlite.load(arguments.package) as pipe:
        manifest = pipe.package.manifest
        for seed, prompt in enumerate(filter(None, prompts)):
            *_, last = pipe.steps(sdlite.Request(prompt, seed=seed))
            codes.append(last.x)
            drawn.append(np.stack([np.asarray(image) for image in pipe.decode(last.x)]))
    latents, pictures = np.concatenate(codes), np.concatenate(drawn)
    latent = replace(manifest.latent, preview=fit(latents, pictures))
    shown = np.stack([to_picture(code, map_for(latent)) for code in latents]).astype(int)
    batch, rows, columns, _ = shown.shape
    factor = latent.factor
    small = pictures.reshape(batch, rows, factor, columns, factor, 3).mean(axis=(2, 4))
    text = dump_manifest(replace(manifest, latent=latent))
    write_whole(arguments.package / MANIFEST, text.encode(), overwrite=True)
    if arguments.source is not None:
        index = arguments.source / "model_index.json"
        fields = json.loads(index.read_text(encoding="utf-8")) | {"_sdlite_preview": latent.preview}
        text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
        write_whole(index, text.encode(), overwrite=True)
    print(f"{arguments.package}: mean error {np.abs(shown - small).mean():.1f} of 255")


if __name__ == "__main__":
    main()
