"""Who holds the model of a device: opened when a job needs it, closed when nobody does."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from sdlite.memory import snapshot

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline

log = logging.getLogger("sdlite.server")

Open = Callable[[str], "Pipeline"]
"""``name -> pipeline``; the name is one a job was ordered with."""


class Keeper:
    """The open models of one thread that draws: one, or those a budget has place for.

    Args:
        open_model: opens a model by name.
        keep_seconds: how long idle models stay; below 0 for ever.
        keep_bytes: private memory of the process up to which models stay open beside the one that
            is drawn with; those not used for longest leave first, and the last one too where it is
            more alone. None for one model at a time.
    """

    def __init__(
        self, open_model: Open, keep_seconds: float, keep_bytes: int | None = None
    ) -> None:
        self._open_model = open_model
        self._keep_seconds = keep_seconds
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()
        self._pipes: OrderedDict[str, Pipeline] = OrderedDict()
        self._used = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are open, the one used last at the end."""
        return tuple(self._pipes)

    def get(self, name: str) -> Pipeline:
        """The model, opened if it is not; others are closed before as the budget says."""
        with self._lock:
            pipe = self._pipes.get(name)
            if pipe is None:
                if self._keep_bytes is None:
                    self._close()
                start = time.monotonic()
                pipe = self._pipes[name] = self._open_model(name)
                seconds = round(time.monotonic() - start, 3)
                log.info("model opened", extra={"data": {"model": name, "seconds": seconds}})
            self._pipes.move_to_end(name)
            return pipe

    def rest(self) -> None:
        """Say that no model is used from now on."""
        self._used = time.monotonic()
        if self._keep_seconds == 0:
            self.close()
        elif self._keep_bytes is not None:
            with self._lock:
                while self._pipes and _private_bytes() > self._keep_bytes:
                    self._close_one()

    def patience(self) -> float | None:
        """Seconds until idle models are to be closed; None when there is nothing to close."""
        if not self._pipes or self._keep_seconds < 0:
            return None
        return max(self._used + self._keep_seconds - time.monotonic(), 0.0)

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        while self._pipes:
            self._close_one()

    def _close_one(self) -> None:
        """Close the model that was not used for longest."""
        name, pipe = self._pipes.popitem(last=False)
        log.info("model closed", extra={"data": {"model": name}})
        pipe.close()


def _private_bytes() -> int:
    """Private memory of this process; 0 where the system does not tell."""
    use = snapshot()
    return 0 if use is None else use.private_bytes
