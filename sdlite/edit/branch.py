"""Go on from the middle of a picture in another way: another prompt, more steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sdlite.changes import changed
from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import Manifest
from sdlite.profiles import QUALITY, find_profile
from sdlite.request import complete, sampling_of
from sdlite.sampling import NoiseLevels
from sdlite.types import Float32, Request, SamplerState

BRANCHED = "Branched after step"
"""The parameter that says so: the step, and the profile it was begun in."""
SETTLED = (
    "steps",
    "hires",
    "hires-strength",
    "hires-steps",
    "hires-upscaler",
    "hires-sampler",
    "hires-schedule",
)
"""What cannot be changed any more once the second pass is begun."""
BRANCHES = (
    "prompt",
    "negative",
    "guidance",
    "guidance-rescale",
    "guidance-interval",
    "clip-skip",
    "emphasis",
    "decoder",
    "hires-guidance",
    "hires-prompt",
    "hires-negative",
    *SETTLED,
)
"""What can be changed once a picture is begun: what is asked of the model, how often, and what
comes after."""


def branch(
    request: Request, state: SamplerState, changes: Mapping[str, Any], manifest: Manifest
) -> tuple[Request, SamplerState]:
    """The job that goes on from a state with settings changed, and the state it goes on from.

    Other steps are the steps of the whole picture: what is left of the schedule is cut finer, or
    coarser, along the same curve.

    Args:
        request: the completed job the state belongs to.
        state: where it is.
        changes: parsed values by names of ``sdlite.changes``.
        manifest: of the model.

    Raises:
        UnknownName: a setting cannot be changed any more; says which can.
        RequestError: the steps are fewer than were run already, or it is too late: an edit has its
            steps, a second pass that is begun its steps and its size.
    """
    for name in changes:
        if name not in BRANCHES:
            raise UnknownName("change of a picture that is begun", name, BRANCHES)
        if state.stage and name in SETTLED:
            raise RequestError(f"{name} cannot be changed any more: the second pass is begun")
    asked = {name: value for name, value in changes.items() if name != "steps"}
    changed_request = changed(_without_shortcuts(request), asked)
    if "steps" in changes:
        if request.edit is not None:
            raise RequestError(
                "steps can be changed of a picture drawn from nothing, not of an edit"
            )
        _, sigmas = sampling_of(request, manifest, NoiseLevels.from_table(manifest.noise))
        finer = _cut(sigmas, state.index, changes["steps"])
        changed_request = replace(changed_request, sigmas=tuple(map(float, finer)))
        hires = changed_request.hires
        if hires is not None and hires.sampler is None and hires.schedule is None:
            # With levels one by one the first pass has no schedule for the second to take over.
            hires = replace(hires, schedule=request.schedule)
            changed_request = replace(changed_request, hires=hires)
    # What answers are forecast from belongs to the job before.
    return complete(changed_request, manifest), replace(state, cache={})


def _without_shortcuts(request: Request) -> Request:
    """A completed request in full quality: what its profile had filled in is open again."""
    profile = find_profile(request.profile)
    own = request.guidance_interval == profile.interval
    return replace(
        request,
        profile=QUALITY.name,
        guidance_interval=None if own else request.guidance_interval,
        decoder=None if profile.tiny else request.decoder,
    )


def _cut(sigmas: Float32, done: int, steps: int) -> Float32:
    """A schedule that begins as ``sigmas`` do and has ``steps`` intervals, 0 at its end."""
    left = steps - done
    if left < 1:
        raise RequestError(f"{done} steps are done already; {steps} steps are not more")
    rest = sigmas[done:-1]
    places = np.linspace(0, len(rest) - 1, left) if len(rest) > 1 else np.zeros(left)
    curve = np.exp(np.interp(places, np.arange(len(rest)), np.log(rest)))
    if len(rest) == 1 and left > 1:
        # One interval to 0 is left: halve what there is, step by step.
        curve = rest[0] * 0.5 ** np.arange(left)
    whole: Float32 = np.concatenate([sigmas[:done], curve, [0.0]]).astype(np.float32)
    return whole
