"""The queue, the engine room, and what holds when clients go away and jobs fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sdlite_runtimes.null import NullRuntime

import sdlite
from sdlite import registry
from sdlite.errors import Cancelled, EngineError
from sdlite.pipeline import Pipeline
from sdlite.server import keeper as keeping
from sdlite.server.jobs import CANCELLED, DONE, FAILED, Job, Order, Progress
from sdlite.server.limits import Limits
from sdlite.server.line import Line
from sdlite.server.problem import QueueFull, TimeUp
from sdlite.server.room import EngineRoom
from sdlite.types import Request
from tests.server.helpers import SLOW, until

Room = Callable[..., EngineRoom]
LONG = Request("x", steps=1000, guidance=1.0, seed=1)


def order(client: str = "a", *requests: Request, model: str = "tiny", work: float = 1.0) -> Order:
    return Order(model, requests or (Request("x", steps=1, seed=1),), client, "test", work)


@pytest.fixture
def room(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    rooms: list[EngineRoom] = []

    def start(
        engine: dict[str, str] | None = None, devices: int = 1, run: bool = True, **more: Any
    ) -> EngineRoom:
        monkeypatch.setitem(registry._runtimes, "null", NullRuntime(engine or {}))

        def open_model(name: str) -> Pipeline:
            return sdlite.load(name, runtime="null")

        more.setdefault("limits", Limits())
        made = EngineRoom([open_model] * devices, **more)
        rooms.append(made)
        if run:
            made.start()
        return made

    yield start
    for made in rooms:
        made.close()


def ended(job: Job) -> Job:
    until(lambda: job.over)
    return job


def test_turns_go_round() -> None:
    line = Line()
    jobs = [Job(order(client)) for client in ("a", "a", "a", "b", "b", "c")]
    for job in jobs:
        line.add(job)
    expected = ["a", "b", "c", "a", "b", "a"]
    assert [job.order.client for job in line] == expected
    taken = []
    while (job := line.take()) is not None:
        taken.append(job)
    assert [job.order.client for job in taken] == expected
    assert [job for job in taken if job.order.client == "a"] == jobs[:3]


def test_who_had_a_turn_lets_others_go_first() -> None:
    line = Line()
    for client in ("a", "a"):
        line.add(Job(order(client)))
    assert line.take().order.client == "a"  # type: ignore[union-attr]
    line.add(Job(order("b")))
    assert [job.order.client for job in line] == ["b", "a"]


def test_draws_one_after_the_other(room: Room) -> None:
    made = room(SLOW)
    jobs = [made.submit(order(client, Request("x", steps=3, seed=1))) for client in "aab"]
    until(lambda: made.running())
    assert len(made.running()) == 1
    assert made.position(jobs[2]) == 0 and made.position(jobs[1]) == 1
    assert made.seconds_before(jobs[1]) > made.seconds_before(jobs[2]) > 0
    for job in jobs:
        assert ended(job).state == DONE and len(job.results[0].images) == 1
    assert made.position(jobs[0]) is None


def test_two_devices_draw_at_once(room: Room) -> None:
    made = room(SLOW, devices=2)
    jobs = [made.submit(order("a", LONG)) for _ in range(2)]
    until(lambda: len(made.running()) == 2)
    until(lambda: all(job.progress.step for job in jobs))
    assert {job.place for job in jobs} == {0, 1}
    for job in jobs:
        made.cancel(job)
        assert ended(job).state == CANCELLED


def test_the_line_is_bounded(room: Room) -> None:
    made = room(run=False, limits=Limits(queue=3, queue_of_client=2))
    for _ in range(2):
        made.submit(order("a"))
    with pytest.raises(QueueFull, match="2 jobs of yours wait"):
        made.submit(order("a"))
    made.submit(order("b"))
    with pytest.raises(QueueFull, match="queue is full") as refused:
        made.submit(order("c"))
    assert int(refused.value.headers["Retry-After"]) >= 1


def test_cancelling_frees_a_place_at_once(room: Room) -> None:
    made = room(run=False, limits=Limits(queue=1))
    job = made.submit(order())
    made.cancel(job)
    assert job.state == CANCELLED
    made.submit(order())


def test_cancelling_ends_a_running_job_within_a_step(room: Room) -> None:
    made = room(SLOW)
    job = made.submit(order("a", LONG))
    until(lambda: job.progress.step >= 2)
    made.cancel(job)
    step = job.progress.step
    assert ended(job).state == CANCELLED
    assert job.progress.step <= step + 1 and not job.results


def test_interrupting_keeps_what_there_is(room: Room) -> None:
    made = room(SLOW)
    job = made.submit(order("a", LONG, LONG))
    until(lambda: job.progress.step >= 1)
    job.interrupt()
    assert ended(job).state == DONE
    assert len(job.results) == 1


def test_interrupted_before_it_began_there_still_is_a_picture(room: Room) -> None:
    made = room(run=False)
    job = made.submit(order("a", LONG, LONG))
    job.interrupt()
    made.start()
    assert ended(job).state == DONE
    assert len(job.results) == 1 and "after step 1 of" in job.results[0].notes[0]


def test_a_failing_job_ends_nothing_else(room: Room) -> None:
    made = room({"component": "unet", "fail_call": "2"})
    first = made.submit(order("a", Request("x", steps=4, guidance=1.0, seed=1)))
    assert ended(first).state == FAILED and isinstance(first.error, EngineError)
    (keeper,) = made.keepers
    until(lambda: not keeper.names)
    second = made.submit(order("a", Request("x", steps=1, guidance=1.0, seed=1)))
    assert ended(second).state == DONE


def test_an_unexpected_failure_ends_nothing_else(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room()

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "generate", broken)
        assert isinstance(ended(made.submit(order())).error, ZeroDivisionError)
    assert ended(made.submit(order())).state == DONE


def test_jobs_may_take_only_so_long(room: Room) -> None:
    made = room(SLOW, limits=Limits(job_seconds=0.2))
    job = ended(made.submit(order("a", LONG)))
    assert job.state == FAILED and isinstance(job.error, TimeUp)


def test_an_idle_model_is_closed(room: Room) -> None:
    made = room(keep_seconds=0.1)
    (keeper,) = made.keepers
    assert not keeper.names
    ended(made.submit(order()))
    until(lambda: not keeper.names)
    assert ended(made.submit(order())).state == DONE


def test_a_model_stays_open_between_jobs(room: Room) -> None:
    made = room()
    ended(made.submit(order()))
    first = made.keepers[0].get("tiny")
    ended(made.submit(order()))
    assert made.keepers[0].get("tiny") is first
    ended(made.submit(order(model="other")))
    assert made.keepers[0].names == ("other",)


def test_models_stay_open_as_a_budget_says(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    made = room(keep_bytes=1000)
    (keeper,) = made.keepers
    monkeypatch.setattr(keeping, "_private_bytes", lambda: 600 * len(keeper.names[1:]))
    ended(made.submit(order()))
    first = keeper.get("tiny")
    ended(made.submit(order(model="other")))
    assert keeper.names == ("tiny", "other")
    ended(made.submit(order()))
    assert keeper.get("tiny") is first and keeper.names == ("other", "tiny")
    # With less memory the one goes that was not used for longest; the last one too, if need be.
    monkeypatch.setattr(keeping, "_private_bytes", lambda: 600 * len(keeper.names))
    ended(made.submit(order()))
    assert keeper.names == ("tiny",)
    monkeypatch.setattr(keeping, "_private_bytes", lambda: 1001)
    assert ended(made.submit(order())).state == DONE
    assert keeper.names == ()


def test_estimates_learn(room: Room) -> None:
    made = room(SLOW)
    guess = made.expected(order(work=10.0))
    ended(made.submit(order("a", Request("x", steps=4, guidance=1.0, seed=1), work=4.0)))
    learned = made.expected(order(work=8.0))
    assert guess > learned > 0.2


def test_closing_cancels_everything(room: Room) -> None:
    made = room(SLOW)
    jobs = [made.submit(order("a", LONG)) for _ in range(3)]
    until(lambda: made.running())
    start = time.monotonic()
    made.close()
    assert time.monotonic() - start < 20
    assert {job.state for job in jobs} == {CANCELLED}
    assert not any(thread.name.startswith("sdlite-engine") for thread in threading.enumerate())
    with pytest.raises(QueueFull, match="shutting down"):
        made.submit(order())


def test_nothing_is_taken_while_it_ends(room: Room) -> None:
    made = room(SLOW)
    job = made.submit(order("a", LONG))
    made.end()
    with pytest.raises(QueueFull, match="shutting down"):
        made.submit(order())
    assert ended(job).state == CANCELLED


def test_the_room_is_told_before_anybody_else(room: Room) -> None:
    seen: list[tuple[str, str]] = []
    made = room(run=False, finished=lambda job, state: seen.append((job.state, state)))
    job = made.submit(order())
    job.listeners.append(lambda: seen.append((job.state, "told")))
    made.cancel(job)
    assert seen == [("queued", CANCELLED), (CANCELLED, "told")]


def test_other_work_takes_its_turn(room: Room) -> None:
    made = room(SLOW)
    first = made.submit(order("a", Request("x", steps=3, seed=1)))

    def work(job: Job) -> str:
        assert made.keepers[0].names == ("tiny",)
        job.progress = Progress(step=1, steps=2)
        assert job.share == 0.5
        return "done"

    job = made.submit(Order("", (), "b", "test", task=work))
    assert ended(job).value == "done" and first.over


def test_other_work_fails_and_is_cancelled_alone(room: Room) -> None:
    made = room()

    def fail(job: Job) -> None:
        raise EngineError("no")

    def wait(job: Job) -> None:
        assert job.cancel.wait(30)
        raise Cancelled("stopped as asked")

    failing = made.submit(Order("", (), "a", "test", task=fail))
    waiting = made.submit(Order("", (), "a", "test", task=wait))
    until(lambda: made.running() == (waiting,))
    made.cancel(waiting)
    assert ended(failing).state == FAILED and ended(waiting).state == CANCELLED
    assert ended(made.submit(order())).state == DONE
