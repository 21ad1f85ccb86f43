"""``sdlite doctor`` for a server: one examination at a time, and nobody waits for it."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdlite.doctor import Finding

log = logging.getLogger("sdlite.server")

FRESH_SECONDS = 20.0
"""How long what was found is not looked for again: an examination starts processes."""


class Examination:
    """What was found last, and whether somebody is looking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = False
        self._found: tuple[Finding, ...] | None = None
        self._looked = 0.0

    def start(self) -> None:
        """Look, unless somebody does or just did."""
        with self._lock:
            fresh = self._found is not None and time.monotonic() - self._looked < FRESH_SECONDS
            if self._running or fresh:
                return
            self._running = True
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        from sdlite import doctor

        try:
            found = doctor.findings()
        except Exception:
            log.exception("the examination failed")
            found = (doctor.Finding("doctor", "failure", "it failed; the server's log has it"),)
        with self._lock:
            self._running, self._found, self._looked = False, found, time.monotonic()

    def view(self) -> dict[str, Any]:
        """As JSON."""
        with self._lock:
            found, running = self._found, self._running
        return {
            "running": running,
            "ok": None if found is None else all(item.status != "failure" for item in found),
            "checks": [asdict(item) for item in found or ()],
        }
