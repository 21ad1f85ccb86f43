"""Profiles: what they fill in, and how the planner and the forecast count them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import registry
from sdlite.errors import UnknownName
from sdlite.forecast import forecast, unet_calls
from sdlite.profiles import PROFILES, find_profile
from sdlite.request import complete, unused_options
from sdlite.types import Request


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sdlite.Pipeline]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._runtimes, "null", NullRuntime())
        package = write_null_package(tmp_path_factory.mktemp("profiles") / "tiny")
        with sdlite.load(package, runtime="null") as opened:
            yield opened


def test_names() -> None:
    assert list(PROFILES) == ["quality", "balanced", "fast", "draft"]
    assert find_profile(" Fast").name == "fast"
    with pytest.raises(UnknownName, match="Did you mean 'draft'"):
        find_profile("drafty")


def test_guidance_ends_early_unless_something_else_is_said(pipe: sdlite.Pipeline) -> None:
    manifest = pipe.package.manifest
    full = complete(Request("x", profile="balanced"), manifest)
    assert full.guidance_interval == PROFILES["balanced"].interval
    assert complete(full, manifest) == replace(full, variation_seed=full.variation_seed)
    own = complete(Request("x", profile="balanced", guidance_interval=(0.0, 9.0)), manifest)
    assert own.guidance_interval == (0.0, 9.0)
    assert complete(Request("x"), manifest).guidance_interval is None
    # The two scales of instruct-pix2pix cannot be told apart there.
    pictures = replace(manifest, task="edit")
    assert complete(Request("x", profile="balanced"), pictures).guidance_interval is None


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "quality"])
def test_answers_without_guidance_are_counted(pipe: sdlite.Pipeline, profile: str) -> None:
    request = complete(Request("x", seed=4, profile=profile), pipe.package.manifest)
    plan = pipe.plan(request)
    found = forecast(plan, request, pipe.package.manifest, [])
    assert 0 < found.answers.unguided < found.answers.full
    (row,) = (row for row in found.rows if row.component == "unet")
    result = pipe.generate(request)
    (phase,) = (phase for phase in result.phases if phase.name == "denoise")
    assert 0 < phase.unguided < phase.full
    assert phase.full >= found.answers.full
    assert unet_calls(plan) * row.calls >= found.answers.full


def test_what_does_not_apply_is_said(pipe: sdlite.Pipeline) -> None:
    few = pipe.generate(Request("x", seed=4, steps=4, profile="balanced"))
    assert few.notes == ("profile balanced forecasts nothing in a run of only 4 steps",)
    assert pipe.generate(Request("x", seed=4, steps=12, profile="balanced")).notes == ()
    manifest = replace(pipe.package.manifest, task="edit")
    request = complete(Request("x", profile="balanced"), manifest)
    (note,) = unused_options(request)
    assert note.startswith("profile balanced keeps guidance on in every step")
