"""Deadlines and memory as wishes: what is chosen, in which order, and what is said otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

from sdlite import forecast
from sdlite.deadline import LEAST_STEPS, fit
from sdlite.errors import NoPlan, RequestError
from sdlite.forecast import Timing
from sdlite.package import Package
from sdlite.pipeline import Pipeline
from sdlite.planner import BASE_BYTES, Budget, Preferences
from sdlite.types import Hires, Request

SIZE = 512
CONSISTENT = Request("a", sampler="LCM", guidance=1.0)
CALL = 1.0
"""Seconds of a U-Net call at the model's own size; the decoder takes a tenth."""


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """Its text encoder takes next to nothing, everything else 64 MiB at 512x512."""
    found = Package.open(write_null_package(tmp_path / "p", size=SIZE, activation_bytes=64 << 20))
    artifacts = tuple(
        replace(item, activation_bytes=1 << 20) if item.component == "text_encoder" else item
        for item in found.manifest.artifacts
    )
    return replace(found, manifest=replace(found.manifest, artifacts=artifacts))


def opened(package: Package, limit: int | None = None) -> Pipeline:
    wishes = Preferences(runtime="null", memory_mode="normal")
    return Pipeline(package, NullRuntime().probe(), Budget(limit), wishes)


@pytest.fixture
def pipe(package: Package) -> Pipeline:
    return opened(package)


@pytest.fixture
def timings(pipe: Pipeline) -> list[Timing]:
    """A call of the U-Net takes a second at 512x512, opening a second, both growing with area."""
    plan = pipe.plan(Request("", guidance=1.0))
    made = []
    for side in (256, SIZE):
        shape = replace(plan.shape, width=side, height=side)
        at_size = replace(plan, shape=shape)
        for component, seconds in (("unet", CALL), ("vae_decoder", CALL / 10)):
            seconds *= (side / SIZE) ** 2
            placement = plan.placement(component)
            made.append(forecast.timing_of(at_size, placement, seconds, 0.5))
    return made


def test_what_fits_is_not_changed(pipe: Pipeline, timings: list[Timing]) -> None:
    fitted = fit(pipe, Request("a", guidance=1.0), timings, deadline=60)
    assert fitted.changes == ()
    # 20 steps of a second, the decoder, and opening both.
    assert fitted.seconds == pytest.approx(20 * CALL + 0.1 + 1)
    assert (fitted.request.width, fitted.request.height, fitted.request.steps) == (512, 512, 20)
    assert fit(pipe, Request("a"), [], None).request.steps == 20


def test_the_profile_goes_first(pipe: Pipeline, timings: list[Timing]) -> None:
    fitted = fit(pipe, Request("a", guidance=1.0), timings, deadline=14)
    assert fitted.request.profile == "balanced"
    assert fitted.changes == ("profile balanced instead of quality",)
    assert fitted.seconds is not None and fitted.seconds <= 14


def test_then_steps_and_as_few_as_needed(pipe: Pipeline, timings: list[Timing]) -> None:
    """LCM makes its picture anew in every step: no answer can be forecast from earlier ones."""
    fitted = fit(pipe, CONSISTENT, timings, deadline=11)
    assert fitted.request.steps == 9 and fitted.request.width == SIZE
    assert "9 steps instead of 20" in fitted.changes
    assert fitted.seconds == pytest.approx(9 + 0.1 + 1)


def test_then_the_size(pipe: Pipeline, timings: list[Timing]) -> None:
    fitted = fit(pipe, CONSISTENT, timings, deadline=5)
    assert fitted.request.width == fitted.request.height == 384
    assert fitted.request.steps == 7
    assert fitted.changes[:2] == ("384x384 instead of 512x512", "7 steps instead of 20")
    assert fitted.seconds is not None and fitted.seconds <= 5


def test_what_was_asked_for_stays(pipe: Pipeline, timings: list[Timing]) -> None:
    sized = fit(pipe, replace(CONSISTENT, width=512, height=512), timings, deadline=8)
    assert (sized.request.width, sized.request.steps) == (512, 6)
    stepped = fit(pipe, replace(CONSISTENT, steps=20), timings, deadline=11)
    assert stepped.request.steps == 20 and stepped.request.width == 320
    with pytest.raises(
        NoPlan, match=r"deadline 3 s cannot be met: the least is 7\.1 s, with 6 ste"
    ):
        fit(pipe, replace(CONSISTENT, width=512, height=512), timings, deadline=3)


def test_several_pictures_share_the_time(pipe: Pipeline, timings: list[Timing]) -> None:
    one = fit(pipe, CONSISTENT, timings, deadline=22)
    assert one.request.steps == 20
    two = fit(pipe, CONSISTENT, timings, deadline=22, pictures=2)
    assert two.request.steps == 10


def test_the_least_is_said(pipe: Pipeline, timings: list[Timing]) -> None:
    with pytest.raises(NoPlan, match=rf"with {LEAST_STEPS} steps at 256x256") as caught:
        fit(pipe, CONSISTENT, timings, deadline=0.5)
    assert "--deadline 0.5 s cannot be met: the least is 2.5 s" in str(caught.value)


def test_memory_makes_pictures_smaller(package: Package, timings: list[Timing]) -> None:
    limit = BASE_BYTES + (50 << 20)
    tight = opened(package, limit)
    fitted = fit(tight, Request("a"), [])
    assert fitted.seconds is None
    assert fitted.changes and fitted.changes[0].endswith("instead of 512x512")
    assert tight.plan(fitted.request).peak_bytes <= limit
    with pytest.raises(NoPlan, match="--max-memory"):
        fit(tight, Request("a", width=512, height=512), [])
    with pytest.raises(
        NoPlan, match=r"--max-memory 1 MB is less than the \d+ MB that 256x256 needs"
    ):
        fit(opened(package, 10**6), Request("a"), [])
    both = fit(tight, Request("a"), timings, deadline=5)
    assert both.seconds is not None and both.seconds <= 5
    with pytest.raises(NoPlan, match=r"the least is .*larger pictures do not fit the memory"):
        fit(tight, Request("a"), timings, deadline=0.5)


def test_what_cannot_be_forecast(pipe: Pipeline, timings: list[Timing]) -> None:
    with pytest.raises(RequestError, match="nothing was measured here yet"):
        fit(pipe, Request("a"), [], deadline=5)
    with pytest.raises(RequestError, match="leave --deadline or --hires out"):
        fit(pipe, Request("a", hires=Hires()), timings, deadline=5)


def test_noise_levels_given_keep_their_number(pipe: Pipeline, timings: list[Timing]) -> None:
    request = Request("a", sigmas=(10.0, 5.0, 1.0), sampler="Euler")
    fitted = fit(pipe, request, timings, deadline=4)
    assert fitted.request.sigmas == request.sigmas and fitted.request.steps is None
    assert fitted.request.width is not None and fitted.request.width < SIZE
