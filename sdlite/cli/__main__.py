"""``python -m sdlite.cli``: the command, wherever scripts are installed."""

from sdlite.cli import main

main()
