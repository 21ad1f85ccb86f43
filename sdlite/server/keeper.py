"""Who holds the model of a device: opened when a job needs it, closed when nobody does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline

log = logging.getLogger("sdlite.server")

Open = Callable[[str], "Pipeline"]
"""``name -> pipeline``; the name is one a job was ordered with."""


class Keeper:
    """At most one open model, for one thread that draws.

    Args:
        open_model: opens a model by name.
        keep_seconds: how long an idle model stays; below 0 for ever.
    """

    def __init__(self, open_model: Open, keep_seconds: float) -> None:
        self._open_model = open_model
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._pipe: Pipeline | None = None
        self._name: str | None = None
        self._used = 0.0

    @property
    def name(self) -> str | None:
        """The model that is open."""
        return self._name

    def get(self, name: str) -> Pipeline:
        """The model, opened if it is not; another one is closed before."""
        with self._lock:
            if self._pipe is None or self._name != name:
                self._close()
                start = time.monotonic()
                self._pipe = self._open_model(name)
                self._name = name
                seconds = round(time.monotonic() - start, 3)
                log.info("model opened", extra={"data": {"model": name, "seconds": seconds}})
            return self._pipe

    def rest(self) -> None:
        """Say that the model is not used from now on."""
        self._used = time.monotonic()
        if self._keep_seconds == 0:
            self.close()

    def patience(self) -> float | None:
        """Seconds until an idle model is to be closed; None when there is nothing to close."""
        if self._pipe is None or self._keep_seconds < 0:
            return None
        return max(self._used + self._keep_seconds - time.monotonic(), 0.0)

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._pipe is None:
            return
        log.info("model closed", extra={"data": {"model": self._name}})
        self._pipe.close()
        self._pipe = self._name = None
