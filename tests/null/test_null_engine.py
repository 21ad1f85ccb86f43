from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullmodel import DEVIATION, prompt_mean, signal_share
from sdlite_runtimes.nullpackage import write_null_package

from sdlite.engine import Artifact, LoadOptions, Session
from sdlite.errors import EngineError, OutOfMemory, UnknownName
from sdlite.package import Package
from sdlite.ports import DecoderPort, EncoderPort, TextEncoderPort, UnetPort


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package.open(write_null_package(tmp_path))


def opened(
    package: Package, component: str, runtime: NullRuntime | None = None, **engine: str
) -> Session:
    runtime = runtime or NullRuntime()
    (artifact,) = package.find(component, "plain")
    options = LoadOptions(engine=engine)
    return runtime.load(artifact, package.root, runtime.probe()[0], options)


@pytest.fixture
def context(package: Package) -> np.ndarray:
    ids = np.array([[5, 7, 9], [5, 7, 8]], np.int64)
    return TextEncoderPort(opened(package, "text_encoder")).encode_text(ids)


def test_words_and_their_order_matter(package: Package) -> None:
    port = TextEncoderPort(opened(package, "text_encoder"))
    ids = np.array([[5, 7, 9], [5, 9, 7], [5, 7, 9]], np.int64)
    features = port.encode(ids)
    assert features.pooled is not None
    assert features.pooled.shape == (3, features.hidden.shape[2])
    means = prompt_mean(features.hidden, (3, 4, 8, 8))
    assert np.array_equal(means[0], means[2])
    assert np.abs(means[0] - means[1]).max() > 0.01


def test_unet_is_the_best_denoiser_of_its_data(package: Package, context: np.ndarray) -> None:
    """Among all estimates the conditional mean has the least error, linear in the input."""
    rng = np.random.default_rng(0)
    count, times = 4000, np.float32(600.0)
    share = float(signal_share(times))
    one = context[:1]
    mean = prompt_mean(one, (1, 4, 4, 4))
    data = mean + DEVIATION * rng.standard_normal((count, 4, 4, 4)).astype(np.float32)
    noise = rng.standard_normal(data.shape).astype(np.float32)
    x = np.float32(share**0.5) * data + np.float32((1 - share) ** 0.5) * noise
    port = UnetPort(opened(package, "unet"))
    found = port.predict(x, np.full(count, times), np.repeat(one, count, 0))
    least = share * DEVIATION**2 / (share * DEVIATION**2 + 1 - share)
    error = float(np.mean((found - noise) ** 2))
    assert error == pytest.approx(least, rel=0.03)
    assert abs(float(np.mean((found - noise) * x))) < 0.01


def test_velocity_is_the_same_prediction(package: Package, context: np.ndarray) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 4)).astype(np.float32)
    times = np.array([100.0, 700.5], np.float32)
    share = signal_share(times).reshape(-1, 1, 1, 1)
    epsilon = UnetPort(opened(package, "unet")).predict(x, times, context)
    session = opened(package, "unet", prediction="v_prediction")
    velocity = UnetPort(session).predict(x, times, context)
    x0 = (x - np.sqrt(1 - share) * epsilon) / np.sqrt(share)
    np.testing.assert_allclose(
        velocity, np.sqrt(share) * epsilon - np.sqrt(1 - share) * x0, atol=2e-5
    )


def test_alone_equals_in_a_batch(package: Package, context: np.ndarray) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 5)).astype(np.float32)
    times = np.array([3.0, 900.0], np.float32)
    unet, decoder = opened(package, "unet"), opened(package, "vae_decoder")
    both = UnetPort(unet).predict(x, times, context)
    pictures = DecoderPort(decoder).decode(x)
    for i in (slice(0, 1), slice(1, 2)):
        np.testing.assert_array_equal(UnetPort(unet).predict(x[i], times[i], context[i]), both[i])
        np.testing.assert_array_equal(DecoderPort(decoder).decode(x[i]), pictures[i])


def test_decoder_inverts_encoder(package: Package) -> None:
    colours = np.random.default_rng(0).uniform(-1, 1, (2, 3, 2, 3)).astype(np.float32)
    picture = colours.repeat(8, axis=2).repeat(8, axis=3)
    encoded = EncoderPort(opened(package, "vae_encoder")).encode(picture)
    assert encoded.logvar is not None
    found = DecoderPort(opened(package, "vae_decoder")).decode(encoded.mean)
    np.testing.assert_allclose(found, picture, atol=1e-5)


X = {"latent_sample": np.zeros((1, 4, 2, 2), np.float32)}


@pytest.mark.parametrize(("how", "kind"), [("error", EngineError), ("memory", OutOfMemory)])
def test_loading_fails_as_told(package: Package, how: str, kind: type[EngineError]) -> None:
    with pytest.raises(kind, match=r"vae_decoder.*simulated"):
        opened(package, "vae_decoder", fail_load=how)


@pytest.mark.parametrize(("how", "kind"), [("error", EngineError), ("memory", OutOfMemory)])
def test_a_call_fails_as_told(package: Package, how: str, kind: type[EngineError]) -> None:
    session = opened(package, "vae_decoder", fail_call="2", fail_with=how)
    session.run(X)
    with pytest.raises(kind, match="simulated failure of a call"):
        session.run(X)
    assert np.isfinite(session.run(X)["sample"]).all()


def test_a_call_gives_no_numbers_as_told(package: Package) -> None:
    session = opened(package, "vae_decoder", fail_call="1", fail_with="nan")
    assert np.isnan(session.run(X)["sample"]).all()
    assert np.isfinite(session.run(X)["sample"]).all()


def test_options_for_one_component(package: Package) -> None:
    runtime = NullRuntime({"component": "unet", "fail_load": "error"})
    opened(package, "vae_decoder", runtime)
    with pytest.raises(EngineError):
        opened(package, "unet", runtime)


def test_delay(package: Package) -> None:
    session = opened(package, "vae_decoder", delay="0.05")
    start = time.perf_counter()
    session.run(X)
    assert time.perf_counter() - start >= 0.05


def test_events_in_order(package: Package) -> None:
    seen: list[tuple[str, str]] = []

    def event(what: str, artifact: Artifact) -> None:
        seen.append((what, artifact.component))

    session = opened(package, "vae_decoder", NullRuntime(event=event))
    session.run(X)
    session.close()
    session.close()
    assert seen == [("load", "vae_decoder"), ("run", "vae_decoder"), ("close", "vae_decoder")]


@pytest.mark.parametrize("engine", [{"speed": "1"}, {"fail_load": "often"}, {"fail_with": "fire"}])
def test_unknown_options(package: Package, engine: dict[str, str]) -> None:
    with pytest.raises(UnknownName):
        opened(package, "unet", **engine)
