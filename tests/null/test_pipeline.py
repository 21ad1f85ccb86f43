"""The pipeline on the fake engine: phases, seeds, cancelling, resuming, failing, sharing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import registry, sampling
from sdlite.engine import Artifact
from sdlite.errors import Cancelled, EngineError, OutOfMemory, RequestError, UnknownName
from sdlite.types import Hires, Request, Result, Step

Opener = Callable[..., sdlite.Pipeline]
SAMPLERS = [info.name for info in sampling.SAMPLERS]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_null_package(tmp_path / "tiny")


@pytest.fixture
def events() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def opened(
    package: Path, events: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Opener]:
    pipes: list[sdlite.Pipeline] = []

    def note(event: str, artifact: Artifact) -> None:
        events.append((event, artifact.component))

    def open_with(options: dict[str, str] | None = None, **wishes: object) -> sdlite.Pipeline:
        monkeypatch.setitem(registry._runtimes, "null", NullRuntime(options or {}, note))
        pipe = sdlite.load(package, runtime="null", **wishes)  # type: ignore[arg-type]
        pipes.append(pipe)
        return pipe

    yield open_with
    for pipe in pipes:
        pipe.close()


def pixels(result: Result, index: int = 0) -> np.ndarray:
    return np.asarray(result.images[index])


def test_fills_in_and_reports(opened: Opener) -> None:
    pipe = opened()
    result = pipe.generate("a red circle", seed=7, steps=4)
    assert [image.size for image in result.images] == [(64, 64)]
    assert result.seeds == (7,)
    assert result.request == Request(
        prompt="a red circle",
        width=64,
        height=64,
        steps=4,
        guidance=2.0,
        sampler="DPM++ 2M",
        schedule="Karras",
        seed=7,
        guidance_rescale=0.0,
        decoder="full",
    )
    assert [phase.name for phase in result.phases] == ["text", "denoise", "decode"]
    assert [phase.calls for phase in result.phases] == [1, 4, 1]
    for phase in result.phases:
        assert 0 <= phase.engine_seconds <= phase.run_seconds
    assert sum(phase.run_seconds + phase.load_seconds for phase in result.phases) <= result.seconds
    assert result.plan == pipe.plan(result.request)


def test_the_same_seed_draws_the_same_and_another_another(opened: Opener) -> None:
    pipe = opened()
    first = pixels(pipe.generate("x", seed=1, steps=3))
    assert (first == pixels(pipe.generate("x", seed=1, steps=3))).all()
    assert (first != pixels(pipe.generate("x", seed=2, steps=3))).any()
    assert (first != pixels(pipe.generate("y", seed=1, steps=3))).any()
    assert (first != pixels(pipe.generate("x", negative_prompt="y", seed=1, steps=3))).any()
    assert (first != pixels(pipe.generate("x", seed=1, steps=3, rng="nv"))).any()
    assert pipe.generate("x", seed=1, steps=3, rng="GPU").request.rng == "nv"


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "DPM adaptive"])
def test_an_image_of_a_batch_equals_that_image_alone(opened: Opener, sampler: str) -> None:
    """DPM adaptive chooses its steps for the whole batch."""
    pipe = opened()
    batch = pipe.generate("x", seed=10, images=3, steps=3, sampler=sampler)
    assert batch.seeds == (10, 11, 12)
    for index, seed in enumerate(batch.seeds):
        alone = pipe.generate("x", seed=seed, steps=3, sampler=sampler)
        assert (pixels(batch, index) == pixels(alone)).all()


def test_a_random_seed_is_told_and_repeats(opened: Opener) -> None:
    pipe = opened()
    result = pipe.generate("x", steps=2)
    assert 0 <= result.seeds[0] < 2**32
    assert (pixels(result) == pixels(pipe.generate(result.request))).all()


def test_seeds_wrap_at_the_end(opened: Opener) -> None:
    result = opened().generate("x", seed=2**64 - 1, images=2, steps=1)
    assert result.seeds == (2**64 - 1, 0)


def test_guidance_of_one_makes_half_the_calls(opened: Opener) -> None:
    pipe = opened(memory_mode="mapped")
    assert pipe.generate("x", steps=3, seed=1).phases[1].calls == 6
    assert pipe.generate("x", steps=3, seed=1, guidance=1.0).phases[1].calls == 3


def test_separate_calls_draw_the_same(opened: Opener) -> None:
    together = pixels(opened().generate("x", steps=3, seed=1, images=2))
    apart = pixels(opened(memory_mode="mapped").generate("x", steps=3, seed=1, images=2))
    assert (together == apart).all()


def test_phases_open_and_close_in_order(opened: Opener, events: list[tuple[str, str]]) -> None:
    opened(memory_mode="mapped").generate("x", steps=1)
    parts = ["text_encoder", "unet", "vae_decoder"]
    changes = [event for event in events if event[0] in ("load", "close")]
    assert changes == [(what, part) for part in parts for what in ("load", "close")]


def test_components_stay_open_where_there_is_room(
    opened: Opener, events: list[tuple[str, str]]
) -> None:
    pipe = opened()
    assert pipe.plan(Request("x")).resident
    pipe.generate("x", steps=1)
    loads = events.count(("load", "unet"))
    again = pipe.generate("y", steps=1)
    assert loads == events.count(("load", "unet")) == 1
    assert again.phases[1].load_seconds == 0
    pipe.close()
    pipe.close()
    assert ("close", "unet") in events
    # As docs/embedding.md says.
    with pytest.raises(RequestError, match="closed"):
        pipe.generate("x", steps=1)
    with pytest.raises(RequestError, match="closed"):
        next(pipe.steps(Request("x", steps=1)))
    with pytest.raises(RequestError, match="closed"):
        pipe.decode(np.zeros((1, 4, 8, 8), np.float32))
    assert pipe.plan(Request("x")).resident


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_run_equals_an_uninterrupted_one(opened: Opener, sampler: str) -> None:
    pipe = opened()
    request = Request("x", seed=3, images=2, steps=5, sampler=sampler)
    whole = list(pipe.steps(request))
    assert [step.index for step in whole] == list(range(whole[-1].total))
    for step in whole[:-1]:
        *_, last = pipe.steps(request, resume=step.state)
        assert (last.x == whole[-1].x).all()


def test_resume_refuses_another_size(opened: Opener) -> None:
    pipe = opened()
    step = next(pipe.steps(Request("x", seed=3)))
    with pytest.raises(RequestError, match="state to resume"):
        next(pipe.steps(Request("x", seed=3, width=128), resume=step.state))


def test_another_size_does_not_load_again(opened: Opener, events: list[tuple[str, str]]) -> None:
    pipe = opened()
    pipe.generate("x", steps=1)
    pipe.generate("x", steps=1, width=128)
    assert events.count(("load", "unet")) == 1


def test_drawing_inside_on_step(opened: Opener) -> None:
    pipe = opened()
    inner: list[Result] = []
    pipe.generate("x", steps=1, on_step=lambda _: inner.append(pipe.generate("y", steps=1)))
    assert len(inner) == 1


def test_cancelled_while_waiting_for_its_turn(opened: Opener) -> None:
    pipe = opened({"component": "unet", "delay": "0.05"})
    started, cancel = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(pipe.generate, "x", steps=40, on_step=lambda _: started.set())
        assert started.wait(30)
        second = pool.submit(pipe.generate, "x", steps=1, cancel=cancel)
        cancel.set()
        with pytest.raises(Cancelled):
            second.result(30)
        assert not first.done()
        assert len(first.result(60).images) == 1


def test_each_picture_comes_with_its_parameters(opened: Opener) -> None:
    result = opened().generate("a cat", seed=5, images=2, steps=2)
    assert [text.splitlines()[0] for text in result.infotexts] == ["a cat", "a cat"]
    assert "Seed: 5," in result.infotexts[0]
    assert "Seed: 6," in result.infotexts[1]


def test_a_prompt_that_is_no_utf8_is_read_with_question_marks(opened: Opener) -> None:
    pipe = opened()
    odd = pipe.generate("a \udcff cat", seed=1, steps=1)
    assert odd.request.prompt == "a ? cat"


def test_steps_and_decode_are_what_generate_does(opened: Opener) -> None:
    pipe = opened()
    request = Request("x", seed=3, steps=4)
    *_, last = pipe.steps(request)
    assert (np.asarray(pipe.decode(last.x)[0]) == pixels(pipe.generate(request))).all()


def test_a_preview_may_decode_while_drawing(opened: Opener) -> None:
    pipe = opened()
    previews = []

    def look(step: Step) -> None:
        previews.append(pipe.decode(step.x0)[0].size)

    pipe.generate("x", steps=3, on_step=look)
    assert previews == [(64, 64)] * 3


def test_decode_refuses_what_is_no_latents(opened: Opener) -> None:
    with pytest.raises(RequestError, match="latents have shape"):
        opened().decode(np.zeros((1, 3, 8, 8), np.float32))


def test_cancelled_from_another_thread(opened: Opener) -> None:
    pipe = opened({"component": "unet", "delay": "0.02"})
    cancel = threading.Event()
    steps: list[int] = []

    def count(step: Step) -> None:
        steps.append(step.index)
        if step.index == 2:
            threading.Thread(target=cancel.set).start()

    with pytest.raises(Cancelled):
        pipe.generate("x", steps=500, on_step=count, cancel=cancel)
    assert 3 <= len(steps) < 500
    assert len(pipe.generate("x", steps=1).images) == 1


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder"])
def test_cancelled_in_a_call_nothing_more_is_asked(
    package: Path, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    """A step of Heun's method takes two calls; prompts and pictures are more than one."""
    cancel, runs = threading.Event(), []

    def note(event: str, artifact: Artifact) -> None:
        if event == "run":
            runs.append(artifact.component)
            if artifact.component == component:
                cancel.set()

    monkeypatch.setitem(registry._runtimes, "null", NullRuntime({}, note))
    request = Request("x", "y", steps=4, sampler="Heun", seed=1, images=2)
    with sdlite.load(package, runtime="null") as pipe:
        with pytest.raises(Cancelled):
            pipe.generate(request, cancel=cancel)
        assert runs.count(component) == 1 and runs[-1] == component
        assert len(pipe.generate(request).images) == 2


@pytest.mark.parametrize("hires", [None, sdlite.Hires(scale=2.0, steps=4)])
def test_stopped_early_keeps_what_the_model_saw(opened: Opener, hires: sdlite.Hires | None) -> None:
    pipe = opened()
    stop, seen = threading.Event(), []

    def at_third(step: Step) -> None:
        seen.append(step)
        if step.index == 2:
            stop.set()

    request = Request("x", seed=3, steps=10, hires=hires)
    result = pipe.generate(request, on_step=at_third, stop=stop)
    assert len(seen) == 3
    (expected,) = pipe.decode(seen[-1].x0)
    np.testing.assert_array_equal(pixels(result), np.asarray(expected))
    assert result.notes == (f"stopped after step 3 of {seen[-1].total}",)


def test_stopping_after_the_last_step_changes_nothing(opened: Opener) -> None:
    pipe = opened()
    stop = threading.Event()
    stopped = pipe.generate(
        "x", seed=3, steps=2, on_step=lambda s: stop.set() if s.index == 1 else None, stop=stop
    )
    np.testing.assert_array_equal(pixels(stopped), pixels(pipe.generate("x", seed=3, steps=2)))
    assert stopped.notes == ()


def test_cancelled_before_it_starts(opened: Opener) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        opened().generate("x", steps=2, cancel=cancel)
    with pytest.raises(Cancelled):
        next(opened().steps(Request("x"), cancel=cancel))


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder"])
def test_an_engine_that_fails_names_the_place(opened: Opener, component: str) -> None:
    with pytest.raises(EngineError, match=component):
        opened({"component": component, "fail_call": "1"}).generate("x", steps=2)
    with pytest.raises(OutOfMemory, match=component):
        opened({"component": component, "fail_load": "memory"}).generate("x", steps=2)


def test_latents_that_are_not_numbers_are_not_decoded(opened: Opener) -> None:
    pipe = opened({"component": "unet", "fail_call": "2", "fail_with": "nan"})
    with pytest.raises(EngineError, match="not finite after step 2"):
        pipe.generate("x", steps=4)


def test_a_failed_run_leaves_a_usable_pipeline(opened: Opener) -> None:
    pipe = opened({"component": "unet", "fail_call": "2"})
    with pytest.raises(EngineError):
        pipe.generate("x", steps=2)
    assert len(pipe.generate("x", steps=2).images) == 1


def test_threads_share_a_pipeline(opened: Opener) -> None:
    pipe = opened(memory_mode="mapped")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda seed: pipe.generate("x", seed=seed, steps=3), range(8)))
    for seed, result in enumerate(results):
        assert (pixels(result) == pixels(pipe.generate("x", seed=seed, steps=3))).all()


def test_the_end_of_a_long_prompt_counts(opened: Opener) -> None:
    pipe = opened()
    long = pipe.generate("red " * 100 + "cat", seed=1, steps=2)
    assert (pixels(long) != pixels(pipe.generate("red " * 100 + "cow", seed=1, steps=2))).any()
    assert long.notes == pipe.generate("", steps=1).notes == ()


def test_prompts_joined_by_and_take_a_call_more(opened: Opener) -> None:
    pipe = opened(memory_mode="mapped")
    assert pipe.plan(Request("a AND b")).shape.prompts == 2
    assert pipe.generate("a AND b AND c", steps=3, seed=1).phases[1].calls == 12
    assert pipe.generate("a AND b", steps=3, seed=1, guidance=1.0).phases[1].calls == 9
    assert pipe.generate("a:0.5 AND b:0.5", steps=3, seed=1, guidance=1.0).phases[1].calls == 6
    together = pixels(opened().generate("a AND b :0.7", steps=3, seed=1, images=2))
    apart = pixels(pipe.generate("a AND b :0.7", steps=3, seed=1, images=2))
    assert (together == apart).all()


def test_a_prompt_changes_during_the_run_and_when_it_is_resumed(opened: Opener) -> None:
    pipe = opened()
    changing = Request("[circle:square:0.5]", seed=3, steps=6)
    whole = list(pipe.steps(changing))
    for other in ("circle", "square"):
        *_, last = pipe.steps(replace(changing, prompt=other))
        assert (last.x != whole[-1].x).any()
    for step in whole[:-1]:
        *_, last = pipe.steps(changing, resume=step.state)
        assert (last.x == whole[-1].x).all()


@pytest.mark.parametrize(
    "change",
    [
        {"clip_skip": 2},
        {"emphasis": "No norm"},
        {"emphasis": "ComfyUI"},
        {"guidance_rescale": 0.7},
        {"guidance_interval": (0.5, 5.0)},
    ],
)
def test_every_option_changes_the_picture(opened: Opener, change: dict[str, object]) -> None:
    pipe = opened()
    request = Request("a (red:1.5) cat", seed=3, steps=6, guidance=5.0)
    plain = pixels(pipe.generate(request))
    assert (pixels(pipe.generate(replace(request, **change))) != plain).any()


def test_guidance_outside_its_interval_costs_no_call(opened: Opener) -> None:
    pipe = opened(memory_mode="mapped")
    request = Request("x", seed=1, steps=4, sampler="Euler", guidance_interval=(0.0, 0.0))
    assert pipe.generate(request).phases[1].calls == 4


def test_a_layer_that_the_text_encoder_does_not_give(opened: Opener) -> None:
    with pytest.raises(RequestError, match="clip skip 5 is not among"):
        opened().generate(Request("x", clip_skip=5, steps=1))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"width": 65}, RequestError, "width 65 is not a multiple of 8; try 64 or 72"),
        ({"height": 4096 + 8}, RequestError, "height 4104 is not between 8 and 4096"),
        ({"width": -8}, RequestError, "width -8"),
        ({"steps": 0}, RequestError, "steps 0 is not between 1 and 1000"),
        ({"steps": 10**6}, RequestError, "steps 1000000"),
        ({"steps": 20.0}, RequestError, "steps 20.0 is not a whole number"),
        ({"negative_prompt": None}, RequestError, "negative prompt None is no text"),
        ({"guidance": float("nan")}, RequestError, "guidance nan"),
        ({"guidance": -1.0}, RequestError, "guidance -1.0"),
        ({"images": 0}, RequestError, "images 0"),
        ({"seed": -2}, RequestError, "seed -2"),
        ({"seed": 2**64}, RequestError, "seed 18446744073709551616"),
        ({"sampler": "DPM++ 2N"}, UnknownName, r"Did you mean 'DPM\+\+ 2M'"),
        ({"schedule": "karas"}, UnknownName, "Did you mean 'Karras'"),
        ({"rng": "gpv"}, UnknownName, "unknown random number generator 'gpv'"),
    ],
)
def test_requests_that_cannot_be(
    opened: Opener, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        opened().generate("x", **change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"clip_skip": 0}, RequestError, "clip skip 0 is not between 1, .* and 12"),
        ({"clip_skip": 1.5}, RequestError, "clip_skip 1.5 is not a whole number"),
        ({"emphasis": "Orginal"}, UnknownName, "Did you mean 'Original'"),
        ({"guidance_rescale": 1.1}, RequestError, "guidance rescale 1.1 is not between 0 and 1"),
        ({"guidance_rescale": float("nan")}, RequestError, "guidance rescale nan"),
        ({"guidance_interval": (5.0, 0.5)}, RequestError, "guidance interval 5.0 to 0.5"),
        ({"guidance_interval": (-1.0, 0.5)}, RequestError, "guidance interval -1.0 to 0.5"),
    ],
)
def test_wishes_that_cannot_be(
    opened: Opener, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        opened().generate(replace(Request("x"), **change))


def test_a_second_pass_goes_on_counting(opened: Opener) -> None:
    pipe = opened()

    def draw(prompt: str) -> np.ndarray:
        hires = Hires(scale=2.0, steps=4, strength=0.5)
        return pixels(pipe.generate(Request(prompt, seed=3, steps=4, hires=hires)))

    # After the last step of the first pass, and past it: the second pass draws "cow" all through,
    # or from its third step on; a first pass alone would draw "cat" in both.
    both = draw("[cat:cow:4]")
    assert (both != draw("cat")).any()
    assert (both != draw("[cat:cow:6]")).any()
    assert (draw("[cat:cow:6]") == draw("[cat:cow:1.5]")).all()
    assert (draw("[cat:cow:9]") == draw("cat")).all()
    assert pipe.generate(Request("[a:b:6]", steps=4, hires=Hires())).notes == ()
    assert pipe.generate(Request("[a:b:6]", steps=4)).notes != ()
