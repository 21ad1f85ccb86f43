"""Counters, in the text format Prometheus reads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sdlite import __version__
from sdlite.memory import snapshot
from sdlite.server.jobs import DONE, STATES, Job

if TYPE_CHECKING:
    from sdlite.server.room import EngineRoom

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What happened since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[int] = Counter()
        self._jobs: Counter[str] = Counter()
        self._pictures = 0
        self._seconds = 0.0
        self._engine_seconds = 0.0

    def answer(self, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self._answers[status] += 1

    def job(self, job: Job, state: str) -> None:
        """Count a job that ended."""
        with self._lock:
            self._jobs[state] += 1
            if state == DONE:
                self._pictures += sum(len(result.images) for result in job.results)
                self._seconds += job.seconds
                phases = [phase for result in job.results for phase in result.phases]
                self._engine_seconds += sum(phase.engine_seconds for phase in phases)

    def text(self, room: EngineRoom) -> str:
        """Everything, a line each."""
        return "\n".join([*self._lines(room), ""])

    def _lines(self, room: EngineRoom) -> Iterator[str]:
        with self._lock:
            answers, jobs = dict(self._answers), dict(self._jobs)
            pictures, seconds = self._pictures, self._seconds
            computing = self._engine_seconds
        yield from _head("sdlite_info", "gauge", "The version that runs.")
        yield f'sdlite_info{{version="{__version__}"}} 1'
        yield from _head("sdlite_http_responses_total", "counter", "Answers by status.")
        for status, count in sorted(answers.items()):
            yield f'sdlite_http_responses_total{{status="{status}"}} {count}'
        yield from _head("sdlite_jobs_total", "counter", "Jobs that ended, by how.")
        for state in STATES[2:]:
            yield f'sdlite_jobs_total{{state="{state}"}} {jobs.get(state, 0)}'
        yield from _head("sdlite_pictures_total", "counter", "Pictures drawn.")
        yield f"sdlite_pictures_total {pictures}"
        yield from _head("sdlite_job_seconds_total", "counter", "Seconds finished jobs ran.")
        yield f"sdlite_job_seconds_total {seconds:.3f}"
        yield from _head(
            "sdlite_engine_seconds_total", "counter", "Seconds of finished jobs in engine calls."
        )
        yield f"sdlite_engine_seconds_total {computing:.3f}"
        yield from _head("sdlite_jobs_waiting", "gauge", "Jobs in the queue.")
        yield f"sdlite_jobs_waiting {len(room.waiting())}"
        yield from _head("sdlite_jobs_running", "gauge", "Jobs being carried out.")
        yield f"sdlite_jobs_running {len(room.running())}"
        yield from _head("sdlite_models_open", "gauge", "Models in memory.")
        yield f"sdlite_models_open {sum(len(keeper.names) for keeper in room.keepers)}"
        use = snapshot()
        if use is not None:
            yield from _head("sdlite_memory_bytes", "gauge", "Resident memory by kind.")
            yield f'sdlite_memory_bytes{{kind="private"}} {use.private_bytes}'
            yield f'sdlite_memory_bytes{{kind="mapped"}} {use.mapped_bytes}'


def _head(name: str, kind: str, help: str) -> tuple[str, str]:
    return f"# HELP {name} {help}", f"# TYPE {name} {kind}"
