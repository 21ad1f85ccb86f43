"""What a U-Net is told of pictures that are prompts, step by step, and what it takes to look."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdlite.adapterentry import AdapterEntry, extension_of
from sdlite.control.images import NO_IMAGES, ImagePrompt, Seen, look
from sdlite.control.steer import components_of, is_steered
from sdlite.controls import Control
from sdlite.engine import TensorSpec
from sdlite.errors import PackageInvalid
from sdlite.footprint import run_bytes
from sdlite.image.clip import LONGEST, clip_pixels
from sdlite.types import Cond, Request, StepConds
from sdlite.weightfile import TensorEntry

SIGMAS = np.array([8.0, 4.0, 2.0, 1.0, 0.0], np.float32)
FACE = AdapterEntry("face", "ip-adapter", "ip-adapter/face", "x", "", encoder="image-encoder/1")
EDGES = AdapterEntry("edges", "controlnet", "controlnet/edges", "x", "")


def control(name: str = "face", **settings: Any) -> Control:
    return Control(name, Image.new("RGB", (8, 8), "red"), **settings)


def seen(value: float, **settings: Any) -> Seen:
    keys = np.full((1, 2, 3), value, np.float32)
    return Seen(control(**settings), keys, keys * 10, (keys - 0.5, keys * 100))


def told(prompt: ImagePrompt, sigma: float, negative: bool = True) -> StepConds:
    cond = Cond(np.zeros((2, 3, 4), np.float32))
    step = StepConds(((cond, 0.5), (cond, 0.5)), cond if negative else None)
    return prompt.over(lambda _: step, SIGMAS)(sigma)


def test_every_prompt_gets_the_pictures_and_the_negative_prompt_none() -> None:
    step = told(ImagePrompt((seen(1.0), seen(2.0))), 8.0)
    for cond, _ in step.parts:
        keys, values = cond.added["image_keys"], cond.added["image_values"]
        assert keys.shape == values.shape == (2, 4, 3)
        assert keys[1, :, 0].tolist() == [1, 1, 2, 2], "side by side"
        assert values[1, :, 0].tolist() == [10, 10, 20, 20]
    assert step.negative is not None
    assert step.negative.added["image_keys"][0, :, 0].tolist() == [0.5, 0.5, 1.5, 1.5]
    assert step.negative.added["image_values"][0, :, 0].tolist() == [100, 100, 200, 200]
    assert step.negative.stacks_with(step.parts[0][0])
    assert told(ImagePrompt((seen(1.0),)), 8.0, negative=False).negative is None


def test_pictures_begin_and_end() -> None:
    prompt = ImagePrompt((seen(1.0, end=0.5), seen(2.0, start=0.25, end=0.75)))
    found = [
        told(prompt, sigma).parts[0][0].added["image_values"][0, :, 0].tolist()
        for sigma in (8.0, 4.0, 3.0, 2.0, 1.0, 0.5)
    ]
    both = [10, 10, 20, 20]
    assert found == [[10, 10], both, both, [20, 20], [0], [0]]


def test_without_pictures_nothing_is_added() -> None:
    step = told(NO_IMAGES, 8.0)
    assert not step.parts[0][0].added


def manifest(widths: tuple[int, ...] = (1, 2)) -> Any:
    tensors = {
        f"ip_adapter.{2 * i + 1}.to_v_ip.weight": TensorEntry(
            "float32", (5, width), 0, 0, "transposed"
        )
        for i, width in enumerate(widths)
    }
    return SimpleNamespace(
        adapters=(FACE, EDGES), weights={FACE.component: SimpleNamespace(tensors=tensors)}
    )


def networks(takes: str, calls: list[tuple[str, Any]], size: int | str = 4) -> Any:
    """An encoder that says the mean of its pixels, and an adapter that hands it on."""

    class Session:
        def __init__(self, component: str) -> None:
            self.component = component
            name = "pixel_values" if component == FACE.encoder else takes
            self.inputs = (TensorSpec(name, "float32", ("batch", 3, size, size)),)

        def run(self, inputs: Any) -> Any:
            (value,) = inputs.values()
            calls.append((self.component, float(value.mean())))
            if self.component == FACE.encoder:
                said = np.full((1, 2), value.mean() + 7, np.float32)
                return {"image_embeds": said, "hidden_states": said[:, None]}
            made = np.full((1, 1, 3), value.mean(), np.float32)
            return {"image_keys": made, "image_values": made}

    @contextmanager
    def use(component: str) -> Any:
        yield Session(component)

    return use


@pytest.mark.parametrize(("takes", "blank"), [("image_embeds", 0.0), ("hidden_states", 7.0)])
def test_looking_asks_the_encoder_then_the_adapter(takes: str, blank: float) -> None:
    calls: list[tuple[str, Any]] = []
    controls = (control(weight=0.5), control("edges"), control(layers=(2.0, 0.25)))
    prompt = look(Request("", controls=controls), manifest(), networks(takes, calls))
    assert [name for name, _ in calls] == [FACE.encoder] * 3 + [FACE.component] * 3
    assert calls[2][1] == 0.0, "no picture is grey"
    assert calls[5][1] == blank
    first, second = prompt.seen
    assert first.values.tolist() == (first.keys * 0.5).tolist()
    assert second.values.tolist() == (second.keys * [2.0, 0.25, 0.25]).tolist()
    assert first.blank[0].tolist() == [[[blank] * 3]]


def test_an_encoder_that_is_none_is_refused() -> None:
    with pytest.raises(PackageInvalid, match="takes pixel_values; one input of a fixed size"):
        look(Request("", controls=(control(),)), manifest(), networks("x", [], "side"))


def test_what_a_request_needs_is_known_before() -> None:
    both = (control("edges"), control(), control())
    names = ("controlnet/edges", "image-encoder/1", "ip-adapter/face")
    assert components_of(both, manifest()) == names
    assert components_of([control(weight=0.0)], manifest()) == ()
    assert [extension_of(part) for part in (names, names[:1], names[1:], ())] == [
        "+control+image",
        "+control",
        "+image",
        "",
    ]
    assert is_steered(names) and not is_steered(names[1:])


def test_what_looks_first_is_not_open_beside_the_unet() -> None:
    parts = [("unet", 100, 10), ("controlnet/edges", 50, 5)]
    parts += [("image-encoder/1", 120, 20), ("ip-adapter/face", 30, 1)]
    assert run_bytes(parts, resident=False) == (150, 165)
    assert run_bytes(parts, resident=True) == (300, 336)


def test_the_middle_square_of_a_picture_is_looked_at() -> None:
    image = Image.new("RGB", (30, 10), "white")
    image.paste("black", (10, 0, 20, 10))
    black = clip_pixels(image, 10)
    assert black.shape == (1, 3, 10, 10)
    assert (black.max(axis=(0, 2, 3)) < -1.4).all()
    thin = Image.new("RGB", (1, 3000), "white")
    assert clip_pixels(thin, 8).shape == (1, 3, 8, 8)
    assert LONGEST * 1 < 3000, "so that only its middle is made larger"
