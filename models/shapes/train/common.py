"""What every training stage shares: time budget, log, atomic checkpoints, averages of weights."""

from __future__ import annotations

import datetime
import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

RUNS = Path(__file__).resolve().parent / "runs"
SHIPPED = Path(__file__).resolve().parent.parent / "diffusers"


def fast_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; without, float32 is far faster."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


class Budget:
    """How far a run is, 0 to 1, by iterations or by processor time with a hard end on the clock.

    With `iterations` the run is the same on every machine. With `minutes` it lasts so many
    minutes of processor time (divided by the threads, so that a paused process does not use it up)
    and in any case stops at `end_at` ("HH:MM", local time).
    """

    def __init__(
        self,
        iterations: int | None,
        minutes: float | None,
        end_at: str | None,
        used: float = 0.0,
    ) -> None:
        if iterations is None and minutes is None:
            raise ValueError("give --iterations or --minutes")
        self.iterations = iterations
        self.seconds = None if minutes is None else minutes * 60.0
        self.end: float | None = None
        if end_at is not None:
            hour, minute = (int(part) for part in end_at.split(":"))
            now = datetime.datetime.now()
            end = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            if end < now:
                end += datetime.timedelta(days=1)
            self.end = end.timestamp()
        self._before = used
        self._cpu = time.process_time()
        self._wall = time.time()
        self._threads = max(1, torch.get_num_threads())

    def used(self) -> float:
        """Active seconds so far, those of an earlier, interrupted run included."""
        if torch.cuda.is_available():
            return self._before + time.time() - self._wall
        return self._before + (time.process_time() - self._cpu) / self._threads

    def progress(self, iteration: int) -> float:
        """Share of the run that is done."""
        if self.iterations is not None:
            return min(1.0, iteration / self.iterations)
        assert self.seconds is not None
        used = self.used()
        left = self.seconds - used
        if self.end is not None:
            left = min(left, self.end - time.time())
        return 1.0 if left <= 0 else used / (used + left)


def rate(progress: float, peak: float, iteration: int, warmup: int, floor: float = 0.01) -> float:
    """Learning rate: linear warm-up over iterations, then a cosine over the progress."""
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    return peak * min(1.0, (iteration + 1) / max(1, warmup)) * cosine


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None if there is none."""
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert isinstance(state, dict)
    return state


class Log:
    """One JSON object a line, with the time."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        if path is None:  # the other processes of a team keep silent
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: float | int | str) -> None:
        """Append one line and show it."""
        if self._file is None:
            return
        line = json.dumps({"time": round(time.time(), 1), **values})
        self._file.write(line + "\n")
        self._file.flush()
        print(line, flush=True)


class Average:
    """Exponential moving average of parameters, with a warm-up so that early weights fade."""

    def __init__(self, parameters: Iterable[torch.Tensor], decay: float) -> None:
        self.source = list(parameters)
        self.shadow = [p.detach().clone() for p in self.source]
        self.decay = decay

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move the average towards the parameters."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.source], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange average and parameters: once to evaluate, once more to go on."""
        for shadow, source in zip(self.shadow, self.source, strict=True):
            kept = source.detach().clone()
            source.copy_(shadow)
            shadow.copy_(kept)


def device() -> torch.device:
    """A GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
