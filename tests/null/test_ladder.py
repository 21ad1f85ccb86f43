"""What a run does when memory runs out, or values are no numbers: each rung once, nothing lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from sdlite_runtimes.null import NullRuntime, NullSession, failure
from sdlite_runtimes.nullpackage import write_null_package

from sdlite import registry
from sdlite.engine import Artifact
from sdlite.errors import NotFinite, OutOfMemory
from sdlite.package import Package
from sdlite.pipeline import Pipeline
from sdlite.planner import Budget, Preferences
from sdlite.types import Array, Hires, Request, Result

Opener = Callable[..., Pipeline]


@pytest.fixture
def loads() -> list[tuple[str, str]]:
    """Component and variant of every graph that was opened."""
    return []


@pytest.fixture
def opened(
    tmp_path: Path, loads: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Opener]:
    package = Package.open(write_null_package(tmp_path / "tiny"))
    pipes: list[Pipeline] = []

    def note(event: str, artifact: Artifact) -> None:
        if event == "load":
            loads.append((artifact.component, artifact.variant))

    def open_with(
        options: dict[str, str] | None = None,
        devices: dict[str, tuple[str, ...]] | None = None,
        **wishes: object,
    ) -> Pipeline:
        runtime = NullRuntime(options, note, devices)
        monkeypatch.setitem(registry._runtimes, "null", runtime)
        wished = Preferences(**wishes)  # type: ignore[arg-type]
        pipe = Pipeline(package, runtime.probe(), Budget(), wished)
        pipes.append(pipe)
        return pipe

    yield open_with
    for pipe in pipes:
        pipe.close()


def draw(pipe: Pipeline, **settings: object) -> Result:
    return pipe.generate("a red circle", seed=7, **{"steps": 4, **settings})  # type: ignore[arg-type]


def same(a: Result, b: Result, most: int = 1) -> bool:
    """Whether pictures are alike but for rounding."""
    pairs = zip(a.images, b.images, strict=True)
    return all(np.abs(np.asarray(x, int) - np.asarray(y, int)).max() <= most for x, y in pairs)


def fail_once(monkeypatch: pytest.MonkeyPatch, component: str, call: int) -> None:
    """The given call of a component, counted over all its sessions, runs out of memory."""
    run, calls = NullSession.run, [0]

    def failing(self: NullSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._artifact.component == component:
            calls[0] += 1
            if calls[0] == call:
                raise failure(self._artifact, "memory", "simulated")
        return run(self, inputs)

    monkeypatch.setattr(NullSession, "run", failing)


def test_nothing_fails_nothing_is_given_up(opened: Opener) -> None:
    assert draw(opened()).relieved == ()


def test_the_decoder_goes_on_in_tiles(
    opened: Opener, loads: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    whole = draw(opened())
    options = {"component": "vae_decoder", "variant": "plain", "fail_call": "1"}
    caplog.set_level(logging.WARNING, "sdlite.ladder")
    result = draw(opened({**options, "fail_with": "memory"}), width=256, height=256)
    told = "vae_decoder on null null ran out of memory; went on with the autoencoder in tiles"
    assert result.relieved == (told,)
    assert told in caplog.text
    assert ("vae_decoder", "tiles") in loads
    assert result.plan.placement("vae_decoder").tiles == 16
    assert "vae_decoder in 16 tiles, to save on activations" in result.plan.reasons
    assert same(result, draw(opened(), width=256, height=256), most=2)
    assert whole.plan.placement("vae_decoder").tiles == 1


def test_guidance_goes_on_in_two_calls(opened: Opener) -> None:
    whole = draw(opened())
    result = draw(opened({"component": "unet", "most_items": "1"}))
    assert result.relieved == (
        "unet on null null ran out of memory; went on with prompt and negative prompt in two calls",
    )
    assert result.plan.call_batch == 1
    assert same(result, whole)


def test_a_batch_goes_on_one_item_a_call(opened: Opener) -> None:
    result = draw(opened({"component": "unet", "most_items": "1"}), images=3)
    assert len(result.images) == 3
    assert result.relieved[0].endswith("went on with one item a call")
    assert same(result, draw(opened(), images=3))


def test_a_run_goes_on_from_the_last_step(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third call runs out; two steps are done, and are not done again."""
    fail_once(monkeypatch, "unet", 3)
    seen: list[int] = []
    result = draw(opened(), on_step=lambda step: seen.append(step.index))
    assert seen == [0, 1, 2, 3]
    assert len(result.relieved) == 1
    assert same(result, draw(opened()))
    calls = [phase.calls for phase in result.phases if phase.name == "denoise"]
    # The call that failed counts; after it there are two a step.
    assert calls == [3, 4]


def test_components_are_closed(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_once(monkeypatch, "text_encoder", 1)
    result = draw(opened())
    assert result.relieved == (
        "text_encoder on null null ran out of memory; went on with components closed after use",
    )
    assert not result.plan.resident
    assert same(result, draw(opened()))


def test_a_narrower_precision_then_another_device(opened: Opener) -> None:
    devices = {"gpu": ("fp32", "fp16"), "cpu": ("fp32",)}
    wide = {"component": "unet", "precision": "fp32", "device": "gpu", "fail_call": "1"}
    result = draw(opened({**wide, "fail_with": "memory"}, devices))
    assert [line.rpartition("went on with ")[2] for line in result.relieved] == [
        "prompt and negative prompt in two calls",
        "components closed after use",
        "unet computed in fp16",
    ]
    assert result.plan.placement("unet").options.precision == "fp16"
    assert result.plan.placement("vae_decoder").options.precision != "fp16"
    anything = {"component": "unet", "device": "gpu", "fail_load": "memory"}
    result = draw(opened(anything, devices))
    assert result.relieved[-1].endswith("went on with another device")
    assert result.plan.placement("unet").device.name == "cpu"


def test_weights_stay_in_their_file(opened: Opener) -> None:
    options = {"component": "unet", "memory_mode": "normal", "fail_load": "memory"}
    result = draw(opened(options))
    assert result.relieved[-1].endswith("went on with weights left in their file")
    assert result.plan.memory_mode == "mapped"
    assert same(result, draw(opened()))


def test_each_rung_is_tried_once_and_then_it_fails(
    opened: Opener, loads: list[tuple[str, str]]
) -> None:
    with pytest.raises(OutOfMemory, match="unet"):
        draw(opened({"component": "unet", "fail_call": "1", "fail_with": "memory"}))
    # The first way, two calls, closed, mapped.
    assert [component for component, _ in loads].count("unet") == 4


def test_what_was_asked_for_by_name_is_kept(opened: Opener) -> None:
    devices = {"gpu": ("fp32", "fp16"), "cpu": ("fp32",)}
    options = {"component": "unet", "fail_call": "1", "fail_with": "memory"}
    pipe = opened(options, devices, precision="fp32", device="gpu", memory_mode="normal")
    with pytest.raises(OutOfMemory):
        draw(pipe)
    decoder = {"component": "vae_decoder", "fail_call": "1", "fail_with": "memory"}
    pipe = opened(decoder, vae_tiles=1, memory_mode="normal")
    with pytest.raises(OutOfMemory):
        draw(pipe)


def test_no_numbers_are_computed_again_in_a_wider_precision(opened: Opener) -> None:
    devices = {"gpu": ("fp16", "fp32")}
    options = {
        "component": "vae_decoder",
        "precision": "fp16",
        "fail_call": "1",
        "fail_with": "nan",
    }
    pipe = opened(options, devices)
    result = draw(pipe)
    assert result.relieved == (
        "vae_decoder on null gpu gave values that are not finite; "
        "went on with vae_decoder computed in fp32",
    )
    assert result.plan.placement("vae_decoder").options.precision == "fp32"
    assert result.plan.placement("unet").options.precision == "fp16"
    # It would happen every time, so the next picture begins with it.
    again = draw(pipe)
    assert again.relieved == ()
    assert again.plan.placement("vae_decoder").options.precision == "fp32"


def test_no_numbers_from_the_unet_in_the_middle(opened: Opener) -> None:
    devices = {"gpu": ("fp16", "fp32")}
    options = {"component": "unet", "precision": "fp16", "fail_call": "3", "fail_with": "nan"}
    seen: list[int] = []
    result = draw(opened(options, devices), on_step=lambda step: seen.append(step.index))
    assert seen == [0, 1, 2, 3]
    assert result.relieved[0].endswith("went on with unet computed in fp32")
    assert same(result, draw(opened(devices=devices)))


def test_no_numbers_in_the_widest_precision_is_an_error(opened: Opener) -> None:
    options = {"component": "unet", "fail_call": "2", "fail_with": "nan"}
    with pytest.raises(NotFinite, match="not finite after step 2"):
        draw(opened(options))


def test_another_device_where_one_gives_no_numbers(opened: Opener) -> None:
    devices = {"gpu": ("fp16",), "cpu": ("fp32",)}
    options = {"component": "unet", "device": "gpu", "fail_call": "1", "fail_with": "nan"}
    result = draw(opened(options, devices))
    assert result.relieved[0].endswith("went on with another device")


def test_finished_pictures_are_never_lost(opened: Opener) -> None:
    """The decoder fails for good at the third of four pictures."""
    options = {"component": "vae_decoder", "fail_call": "3", "fail_with": "memory"}
    pipe = opened(options, vae_tiles=1, memory_mode="mapped")
    result = draw(pipe, images=4)
    assert len(result.images) == len(result.seeds) == len(result.infotexts) == 2
    assert result.seeds == (7, 8)
    assert "only 2 of 4 pictures were finished" in result.notes[-1]
    whole = draw(opened(), images=4)
    assert np.array_equal(np.asarray(result.images[1]), np.asarray(whole.images[1]))


def test_python_itself_may_run_out(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdlite import phases

    real, failures = phases.to_pictures, [MemoryError("cannot allocate")]

    def once(values: np.ndarray) -> object:
        if failures:
            raise failures.pop()
        return real(values)

    monkeypatch.setattr(phases, "to_pictures", once)
    result = draw(opened())
    assert result.relieved[0].endswith("the autoencoder in tiles")


def test_the_second_pass_has_the_ladder_too(opened: Opener) -> None:
    request = Request("a", seed=1, steps=2, hires=Hires(scale=2.0, upscaler="Lanczos", steps=2))
    result = opened({"component": "unet", "most_items": "1"}).generate(request)
    assert len(result.relieved) == 1
    assert same(result, opened().generate(request))


def test_runs_that_went_on_in_another_way_teach_nothing(opened: Opener, tmp_path: Path) -> None:
    from sdlite import forecast

    folder = tmp_path / "cache"
    forecast.learn(folder, draw(opened({"component": "unet", "most_items": "1"})))
    assert not folder.exists()
    forecast.learn(folder, draw(opened()))
    assert forecast.read(folder)
