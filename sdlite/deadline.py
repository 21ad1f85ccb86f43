"""Choose what a request leaves open so that it is done in time, and within the memory allowed.

What was asked for by name stays. What was not is given up in this order: closeness to the model's
own answers (profiles, docs/speed.md), steps, size. The largest picture that can be done is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sdlite.errors import NoPlan, RequestError
from sdlite.forecast import Timing, forecast
from sdlite.pipeline import Pipeline
from sdlite.planner import Plan
from sdlite.profiles import PROFILES, QUALITY
from sdlite.request import complete
from sdlite.types import Request

LEAST_STEPS = 6
"""Fewer steps than this are not taken by themselves."""
SHARES = (1.0, 0.875, 0.75, 0.625, 0.5)
"""Width and height to try, as shares of the model's own."""
GRID = 64
"""Pixels that sides chosen here are multiples of, like those models are trained at."""


@dataclass(frozen=True)
class Fitted:
    """A request with everything chosen that decides how long it takes."""

    request: Request
    """The request; carried out as it is."""
    seconds: float | None
    """Forecast of all its pictures; None without a deadline."""
    changes: tuple[str, ...]
    """What was chosen otherwise than without limits, one a thing."""


def fit(
    pipe: Pipeline,
    request: Request,
    timings: list[Timing],
    deadline: float | None = None,
    pictures: int = 1,
) -> Fitted:
    """Make a request fit a deadline and the memory the pipeline may take.

    Args:
        pipe: what will draw it.
        request: what is wanted; fields that are None are open, and so is the profile ``quality``.
        timings: what calls took on this machine (``sdlite.calibrate`` measures).
        deadline: seconds for all pictures, opening the model included; None for no limit.
        pictures: how many there will be, one after the other.

    Raises:
        NoPlan: it cannot be met; says what cannot, and what the least is.
        RequestError: there is a second pass, which cannot be forecast.
    """
    check(request, deadline)
    manifest = pipe.package.manifest
    whole = complete(request, manifest)
    least: tuple[float, Request] | None = None
    refused: NoPlan | None = None
    plans: dict[tuple[int | None, int | None], Plan | None] = {}
    for choice in _choices(request, whole):
        size = (choice.width, choice.height)
        if size not in plans:
            try:
                plans[size] = pipe.plan(choice)
            except NoPlan as error:
                refused, plans[size] = error, None
        made = plans[size]
        if made is None:
            continue
        if deadline is None:
            return Fitted(choice, None, _changes(whole, choice))
        # Steps and profile change nothing about what is placed where.
        full = complete(choice, manifest)
        seconds = forecast(made, full, manifest, timings).seconds(pictures)
        if seconds is None:
            raise RequestError(
                f"a deadline of {deadline:g} s cannot be kept: nothing was measured here yet for "
                f"{manifest.name}; sdlite plan --measure does it"
            )
        if seconds <= deadline:
            return Fitted(choice, seconds, _changes(whole, choice))
        if least is None or seconds < least[0]:
            least = seconds, choice
    if least is None:
        if refused is None:
            raise AssertionError("a request has at least one choice")
        raise refused
    seconds, choice = least
    told = f"the least is {seconds:.1f} s, with {_told(choice)}"
    reasons = [f"--deadline {deadline:g} s cannot be met: {told}"]
    if refused is not None:
        reasons.append(f"larger pictures do not fit the memory: {'; '.join(refused.reasons)}")
    raise NoPlan(reasons)


def check(request: Request, deadline: float | None) -> None:
    """Raise ``RequestError`` for a request that has no forecast."""
    if deadline is not None and request.hires is not None:
        raise RequestError(
            "a deadline cannot be kept with a second pass: how long that takes is not forecast; "
            "leave --deadline or --hires out"
        )


def _choices(request: Request, whole: Request) -> Iterator[Request]:
    """Ways to carry a request out, the best first."""
    steps = [whole.steps or 1]
    if request.steps is None and request.sigmas is None:
        steps = list(range(steps[0], min(LEAST_STEPS, steps[0]) - 1, -1))
    profiles = [request.profile]
    if request.profile == QUALITY.name:
        profiles = list(PROFILES)
    ways = [(name, steps[0]) for name in profiles]
    ways += [(profiles[-1], count) for count in steps[1:]]
    for width, height in _sizes(request, whole):
        for profile, count in ways:
            # Levels given one by one decide the steps themselves.
            given = None if request.sigmas is not None else count
            yield replace(request, width=width, height=height, steps=given, profile=profile)


def _sizes(request: Request, whole: Request) -> list[tuple[int | None, int | None]]:
    width, height = whole.width or GRID, whole.height or GRID
    if request.width is not None or request.height is not None or request.edit is not None:
        return [(request.width, request.height)]
    sizes = [(width, height)]
    for share in SHARES:
        smaller = tuple(max(GRID, int(side * share) // GRID * GRID) for side in (width, height))
        if smaller[0] <= width and smaller[1] <= height and smaller not in sizes:
            sizes.append((smaller[0], smaller[1]))
    return list(sizes)


def _changes(whole: Request, choice: Request) -> tuple[str, ...]:
    """What a choice has otherwise than the request without limits."""
    found = []
    if choice.width is not None and (choice.width, choice.height) != (whole.width, whole.height):
        found.append(f"{choice.width}x{choice.height} instead of {whole.width}x{whole.height}")
    if choice.steps is not None and choice.steps != whole.steps:
        found.append(f"{choice.steps} steps instead of {whole.steps}")
    if choice.profile != whole.profile:
        found.append(f"profile {choice.profile} instead of {whole.profile}")
    return tuple(found)


def _told(choice: Request) -> str:
    words = "the noise levels given" if choice.steps is None else f"{choice.steps} steps"
    words += "" if choice.width is None else f" at {choice.width}x{choice.height}"
    return f"{words}, profile {choice.profile}"
