"""What was drawn: the gallery, comparing, grids, saving and deleting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from tests.browser.pages import RESULT, SEED, address, draw, shown
from tests.server.helpers import until


def test_the_gallery(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    for prompt, seed in (("a red circle", "1"), ("a green star", "2")):
        page.fill(SEED, seed)
        draw(page, prompt)
        page.wait_for_selector(f".strip [aria-label='{prompt}']")
    page.click("nav >> text=Gallery")
    page.locator(".wall li").nth(1).wait_for()
    assert "a green star" in page.locator(".wall li").first.inner_text()
    page.fill("#search", "CIRCLE red")
    page.wait_for_selector("text=Pictures: 1")
    page.fill("#search", "square")
    page.wait_for_selector("text=No picture has these words.")
    page.reload()
    page.click("nav >> text=Gallery")
    page.click(".wall >> text=a red circle")
    page.wait_for_selector(".caption >> text=a red circle")
    page.fill("#prompt", "")
    page.click(".actions >> text=Again")
    page.click("text=With the same settings")
    until(lambda: page.input_value("#prompt") == "a red circle")
    assert page.input_value(SEED) == "1"
    before = shown(page)
    jobs = asked(page)
    draw(page, "a red circle")
    page.wait_for_selector(".strip button >> nth=2")
    assert jobs[0]["seed"] == 1 and shown(page).tobytes() == before.tobytes()
    page.click(".actions >> text=Again")
    page.click("text=With another seed")
    until(lambda: page.input_value(SEED) == "")
    page.click(".actions >> text=Delete")
    page.click(".toast >> [aria-label=Close]")
    until(lambda: page.locator(".strip button").count() == 2)
    page.reload()
    page.wait_for_selector(".strip button >> nth=1")
    assert page.locator(".strip button").count() == 2


def test_pictures_survive_the_server(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = serve("--state", str(tmp_path / "state"), calls=5)
    page = visit(server)
    page.get_by_label("Steps").last.fill("3")
    draw(page, "kept")
    page.get_by_label("Steps").last.fill("20")
    page.fill("#prompt", "half done")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("figure.drawing > img")
    server.kill()
    page.wait_for_selector("text=The connection to sdlite is lost")
    server.allow()
    server.restart()
    page.wait_for_selector(".caption >> text=half done")
    page.wait_for_selector(".strip [aria-label='kept']")


def test_saving_and_deleting(shared: Any, visit: Any, tmp_path: Path) -> None:
    page = visit(shared)
    page.fill(SEED, "11")
    draw(page)
    with page.expect_download() as download:
        page.click("text=Save")
    download.value.save_as(tmp_path / "saved.png")
    assert download.value.suggested_filename == "sdlite-11.png"
    with Image.open(tmp_path / "saved.png") as saved:
        assert "Seed: 11" in saved.info["parameters"]
    page.click(".actions >> text=Delete")
    page.wait_for_selector(".frame.empty")
    page.click(".toast >> text=Undo")
    page.wait_for_selector(RESULT)
    first = address(page)
    page.wait_for_selector(".strip button")
    draw(page, "another")
    page.wait_for_selector(".strip button >> nth=1")
    page.click(".actions >> text=Delete")
    until(lambda: address(page) == first)


def test_actions_without_a_server(serve: Any, visit: Any) -> None:
    server = serve()
    page = visit(server)
    draw(page)
    server.kill()
    page.click(".actions >> text=Continue")
    page.wait_for_selector(".problem >> text=sdlite cannot be reached")
    page.click(".problem >> text=Close")
    page.click(".actions >> text=Delete")
    page.click(".toast >> [aria-label=Close]")
    page.wait_for_selector(".toast >> text=sdlite cannot be reached")
    page.wait_for_selector(RESULT)


def test_a_menu_closes(serve: Any, visit: Any) -> None:
    server = serve()
    page = visit(server)
    draw(page)
    choice = page.locator(".menu .sheet")
    again = page.locator(".menu > button")
    again.click()
    choice.wait_for()
    page.fill("#prompt", "next")
    choice.wait_for(state="detached")
    again.click()
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    choice.wait_for(state="detached")
    assert page.evaluate("document.activeElement.innerText") == "Again"
    again.click()
    page.click("h1")
    choice.wait_for(state="detached")


def test_comparing(shared: Any, visit: Any) -> None:
    page = visit(shared)
    page.fill(SEED, "3")
    for steps in ("2", "3"):
        page.get_by_label("Steps").last.fill(steps)
        draw(page)
    page.wait_for_selector(".strip button >> nth=1")
    page.click(".actions >> text=Compare")
    # What was drawn with other settings is said, and nothing else.
    rows = page.locator(".differences tbody tr")
    assert rows.all_inner_texts() == ["Steps\t2\t3"]
    page.click(".actions >> text=Compare")
    page.click(".actions >> text=Continue")
    page.wait_for_selector("section.source")
    draw(page, "another")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("v")
    slider = page.get_by_label("Where the two pictures meet")
    slider.fill("20")
    clip = page.evaluate("document.querySelectorAll('.compare img')[1].style.clipPath")
    assert "80%" in clip
    page.keyboard.press("Escape")
    page.wait_for_selector(".compare", state="detached")


def test_a_grid(shared: Any, visit: Any, asked: Any, tmp_path: Path) -> None:
    page = visit(shared)
    jobs = asked(page)
    page.fill("#prompt", "a red circle")
    page.click("nav >> text=Grid")
    page.fill("#grid-x", "2, 3")
    page.get_by_label("Setting").last.select_option("words")
    page.fill("#grid-y", "red, green")
    page.click("text=Draw 4 pictures")
    page.locator("td button img").nth(3).wait_for()
    told = [(job["steps"], job["prompt"]) for job in jobs]
    assert told == [(n, f"a {word} circle") for word in ("red", "green") for n in (2, 3)]
    assert len({job["seed"] for job in jobs}) == 1
    with page.expect_download() as download:
        page.click("text=Save as one picture")
    download.value.save_as(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as saved:
        assert saved.width > 128 and saved.height > 128
    page.fill("#grid-y", "purple, green")
    page.click("text=Draw 4 pictures")
    page.wait_for_selector("text=“purple” does not fit here.")
