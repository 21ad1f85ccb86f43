"""A1111's prompts that change during a run: ``[from:to:when]``, ``[to:when]``, ``[from::when]`` and
``[one|other]``, nested as one likes.

Every text can be read: what is no complete change stays as it is, for the attention brackets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

MAX_DEPTH = 100
"""Brackets nested deeper are not read as changes, so that time stays in proportion to length."""

_TOKEN = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_CLOSES = {"]": "[", ")": "("}


@dataclass(frozen=True)
class Change:
    """``[before:after:when]``."""

    before: Nodes
    """Until then."""
    after: Nodes
    """From then on."""
    when: str
    """A step, or with a point a fraction of the run; as typed."""

    def step(self, steps: int, earlier: int | None) -> int:
        """The last step that draws ``before``, at most ``steps``.

        Args:
            steps: steps of this run.
            earlier: in the second pass of a picture (hires), steps of the first: its steps and
                fractions come after those of the first.
        """
        value = float(self.when)
        if "." in self.when:
            value = (value - (0.0 if earlier is None else 1.0)) * steps
        else:
            value -= earlier or 0
        return int(max(min(value, steps), -steps))


@dataclass(frozen=True)
class Turns:
    """``[one|other]``: each step draws the next."""

    options: tuple[Nodes, ...]
    """What they are."""


Nodes: TypeAlias = "tuple[str | Change | Turns, ...]"
"""A prompt in pieces; most have one, a text."""


@dataclass
class _Open:
    """A bracket that is being read; its content is cut at colons and bars."""

    kind: str
    parts: list[list[str | Change | Turns]]
    marks: list[str]

    def plain(self) -> list[str | Change | Turns]:
        """The content as it was typed, without the closing bracket."""
        content: list[str | Change | Turns] = [self.kind, *self.parts[0]]
        for mark, part in zip(self.marks, self.parts[1:], strict=True):
            content += [mark, *part]
        return content


def parse_schedule(text: str) -> Nodes:
    """Find the changes of a prompt.

    As in A1111, a bracket whose content is not well formed (unbalanced, or with colons that make
    no change) is text, and so is every bracket around it. A bar outside ``[...|...]`` is text.
    """
    root: list[str | Change | Turns] = []
    stack: list[_Open] = []

    def give_up() -> None:
        for bracket in stack:
            root.extend(bracket.plain())
        stack.clear()

    for token in _TOKEN.findall(text):
        target = stack[-1].parts[-1] if stack else root
        if token in ("[", "("):
            if len(stack) >= MAX_DEPTH:
                give_up()
            stack.append(_Open(token, [[]], []))
        elif token in (":", "|") and stack:
            stack[-1].marks.append(token)
            stack[-1].parts.append([])
        elif token not in _CLOSES:
            target.append(token)
        elif stack and stack[-1].kind == _CLOSES[token]:
            bracket = stack.pop()
            found = _closed(bracket)
            if found is None:
                give_up()
                root.extend((*bracket.plain(), token))
            else:
                (stack[-1].parts[-1] if stack else root).extend(found)
        else:
            give_up()
            root.append(token)
    give_up()
    return _joined(root)


def _closed(bracket: _Open) -> list[str | Change | Turns] | None:
    """What a whole bracket means; None when it is no part of the language."""
    colons = bracket.marks.count(":")
    if bracket.kind == "(":
        return [*bracket.plain(), ")"] if colons <= 1 else None
    if not colons:
        if bracket.marks:
            return [Turns(tuple(_joined(part) for part in bracket.parts))]
        return [*bracket.plain(), "]"]
    # Bars beside colons are text.
    parts: list[list[str | Change | Turns]] = [bracket.parts[0]]
    for mark, part in zip(bracket.marks, bracket.parts[1:], strict=True):
        if mark == ":":
            parts.append(part)
        else:
            parts[-1] += [mark, *part]
    if colons > 2 or not all(isinstance(piece, str) for piece in parts[-1]):
        return None
    number = _NUMBER.fullmatch("".join(str(piece) for piece in parts[-1]))
    if number is None:
        return None
    before = parts[0] if colons == 2 else []
    return [Change(_joined(before), _joined(parts[-2]), number[1])]


def _joined(nodes: list[str | Change | Turns]) -> Nodes:
    """The same with neighbouring texts made one."""
    joined: list[str | Change | Turns] = []
    texts: list[str] = []
    for node in nodes:
        if isinstance(node, str):
            texts.append(node)
            continue
        if texts:
            joined.append("".join(texts))
            texts = []
        joined.append(node)
    if texts:
        joined.append("".join(texts))
    return tuple(joined)


def schedule(nodes: Nodes, steps: int, earlier: int | None = None) -> list[tuple[int, str]]:
    """``(last step, text)`` in order, as A1111 counts: the first step is 1, the last ``steps``.

    Arguments are those of ``Change.step``. A change after the last step never comes, one before
    the first is done from the start.
    """
    ends = {steps}
    for node in walk(nodes):
        if isinstance(node, Turns):
            ends.update(range(1, steps + 1))
        elif (step := node.step(steps, earlier)) >= 1:
            ends.add(step)
    return [(end, _at(nodes, end, steps, earlier)) for end in sorted(ends)]


def walk(nodes: Nodes) -> list[Change | Turns]:
    """Every change in a prompt, nested ones too."""
    found = [node for node in nodes if not isinstance(node, str)]
    for node in found:  # grows while it is read
        inside = (node.before, node.after) if isinstance(node, Change) else node.options
        found.extend(part for nodes in inside for part in nodes if not isinstance(part, str))
    return found


def _at(nodes: Nodes, end: int, steps: int, earlier: int | None) -> str:
    texts = []
    for node in nodes:
        if isinstance(node, str):
            texts.append(node)
        elif isinstance(node, Turns):
            texts.append(_at(node.options[(end - 1) % len(node.options)], end, steps, earlier))
        else:
            inside = node.before if end <= node.step(steps, earlier) else node.after
            texts.append(_at(inside, end, steps, earlier))
    return "".join(texts)
