"""What the phases of a run cost: seconds, engine calls, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sdlite.components import Meter
from sdlite.engine import nothing
from sdlite.memory import PeakWatch
from sdlite.types import PhaseReport


class Recorder:
    """Measures the phases of one run.

    Args:
        check: called before everything an engine is asked; may raise.
    """

    def __init__(self, check: Callable[[], object] = nothing) -> None:
        self._check = check
        self.reports: list[PhaseReport] = []
        self.peak_bytes: int | None = None
        self.notes: list[str] = []
        self._outside = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[Meter]:
        """Measure one phase; its report is there when it ended, however it ended."""
        meter = Meter(self._check)
        self._outside = 0.0
        start = time.perf_counter()
        watch = PeakWatch()
        try:
            with watch:
                yield meter
        finally:
            seconds = time.perf_counter() - start - self._outside
            if watch.peak_bytes is not None:
                self.peak_bytes = max(watch.peak_bytes, self.peak_bytes or 0)
            self.notes.extend(meter.notes)
            self.reports.append(
                PhaseReport(
                    name=name,
                    load_seconds=meter.load_seconds,
                    run_seconds=seconds - meter.load_seconds,
                    engine_seconds=meter.engine_seconds,
                    calls=meter.calls,
                    private_bytes=watch.private_bytes,
                    mapped_bytes=watch.mapped_bytes,
                    precision=meter.precision,
                    full=meter.full,
                    skipped=meter.skipped,
                    unguided=meter.unguided,
                )
            )

    def fields(self, images: int) -> dict[str, str]:
        """What the parameters of a picture say about answers of the model that were forecast.

        Of several pictures drawn together it is their mean.
        """
        full = sum(report.full for report in self.reports)
        whole = full + sum(report.skipped for report in self.reports)
        return (
            {} if whole == full else {"Model answers": f"{full / images:g} of {whole / images:g}"}
        )

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Time that belongs to whoever iterates, not to the phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._outside += time.perf_counter() - start
