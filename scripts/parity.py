"""Compare with PyTorch and diffusers: the only tests that need them.

    python3 scripts/parity.py [pytest options]

Makes the environment ``.venv-parity`` in the checkout. torch comes first and alone, so that the
build the machine's package index offers is taken as it is.
"""

from __future__ import annotations

import subprocess
import sys

from _environment import ROOT, environment

STAGES = [
    ["torch==2.13.0"],
    # scipy: diffusers needs it for LMS and does not ask for it.
    [
        "diffusers==0.42.1",
        "transformers==5.23.0",
        "peft==0.21.2",
        "scipy==1.16.3",
        "--editable",
        ".[dev]",
    ],
]


def main() -> int:
    python = environment(".venv-parity", STAGES, "sdlite, PyTorch and diffusers")
    options = ["--override-ini", "addopts=--strict-markers --strict-config", "-q"]
    command = [str(python), "-m", "pytest", *options, *(sys.argv[1:] or ["tests/parity"])]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
