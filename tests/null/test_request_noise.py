"""What a request can say about its noise and its sampler, down to the picture and its text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import metadata
from sdlite.errors import RequestError
from sdlite.request import complete, seeds_of, variation_seeds_of
from sdlite.types import Request, Result


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sdlite.Pipeline]:
    folder: Path = write_null_package(tmp_path_factory.mktemp("noise") / "tiny")
    with sdlite.load(folder, runtime="null") as opened:
        yield opened


BASE = Request("x", seed=5, steps=4, sampler="Euler a")


def drawn(pipe: sdlite.Pipeline, **changes: object) -> Result:
    return pipe.generate(replace(BASE, **changes))  # type: ignore[arg-type]


def fields_of(result: Result, image: int = 0) -> dict[str, str]:
    return dict(metadata.parse(result.infotexts[image]).fields)


def same(a: Result, b: Result) -> bool:
    return np.array_equal(np.asarray(a.images[0]), np.asarray(b.images[0]))


def test_variations_keep_the_seed_and_count_their_own(pipe: sdlite.Pipeline) -> None:
    result = drawn(pipe, images=3, variation_strength=0.25, variation_seed=2**64 - 2)
    assert result.seeds == (5, 5, 5)
    assert result.variation_seeds == (2**64 - 2, 2**64 - 1, 0)
    for image, seed in enumerate(result.variation_seeds):
        fields = fields_of(result, image)
        assert (fields["Seed"], fields["Variation seed"]) == ("5", str(seed))
        assert fields["Variation seed strength"] == "0.25"
        alone = drawn(pipe, variation_strength=0.25, variation_seed=seed)
        assert np.array_equal(np.asarray(alone.images[0]), np.asarray(result.images[image]))


def test_without_strength_there_is_no_variation(pipe: sdlite.Pipeline) -> None:
    result = drawn(pipe, images=2, variation_seed=9)
    assert result.seeds == (5, 6)
    assert result.variation_seeds == ()
    assert same(result, drawn(pipe))
    assert not {"Variation seed", "Variation seed strength", "ENSD", "Eta"} & set(fields_of(result))


def test_a_full_variation_is_the_other_seed_until_noise_is_added(pipe: sdlite.Pipeline) -> None:
    whole = drawn(pipe, sampler="Euler", variation_strength=1.0, variation_seed=77)
    assert np.allclose(whole.images[0], drawn(pipe, sampler="Euler", seed=77).images[0], atol=1)


def test_a_random_variation_seed_is_told(pipe: sdlite.Pipeline) -> None:
    result = drawn(pipe, variation_strength=0.5)
    (seed,) = result.variation_seeds
    assert 0 <= seed < 2**32
    assert same(result, drawn(pipe, variation_strength=0.5, variation_seed=seed))


def test_ensd_changes_what_samplers_add(pipe: sdlite.Pipeline) -> None:
    plain, shifted = drawn(pipe), drawn(pipe, seed_delta=31337)
    assert not same(plain, shifted)
    assert fields_of(shifted)["ENSD"] == "31337"
    quiet = drawn(pipe, sampler="Euler", seed_delta=31337)
    assert same(quiet, drawn(pipe, sampler="Euler"))


def test_a_seed_at_another_size(pipe: sdlite.Pipeline) -> None:
    result = drawn(pipe, seed_resize=(32, 24))
    assert not same(result, drawn(pipe))
    assert fields_of(result)["Seed resize from-1"] == "32"
    own = (result.request.width, result.request.height)
    assert same(drawn(pipe, seed_resize=own), drawn(pipe))


@pytest.mark.parametrize(
    ("sampler", "option", "value", "label"),
    [
        ("Euler a", "eta", 0.5, "Eta"),
        ("DDIM", "eta", 0.5, "Eta DDIM"),
        ("TCD", "eta", 0.5, "Eta"),
        ("Euler a", "s_noise", 0.9, "Sigma noise"),
        ("Euler", "s_churn", 10.0, "Sigma churn"),
    ],
)
def test_options_of_samplers(
    pipe: sdlite.Pipeline, sampler: str, option: str, value: float, label: str
) -> None:
    changed = drawn(pipe, sampler=sampler, **{option: value})
    assert not same(changed, drawn(pipe, sampler=sampler))
    assert fields_of(changed)[label] == str(value)
    assert not changed.notes


def test_churn_acts_between_its_levels(pipe: sdlite.Pipeline) -> None:
    churned = drawn(pipe, sampler="Euler", s_churn=10.0, s_tmin=0.1, s_tmax=5.0)
    fields = fields_of(churned)
    assert (fields["Sigma tmin"], fields["Sigma tmax"]) == ("0.1", "5.0")
    assert not same(churned, drawn(pipe, sampler="Euler", s_churn=10.0))
    # A1111 and webuiapi send 0 for no limit.
    assert same(
        drawn(pipe, sampler="Euler", s_churn=10.0),
        drawn(pipe, sampler="Euler", s_churn=10.0, s_tmax=1e6),
    )


def test_options_a_sampler_lacks_are_told(pipe: sdlite.Pipeline) -> None:
    result = drawn(pipe, sampler="DPM++ 2M", eta=0.5, s_noise=0.5)
    assert same(result, drawn(pipe, sampler="DPM++ 2M"))
    assert result.notes == (
        "DPM++ 2M takes no eta; it is ignored",
        "DPM++ 2M takes no s_noise; it is ignored",
    )
    assert "Eta" not in fields_of(result)


def test_levels_one_by_one(pipe: sdlite.Pipeline) -> None:
    result = drawn(pipe, sampler="Euler", steps=None, sigmas=(14.6, 3.0, 0.5))
    assert result.request.steps == 3
    fields = fields_of(result)
    assert fields["Sigmas"] == "14.6, 3, 0.5"
    assert fields["Steps"] == "3"
    assert "Schedule type" not in fields
    steps = list(pipe.steps(replace(BASE, sampler="Euler", sigmas=(14.6, 3.0, 0.5, 0.0))))
    assert [step.sigma for step in steps] == pytest.approx([14.6, 3.0, 0.5])
    assert steps[-1].total == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variation_strength": 1.5}, "variation strength 1.5 is not between 0 and 1"),
        ({"variation_strength": float("nan")}, "variation strength nan"),
        ({"variation_seed": -2}, "variation seed -2 is not between 0"),
        ({"variation_seed": 2**64}, "variation seed"),
        ({"variation_seed": 1.5}, "variation_seed 1.5 is not a whole number"),
        ({"seed_delta": 0.5}, "seed_delta 0.5 is not a whole number"),
        ({"seed_delta": 2**65}, "seed delta"),
        ({"seed_resize": (0, 64)}, "width to resize the seed from, 0 is not between 8"),
        ({"seed_resize": (64, 33)}, "height to resize the seed from, 33 is not a multiple of 8"),
        ({"eta": -0.1}, "eta -0.1 is not between 0 and 1"),
        ({"eta": "half"}, "eta 'half' is not between 0 and 1"),
        ({"s_churn": 101.0}, "s_churn 101.0 is not between 0 and 100"),
        ({"s_tmin": -1.0}, "s_tmin -1.0"),
        ({"s_tmax": float("inf")}, "s_tmax inf"),
        ({"s_noise": 2.5}, "s_noise 2.5 is not between 0 and 2"),
        ({"sigmas": (1.0, 2.0)}, "sigma 2 does not fall: the one before is 1"),
        ({"sigmas": ()}, "sigmas is empty"),
    ],
)
def test_values_that_do_not_work(
    pipe: sdlite.Pipeline, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        drawn(pipe, **changes)


def test_completing_twice_changes_nothing(pipe: sdlite.Pipeline) -> None:
    request = replace(
        BASE, variation_strength=0.5, sigmas=(9.0, 1.0), seed_resize=(64, 64), images=2
    )
    once = complete(request, pipe.package.manifest)
    assert complete(once, pipe.package.manifest) == once
    assert seeds_of(once) == (5, 5)
    assert len(set(variation_seeds_of(once))) == 2
