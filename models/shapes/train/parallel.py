"""Data parallelism by processes of one thread each.

The networks are small, so splitting a batch over processes is faster than splitting every
operation over threads, and it keeps its speed when the cores are busy with other work: the only
meeting point is one sum of gradients a step, in shared memory.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.multiprocessing as mp


class _Barrier(Protocol):
    def wait(self, timeout: float | None = None) -> int: ...


class Team:
    """One process's view of all: its rank, how many there are, and the mean of what they hold."""

    def __init__(
        self, rank: int, count: int, barrier: _Barrier | None, shared: torch.Tensor | None
    ):
        self.rank = rank
        self.count = count
        self._barrier = barrier
        self._shared = shared
        self._turn = 0

    @torch.no_grad()
    def mean(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their mean over the processes; all must call it alike."""
        if self.count == 1:
            return
        assert self._barrier is not None and self._shared is not None
        flat = torch.cat([t.reshape(-1).float() for t in tensors])
        # two buffers in turn: nobody can still be reading what the next step writes
        buffer = self._shared[self._turn]
        self._turn ^= 1
        buffer[self.rank, : flat.numel()].copy_(flat)
        self._barrier.wait(3600)
        torch.mean(buffer[:, : flat.numel()], 0, out=flat)
        at = 0
        for t in tensors:
            t.copy_(flat[at : at + t.numel()].view_as(t))
            at += t.numel()

    def mean_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Average the gradients of the parameters over the processes."""
        if self.count > 1:
            for p in parameters:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            self.mean([p.grad for p in parameters if p.grad is not None])

    def agree(self, value: float) -> float:
        """The first process's value, everywhere."""
        if self.count == 1:
            return value
        number = torch.tensor([value * self.count if self.rank == 0 else 0.0])
        self.mean([number])
        return float(number)


def _follow(parent: int) -> None:
    """End with the process that started this one, however that ended."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def _member(
    rank: int, work: Callable[[Team, Any], None], args: Any, count: int, barrier: Any, shared: Any
) -> None:
    torch.set_num_threads(1)
    if rank > 0:
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    work(Team(rank, count, barrier, shared), args)


def run(work: Callable[[Team, Any], None], args: Any, workers: int, numbers: int) -> None:
    """Call `work(team, args)` in `workers` processes that share up to `numbers` floats a step.

    The caller's process is the first of them. With one worker all threads are its own.
    """
    if workers <= 1:
        work(Team(0, 1, None, None), args)
        return
    context = mp.get_context("spawn")
    barrier = context.Barrier(workers)
    shared = torch.zeros(2, workers, numbers).share_memory_()
    others = [
        context.Process(
            target=_member, args=(rank, work, args, workers, barrier, shared), daemon=True
        )
        for rank in range(1, workers)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for process in others:
        process.start()
    try:
        _member(0, work, args, workers, barrier, shared)
        for process in others:
            process.join()
    finally:
        for process in others:
            if process.is_alive():
                process.terminate()
