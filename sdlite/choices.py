"""Words that options and requests are made of. Imports next to nothing, so the options can."""

from __future__ import annotations

from sdlite.errors import UnknownName

MEMORY_MODES = ("auto", "normal", "mapped")
"""How weights are held: as the machine allows, in memory, or in their file."""
PRECISIONS = ("fp32", "fp16", "int8", "w8")
"""Number formats of stored weights; ``int8`` stores ranges of activations too."""
WHOLE_PRECISIONS = ("fp32", "fp16")
"""Number formats of weights that no layer has in 8 bits."""
COMPUTE_PRECISIONS = ("fp32", "bf16", "fp16")
"""Number formats engines compute in."""
DECODERS = ("full", "tiny")
"""What makes pictures of latents: the model's autoencoder, or a tiny one beside it."""
RNGS = ("cpu", "nv", "numpy")
"""Random number generators: torch's on a processor, NVIDIA's Philox, numpy's."""
EMPHASES = ("Original", "No norm", "Ignore", "None", "ComfyUI", "compel")
"""How weights in prompts are read and applied: A1111's names, then other programs' ways."""
MAX_SIDE = 4096
"""Most pixels a side of a picture drawn at once."""
MOST_TILES = 64
"""Most tiles of an autoencoder: 4096 pixels have that many of 64 rows."""
TILINGS = ("none", "x", "y", "xy")
"""Along which axes opposite edges fit each other."""
CACHE_LIMIT = 2 << 30
"""Bytes that compiled graphs may take on disk when nothing else is said."""
_RNG_ALIASES = {"torch": "cpu", "gpu": "nv", "cuda": "nv", "philox": "nv", "np": "numpy"}


def find_rng(name: str, kind: str = "random number generator") -> str:
    """Name of a generator from any usual spelling (A1111: ``CPU``, ``NV``, ``GPU``).

    Raises ``UnknownName``, which calls it ``kind``.
    """
    folded = name.strip().casefold()
    folded = _RNG_ALIASES.get(folded, folded)
    if folded not in RNGS:
        raise UnknownName(kind, name, RNGS)
    return folded


def find_emphasis(name: str, kind: str = "emphasis") -> str:
    """Name of an emphasis from any case, words joined or not.

    Raises ``UnknownName``, which calls it ``kind``.
    """
    for known in EMPHASES:
        if _letters(known) == _letters(name):
            return known
    raise UnknownName(kind, name, EMPHASES)


def find_tiling(name: str, kind: str = "tiling") -> str:
    """Axes of a seamless picture from any usual spelling; empty for none.

    Raises ``UnknownName``, which calls it ``kind``.
    """
    folded = name.strip().casefold()
    folded = {"": "none", "both": "xy", "true": "xy", "yx": "xy", "false": "none"}.get(
        folded, folded
    )
    if folded not in TILINGS:
        raise UnknownName(kind, name, TILINGS)
    return "" if folded == "none" else folded


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
