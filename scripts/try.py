"""Draw a picture from a fresh checkout: makes an environment, installs sdlite, draws.

    python3 scripts/try.py "a red circle on a blue background" -o circle.png

All options go to ``sdlite generate``. Prints the path of the picture and the time it took. The
environment is ``.venv-try`` in the checkout; afterwards the command is there as ``sdlite``. Needs
Python 3.11 to 3.13 and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import time

from _environment import environment


def main() -> int:
    python = environment(".venv-try", [["--editable", ".[cpu]"]], "sdlite")
    start = time.monotonic()
    command = [str(python), "-m", "sdlite.cli", "generate", *sys.argv[1:]]
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 130
    if code == 0:
        seconds = time.monotonic() - start
        script = python.with_name("sdlite.exe" if python.suffix else "sdlite")
        print(f"{seconds:.1f} s in all; from now on: {script}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
