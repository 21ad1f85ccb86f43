"""What U-Nets are told beside text: sizes, pooled text, guidance scale, a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdlite.edit.start import with_picture
from sdlite.engine import TensorSpec
from sdlite.errors import PackageInvalid
from sdlite.manifest import FAMILIES, NoiseTable
from sdlite.noise import alpha_bar
from sdlite.package import Package
from sdlite.ports import CHANNELS, GUIDANCE, TextFeatures, UnetPort, guidance_width
from sdlite.sampling import NoiseLevels, denoiser
from sdlite.text.labels import ENCODINGS, Labels, guidance_embedding, labels_of
from sdlite.types import Cond, Float32, StepConds
from tests.null.test_conditioning import TextModel
from tests.null.test_package import rewrite, write_package
from tests.null.test_ports import unet

SIZES = np.arange(6, dtype=np.float32)[None]
LABELS = Labels(SIZES, SIZES + 10, zeros_for_empty=True)


def test_every_family_has_an_encoding() -> None:
    assert set(ENCODINGS) == set(FAMILIES)


@pytest.mark.parametrize(
    ("family", "sizes", "negative"),
    [
        ("sd1", None, None),
        ("sdxl", [96, 64, 0, 0, 96, 64], [96, 64, 0, 0, 96, 64]),
        ("sdxl-refiner", [96, 64, 0, 0, 6.0], [96, 64, 0, 0, 2.5]),
    ],
)
def test_sizes(
    tmp_path: Path, family: str, sizes: list[float] | None, negative: list[float] | None
) -> None:
    rewrite(tmp_path, {**write_package(tmp_path), "family": family, "reader": 2})
    labels = labels_of(Package.open(tmp_path).manifest, width=64, height=96)
    if sizes is None:
        assert labels is None
        return
    assert labels is not None
    assert labels.sizes.tolist() == [sizes] and labels.negative_sizes.tolist() == [negative]
    assert labels.sizes.dtype == np.float32


def test_labels_go_with_each_prompt() -> None:
    model = TextModel()
    told = model.condition("a AND b", "c", labels=LABELS).at(0)
    for cond, text in ((told.parts[0][0], "a"), (told.parts[1][0], "b")):
        assert np.array_equal(cond.added["text_embeds"][0], model.chunk(text)[-1])
        assert np.array_equal(cond.added["time_ids"], SIZES)
    assert told.negative is not None
    assert np.array_equal(told.negative.added["text_embeds"][0], model.chunk("c")[-1])
    assert np.array_equal(told.negative.added["time_ids"], SIZES + 10)
    assert told.parts[0][0].stacks_with(told.negative)


def test_an_empty_negative_prompt_is_zeros_where_the_model_was_trained_so() -> None:
    model = TextModel()
    told = model.condition("a", "", labels=LABELS).at(0)
    assert told.negative is not None
    assert not told.negative.context.any() and not told.negative.added["text_embeds"].any()
    assert np.array_equal(told.negative.added["time_ids"], SIZES + 10)
    assert told.parts[0][0].context.any()
    plain = Labels(SIZES, SIZES, zeros_for_empty=False)
    told = model.condition("a", "", labels=plain).at(0)
    assert told.negative is not None and told.negative.context.any()
    # An empty prompt is no negative prompt.
    assert model.condition("", "", labels=LABELS).at(0).parts[0][0].context.any()


def test_a_text_encoder_without_pooled_text_is_told() -> None:
    model = TextModel()
    encode = model.encode

    def bare(ids: np.ndarray) -> TextFeatures:
        return TextFeatures(encode(ids).hidden, None)

    model.encode = bare  # type: ignore[method-assign]
    with pytest.raises(PackageInvalid, match="no pooled text"):
        model.condition("a", labels=LABELS)


def test_the_guidance_scale_as_a_vector() -> None:
    row = guidance_embedding(1.0, 7)
    assert row.tolist() == [[0, 0, 0, 1, 1, 1, 0]]
    row = guidance_embedding(8.5, 256)
    assert row.shape == (1, 256) and row.dtype == np.float32
    # 7500 at the first frequency, 1, and at the last, 1/10000.
    assert row[0, 0] == pytest.approx(np.sin(7500.0), abs=1e-3)
    assert row[0, [127, 255]] == pytest.approx([np.sin(0.75), np.cos(0.75)], abs=1e-5)


def test_a_graph_says_whether_it_takes_the_guidance_scale() -> None:
    sample = TensorSpec("sample", "float32", ("batch", 4, "height", "width"))
    scale = TensorSpec(GUIDANCE, "float32", ("batch", 256))
    assert guidance_width([sample]) is None
    assert guidance_width([sample, scale]) == 256


def test_a_u_net_gets_what_it_takes_and_nothing_else() -> None:
    x, times = np.zeros((1, 4, 2, 2), np.float32), np.zeros(1, np.float32)
    context = np.zeros((1, 5, 3), np.float32)
    port = UnetPort(unet(time_ids=("float32", ("batch", 6))))
    with pytest.raises(PackageInvalid, match=r"takes time_ids beside .* gives nothing; export"):
        port.predict(x, times, context)
    with pytest.raises(PackageInvalid, match=r"takes nothing beside .* gives time_ids;"):
        UnetPort(unet()).predict(x, times, context, {"time_ids": SIZES})


def test_guidance_of_a_picture_and_of_words_are_apart() -> None:
    def predict(x: Float32, timestep: Float32, cond: Cond) -> Float32:
        # Text and picture act as plain numbers, so that the sum can be written down.
        text = cond.context.mean(axis=(1, 2)) + 10 * cond.added[CHANNELS].mean(axis=(1, 2, 3))
        return np.zeros_like(x) - text[:, None, None, None]

    def context(value: float) -> Cond:
        return Cond(np.full((1, 2, 3), value, np.float32))

    levels = NoiseLevels.from_table(NoiseTable("scaled_linear", 0.00085, 0.012, 1000))
    channels = np.ones((1, 4, 2, 2), np.float32)
    plain = StepConds(((context(3), 1.0),), context(1))
    told = with_picture(lambda sigma: plain, channels, 5.0, 1.5)
    denoise = denoiser(predict, levels, "epsilon", told, 5.0)
    x = np.zeros((1, 4, 2, 2), np.float32)
    # e0 = 1, e1 = 11, e2 = 13: 1 + 1.5 * 10 + 5 * 2.
    assert denoise(x, 1.0).x0 == pytest.approx(26.0)
    unguided = with_picture(lambda sigma: StepConds(plain.parts), channels, 1.0, 1.5)
    assert denoiser(predict, levels, "epsilon", unguided, 1.0)(x, 1.0).x0 == pytest.approx(13.0)


def test_zero_terminal_snr_leaves_no_signal_at_the_end() -> None:
    usual = NoiseTable("scaled_linear", 0.00085, 0.012, 1000)
    table = NoiseTable("scaled_linear", 0.00085, 0.012, 1000, zero_terminal_snr=True)
    before, after = alpha_bar(usual), alpha_bar(table)
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    assert after[-1] == 2.0**-24
    assert (np.diff(after) < 0).all() and (after <= before + 1e-12).all()
    assert NoiseLevels.from_table(table).sigma_max == pytest.approx(4096, rel=1e-6)
