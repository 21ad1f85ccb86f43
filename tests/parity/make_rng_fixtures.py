"""Make tests/null/fixtures/rng.npz: random numbers of torch and of A1111's NV generator.

    python tests/parity/make_rng_fixtures.py PATH/TO/stable-diffusion-webui/modules/rng_philox.py

Stored with torch 2.13.0 (CPU, AVX2 kernels) and A1111's module of release 1.10.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

SEEDS = (0, 7, 2**32 - 1, 2**32 + 7, 2**64 - 1)
TORCH_COUNTS = (1024, 16, 17, 5, 4 * 9 * 7, 3, 31, 4)
"""Draws one after the other: blocks, a remainder, short ones with a value kept between them."""
NV_COUNTS = (256, 252, 5)
OUT = Path(__file__).parents[1] / "null" / "fixtures" / "rng.npz"


def torch_generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def main(philox: Path) -> None:
    spec = importlib.util.spec_from_file_location("rng_philox", philox)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arrays = {"seeds": np.array(SEEDS, np.uint64)}
    for index, seed in enumerate(SEEDS):
        generator = torch_generator(seed)
        draws = [torch.randn(count, generator=generator).numpy() for count in TORCH_COUNTS]
        arrays[f"cpu_{index}"] = np.concatenate(draws)
        nv = module.Generator(seed)
        arrays[f"nv_{index}"] = np.concatenate([nv.randn((count,)) for count in NV_COUNTS])
        words = torch.empty(700, dtype=torch.int64)
        words.random_(-(2**63), None, generator=torch_generator(seed))
        # torch makes 64 bits of two words, the first one high.
        arrays[f"words_{index}"] = words.numpy().view(np.uint32).reshape(-1, 2)[:, ::-1].reshape(-1)
    arrays["cpu_counts"] = np.array(TORCH_COUNTS)
    arrays["nv_counts"] = np.array(NV_COUNTS)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **arrays)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
