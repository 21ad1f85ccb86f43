"""Pictures that are continued from: dropped, painted over, drawn beyond their edges, guided by."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.browser.pages import SEED, draw, drop, mask_of, painted, png, shown
from tests.server.helpers import until


def test_a_dropped_picture_brings_its_settings(shared: Any, visit: Any, tmp_path: Path) -> None:
    page = visit(shared)
    page.fill(SEED, "12")
    page.get_by_label("Steps").last.fill("3")
    draw(page, "dropped")
    data = base64.b64encode(png(shown(page), "dropped\nSteps: 3, Seed: 12, Size: 64x64")).decode()
    page.click("text=Back to the model")
    page.fill("#prompt", "")
    drop(page, data)
    until(lambda: page.input_value("#prompt") == "dropped")
    assert page.input_value(SEED) == "12" and page.get_by_label("Steps").last.input_value() == "3"
    page.click("text=Continue from the picture")
    page.wait_for_selector(".painting canvas")


def test_a_picture_is_opened_without_dragging(shared: Any, visit: Any) -> None:
    page = visit(shared)
    with page.expect_file_chooser() as chooser:
        page.locator("button.open").press("Enter")
    blue = png(Image.new("RGB", (64, 64), "blue"))
    chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": blue}])
    page.wait_for_selector(".painting canvas")
    assert page.locator("text=Open a picture").count() == 0


def test_any_other_picture_is_continued_from(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    blue = Image.new("RGB", (64, 64), "blue")
    drop(page, base64.b64encode(png(blue)).decode())
    page.wait_for_selector(".painting canvas")
    page.get_by_label("Strength of the change").last.fill("0.3")
    draw(page)
    assert jobs[0]["edit"]["strength"] == 0.3
    assert jobs[0]["edit"]["image"] and "mask" not in jobs[0]["edit"]
    page.click("[aria-label='Do without this picture']")
    draw(page)
    assert "edit" not in jobs[1]


def test_painting_a_mask(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    draw(page)
    before = np.asarray(shown(page))
    page.click(".actions >> text=Continue")
    page.wait_for_selector(".painting canvas")
    painted(page, (0.2, 0.2), (0.4, 0.2))
    painted(page, (0.7, 0.8), (0.8, 0.8))
    page.click("[aria-label=Undo]")
    page.get_by_label("Soft edge").fill("0")
    draw(page)
    mask = mask_of(jobs[1])
    assert mask.shape == (64, 64)
    assert mask[13, 16] == 255 and mask[51, 48] == 0 and set(np.unique(mask)) <= set(range(256))
    after = np.asarray(shown(page))
    # What was not painted stays as it was, to the pixel.
    np.testing.assert_array_equal(after[mask == 0], before[mask == 0])
    assert (after != before).any()
    page.get_by_label("Original").check()
    page.click("[aria-label=Eraser]")
    painted(page, (0.1, 0.2), (0.5, 0.2))
    page.click("text=Invert")
    draw(page)
    assert mask_of(jobs[2])[13, 16] == 255 and mask_of(jobs[2])[51, 48] == 255
    page.get_by_label("Original").check()
    page.click("text=Clear")
    draw(page)
    assert "mask" not in jobs[3]["edit"]


def test_painting_with_keys(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    draw(page)
    page.click(".actions >> text=Continue")
    page.focus(".painting")
    for key in ("ArrowLeft", "Space", "Shift+ArrowUp"):
        page.keyboard.press(key)
    page.wait_for_selector(".painting .cursor")
    draw(page)
    mask = mask_of(jobs[1])
    assert mask[32, 28] == 255 and mask[28, 28] == 255 and mask[60, 60] == 0


def test_a_reload_keeps_what_is_continued_from(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    draw(page)
    page.click(".actions >> text=Continue")
    page.wait_for_selector(".painting canvas")
    painted(page, (0.2, 0.2), (0.4, 0.2))
    draw(page)
    page.reload()
    page.wait_for_selector("section.source >> text=Change what is painted")
    jobs = asked(page)
    draw(page)
    mask = mask_of(jobs[0])
    assert mask[13, 16] == 255 and mask[51, 48] == 0
    page.click("[aria-label='Show the picture to continue from']")
    page.click("text=Clear")
    page.focus(".edge.right")
    page.keyboard.press("ArrowRight")
    draw(page)
    page.reload()
    page.wait_for_selector("section.source >> text=Draw beyond the edges")
    # Another tab has nothing of it.
    other = page.context.new_page()
    other.goto(shared.url)
    other.wait_for_selector("text=Open a picture")
    other.wait_for_selector(".strip button")
    assert other.locator("section.source").count() == 0


def test_drawing_beyond_the_edges(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    draw(page)
    page.click(".actions >> text=Continue")
    edge = page.locator(".edge.right")
    box, frame = edge.bounding_box(), page.locator(".editor .frame").bounding_box()
    page.mouse.move(box["x"] + 13, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 13 + frame["width"] / 4, box["y"] + 50, steps=4)
    page.mouse.up()
    assert edge.get_attribute("aria-valuenow") == "16"
    page.focus(".edge.top")
    page.keyboard.press("ArrowUp")
    draw(page)
    assert jobs[1]["outpaint"] == {"left": 0, "top": 8, "right": 16, "bottom": 0}
    assert shown(page).size == (80, 72)


def test_a_guiding_picture(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)

    def with_network(route: Any) -> None:
        answer = route.fetch()
        found = answer.json()
        found["models"][0]["controls"] = ["edges"]
        route.fulfill(response=answer, json=found)

    page.route("**/api/v1/choices", with_network)
    page.reload()
    jobs = asked(page)
    page.click("text=Guide by a picture")
    file = {"name": "a.png", "mimeType": "image/png", "buffer": png(Image.new("RGB", (64, 64)))}
    page.set_input_files(".guide input", files=[file])
    # What the network gets of it is shown.
    page.get_by_label("What it follows").select_option("canny")
    page.locator(".seen img").nth(1).wait_for()
    page.get_by_label("How closely").last.fill("0.5")
    page.fill("#prompt", "a")
    page.keyboard.press("Control+Enter")
    # The model has no such network: what is refused is said.
    page.wait_for_selector(".problem")
    (control,) = jobs[0]["controls"]
    assert control["name"] == "edges" and control["weight"] == 0.5 and control["image"]
