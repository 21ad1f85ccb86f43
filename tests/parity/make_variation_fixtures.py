"""Make tests/null/fixtures/variation.npz: noise of A1111 with variation seeds, other sizes, ENSD.

    python tests/parity/make_variation_fixtures.py PATH/TO/stable-diffusion-webui

Runs ``ImageRNG`` of A1111's own modules/rng.py (release 1.10), with stand-ins for the settings it
reads. Odd differences of size are among the cases because it rounds them down.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).parents[1] / "null" / "fixtures" / "variation.npz"
SHAPE = (4, 6, 5)
SEEDS = (5, 2**32 - 3)
SUBSEEDS = (9, 10)
CASES = {
    "plain": {},
    "variation": {"strength": 0.3},
    "whole": {"strength": 1.0},
    "same": {"strength": 0.3, "subseeds": SEEDS},
    "smaller": {"resize": (4, 2)},
    "larger": {"resize": (9, 8)},
    "mixed": {"resize": (9, 3), "strength": 0.6},
    "delta": {"delta": 31337},
    "all": {"resize": (3, 7), "strength": 0.2, "delta": 31337},
}


def load(webui: Path) -> types.ModuleType:
    """A1111's module, its settings replaced."""
    modules = types.ModuleType("modules")
    modules.devices = types.ModuleType("modules.devices")
    modules.devices.cpu = modules.devices.device = torch.device("cpu")
    modules.shared = types.ModuleType("modules.shared")
    modules.shared.opts = types.SimpleNamespace(randn_source="CPU", eta_noise_seed_delta=0)
    modules.shared.device = torch.device("cpu")
    for name in ("", ".devices", ".shared"):
        sys.modules[f"modules{name}"] = getattr(modules, name[1:]) if name else modules
    for name in ("rng_philox", "rng"):
        spec = importlib.util.spec_from_file_location(
            f"modules.{name}", webui / "modules" / f"{name}.py"
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[f"modules.{name}"] = module
        setattr(modules, name, module)
        spec.loader.exec_module(module)
    return modules


def main(webui: Path) -> None:
    modules = load(webui)
    arrays = {}
    for source in ("CPU", "NV"):
        for name, case in CASES.items():
            modules.shared.opts.randn_source = source
            modules.shared.opts.eta_noise_seed_delta = case.get("delta", 0)
            height, width = case.get("resize", (0, 0))
            rng = modules.rng.ImageRNG(
                SHAPE,
                SEEDS,
                subseeds=case.get("subseeds", SUBSEEDS),
                subseed_strength=case.get("strength", 0.0),
                seed_resize_from_h=height * 8,
                seed_resize_from_w=width * 8,
            )
            draws = [rng.next().numpy() for _ in range(3)]
            arrays[f"{source.lower()}_{name}"] = np.stack(draws).astype(np.float32)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **arrays)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
