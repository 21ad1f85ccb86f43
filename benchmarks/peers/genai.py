"""Whole pictures by OpenVINO GenAI, one for every line on standard input.

``python -m benchmarks.peers.genai JOB`` is started by ``benchmarks.pictures`` with the Python that
``benchmarks/peers/install.py`` sets up; JOB is JSON with ``model`` (an optimum-intel folder),
``threads``, ``side``, ``steps``, ``guidance`` and ``prompt``. The folder's DDIM runs the same
number of U-Net calls as DPM++ 2M, which GenAI does not have.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import openvino_genai as genai

from benchmarks.watch import Watch


def main() -> None:
    job: dict[str, Any] = json.loads(sys.argv[1])
    folder = Path(job["model"])
    with Watch() as watch:
        start = time.perf_counter()
        pipe = genai.Text2ImagePipeline(folder)
        pipe.compile("CPU", INFERENCE_NUM_THREADS=job["threads"])
        opened = time.perf_counter() - start

        def draw(steps: int) -> None:
            pipe.generate(
                job["prompt"],
                width=job["side"],
                height=job["side"],
                num_inference_steps=steps,
                guidance_scale=job["guidance"],
            )

        draw(1)
        version = importlib.metadata.version("openvino-genai")
        print(json.dumps({"seconds": opened, "version": version}), flush=True)
        for _ in sys.stdin:
            watch.reset()
            start = time.perf_counter()
            draw(job["steps"])
            facts = {
                "seconds": time.perf_counter() - start,
                "private_peak": watch.private_peak,
                "mapped_peak": watch.mapped_peak,
                "resident_peak": watch.resident_peak,
            }
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
