"""Every check that needs no PyTorch, from a fresh checkout, the same at home and on a server.

    python3 scripts/test.py                 everything
    python3 scripts/test.py types tests     some of it

Makes the environment ``.venv-test`` in the checkout, installs ``.[dev]`` and runs, in this order:
lint, format, types, docs, page, build, tests. Needs Python 3.11 to 3.13 and nothing else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from _environment import ROOT, environment, fail

DIST = "build/dist"
COGGED = ("README.md", "docs/*.md")


def checks(python: str) -> dict[str, list[list[str]]]:
    """Commands of each check, by its name."""
    module = [python, "-m"]
    pages = [path.relative_to(ROOT).as_posix() for mask in COGGED for path in ROOT.glob(mask)]
    return {
        "lint": [[*module, "ruff", "check", "."]],
        "format": [[*module, "ruff", "format", "--check", "."]],
        "types": [[*module, "mypy"]],
        "docs": [[*module, "cogapp", "--check", "--diff", *sorted(pages)]],
        "page": [[python, str(ROOT / "scripts" / "page.py"), "--check"]],
        "build": [
            [*module, "build", "--no-isolation", "--outdir", DIST],
            [*module, "twine", "check", "--strict", f"{DIST}/*"],
        ],
        "tests": [[*module, "pytest", "-q"]],
    }


def main() -> int:
    python = environment(".venv-test", [["--editable", ".[dev]"]], "sdlite and its test tools")
    known = checks(str(python))
    wanted = sys.argv[1:] or list(known)
    for name in wanted:
        if name not in known:
            fail(f"unknown check {name!r}; known: {', '.join(known)}")
    shutil.rmtree(ROOT / DIST, ignore_errors=True)
    failed = []
    times = []
    for name in wanted:
        print(f"--- {name}", flush=True)
        start = time.monotonic()
        if any(run(command) for command in known[name]):
            failed.append(name)
        times.append(f"{name} {time.monotonic() - start:.0f} s")
    print(f"--- {', '.join(times)}")
    print(f"--- failed: {', '.join(failed)}" if failed else "--- all checks passed")
    return 1 if failed else 0


def run(command: list[str]) -> int:
    """Run a command in the checkout, with * written out as shells do."""
    words = []
    for word in command:
        found = sorted(Path(ROOT).glob(word)) if "*" in word else []
        words.extend([str(path) for path in found] or [word])
    return subprocess.run(words, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
