"""``python -m sdlite.cli.examine [RUNTIME]``: the part of ``sdlite doctor`` that may crash."""

from __future__ import annotations

import json
import sys

import click


def main(*arguments: str) -> None:
    """Print what ``sdlite.doctor.answer`` gives, as one line of JSON."""
    from sdlite.doctor import answer

    click.echo(json.dumps(answer(*arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
