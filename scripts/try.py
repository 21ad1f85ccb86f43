"""Draw a picture from a fresh checkout: makes an environment, installs sdlite, draws.

    python3 scripts/try.py "a red circle on a blue background" -o circle.png

All options go to ``sdlite generate``. Prints the path of the picture and the time it took. The
environment is ``.venv-try`` in the checkout; afterwards the command is there as ``sdlite``. Needs
Python 3.11 to 3.13 and nothing else.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from _environment import environment

INTERRUPTED = 130


def main() -> int:
    try:
        python = environment(".venv-try", [["--editable", ".[cpu]"]], "sdlite")
    except KeyboardInterrupt:
        print("sdlite: stopped; the next call installs it again", file=sys.stderr)
        return INTERRUPTED
    start = time.monotonic()
    code = call([str(python), "-m", "sdlite.cli", "generate", *sys.argv[1:]])
    if code == 0:
        seconds = time.monotonic() - start
        script = python.with_name("sdlite.exe" if python.suffix else "sdlite")
        print(f"{seconds:.1f} s in all; from now on: {script}", file=sys.stderr)
    return code


def call(command: list[str]) -> int:
    """Run a command that deals with Ctrl-C itself; returns its exit code."""
    # The terminal sends Ctrl-C to both. subprocess.run would kill the command a moment later, but
    # the first one lets it finish its step. A handler, unlike SIG_IGN, is not inherited.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        code = subprocess.Popen(command).wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
