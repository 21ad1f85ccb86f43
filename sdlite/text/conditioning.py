"""Prompts to conditioning: everything the U-Net is told in every step of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sdlite.choices import find_emphasis
from sdlite.errors import PackageInvalid
from sdlite.text.encoder import Encoded, Encoder, Group, check_weight, encode_groups
from sdlite.text.labels import Labels
from sdlite.text.prompt import read_negative, read_prompt
from sdlite.text.schedule import Change, Nodes, schedule, walk
from sdlite.text.tags import LORA_KINDS
from sdlite.text.weighting import BY_NAME
from sdlite.types import Cond, Conditions, Float32, StepConds

MANY_CHUNKS = 8
"""More than this many chunks are told: attention to them begins to cost as much as the rest."""
Timeline = tuple[tuple[int, Cond], ...]
"""``(last step, cond)`` in order: a cond is used up to and with that 0-based step, the last one to
the end of the run."""


@dataclass(frozen=True)
class Conditioning:
    """What the U-Net is told about a prompt and its negative, all through a run."""

    parts: tuple[tuple[Timeline, float], ...]
    """The prompts joined by AND and their weights."""
    negative: Timeline | None
    """The negative prompt; None where guidance never needs it."""
    notes: tuple[str, ...] = ()
    """What the user should know."""

    def at(self, step: int) -> StepConds:
        """What is drawn in a step, counted from 0.

        Prompts of a composition that differ in length are made equally long as in A1111, by
        repeating the last token of the shorter ones.
        """
        conds = [_at(timeline, step) for timeline, _ in self.parts]
        longest = max(cond.context.shape[1] for cond in conds)
        return StepConds(
            tuple(
                (_lengthened(cond, longest), weight)
                for cond, (_, weight) in zip(conds, self.parts, strict=True)
            ),
            None if self.negative is None else _at(self.negative, step),
        )

    @property
    def changes(self) -> frozenset[int]:
        """Steps, counted from 0, in which something else is drawn than in the one before."""
        timelines = [timeline for timeline, _ in self.parts]
        timelines += [] if self.negative is None else [self.negative]
        return frozenset(last + 1 for timeline in timelines for last, _ in timeline[:-1])

    def over(self, sigmas: Float32) -> Conditions:
        """What is drawn at a noise level of a run; ``sigmas`` has n+1 entries and falls to 0.

        A level belongs to the step that starts at or last above it, so that what a sampler asks
        for between two levels is drawn as the step it lies in, wherever the run was resumed.
        """
        starts = -sigmas[:-1].astype(np.float64)

        def conditions(sigma: float) -> StepConds:
            step = int(np.searchsorted(starts, -sigma, side="right")) - 1
            return self.at(max(step, 0))

        return conditions


def _at(timeline: Timeline, step: int) -> Cond:
    for last, cond in timeline:
        if step <= last:
            return cond
    return timeline[-1][1]


def _lengthened(cond: Cond, tokens: int) -> Cond:
    missing = tokens - cond.context.shape[1]
    if not missing:
        return cond
    tail = np.repeat(cond.context[:, -1:], missing, axis=1)
    return Cond(np.concatenate([cond.context, tail], axis=1), cond.added)


def condition(
    encoders: Sequence[Encoder],
    prompt: str,
    negative_prompt: str,
    *,
    guided: bool,
    steps: int,
    earlier: int | None = None,
    more: bool = False,
    emphasis: str = "Original",
    labels: Labels | None = None,
) -> Conditioning:
    """Encode everything a run is told.

    Args:
        encoders: the model's text encoders; features of several are joined along their width.
        prompt: in the prompt language, docs/prompts.md.
        negative_prompt: the same; AND and tags are words in it.
        guided: whether the negative prompt is needed.
        steps: steps of the run, for prompts that change in it.
        earlier: in a second pass (hires), steps of the first, from which changes count on.
        more: whether a second pass follows, in which what does not change in this one may.
        emphasis: how weights are read and applied, a name of ``EMPHASES``.
        labels: what SDXL's U-Nets are told beside; the pooled text is the last encoder's.

    Raises:
        UnknownName: there is no such emphasis.
        RequestError: a weight is too large to compute with.
        EngineError: a text encoder failed.
    """
    chosen = BY_NAME[find_emphasis(emphasis)]
    read = read_prompt(prompt)
    for nodes, weight in read.parts:
        check_weight("".join(node for node in nodes if isinstance(node, str)), weight)
    named: list[tuple[str, Nodes]] = [("prompt", nodes) for nodes, _ in read.parts]
    if guided:
        named.append(("negative prompt", read_negative(negative_prompt)))
    schedules = [schedule(nodes, steps, earlier) for _, nodes in named]
    groups = [_group(entries) for entries in schedules]
    encoded = [encode_groups(encoder, groups, chosen) for encoder in encoders]
    timelines = []
    for index, (entries, group) in enumerate(zip(schedules, groups, strict=True)):
        negative = index == len(read.parts)
        conds = [
            _cond([each[index][place] for each in encoded], labels, negative)
            for place in range(len(group.texts))
        ]
        if negative and labels is not None and labels.zeros_for_empty and not negative_prompt:
            conds = [_silent(cond) for cond in conds]
        found = dict(zip(group.texts, conds, strict=True))
        timelines.append(tuple((last, found[text]) for last, text in entries))
    weights = [weight for _, weight in read.parts]
    notes = [
        f"{name} changes at {change.when}, which is not within the run of {steps} steps"
        for name, nodes in named
        for change in walk(nodes)
        if isinstance(change, Change)
        and earlier is None
        and not more
        and not 1 <= change.step(steps, None) < steps
    ]
    for (name, _), texts in zip(named, encoded[0], strict=True):
        chunks = texts[0].context.shape[1] // (encoders[0].tokenizer.size + 2)
        if chunks > MANY_CHUNKS:
            notes.append(
                f"{name} takes {chunks} chunks of {encoders[0].tokenizer.size} tokens; every step "
                "reads all of them, which takes time and memory"
            )
    notes += [
        f"{tag.text} in the prompt is not applied"
        for tag in read.tags
        if tag.kind not in LORA_KINDS
    ]
    if len(weights) == 1 and weights[0] != 1.0:
        notes.append(
            f"the prompt ends in ':{weights[0]:g}', which gives the whole of it that weight, as in "
            "A1111"
        )
    return Conditioning(
        tuple(zip(timelines, weights, strict=False)),
        timelines[-1] if guided else None,
        tuple(dict.fromkeys(notes)),
    )


def _group(entries: Sequence[tuple[int, str]]) -> Group:
    counts: dict[str, int] = {}
    for _, text in entries:
        counts[text] = counts.get(text, 0) + 1
    return Group(tuple(counts), tuple(counts.values()))


def _cond(encoded: Sequence[Encoded], labels: Labels | None, negative: bool) -> Cond:
    context = np.concatenate([each.context for each in encoded], axis=-1)
    if labels is None:
        return Cond(context)
    pooled = encoded[-1].pooled
    if pooled is None:
        raise PackageInvalid("the text encoder gives no pooled text, which this U-Net needs")
    sizes = labels.negative_sizes if negative else labels.sizes
    return Cond(context, {"text_embeds": pooled, "time_ids": sizes})


def _silent(cond: Cond) -> Cond:
    """Zeros for all text; sizes stay."""
    text = np.zeros_like(cond.added["text_embeds"])
    return Cond(np.zeros_like(cond.context), {**cond.added, "text_embeds": text})


def with_added(conditions: Conditions, added: Mapping[str, Float32]) -> Conditions:
    """Conditions that also hand ``added``, ``(1, ...)`` each, to the U-Net, for every prompt."""

    def add(cond: Cond) -> Cond:
        more = {name: value.repeat(len(cond), axis=0) for name, value in added.items()}
        return replace(cond, added={**cond.added, **more})

    def at(sigma: float) -> StepConds:
        step = conditions(sigma)
        parts = tuple((add(cond), weight) for cond, weight in step.parts)
        return StepConds(parts, None if step.negative is None else add(step.negative))

    return at
