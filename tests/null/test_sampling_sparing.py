"""Answers of the model that are forecast from earlier ones: when it is asked, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import registry
from sdlite.errors import RequestError, UnknownName
from sdlite.forecast import forecast
from sdlite.metadata import parse
from sdlite.profiles import PROFILES, QUALITY, Profile
from sdlite.request import complete
from sdlite.sampling import SAMPLERS, Sparing
from sdlite.text.conditioning import Conditioning
from sdlite.types import Cond, Estimate, Request

SHAPE = (2, 1, 2, 2)
SIGMAS = np.append(np.geomspace(14.6, 0.03, 20), 0).astype(np.float32)
PATIENT = Profile("patient", "", first_gap=1.3, growth=0.25, tolerance=1e9)


class Model:
    """Answers with what ``answer`` makes of the level; keeps what it was asked."""

    def __init__(self, answer=lambda x, sigma: np.zeros_like(x)):
        self.asked = []
        self.answer = answer

    def __call__(self, x, sigma):
        self.asked.append((sigma, len(x)))
        x0 = self.answer(x, sigma)
        return Estimate(x0, x0 + 1)


def asked_at(sparing, model, sigmas=SIGMAS, shape=SHAPE):
    """Steps in which the model was asked."""
    x = np.zeros(shape, np.float32)
    for sigma in sigmas[:-1]:
        sparing(x, float(sigma))
    return [int(np.argmin(np.abs(sigmas - sigma))) for sigma, _ in model.asked]


def test_quality_asks_always():
    model = Model()
    sparing = Sparing(model, SIGMAS, QUALITY, SHAPE)
    assert asked_at(sparing, model) == list(range(20))
    assert (sparing.computed, sparing.forecast, sparing.cache) == (40, 0, {})


def test_distances_grow_along_the_run():
    model = Model()
    sparing = Sparing(model, SIGMAS, PATIENT, SHAPE)
    assert asked_at(sparing, model) == [0, 1, 3, 5, 8, 11, 15]
    assert (sparing.computed, sparing.forecast) == (14, 26)


def test_distances_are_shares_of_the_run():
    """With few steps nearly all are computed, with many the same part of the way lies between."""
    for count, expected in ((4, 4), (8, 6), (50, 8)):
        model = Model()
        sigmas = np.append(np.geomspace(14.6, 0.03, count), 0)
        asked_at(Sparing(model, sigmas, PATIENT, SHAPE), model, sigmas)
        assert len(model.asked) == expected


def test_an_estimate_that_moves_is_asked_for_sooner():
    moving = Model(lambda x, sigma: x + np.log(sigma) * 0.4)
    jumping = Model(lambda x, sigma: x + np.log(sigma) * 8)
    profile = replace(PATIENT, first_gap=2, growth=5, tolerance=0.5)
    some = asked_at(Sparing(moving, SIGMAS, profile, SHAPE), moving)
    assert asked_at(Sparing(jumping, SIGMAS, profile, SHAPE), jumping)[1:] != some[1:]
    assert len(jumping.asked) > len(moving.asked)
    still = Model()
    assert asked_at(Sparing(still, SIGMAS, profile, SHAPE), still) == [0, 2, 14]


def test_forecasts_are_the_last_answer():
    model = Model(lambda x, sigma: x + sigma)
    sparing = Sparing(model, SIGMAS, PATIENT, SHAPE)
    x = np.zeros(SHAPE, np.float32)
    answers = [sparing(x, float(sigma)) for sigma in SIGMAS[:-1]]
    assert np.array_equal(answers[2].x0, answers[1].x0)
    assert np.array_equal(answers[2].x0_uncond, answers[1].x0 + 1)
    assert not np.array_equal(answers[3].x0, answers[2].x0)


def test_each_picture_is_decided_on_alone():
    def answer(x, sigma):
        # The first picture does not move, the second does.
        return x * np.float32(np.log(sigma))

    profile = replace(PATIENT, first_gap=6, tolerance=0.3)
    x = np.stack([np.zeros((1, 2, 2)), np.ones((1, 2, 2))]).astype(np.float32)
    model = Model(answer)
    both = Sparing(model, SIGMAS, profile, SHAPE)
    together = [both(x, float(sigma)) for sigma in SIGMAS[:-1]]
    assert {count for _, count in model.asked} == {1, 2}
    for index in range(2):
        one = Sparing(Model(answer), SIGMAS, profile, (1, 1, 2, 2))
        for sigma, found in zip(SIGMAS[:-1], together, strict=True):
            alone = one(x[index : index + 1], float(sigma))
            assert np.array_equal(alone.x0[0], found.x0[index])
            assert np.array_equal(alone.x0_uncond[0], found.x0_uncond[index])


def test_guidance_that_ends_for_one_picture_first():
    """Samplers take the answer for that without the prompt where there is no guidance."""

    class Ending(Model):
        def __call__(self, x, sigma):
            found = super().__call__(x, sigma)
            return found if sigma > 1 else Estimate(found.x0)

    model = Ending(lambda x, sigma: x * np.float32(np.log(sigma)))
    x = np.stack([np.zeros((1, 2, 2)), np.ones((1, 2, 2))]).astype(np.float32)
    sparing = Sparing(model, SIGMAS, replace(PATIENT, first_gap=6, tolerance=0.3), SHAPE)
    for sigma in SIGMAS[:-1]:
        found = sparing(x, float(sigma))
        if sigma <= 1 and found.x0_uncond is not None and model.asked[-1][0] == sigma:
            assert np.array_equal(found.x0_uncond[1], found.x0[1])
            return
    raise AssertionError("the pictures were never asked for apart")


def test_another_prompt_and_a_higher_level_are_asked_for():
    model = Model()
    assert asked_at(Sparing(model, SIGMAS, PATIENT, SHAPE, changes={2, 9}), model) == [
        0, 1, 2, 4, 6, 9, 13, 18,
    ]  # fmt: skip
    model = Model()
    sparing = Sparing(model, SIGMAS, PATIENT, SHAPE)
    x = np.zeros(SHAPE, np.float32)
    for place in (0, 1, 3, 5, 4, 5):
        sparing(x, float(SIGMAS[place]))
    assert len(model.asked) == 5


def test_steps_that_draw_something_else():
    cond = Cond(np.zeros((1, 2, 3), np.float32))
    timeline = ((3, cond), (8, cond), (20, cond))
    assert Conditioning(((timeline, 1.0),), ((5, cond), (20, cond))).changes == {4, 6, 9}
    assert Conditioning(((((20, cond),), 1.0),), None).changes == frozenset()


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({}, "holds no answer of the model to forecast from"),
        ({"x0": np.zeros(SHAPE)}, "holds no answer of the model to forecast from"),
        ({"x0": np.zeros(SHAPE), "meter": np.zeros((4, 2)), "more": np.zeros(1)}, "no answer"),
        (
            {"x0": np.zeros((2, 1, 3, 3)), "meter": np.zeros((4, 2))},
            r"last answer in the state has shape \(2, 1, 3, 3\), this run needs \(2, 1, 2, 2\)",
        ),
        ({"x0": np.zeros(SHAPE), "meter": np.zeros((4, 3))}, r"shape \(4, 3\), this run needs"),
    ],
)
def test_answers_of_another_run(cache, message):
    with pytest.raises(RequestError, match=message):
        Sparing(Model(), SIGMAS, PATIENT, SHAPE, cache=cache)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sdlite.Pipeline]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._runtimes, "null", NullRuntime())
        package = write_null_package(tmp_path_factory.mktemp("sparing") / "tiny")
        with sdlite.load(package, runtime="null") as opened:
            yield opened


@pytest.mark.parametrize("sampler", [info.name for info in SAMPLERS])
def test_every_sampler(pipe: sdlite.Pipeline, sampler: str) -> None:
    """It is asked less and the picture is near; alone a picture is the same as in a batch."""
    info = next(item for item in SAMPLERS if item.name == sampler)
    always = (0.0, 1000.0)
    request = Request(
        "a big tree", seed=8, steps=20, sampler=sampler, images=2, guidance_interval=always
    )
    best = pipe.generate(request)
    found = pipe.generate(replace(request, profile="balanced"))
    (phase,) = (phase for phase in found.phases if phase.name == "denoise")
    whole = next(phase for phase in best.phases if phase.name == "denoise")
    assert whole.skipped == 0
    if not info.forecasts:
        assert phase.skipped == 0
        assert [image.tobytes() for image in found.images] == [i.tobytes() for i in best.images]
        (note,) = found.notes
        assert note == (
            f"profile balanced asks the model as often as quality: answers for {sampler} are not "
            "forecast"
        )
        return
    assert not found.notes
    assert phase.full + phase.skipped == whole.full
    assert phase.full <= 0.6 * whole.full
    far = np.abs(np.asarray(found.images[0], float) - np.asarray(best.images[0], float)).mean()
    assert far < 40
    second = pipe.generate(replace(request, seed=9, images=1, profile="balanced"))
    assert second.images[0].tobytes() == found.images[1].tobytes()


def test_what_is_told(pipe: sdlite.Pipeline) -> None:
    request = Request("x", seed=8, profile=" Balanced ", guidance_interval=(1.0, 20.0))
    result = pipe.generate(request)
    (phase,) = (phase for phase in result.phases if phase.name == "denoise")
    assert 0 < phase.unguided < phase.full
    fields = parse(result.infotexts[0]).fields
    assert fields["Profile"] == "balanced"
    assert fields["Model answers"] == f"{phase.full} of 20"
    plain = parse(pipe.generate("x", seed=8).infotexts[0]).fields
    assert "Profile" not in plain
    assert "Model answers" not in plain


def test_a_profile_that_is_none(pipe: sdlite.Pipeline) -> None:
    with pytest.raises(UnknownName, match=r"unknown profile 'balance'.*balanced, fast, draft"):
        pipe.generate(Request("x", profile="balance"))


def test_the_forecast_counts_what_is_computed(pipe: sdlite.Pipeline) -> None:
    calls = {}
    for name in PROFILES:
        request = complete(Request("x", profile=name), pipe.package.manifest)
        found = forecast(pipe.plan(request), request, pipe.package.manifest, [])
        assert found.answers.full + found.answers.skipped == 20
        (row,) = (row for row in found.rows if row.component == "unet")
        assert row.calls == found.answers.full
        calls[name] = row.calls
    assert calls["quality"] == 20 > calls["balanced"] > calls["fast"] > calls["draft"]
