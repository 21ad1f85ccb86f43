"""Edits and second passes on the fake engine: what is run, what stays, what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import metadata, registry
from sdlite.edit.request import first_interval
from sdlite.errors import NoPlan, RequestError, UnknownName
from sdlite.image.mask import reach
from sdlite.types import Edit, Hires, Request, Result

SAMPLERS = ["Euler", "Euler a", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "DDIM", "LCM"]
UPSCALERS = ["Latent", "Latent (nearest)", "Lanczos", "Nearest"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sdlite.Pipeline]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._runtimes, "null", NullRuntime())
        package = write_null_package(tmp_path_factory.mktemp("edit") / "tiny")
        with sdlite.load(package, runtime="null") as opened:
            yield opened


def picture(width: int = 64, height: int = 64) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def box(width: int, height: int, *inner: int) -> Image.Image:
    made = Image.new("RGB", (width, height))
    made.paste((255, 255, 255), inner)
    return made


MASK = box(64, 64, 16, 16, 40, 48)


def pixels(result: Result, index: int = 0) -> np.ndarray:
    return np.asarray(result.images[index])


@pytest.mark.parametrize(
    ("rules", "strength", "steps", "run"),
    [
        # A1111: int(min(strength, 0.999) * steps) + 1.
        ("a1111", 0.0, 20, 1),
        ("a1111", 0.5, 20, 11),
        ("a1111", 0.75, 20, 15 + 1),
        ("a1111", 1.0, 20, 20),
        ("a1111", 1.0, 1, 1),
        ("a1111", 0.3, 7, 3),
        # diffusers: int(strength * steps).
        ("diffusers", 0.5, 20, 10),
        ("diffusers", 0.99, 20, 19),
        ("diffusers", 1.0, 20, 20),
        ("diffusers", 0.05, 20, 1),
    ],
)
def test_strength_decides_the_steps(
    pipe: sdlite.Pipeline, rules: str, strength: float, steps: int, run: int
) -> None:
    edit = Edit(picture(), strength=strength, rules=rules)
    assert steps - first_interval(edit, steps) == run
    result = pipe.generate("x", edit=edit, steps=steps, seed=1)
    assert [phase.name for phase in result.phases] == ["text", "encode", "denoise", "decode"]
    assert [phase.calls for phase in result.phases] == [1, 1, run, 1]
    assert result.plan.shape.steps == run


def test_the_plan_counts_the_encoder(pipe: sdlite.Pipeline) -> None:
    request = Request("x", edit=Edit(picture()))
    names = [placement.component for placement in pipe.plan(request).placements]
    assert names == ["text_encoder", "vae_encoder", "unet", "vae_decoder"]
    assert pipe.plan(request).private_bytes > pipe.plan(Request("x")).private_bytes


def test_a_package_without_an_encoder_says_so(tmp_path: Path) -> None:
    import json

    folder = write_null_package(tmp_path / "tiny")
    manifest = json.loads((folder / "sdlite.json").read_text())
    manifest["artifacts"] = [
        item for item in manifest["artifacts"] if item["component"] != "vae_encoder"
    ]
    (folder / "sdlite.json").write_text(json.dumps(manifest))
    with sdlite.load(folder, runtime="null") as opened:
        assert opened.generate("x", steps=1).images
        with pytest.raises(NoPlan, match="no vae_encoder graph"):
            opened.generate("x", steps=1, edit=Edit(picture()))


def test_less_strength_stays_nearer(pipe: sdlite.Pipeline) -> None:
    image = picture().resize((8, 8)).resize((64, 64), Image.Resampling.NEAREST)
    far = [
        np.abs(
            pixels(pipe.generate("x", edit=Edit(image, strength=s), seed=1)).astype(float)
            - np.asarray(image)
        ).mean()
        for s in (0.1, 0.5, 1.0)
    ]
    assert far[0] < far[1] < far[2]


@pytest.mark.parametrize("size", [(64, 64), (67, 91), (200, 8), (5, 5)])
def test_any_size_comes_back(pipe: sdlite.Pipeline, size: tuple[int, int]) -> None:
    result = pipe.generate("x", edit=Edit(picture(*size)), steps=2)
    assert result.images[0].size == size
    shape = result.plan.shape
    assert (shape.width % 8, shape.height % 8) == (0, 0)
    assert 0 <= shape.width - size[0] < 8


def test_another_size(pipe: sdlite.Pipeline) -> None:
    for resize in ("stretch", "crop", "fill", None):
        edit = Edit(picture(100, 50), resize=resize)
        assert pipe.generate("x", edit=edit, steps=2, width=64, height=48).images[0].size == (
            64,
            48,
        )
    assert pipe.generate("x", edit=Edit(picture(100, 50)), steps=2, width=48).images[0].size == (
        48,
        24,
    )
    with pytest.raises(RequestError, match="resize pad works at the image's own 104x56"):
        pipe.plan(Request("x", edit=Edit(picture(100, 50), resize="pad"), width=64, height=64))


@pytest.mark.parametrize("content", ["original", "fill", "noise", "nothing"])
@pytest.mark.parametrize("only_masked", [False, True])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M"])
def test_outside_the_mask_and_its_blur_no_byte_changes(
    pipe: sdlite.Pipeline, content: str, only_masked: bool, sampler: str
) -> None:
    image = picture(90, 70)
    mask = box(90, 70, 30, 20, 50, 50)
    edit = Edit(
        image,
        mask=mask,
        strength=1.0,
        mask_blur=2,
        mask_content=content,
        only_masked=only_masked,
        padding=4,
    )
    after = pixels(pipe.generate("x", edit=edit, steps=3, sampler=sampler))
    far = reach(2)
    kept = np.ones((70, 90), bool)
    kept[20 - far : 50 + far, 30 - far : 50 + far] = False
    assert (after[kept] == np.asarray(image)[kept]).all()
    assert (after[25:45, 35:45] != np.asarray(image)[25:45, 35:45]).any()


def test_contents_differ(pipe: sdlite.Pipeline) -> None:
    drawn = {
        content: pixels(
            pipe.generate(
                "x", edit=Edit(picture(), mask=MASK, mask_content=content), steps=4, seed=1
            )
        ).tobytes()
        for content in ("original", "fill", "noise", "nothing")
    }
    assert len(set(drawn.values())) == 4


def test_inverted_soft_and_alpha_masks(pipe: sdlite.Pipeline) -> None:
    def draw(edit: Edit) -> np.ndarray:
        return pixels(pipe.generate("x", edit=edit, steps=3, seed=1))

    image = picture()
    black = Image.fromarray(255 - np.asarray(MASK))
    plain = draw(Edit(image, mask=MASK))
    assert (draw(Edit(image, mask=black, invert_mask=True)) == plain).all()
    hole = image.convert("RGBA")
    hole.putalpha(Image.fromarray(255 - np.asarray(MASK.convert("L"))))
    # The colours around flow into what is transparent; what stays is the same.
    outside = np.asarray(MASK.convert("L").resize((64, 64))) == 0
    alpha = draw(Edit(hole, alpha_mask=True, mask_blur=0))
    assert (alpha[outside] == np.asarray(image)[outside]).all()
    grey = Image.new("RGB", (64, 64), (64, 64, 64))
    soft = draw(Edit(image, mask=grey, soft_mask=True)).astype(float)
    full = draw(Edit(image)).astype(float)
    before = np.asarray(image, float)
    assert np.abs(soft - before).mean() < np.abs(full - before).mean()


def test_without_paste_the_decoder_made_every_pixel(pipe: sdlite.Pipeline) -> None:
    after = pixels(pipe.generate("x", edit=Edit(picture(), mask=MASK, paste=False), steps=2))
    assert (after[:8, :8] != np.asarray(picture())[:8, :8]).any()


def test_a_mask_of_another_size_is_resized_with_a_word(pipe: sdlite.Pipeline) -> None:
    result = pipe.generate("x", edit=Edit(picture(), mask=box(32, 32, 8, 8, 16, 16)), steps=1)
    assert result.notes == ("the mask has 32x32 pixels and the image 64x64: the mask was resized",)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("rules", ["a1111", "diffusers"])
def test_a_resumed_edit_equals_an_uninterrupted_one(
    pipe: sdlite.Pipeline, sampler: str, rules: str
) -> None:
    edit = Edit(picture(), mask=MASK, mask_content="noise", strength=0.8, rules=rules)
    request = Request("x", seed=3, images=2, steps=6, sampler=sampler, edit=edit)
    whole = list(pipe.steps(request))
    assert [step.index for step in whole] == list(range(whole[0].total))
    for step in whole[:-1]:
        *_, last = pipe.steps(request, resume=step.state)
        assert (last.x == whole[-1].x).all()


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M SDE"])
@pytest.mark.parametrize("rules", ["a1111", "diffusers"])
def test_an_edit_of_a_batch_equals_that_edit_alone(
    pipe: sdlite.Pipeline, sampler: str, rules: str
) -> None:
    edit = Edit(picture(), mask=MASK, mask_content="noise", rules=rules)
    batch = pipe.generate("x", seed=10, images=2, steps=3, sampler=sampler, edit=edit)
    alone = pipe.generate("x", seed=11, steps=3, sampler=sampler, edit=edit)
    assert (pixels(batch, 1) == pixels(alone)).all()


@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_hires(pipe: sdlite.Pipeline, upscaler: str) -> None:
    request = Request("x", seed=1, steps=4, hires=Hires(upscaler=upscaler, steps=3, strength=0.5))
    result = pipe.generate(request)
    assert result.images[0].size == (128, 128)
    calls = [phase.calls for phase in result.phases if phase.name == "denoise"]
    assert calls == [4, 3]
    assert (result.plan.shape.width, result.plan.shape.steps) == (128, 3)
    pixelwise = not upscaler.startswith("Latent")
    assert ("encode" in [phase.name for phase in result.phases]) == pixelwise
    assert (pixels(result) == pixels(pipe.generate(result.request))).all()


@pytest.mark.parametrize(("upscaler", "sampler"), [("Latent", "DPM++ 2M"), ("Lanczos", "PLMS")])
def test_hires_counts_through_and_resumes_to_the_bit(
    pipe: sdlite.Pipeline, upscaler: str, sampler: str
) -> None:
    hires = Hires(scale=1.5, upscaler=upscaler, sampler="Euler a", prompt="y", guidance=3.0)
    request = Request("x", seed=1, images=2, steps=4, sampler=sampler, hires=hires)
    whole = list(pipe.steps(request))
    # PLMS in A1111 does one interval less than it is asked for.
    first = [step for step in whole if step.state.stage == 0]
    assert len(first) == (4 if sampler == "DPM++ 2M" else 3)
    assert [step.index for step in first] == list(range(len(first)))
    assert [step.index - 4 for step in whole[len(first) :]] == list(range(4))
    assert whole[-1].x.shape == (2, 4, 12, 12)
    for step in whole[:-1]:
        *_, last = pipe.steps(request, resume=step.state)
        assert (last.x == whole[-1].x).all()
    with pytest.raises(RequestError, match="cannot resume stage 1"):
        next(pipe.steps(replace(request, hires=None), resume=whole[-2].state))


def test_hires_settings_of_its_own(pipe: sdlite.Pipeline) -> None:
    base = Request("x", seed=1, steps=4)

    def draw(hires: Hires) -> bytes:
        return pixels(pipe.generate(replace(base, hires=hires))).tobytes()

    plain = draw(Hires())
    assert draw(Hires(prompt="x")) == plain
    for other in (
        Hires(prompt="y"),
        Hires(negative_prompt="y"),
        Hires(sampler="Euler"),
        Hires(schedule="Exponential"),
        Hires(guidance=9.0),
        Hires(strength=0.4),
        Hires(steps=7),
    ):
        assert draw(other) != plain
    sized = pipe.generate(replace(base, hires=Hires(width=96)))
    assert sized.images[0].size == (96, 96)


def test_edits_may_be_odd_pictures(pipe: sdlite.Pipeline) -> None:
    deep = Image.fromarray(np.full((64, 64), 30_000, np.uint16))
    assert pipe.generate("x", edit=Edit(deep, strength=0.1), steps=2).images[0].mode == "RGB"


def test_parameters_of_an_edit(pipe: sdlite.Pipeline) -> None:
    edit = Edit(
        picture(),
        mask=MASK,
        strength=0.6,
        mask_content="noise",
        invert_mask=True,
        only_masked=True,
        padding=16,
    )
    fields = metadata.parse(pipe.generate("x", edit=edit, steps=2).infotexts[0]).fields
    assert fields["Denoising strength"] == "0.6"
    assert fields["Mask blur"] == "4"
    assert fields["Masked content"] == "latent noise"
    assert fields["Mask mode"] == "Inpaint not masked"
    assert fields["Inpaint area"] == "Only masked"
    assert fields["Masked area padding"] == "16"
    plain = metadata.parse(pipe.generate("x", edit=Edit(picture()), steps=1).infotexts[0]).fields
    assert plain.keys() & {"Mask blur", "Inpaint area", "Resize mode"} == set()
    assert plain["Init image hash"] == hashlib.md5(picture().tobytes()).hexdigest()


def test_parameters_of_a_second_pass(pipe: sdlite.Pipeline) -> None:
    hires = Hires(upscaler="latent", prompt="y, z", steps=3, guidance=4.0)
    fields = metadata.parse(pipe.generate("x", hires=hires, steps=2).infotexts[0]).fields
    assert (fields["Size-1"], fields["Denoising strength"]) == ("64", "0.7")
    assert fields["Hires upscale"] == "2"
    assert fields["Hires upscaler"] == "Latent"
    assert fields["Hires steps"] == "3"
    assert fields["Hires prompt"] == "y, z"
    assert fields["Hires CFG Scale"] == "4.0"
    sized = pipe.generate("x", hires=Hires(width=96, height=128), steps=1).infotexts[0]
    assert metadata.parse(sized).fields["Hires resize-1"] == "96"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"strength": 1.5}, RequestError, "strength 1.5 is not a number between 0 and 1"),
        ({"strength": -0.1}, RequestError, "strength -0.1 is not"),
        ({"strength": float("nan")}, RequestError, "strength nan is not"),
        ({"strength": "much"}, RequestError, "strength much is not"),
        ({"strength": 0.01, "rules": "diffusers"}, RequestError, "leaves no step to run"),
        ({"mask": Image.new("L", (64, 64))}, RequestError, "the mask is empty"),
        ({"mask": MASK, "mask_blur": -1}, RequestError, "mask blur -1 is not between 0 and 256"),
        ({"mask": MASK, "mask_blur": float("nan")}, RequestError, "mask blur nan"),
        ({"mask": MASK, "padding": -1}, RequestError, "padding -1 is not between 0 and 4096"),
        ({"mask_content": "filled"}, UnknownName, "Did you mean 'fill'"),
        ({"resize": "croop"}, UnknownName, "Did you mean 'crop'"),
        ({"rules": "A1112"}, UnknownName, "unknown rules 'A1112'"),
        ({"only_masked": True}, RequestError, "only masked, but there is no mask"),
        ({"alpha_mask": True}, RequestError, "no transparent pixels"),
        ({"image": "a.png"}, RequestError, "image 'a.png' is no PIL picture"),
        ({"image": picture(5000, 8)}, RequestError, "width 5000 is not between 8 and 4096"),
    ],
)
def test_edits_that_cannot_be(
    pipe: sdlite.Pipeline, change: dict[str, object], error: type[Exception], message: str
) -> None:
    edit = Edit(**({"image": picture()} | change))  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        pipe.generate("x", steps=20, edit=edit)


@pytest.mark.parametrize(
    ("hires", "error", "message"),
    [
        (Hires(strength=0), RequestError, "hires strength 0 is too little"),
        (Hires(strength=2), RequestError, "strength 2 is not"),
        (Hires(strength=0.01), RequestError, "too little for 20 steps"),
        (Hires(scale=0.5), RequestError, "hires scale 0.5 is not between 1 and 8"),
        (Hires(scale=float("nan")), RequestError, "hires scale nan"),
        (Hires(width=32), RequestError, "smaller than the first pass's 64x64"),
        (Hires(width=100), RequestError, "width 100 is not a multiple of 8"),
        (Hires(width=8000, height=64), RequestError, "not between 8 and 4096"),
        (Hires(steps=0), RequestError, "hires steps 0"),
        (Hires(upscaler="Latents"), UnknownName, "Did you mean 'Latent'"),
        (Hires(sampler="Oiler"), UnknownName, "Did you mean 'Euler'"),
        (Hires(guidance=-3.0), RequestError, "guidance -3.0"),
    ],
)
def test_second_passes_that_cannot_be(
    pipe: sdlite.Pipeline, hires: Hires, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipe.plan(Request("x", steps=20, hires=hires))


def test_an_edit_has_no_second_pass(pipe: sdlite.Pipeline) -> None:
    with pytest.raises(RequestError, match="not for edits"):
        pipe.plan(Request("x", edit=Edit(picture()), hires=Hires()))
