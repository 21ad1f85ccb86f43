"""The queue: bounded, and fair between clients however many jobs each of them sends."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from sdlite.server.jobs import Job

REMEMBERED = 1024
"""Clients whose last turn is remembered while they wait for nothing."""


class Line:
    """Jobs that wait; the caller holds a lock.

    Whose last turn is longest ago comes next, and who never had one before all others, so a client
    with one job waits for at most one job of each other client.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._turns: OrderedDict[str, int] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Jobs that wait."""
        return sum(len(jobs) for jobs in self._waiting.values())

    def of_client(self, client: str) -> int:
        """Jobs of one client that wait."""
        return len(self._waiting.get(client, ()))

    def add(self, job: Job) -> None:
        """Let a job wait behind those of its client."""
        self._waiting.setdefault(job.order.client, deque()).append(job)

    def remove(self, job: Job) -> bool:
        """Take a job out; whether it was there."""
        jobs = self._waiting.get(job.order.client)
        if jobs is None or job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            del self._waiting[job.order.client]
        return True

    def take(self) -> Job | None:
        """The next job; None when nobody waits."""
        job = next(iter(self), None)
        if job is not None:
            self.remove(job)
            self.served(job.order.client)
        return job

    def served(self, client: str) -> None:
        """Note that a client has its turn now."""
        self._count += 1
        self._turns[client] = self._count
        self._turns.move_to_end(client)
        while len(self._turns) > REMEMBERED:
            self._turns.popitem(last=False)

    def __iter__(self) -> Iterator[Job]:
        """Every job, in the order they will be taken if nobody comes or goes."""
        turns = {client: self._turns.get(client, 0) for client in self._waiting}
        rest = {client: iter(jobs) for client, jobs in self._waiting.items()}
        count = self._count
        while rest:
            # Among equals the one who came first: dictionaries keep that order.
            client = min(rest, key=turns.__getitem__)
            job = next(rest[client], None)
            if job is None:
                del rest[client]
                continue
            count += 1
            turns[client] = count
            yield job
