"""Build the page of the server from its sources, or check that what is committed is what they give.

    python3 scripts/page.py            writes sdlite/server/page/built
    python3 scripts/page.py --check    builds beside it and compares, byte for byte

Needs Node 20 or later with npm, and npm's registry the first time. Where those are missing,
``--check`` says so and succeeds: tests/server/test_page.py compares the sources with what was built
from them in any case.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from _environment import ROOT, fail, run

PAGE = ROOT / "sdlite" / "server" / "page"
BUILT = PAGE / "built"
OLDEST_NODE = 20


def lacking() -> str | None:
    """What is missing to build; None when nothing is."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "Node and npm are not installed"
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    version = told.strip().removeprefix("v").partition(".")[0]
    if not version.isdigit() or int(version) < OLDEST_NODE:
        return f"Node {told.strip() or 'of an unknown version'} is too old"
    return None


def installed() -> bool:
    """Fetch the parts named in package-lock.json, unless they are there."""
    stamp = PAGE / "node_modules" / ".package-lock.json"
    lock = PAGE / "package-lock.json"
    if stamp.is_file() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return True
    command = [str(shutil.which("npm")), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    return subprocess.run(command, cwd=PAGE, stdout=sys.stderr, check=False).returncode == 0


def build(out: Path) -> None:
    """Check the types and bundle."""
    tsc = PAGE / "node_modules" / "typescript" / "bin" / "tsc"
    node = str(shutil.which("node"))
    run([node, str(tsc), "--noEmit", "--project", str(PAGE)], "the page's types do not fit")
    run([node, str(PAGE / "build.mjs"), str(out)], "the page cannot be built")


def differences(first: Path, second: Path) -> list[str]:
    """Names of files that are not the same in both folders."""
    names = sorted({path.name for folder in (first, second) for path in folder.iterdir()})
    _, different, odd = filecmp.cmpfiles(first, second, names, shallow=False)
    return sorted([*different, *odd])


def main() -> int:
    if sys.argv[1:] not in ([], ["--check"]):
        fail(f"unknown arguments {' '.join(sys.argv[1:])!r}; the only one is --check")
    check = bool(sys.argv[1:])
    missing = lacking()
    if missing is None and not installed():
        missing = "npm cannot fetch what package-lock.json names"
    if missing is not None:
        if not check:
            fail(f"{missing}; Node {OLDEST_NODE} or later and npm build the page")
        print(f"skipped: {missing}")
        return 0
    if not check:
        build(BUILT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "built"
        build(fresh)
        names = differences(BUILT, fresh)
    if names:
        fail(f"built files are not what the sources give: {', '.join(names)}; run scripts/page.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
