"""Makes `heldout.json` and `heldout-800.json`: prompts with seeds training never draws.

    python -m benchmarks.quality.make_heldout [--check]

A combination of colours, shapes, relation and background is held out when the first eight hex
digits of the SHA-256 of its key are divisible by eight; sizes and styles are not part of it. Which
held-out combinations are asked, and how each is worded, also follows from SHA-256 alone, so the
lists are the same on every machine and Python version. The list of 800 is another draw than the
one of 400; single shapes have few held-out combinations, which come again in other words and sizes.
`--check` compares instead of writing.

Half of the prompts name one shape, half two. In each half exactly: 15 % small and 15 % large (of
one object, for two shapes), 7 % outline, 6 % soft and 2 % flat spelt out, and 30 % in one of the
natural variants. Captions that leave colour, place or background open are not asked, because a
held-out combination cannot be told from them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

from benchmarks.quality.captions import INVERSE
from benchmarks.quality.outlines import SHAPES
from benchmarks.quality.palette import NAMES

PATH = Path(__file__).with_name("heldout.json")
_SIZES = {"small": 15, "large": 15, "": 70}
_STYLES = {"outline": 7, "soft": 6, "flat": 2, "": 85}
_VARIANTS_ONE = {"no article": 15, "comma background": 15, "canonical": 70}
_VARIANTS_TWO = {
    "with": 8,
    "to the": 6,
    "no article": 8,
    "comma background": 8,
    "canonical": 70,
}


def is_held_out(key: str) -> bool:
    """Whether a combination's key belongs to the held-out eighth."""
    return int(hashlib.sha256(key.encode("ascii")).hexdigest()[:8], 16) % 8 == 0


def one_key(colour: str, shape: str, background: str) -> str:
    """Key of a combination of one shape."""
    return f"one:{colour} {shape}:{background}"


def two_key(first: tuple[str, str], relation: str, second: tuple[str, str], background: str) -> str:
    """Key of a combination of two (colour, shape) pairs, with the first left of or above."""
    if relation in ("right of", "below"):
        first, relation, second = second, INVERSE[relation], first
    return f"two:{' '.join(first)}:{relation}:{' '.join(second)}:{background}"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _worded(
    objects: Sequence[str], relation: str | None, background: str, variant: str, style: str
) -> str:
    """Word a caption; `objects` are "size colour shape" without articles."""
    suffix = ""
    if style.endswith(" style"):
        suffix = f", {style}"
    elif style:
        objects = [f"{style} {words}" for words in objects]
    bare = variant == "no article"
    named = [words if bare else _article(words) for words in objects]
    ground = f" on {background if bare else _article(background)} background"
    if variant == "comma background":
        ground = f", {background} background"
    if relation is None:
        return named[0] + ground + suffix
    if variant == "with":
        sides = {
            "left of": "to its right",
            "right of": "to its left",
            "above": "below it",
            "below": "above it",
        }
        return f"{named[0]} with {named[1]} {sides[relation]}{ground}{suffix}"
    if variant == "to the":
        relation = f"to the {relation}"
    return f"{named[0]} {relation} {named[1]}{ground}{suffix}"


@dataclass(frozen=True)
class Draw:
    """One list of prompts, drawn from the held-out combinations."""

    path: Path
    """Where it is kept."""
    half: int
    """Prompts of one shape, and of two."""
    salt: str
    """What makes this draw another than the next."""

    def text(self) -> str:
        """The list as JSON, one prompt a line."""
        entries = [*self._one_shape(), *self._two_shapes()]
        lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
        return f"[\n{lines}\n]\n"

    def _number(self, *words: object) -> int:
        """A number that follows from some words."""
        text = ":".join(str(word) for word in (self.salt, *words))
        return int(hashlib.sha256(text.encode("ascii")).hexdigest()[:12], 16)

    def _dealt(self, shares: dict[str, int], what: str) -> list[str]:
        """Deal values in exact percentages, in an order that depends on `what` alone."""
        values = [value for value, share in shares.items() for _ in range(share * self.half // 100)]
        order = sorted(range(len(values)), key=lambda index: self._number("deal", what, index))
        return [values[index] for index in order]

    def _spelt_style(self, style: str, *words: object) -> str:
        """Half of the style words stand before the objects, half at the end."""
        return style if not style or self._number("form", *words) % 2 else f"{style} style"

    def _entry(
        self, index: int, number: int, prompt: str, variant: str, size: str, style: str, key: str
    ) -> dict[str, object]:
        return {
            "id": f"{'one' if number == 1 else 'two'}-{index:03d}",
            "prompt": prompt,
            "seed": self._number("seed", number, index) % 2**31,
            "shapes": number,
            "size": size or "plain",
            "style": style.removesuffix(" style") or "flat",
            "wording": variant + (" + style word" if style else ""),
            "combination": key,
        }

    def _one_shape(self) -> Iterable[dict[str, object]]:
        keys = [
            (colour, shape, ground)
            for colour, shape, ground in product(NAMES, SHAPES, NAMES)
            if colour != ground and is_held_out(one_key(colour, shape, ground))
        ]
        keys.sort(key=lambda words: self._number("one", *words))
        sizes, styles = self._dealt(_SIZES, "one size"), self._dealt(_STYLES, "one style")
        variants = self._dealt(_VARIANTS_ONE, "one variant")
        for index in range(self.half):
            colour, shape, ground = keys[index % len(keys)]
            size, variant = sizes[index], variants[index]
            style = self._spelt_style(styles[index], "one", index)
            words = " ".join(word for word in (size, colour, shape) if word)
            prompt = _worded([words], None, ground, variant, style)
            key = one_key(colour, shape, ground)
            yield self._entry(index, 1, prompt, variant, size, style, key)

    def _two_shapes(self) -> Iterable[dict[str, object]]:
        keys = []
        for (first, second, ground), shapes, relation in product(
            permutations(NAMES, 3), product(SHAPES, SHAPES), ("left of", "above")
        ):
            key = two_key((first, shapes[0]), relation, (second, shapes[1]), ground)
            if is_held_out(key):
                order = self._number("two", key)
                keys.append((order, first, shapes, relation, second, ground, key))
        keys.sort()
        sizes, styles = self._dealt(_SIZES, "two size"), self._dealt(_STYLES, "two style")
        variants = self._dealt(_VARIANTS_TWO, "two variant")
        for index in range(self.half):
            _, first, shapes, relation, second, ground, key = keys[index]
            objects = [f"{first} {shapes[0]}", f"{second} {shapes[1]}"]
            size, variant = sizes[index], variants[index]
            if size:
                sized = self._number("sized", index) % 2
                objects[sized] = f"{size} {objects[sized]}"
            if self._number("order", index) % 2:
                objects.reverse()
                relation = INVERSE[relation]
            if variant == "to the" and not relation.endswith(" of"):
                variant = "canonical"
            style = self._spelt_style(styles[index], "two", index)
            prompt = _worded(objects, relation, ground, variant, style)
            yield self._entry(index, 2, prompt, variant, size, style, key)


DRAWS = (
    Draw(PATH, 200, "sdlite quality 1"),
    Draw(PATH.with_name("heldout-800.json"), 400, "sdlite quality 2"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the lists; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare with the files, write nothing"
    )
    chosen = parser.parse_args(arguments)
    same = True
    for draw in DRAWS:
        text = draw.text()
        if chosen.check:
            fits = draw.path.is_file() and draw.path.read_text(encoding="utf-8") == text
            same = same and fits
            sys.stdout.write(f"{draw.path.name} {'is up to date' if fits else 'differs'}\n")
        else:
            draw.path.write_text(text, encoding="utf-8", newline="\n")
            sys.stdout.write(f"{draw.path}: {text.count('prompt')} prompts\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
