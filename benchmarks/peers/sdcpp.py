"""Whole pictures by stable-diffusion.cpp, one for every line on standard input.

``python -m benchmarks.peers.sdcpp JOB`` is started by ``benchmarks.pictures`` with the Python that
``benchmarks/peers/install.py`` sets up; JOB is JSON with ``model`` (a single file), ``threads``,
``side``, ``steps``, ``guidance`` and ``prompt``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from typing import Any

from benchmarks.watch import Watch

ANSWERS = os.dup(1)
"""Where answers go: the library writes its log to standard output."""


def say(facts: dict[str, Any]) -> None:
    os.write(ANSWERS, (json.dumps(facts) + "\n").encode())


def main() -> None:
    job: dict[str, Any] = json.loads(sys.argv[1])
    os.dup2(2, 1)
    from stable_diffusion_cpp import StableDiffusion

    with Watch() as watch:
        start = time.perf_counter()
        model = StableDiffusion(model_path=job["model"], n_threads=job["threads"], verbose=False)
        opened = time.perf_counter() - start
        version = importlib.metadata.version("stable-diffusion-cpp-python")
        say({"seconds": opened, "version": version})
        for _ in sys.stdin:
            watch.reset()
            start = time.perf_counter()
            model.generate_image(
                prompt=job["prompt"],
                width=job["side"],
                height=job["side"],
                sample_steps=job["steps"],
                sample_method="dpm++2m",
                cfg_scale=job["guidance"],
                seed=1,
            )
            facts = {
                "seconds": time.perf_counter() - start,
                "private_peak": watch.private_peak,
                "mapped_peak": watch.mapped_peak,
                "resident_peak": watch.resident_peak,
            }
            say(facts)


if __name__ == "__main__":
    main()
