"""What ``--deadline`` does: measures if it must, chooses once, and tells what it chose."""

from __future__ import annotations

from dataclasses import replace

from sdlite import forecast, home
from sdlite.calibrate import calibrate, unknown
from sdlite.cli.edge import tell
from sdlite.deadline import check, fit
from sdlite.errors import NoPlan
from sdlite.pipeline import Pipeline
from sdlite.types import Request


class Fitting:
    """Makes requests fit a deadline, and the memory allowed, all in the same way.

    Args:
        pipe: what draws.
        deadline: seconds for all pictures; None for no limit.
        pictures: how many there are.
        quiet: whether nothing is told.
    """

    def __init__(self, pipe: Pipeline, deadline: float | None, pictures: int, quiet: bool) -> None:
        self._pipe = pipe
        self._deadline = deadline
        self._pictures = pictures
        self._quiet = quiet
        self._chosen: Request | None = None

    def __call__(self, request: Request) -> Request:
        """The request as it will be carried out.

        Raises:
            NoPlan: it cannot be met; says what the least is.
            RequestError: it cannot be forecast.
        """
        if self._chosen is None:
            self._chosen = self._fit(request)
        chosen = self._chosen
        return replace(
            request,
            width=chosen.width,
            height=chosen.height,
            steps=chosen.steps,
            profile=chosen.profile,
        )

    def _fit(self, request: Request) -> Request:
        if self._deadline is None:
            if request.width is not None or request.height is not None or request.edit is not None:
                return request
            try:
                self._pipe.plan(request)
            except NoPlan:
                # A smaller picture may fit the memory.
                pass
            else:
                return request
        check(request, self._deadline)
        folder = home.folders().cache
        timings = forecast.read(folder)
        if self._deadline is not None:
            smallest = fit(self._pipe, request, timings, pictures=self._pictures)
            plan = self._pipe.plan(smallest.request)
            if unknown(plan, timings):
                self._say("measuring how fast this machine is, at most 10 seconds, once")
                timings = calibrate(self._pipe.package, plan, folder)
        fitted = fit(self._pipe, request, timings, self._deadline, self._pictures)
        if fitted.changes:
            why = "to fit the memory allowed"
            if fitted.seconds is not None:
                why = f"to be done in about {fitted.seconds:.1f} s"
            self._say(f"{', '.join(fitted.changes)}, {why}")
        return fitted.request

    def _say(self, text: str) -> None:
        if not self._quiet:
            tell(f"note: {text}")
