"""Words that options and requests are made of. Imports next to nothing, so the options can."""

from __future__ import annotations

from sdlite.errors import UnknownName

MEMORY_MODES = ("auto", "normal", "mapped")
"""How weights are held: as the machine allows, in memory, or in their file."""
PRECISIONS = ("fp32", "fp16")
"""Number formats of stored weights."""
RNGS = ("cpu", "nv", "numpy")
"""Random number generators: torch's on a processor, NVIDIA's Philox, numpy's."""
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
