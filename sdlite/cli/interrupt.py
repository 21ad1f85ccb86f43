"""Ctrl-C in two stages: the first stops after the current step, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Generic, TypeVar

import click

from sdlite.cli.edge import INTERRUPTED

T = TypeVar("T")
POLL_SECONDS = 0.1
WRITE_SECONDS = 5.0
"""How long the second Ctrl-C waits for a picture that is being written."""


class Job(Generic[T]):
    """Work that can be stopped.

    It runs in a thread of its own, because a signal is only noticed by the main thread and only
    between two instructions of Python: inside an engine's call that can take many seconds.

    Args:
        work: gets the event that asks it to stop and the lock to hold while it writes a file.
    """

    def __init__(self, work: Callable[[threading.Event, threading.Lock], T]) -> None:
        self._work = work
        self._cancel = threading.Event()
        self._writing = threading.Lock()
        self._value: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> T:
        """Do the work; raises what it raises."""
        if threading.current_thread() is not threading.main_thread():
            return self._work(self._cancel, self._writing)
        before = signal.signal(signal.SIGINT, self._interrupted)
        try:
            worker = threading.Thread(target=self._run, name="sdlite", daemon=True)
            worker.start()
            while worker.is_alive():
                worker.join(POLL_SECONDS)
        finally:
            signal.signal(signal.SIGINT, before)
        if self._error is not None:
            raise self._error
        return self._value[0]

    def _run(self) -> None:
        try:
            self._value.append(self._work(self._cancel, self._writing))
        except BaseException as error:
            self._error = error

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        if self._cancel.is_set():
            self._writing.acquire(timeout=WRITE_SECONDS)
            os._exit(INTERRUPTED)
        self._cancel.set()
        click.echo("\nsdlite: stopping after this step; Ctrl-C again stops at once", err=True)
