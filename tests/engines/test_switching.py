"""LoRAs changed again and again, whose memory comes back (in a process of its own), and LCM's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sdlite
from sdlite import LoraUse, registry
from sdlite.bake import bake
from sdlite.errors import RuntimeUnavailable
from tests.adapters import SHAPES
from tests.engines.test_adapters import random_lora

SWITCHES = 20
CODE = """
import json, sys
import sdlite
from sdlite import LoraUse, memory

model, runtime, lora = sys.argv[1:]
used = []
with sdlite.load(model, runtime=runtime, threads=1, cache_limit=0) as pipe:
    for switch in range(int({switches})):
        use = LoraUse("one", 0.1 + 0.04 * switch, path=__import__("pathlib").Path(lora))
        pipe.generate("a red circle", seed=1, steps=1, width=32, height=32, loras=[use])
        now = memory.snapshot()
        used.append(None if now is None else now.private_bytes)
print(json.dumps(used))
"""


def test_an_lcm_lora_is_drawn_with_its_sampler(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    lora = LoraUse("lcm", 1.0, path=random_lora(tmp_path / "lcm.safetensors", 1))
    drawn = {"seed": 1, "steps": 4, "guidance": 1.0, "sampler": "LCM"}
    with sdlite.load(SHAPES, runtime="onnxruntime", threads=1) as pipe:
        result = pipe.generate("a red circle", loras=[lora], **drawn)
        plain = pipe.generate("a red circle", **drawn)
        baked = bake(pipe.package, [lora], tmp_path / "baked")
    assert (result.request.sampler, result.plan.shape.guided) == ("LCM", False)
    (denoise,) = (phase for phase in result.phases if phase.name == "denoise")
    assert denoise.calls == 4, "one answer a step: no negative prompt"
    with sdlite.load(baked.root, runtime="onnxruntime", threads=1) as other:
        same = other.generate("a red circle", **drawn)
    assert same.images[0].tobytes() == result.images[0].tobytes() != plain.images[0].tobytes()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_memory_returns_after_switches(runtime: str, tmp_path: Path) -> None:
    try:
        registry.get(runtime).probe()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    lora = random_lora(tmp_path / "one.safetensors", 1)
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(switches=SWITCHES), str(SHAPES), runtime, str(lora)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SDLITE_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)
    if used[0] is None:
        pytest.skip("this system does not tell what memory is used")
    # Each switch holds 12 MB of replaced weights: what is not freed adds up to far more than this.
    assert used[-1] - used[2] < 12e6, [round(value / 1e6) for value in used]
