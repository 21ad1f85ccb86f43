"""Prompts joined by AND, each with a weight at its end: ``a cat :1.2 AND a dog``."""

from __future__ import annotations

import re

_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?|[0-9]*\.[0-9]+)")


def split_composition(prompt: str) -> list[tuple[str, float]]:
    """The prompts and their weights; at least one.

    As in A1111, ``: number`` at the very end of a prompt is its weight even where there is no AND,
    white space before it (or at the end) is dropped, and without a number the weight is 1.
    """
    found = []
    for part in _AND.split(prompt):
        text, colon, number = part.rpartition(":")
        if colon and _NUMBER.fullmatch(number.strip()):
            found.append((text.rstrip(), float(number)))
        else:
            found.append((part.rstrip(), 1.0))
    return found
