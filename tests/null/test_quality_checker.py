"""The checker of the shapes model against a small drawing routine of this file's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.quality import make_heldout
from benchmarks.quality.captions import CaptionError, Wanted, WantedObject, parse_caption
from benchmarks.quality.checker import Verdict, judge, read_scene, shares
from benchmarks.quality.judge_folder import judge_pictures, load_prompts
from benchmarks.quality.outlines import SHAPES
from benchmarks.quality.palette import NAMES, PALETTE
from benchmarks.quality.sheet import contact_sheet

SIDE = 128
FINE = 6  # supersampling
RADII = {"small": 0.13, "": 0.2, "large": 0.3}


@dataclass(frozen=True)
class Drawn:
    colour: str
    shape: str
    size: str = ""
    x: float = 0.5
    y: float = 0.5

    @property
    def words(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape) if word)


def outline_of(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape of radius 1, y down, from the words that describe it."""
    if shape in ("circle", "ring"):
        return [(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 121)[:-1]]
    if shape == "square":
        return [(-0.85, -0.85), (-0.85, 0.85), (0.85, 0.85), (0.85, -0.85)]
    if shape == "triangle":
        return [(0, -1), (-0.95, 0.75), (0.95, 0.75)]
    if shape == "diamond":
        return [(0, -1), (-0.75, 0), (0, 1), (0.75, 0)]
    if shape == "cross":
        a, b = 0.34, 1.0
        return [
            (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
            (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a),
        ]  # fmt: skip
    if shape == "star":
        lengths = islice(cycle((1.0, 0.42)), 10)
        return [
            (length * math.sin(math.radians(36 * i)), -length * math.cos(math.radians(36 * i)))
            for i, length in enumerate(lengths)
        ]
    points = []
    for t in np.linspace(0, 2 * math.pi, 121)[:-1]:
        up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17, -(up + 2.53) / 17))
    return points


def mask_of(item: Drawn, style: str) -> Image.Image:
    """Coverage of one shape as an 8-bit picture."""
    fine = Image.new("L", (SIDE * FINE, SIDE * FINE), 0)
    draw = ImageDraw.Draw(fine)
    radius = RADII[item.size] * SIDE * FINE
    centre = item.x * SIDE * FINE, item.y * SIDE * FINE
    parts = [(1.0, 255)] + ([(0.55, 0)] if item.shape == "ring" else [])
    for part, level in parts:
        points = [
            (centre[0] + part * radius * x, centre[1] + part * radius * y)
            for x, y in outline_of(item.shape)
        ]
        if style == "outline":
            width = round(0.028 * SIDE * FINE)
            draw.line([*points, points[0], points[1]], fill=255, width=width, joint="curve")
        else:
            draw.polygon(points, fill=level)
    mask = fine.resize((SIDE, SIDE), Image.Resampling.BOX)
    return mask.filter(ImageFilter.GaussianBlur(2.4)) if style == "soft" else mask


def picture(background: str, *items: Drawn, style: str = "flat") -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), PALETTE[background])
    for item in items:
        image.paste(PALETTE[item.colour], mask=mask_of(item, style))
    return image


def disturbed(image: Image.Image, seed: int, noise: float, shift: float) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels + rng.uniform(-shift, shift, 3) + rng.normal(0, noise, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def single(item: Drawn, background: str, style: str = "flat") -> str:
    return f"{article(item.words)} on {article(background)} background, {style} style"


def scenes() -> Iterator[tuple[Drawn, str, str]]:
    """Every shape in every style, colours and sizes going round."""
    sizes, colours = cycle(RADII), cycle(NAMES)
    for number, shape in enumerate(SHAPES):
        for style in ("flat", "outline", "soft"):
            colour = next(colours)
            background = NAMES[(NAMES.index(colour) + 1 + number % 6) % len(NAMES)]
            yield Drawn(colour, shape, next(sizes), 0.47, 0.54), background, style
        next(sizes)


LEFT = Drawn("red", "heart", x=0.27, y=0.52)
RIGHT = Drawn("blue", "star", "small", x=0.72, y=0.48)
PAIR = picture("yellow", LEFT, RIGHT)
PAIR_CAPTION = "a red heart left of a small blue star on a yellow background"


@pytest.mark.parametrize(("item", "background", "style"), list(scenes()))
def test_reads_every_shape_in_every_style(item: Drawn, background: str, style: str) -> None:
    image = disturbed(picture(background, item, style=style), 1, 4.0, 10.0)
    verdict = judge(single(item, background, style), image)
    assert verdict.wholly_right, verdict.wrong
    seen = verdict.reading.objects[0]
    assert seen.radius == pytest.approx(RADII[item.size], rel=0.06)
    assert (seen.x, seen.y) == pytest.approx((item.x, item.y), abs=0.02)


@pytest.mark.parametrize("index", range(len(NAMES)))
def test_reads_every_pair_of_colours(index: int) -> None:
    background = NAMES[index]
    assert read_scene(picture(background)).objects == ()
    for colour in NAMES[:index]:
        image = disturbed(picture(background, Drawn(colour, "square")), 2, 3.0, 8.0)
        reading = read_scene(image)
        assert reading.background == background
        assert [seen.colour for seen in reading.objects] == [colour]


@pytest.mark.parametrize(
    "caption",
    [
        PAIR_CAPTION,
        "a small blue star right of a red heart on a yellow background",
        "red heart to the left of small blue star on yellow background",
        "a red heart with a small blue star to its right on a yellow background",
        "a small blue star with a red heart to its left, yellow background",
        "a red heart and a small blue star on a yellow background, flat style",
        "a flat red heart left of a flat small blue star",
        "a heart and a small star on a yellow background",
    ],
)
def test_accepts_every_wording(caption: str) -> None:
    verdict = judge(caption, PAIR)
    assert verdict.wholly_right, verdict.wrong


@pytest.mark.parametrize(
    ("caption", "attribute"),
    [
        ("a blue heart left of a small red star on a yellow background", "colour"),
        ("a red star left of a small blue heart on a yellow background", "shape"),
        ("a small red heart left of a blue star on a yellow background", "size"),
        ("a red heart right of a small blue star on a yellow background", "relation"),
        ("a red heart above a small blue star on a yellow background", "relation"),
        ("a red heart left of a small blue star on a green background", "background"),
        ("a yellow heart left of a small blue star on a red background", "background"),
        ("an outline red heart left of an outline small blue star", "style"),
        ("a red heart on a yellow background", "count"),
        ("a purple heart left of a small blue star on a yellow background", "colour"),
        ("a red heart left of a large blue star on a yellow background", "size"),
    ],
)
def test_refuses_a_caption_wrong_in_one_thing(caption: str, attribute: str) -> None:
    verdict = judge(caption, PAIR)
    assert not verdict.wholly_right
    assert not verdict.attributes[attribute]


def test_refuses_broken_pictures() -> None:
    caption = "a red heart on a yellow background"
    good = picture("yellow", Drawn("red", "heart"))
    assert judge(caption, good).wholly_right

    def attributes(image: Image.Image, text: str = caption) -> set[str]:
        return {name for name, right in judge(text, image).attributes.items() if not right}

    assert "style" in attributes(good.filter(ImageFilter.GaussianBlur(1.6)))
    assert "count" in attributes(picture("yellow"))
    assert "count" in attributes(
        picture("yellow", Drawn("red", "heart"), Drawn("blue", "circle", "small", 0.8, 0.15))
    )
    assert "count" in attributes(good, PAIR_CAPTION)
    stained = good.copy()
    stained.paste(PALETTE["green"], (58, 55, 68, 66))
    assert attributes(stained) == {"clean"}
    littered = good.copy()
    littered.paste(PALETTE["black"], (8, 8, 18, 16))
    assert attributes(littered) == {"clean"}
    grey = picture("yellow")
    grey.paste((120, 120, 120), mask=mask_of(Drawn("red", "heart"), "flat"))
    assert "colour" in attributes(grey)
    noise = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    assert attributes(Image.fromarray(noise))


def test_reads_outlines_that_cross() -> None:
    items = Drawn("green", "circle", "large", 0.36), Drawn("white", "square", "", 0.79)
    verdict = judge(
        "a large green circle left of a white square on a purple background, outline style",
        picture("purple", *items, style="outline"),
    )
    assert verdict.wholly_right, verdict.wrong


def test_two_shapes_of_one_colour_stay_two() -> None:
    stars = Drawn("purple", "star", "", 0.29), Drawn("purple", "star", "", 0.71)
    reading = read_scene(picture("red", *stars))
    assert [seen.shape for seen in reading.objects] == ["star", "star"]


def test_refuses_other_sizes_of_picture() -> None:
    with pytest.raises(ValueError, match="64x128"):
        read_scene(Image.new("RGB", (64, 128)))


def test_parses_captions() -> None:
    circle = WantedObject("red", "circle", "plain")
    assert parse_caption("a red circle") == Wanted((circle,), None, None, "flat")
    assert parse_caption("outline circle").style == "outline"
    assert parse_caption("a circle on a white background").objects[0].colour is None
    two = parse_caption("a red circle with a small star above it, blue background, soft style")
    star = WantedObject(None, "star", "small")
    assert two == Wanted((circle, star), "below", "blue", "soft")


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a red teapot on a blue background", "teapot"),
        ("a red red circle", "second colour"),
        ("a soft red circle, outline style", "two styles"),
        ("", "without words"),
    ],
)
def test_names_what_it_does_not_understand(caption: str, words: str) -> None:
    with pytest.raises(CaptionError, match=words):
        parse_caption(caption)


def test_heldout_list_is_what_its_program_makes() -> None:
    for draw in make_heldout.DRAWS:
        assert draw.path.read_text(encoding="utf-8") == draw.text()


def test_heldout_list_asks_only_held_out_combinations() -> None:
    entries = load_prompts()
    assert [sum(entry["shapes"] == number for entry in entries) for number in (1, 2)] == [200, 200]
    assert len({entry["seed"] for entry in entries}) == len(entries)
    for entry in entries:
        wanted = parse_caption(entry["prompt"])
        assert wanted.background is not None
        pairs = [(str(item.colour), str(item.shape)) for item in wanted.objects]
        if entry["shapes"] == 1:
            key = make_heldout.one_key(*pairs[0], wanted.background)
        else:
            key = make_heldout.two_key(pairs[0], str(wanted.relation), pairs[1], wanted.background)
        assert key == entry["combination"]
        assert make_heldout.is_held_out(key)
        assert entry["style"] == wanted.style
        assert entry["size"] in {"plain", *(item.size for item in wanted.objects)}
        assert len({wanted.background, *(item.colour for item in wanted.objects)}) == len(pairs) + 1


def test_figures_are_given_by_kind() -> None:
    entries = [
        {"id": "a", "prompt": PAIR_CAPTION, "shapes": 2},
        {"id": "b", "prompt": "a red heart on a yellow background", "shapes": 1},
    ]
    figures, verdicts = judge_pictures(entries, [PAIR, PAIR])
    assert figures["all"]["wholly_right"] == 0.5
    assert figures["by_kind"]["two shapes"]["wholly_right"] == 1.0
    assert figures["by_kind"]["one shape"]["right_count"] == 0.0
    assert [failure["picture"] for failure in figures["failures"]] == ["b"]
    assert isinstance(verdicts[0], Verdict)
    assert shares([]) == {"count": 0}
    with pytest.raises(ValueError, match="1 pictures"):
        judge_pictures(entries, [PAIR])


def test_contact_sheet_holds_every_picture() -> None:
    sheet = contact_sheet([PAIR] * 5, ["one"] * 5, good=[True] * 5, columns=2, scale=2)
    assert sheet.width >= 2 * 256
    assert sheet.height >= 3 * 256
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([], [])
