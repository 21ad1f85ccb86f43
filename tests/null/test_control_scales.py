"""How much of a control network counts: modes, shares of the steps, prompts and negative prompt."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdlite.control.scales import SCALES, is_active, layer_scales, switches, with_scales
from sdlite.controls import Control
from sdlite.errors import RequestError
from sdlite.types import Cond, StepConds


def control(**settings) -> Control:
    return Control("x", Image.new("RGB", (8, 8)), **settings)


def test_balanced_counts_alike_everywhere() -> None:
    prompt, negative = layer_scales(control(weight=0.5), 13)
    assert prompt.tolist() == negative.tolist() == [0.5] * 13


def test_the_prompt_counts_more_by_a1111s_powers() -> None:
    prompt, negative = layer_scales(control(mode="prompt", weight=2.0), 13)
    np.testing.assert_allclose(prompt, [2 * 0.825 ** (12 - i) for i in range(13)], rtol=1e-6)
    np.testing.assert_array_equal(prompt, negative)


def test_the_picture_counts_more_by_leaving_the_negative_prompt_alone() -> None:
    prompt, negative = layer_scales(control(mode="control"), 13)
    assert prompt[-1] == 1.0
    assert not negative.any()


def test_guess_mode_rises_tenfold_to_the_middle_as_in_diffusers() -> None:
    prompt, negative = layer_scales(control(mode="guess"), 13)
    np.testing.assert_allclose(prompt, 10 ** np.linspace(-1, 0, 13), rtol=1e-6)
    assert not negative.any()


def test_factors_of_layers_multiply_and_must_be_one_each() -> None:
    prompt, _ = layer_scales(control(weight=0.5, layers=(1.0, 0.0, 2.0)), 3)
    assert prompt.tolist() == [0.5, 0.0, 1.0]
    with pytest.raises(RequestError, match="2 factors for its layers, it has 3"):
        layer_scales(control(layers=(1.0, 1.0)), 3)


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [(0.0, 1.0, range(10)), (0.2, 0.7, range(2, 7)), (0.25, 0.75, range(3, 7)), (0, 0, range(0))],
)
def test_steps_that_lie_wholly_within_the_share_are_steered(start, end, wanted) -> None:
    acting = [step for step in range(10) if is_active(control(start=start, end=end), step, 10)]
    assert acting == list(wanted)


def test_scales_go_to_every_item_at_their_levels() -> None:
    cond = Cond(np.zeros((2, 3, 4), np.float32))

    def conditions(_: float) -> StepConds:
        return StepConds(((cond, 1.0),), cond)

    sigmas = np.array([8.0, 4.0, 2.0, 1.0, 0.0], np.float32)
    both = (control(start=0.5), control(mode="control"))
    scales = [layer_scales(each, 3) for each in both]
    told = with_scales(conditions, sigmas, both, scales)
    early, late = told(4.0), told(1.5)
    assert early.parts[0][0].added[SCALES].shape == (2, 2, 3)
    assert not early.parts[0][0].added[SCALES][:, 0].any(), "the first has not begun"
    assert early.parts[0][0].added[SCALES][:, 1].all()
    assert late.parts[0][0].added[SCALES][:, 0].all()
    assert late.negative is not None
    assert late.negative.added[SCALES][:, 0].all()
    assert not late.negative.added[SCALES][:, 1].any()


def test_steps_in_which_others_act() -> None:
    image = Image.new("RGB", (8, 8))
    first = Control("a", image, start=0.25)
    second = Control("b", image, end=0.5)
    assert switches((), 8) == frozenset()
    assert switches((Control("a", image),), 8) == frozenset()
    assert switches((first, second), 8) == {2, 4}
