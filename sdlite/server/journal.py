"""What the engine room tells whoever keeps jobs beyond the life of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline
    from sdlite.server.jobs import Job
    from sdlite.types import Result, SamplerState, Step


class Journal:
    """Keeps nothing; what keeps something overrides these.

    The room calls them for jobs whose order is ``kept``, and goes on only when they returned, so
    what is announced has been written.
    """

    def accept(self, job: Job) -> None:
        """A job was taken; raises ``Refused`` when it cannot be kept."""

    def forget_accepted(self, job: Job) -> None:
        """It was refused after all."""

    def begin(self, job: Job) -> None:
        """A job begins to run, perhaps not for the first time; raises what it fails with."""

    def resume(self, job: Job, number: int, pipe: Pipeline) -> SamplerState | None:
        """Where request ``number`` goes on from; None when it begins from its beginning."""
        return None

    def step(self, job: Job, number: int, pipe: Pipeline, step: Step) -> None:
        """A step of it is done."""

    def drawn(self, job: Job, number: int, result: Result) -> None:
        """It is finished; the result is announced after this."""

    def suspend(self, job: Job) -> None:
        """The job ran and is not over, because the server was asked to end: in the middle of a
        step, as a rule."""

    def end(self, job: Job, state: str) -> None:
        """The job is over."""
