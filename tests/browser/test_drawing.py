"""The page in a real browser: from a prompt to a picture, and what comes between."""

from __future__ import annotations

import base64
import io
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.server.helpers import until

RESULT = "figure.frame:not(.drawing) > img"
SEED = "#seed"
JOBS = "/api/v1/jobs"


def draw(page: Any, prompt: str = "a red circle") -> None:
    """Ask for a picture, and wait until it is on the stage."""
    page.fill("#prompt", prompt)
    with page.expect_response(lambda answer: answer.status == 202 and JOBS in answer.url) as answer:
        page.keyboard.press("Control+Enter")
    job = answer.value.json()["id"]
    until(lambda: job in (address(page) or ""))


def address(page: Any) -> str | None:
    """Of the picture on the stage; None while there is none."""
    found: str | None = page.evaluate(f"document.querySelector({RESULT!r})?.src ?? null")
    return found


def shown(page: Any) -> Image.Image:
    """The picture on the stage, as the server gives it."""
    image = Image.open(io.BytesIO(page.context.request.get(address(page)).body()))
    image.load()
    return image


def metric(server: Any, name: str) -> int:
    with urllib.request.urlopen(server.url + "/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[-1])


def test_from_the_prompt_to_the_picture(serve: Any, visit: Any, asked: Any) -> None:
    page = visit(serve(delay=0.2))
    jobs = asked(page)
    page.fill("#prompt", "a red circle")
    page.fill("#negative", "blue")
    page.wait_for_selector("text=of memory")
    assert "Time unknown" in page.inner_text(".forecast")
    page.click("button.primary")
    page.wait_for_selector("figure.drawing > img")
    assert page.get_attribute("figure.drawing > img", "src").startswith("data:image/png")
    assert "Step" in page.inner_text(".progress")
    page.wait_for_selector(RESULT)
    assert jobs == [{"prompt": "a red circle", "negative_prompt": "blue"}]
    # What was drawn tells how long the next one takes, and what would be faster.
    page.wait_for_selector("text=About")
    page.click(".forecast .chip >> text=10 steps")
    until(lambda: page.get_by_label("Steps").last.input_value() == "10")


def test_settings_reach_the_server(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    page.get_by_label("Steps").last.fill("4")
    page.get_by_label("Guidance").last.fill("3.5")
    page.get_by_label("Sampler").select_option("Euler")
    page.get_by_label("Width in pixels").fill("44")
    page.fill(SEED, "7")
    page.click("text=More settings")
    page.get_by_label("Pictures", exact=True).fill("2")
    page.get_by_label("Schedule").select_option("Karras")
    draw(page)
    assert jobs == [
        {
            "prompt": "a red circle",
            "steps": 4,
            "guidance": 3.5,
            "sampler": "Euler",
            "schedule": "Karras",
            "width": 48,
            "seed": 7,
            "images": 2,
        }
    ]
    assert page.locator(".others button").count() == 2
    first = page.get_attribute(RESULT, "src")
    page.click(".others button >> nth=1")
    assert page.get_attribute(RESULT, "src") != first
    page.click("text=Back to the model")
    assert page.input_value(SEED) == "" and page.input_value("#prompt") == "a red circle"


def test_cancel(serve: Any, visit: Any) -> None:
    server = serve(delay=0.1)
    page = visit(server)
    page.get_by_label("Steps").last.fill("150")
    page.fill("#prompt", "slow")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("figure.drawing > img")
    page.keyboard.press("Escape")
    page.wait_for_selector(".frame.empty")
    until(lambda: metric(server, 'sdlite_jobs_total{state="cancelled"}') == 1)
    assert metric(server, "sdlite_jobs_running") == 0


def test_jobs_follow_each_other(serve: Any, visit: Any, asked: Any) -> None:
    page = visit(serve(delay=0.2))
    jobs = asked(page)
    for prompt in ("one", "two"):
        page.fill("#prompt", prompt)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("figure.drawing")
    page.wait_for_selector("text=1 more to follow")
    page.wait_for_selector(RESULT)
    page.wait_for_selector(".caption >> text=two")
    assert [job["prompt"] for job in jobs] == ["one", "two"]


def test_a_reload_loses_nothing(serve: Any, visit: Any) -> None:
    page = visit(serve(delay=0.3))
    page.fill("#prompt", "kept")
    page.fill(SEED, "5")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("figure.drawing > img")
    page.reload()
    page.wait_for_selector("figure.drawing")
    assert page.input_value("#prompt") == "kept" and page.input_value(SEED) == "5"
    page.wait_for_selector(RESULT)
    page.reload()
    page.wait_for_selector(RESULT)
    assert page.inner_text(".caption > p") == "kept"


def test_a_restart_in_the_middle(serve: Any, visit: Any, asked: Any) -> None:
    server = serve(delay=0.3)
    page = visit(server)
    jobs = asked(page)
    page.fill("#prompt", "phoenix")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("figure.drawing > img")
    server.kill()
    page.wait_for_selector("text=The connection to sdlite is lost")
    page.fill("#negative", "written meanwhile")
    server.delay = 0.0
    server.restart()
    page.wait_for_selector(RESULT)
    page.wait_for_selector("text=The connection to sdlite is lost", state="detached")
    assert page.input_value("#negative") == "written meanwhile"
    assert [job["prompt"] for job in jobs] == ["phoenix", "phoenix"]
    # The picture that was being drawn, not another one: the seed the first server chose.
    assert jobs[1]["seed"] == int(re.findall(r"Seed: (\d+)", page.text_content(".rest"))[0])


def test_two_tabs(serve: Any, visit: Any) -> None:
    server = serve(delay=0.3)
    first = visit(server)
    first.fill("#prompt", "from the first")
    first.keyboard.press("Control+Enter")
    first.wait_for_selector("figure.drawing")
    second = first.context.new_page()
    second.goto(server.url)
    second.wait_for_selector("figure.drawing")
    for page in (first, second):
        page.wait_for_selector(RESULT)
        assert page.inner_text(".caption > p") == "from the first"
    draw(second, "from the second")
    assert first.inner_text(".caption > p") == "from the first"


def test_what_fails_is_explained(serve: Any, visit: Any) -> None:
    page = visit(serve(fails="2"))  # the second call of each time the model is opened
    page.fill("#prompt", "a")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".problem >> text=That did not work.")
    page.click(".problem >> text=What sdlite says")
    assert "unet" in page.inner_text(".problem details p")
    page.get_by_label("Steps").last.fill("1")
    page.click(".problem >> text=Try again")
    page.wait_for_selector(RESULT)


def test_what_cannot_be_is_said_before(serve: Any, visit: Any) -> None:
    page = visit(serve("--max-steps", "10"))
    page.fill("#prompt", "a")
    page.get_by_label("Steps").last.fill("40")
    page.keyboard.press("Tab")
    page.wait_for_selector(".objection >> text=at most 10 are allowed")


def test_nothing_is_asked_without_a_prompt(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    page.click("button.primary")
    page.wait_for_selector("text=Write first what you would like to see.")
    assert not jobs and page.evaluate("document.activeElement.id") == "prompt"


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
    server = serve("--state", str(tmp_path / "state"), delay=0.05)
    page = visit(server)
    page.get_by_label("Steps").last.fill("3")
    draw(page, "kept")
    page.get_by_label("Steps").last.fill("20")
    page.fill("#prompt", "half done")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("figure.drawing > img")
    server.kill()
    page.wait_for_selector("text=The connection to sdlite is lost")
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


def test_a_dropped_picture_brings_its_settings(shared: Any, visit: Any, tmp_path: Path) -> None:
    page = visit(shared)
    page.fill(SEED, "12")
    page.get_by_label("Steps").last.fill("3")
    draw(page, "dropped")
    data = base64.b64encode(
        _bytes(shown(page), "dropped\nSteps: 3, Seed: 12, Size: 64x64")
    ).decode()
    page.click("text=Back to the model")
    page.fill("#prompt", "")
    drop(page, data)
    until(lambda: page.input_value("#prompt") == "dropped")
    assert page.input_value(SEED) == "12" and page.get_by_label("Steps").last.input_value() == "3"
    page.click("text=Continue from the picture")
    page.wait_for_selector(".painting canvas")


def test_any_other_picture_is_continued_from(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    blue = Image.new("RGB", (64, 64), "blue")
    drop(page, base64.b64encode(_bytes(blue)).decode())
    page.wait_for_selector(".painting canvas")
    page.get_by_label("Strength of the change").last.fill("0.3")
    draw(page)
    assert jobs[0]["edit"]["strength"] == 0.3
    assert jobs[0]["edit"]["image"] and "mask" not in jobs[0]["edit"]
    page.click("[aria-label='Do without this picture']")
    draw(page)
    assert "edit" not in jobs[1]


def _bytes(image: Image.Image, text: str | None = None) -> bytes:
    from sdlite.output import encode

    return encode(image, "png", text)


def drop(page: Any, data: str) -> None:
    """Drop a PNG on the page, as a person does with a file."""
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], 'a.png', { type: 'image/png' }));
            for (const name of ['dragover', 'drop']) {
                const event = { dataTransfer: transfer, bubbles: true, cancelable: true };
                document.body.dispatchEvent(new DragEvent(name, event));
            }
        }""",
        data,
    )


def painted(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A stroke between two points, in shares of the picture."""
    box = page.locator(".painting").bounding_box()
    across = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*across[0])
    page.mouse.down()
    page.mouse.move(*across[1], steps=5)
    page.mouse.up()


def mask_of(job: dict[str, Any]) -> np.ndarray[Any, Any]:
    data = base64.b64decode(job["edit"]["mask"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


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


def test_comparing(shared: Any, visit: Any) -> None:
    page = visit(shared)
    draw(page)
    page.click(".actions >> text=Continue")
    page.wait_for_selector("section.source")
    draw(page, "another")
    page.keyboard.press("Tab")
    page.locator("body").click(position={"x": 2, "y": 400})
    page.keyboard.press("v")
    slider = page.get_by_label("Where the two pictures meet")
    slider.fill("20")
    clip = page.evaluate("document.querySelectorAll('.compare img')[1].style.clipPath")
    assert "80%" in clip
    page.keyboard.press("Escape")
    page.wait_for_selector(".compare", state="detached")


def test_live(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    page.get_by_label("Steps").last.fill("4")
    draw(page)
    page.wait_for_selector("text=About")
    page.get_by_role("switch", name="Live").check()
    page.wait_for_selector(".caption >> text=a red circle")
    page.locator("#prompt").press_sequentially(" and more", delay=60)
    page.wait_for_selector(".caption >> text=a red circle and more")
    lively = jobs[1:]
    assert lively[-1]["prompt"] == "a red circle and more"
    assert len({job["seed"] for job in lively}) == 1
    page.get_by_role("switch", name="Live").uncheck()
    count = len(jobs)
    page.fill("#prompt", "no more")
    page.wait_for_timeout(400)
    assert len(jobs) == count


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


def test_profiles_and_finishing_a_draft(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    page.get_by_label("Draft").check()
    draw(page)
    page.click(".actions >> text=Again")
    page.click("text=Finish this draft")
    until(lambda: page.title() and len(jobs) == 2)  # asking the page lets its events in
    assert jobs[0]["profile"] == "draft" and "profile" not in jobs[1]
    assert re.search(rf"Seed: {jobs[1]['seed']}\b", page.text_content(".rest"))


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
    file = {"name": "a.png", "mimeType": "image/png", "buffer": _bytes(Image.new("RGB", (64, 64)))}
    page.set_input_files(".guide input", files=[file])
    page.get_by_label("How closely").last.fill("0.5")
    page.fill("#prompt", "a")
    page.keyboard.press("Control+Enter")
    # The model has no such network: what is refused is said.
    page.wait_for_selector(".problem")
    (control,) = jobs[0]["controls"]
    assert control["name"] == "edges" and control["weight"] == 0.5 and control["image"]


def test_setting_up(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = serve()
    (tmp_path / "home" / "models" / "dream.safetensors").write_bytes(b"no checkpoint")
    page = visit(server)
    check = {"name": "disk", "status": "failure", "detail": "no room", "fix": "Make some"}
    answers = {"GET": {"running": False, "ok": None, "checks": []}}
    answers["POST"] = {"running": False, "ok": False, "checks": [check]}
    page.route("**/api/v1/doctor", lambda route: route.fulfill(json=answers[route.request.method]))
    page.click("nav >> text=Set-up")
    page.wait_for_selector(".rows >> text=tiny")
    page.click("text=Look now")
    page.wait_for_selector("text=Something keeps sdlite from drawing.")
    assert "Make some" in page.inner_text(".rows .failure")
    page.wait_for_selector("text=0 kept")
    page.click("text=Make a model of it")
    page.wait_for_selector(".rows .bad >> text=sdlite: error")


def test_languages(shared: Any, visit: Any) -> None:
    page = visit(shared)
    page.get_by_label("Language").select_option("de")
    page.wait_for_selector("button.primary >> text=Zeichnen")
    assert page.get_attribute("html", "lang") == "de"
    page.reload()
    page.wait_for_selector("button.primary >> text=Zeichnen")
    dutch: Callable[..., Any] = visit
    assert dutch(shared, locale="nl-BE").inner_text("button.primary").startswith("Tekenen")


def test_the_model_that_ships(serve: Any, visit: Any) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [cpu] has an engine")
    page = visit(serve("--runtime", "onnxruntime", "--threads", "1", real=True))
    page.fill(SEED, "7")
    page.click("text=a red circle on a blue background")
    draw(page, "a red circle on a blue background")
    image = np.asarray(shown(page).convert("RGB"), float)
    assert image.shape == (128, 128, 3)
    assert image[:16, :16, 2].mean() > 150 and image[:16, :16, 0].mean() < 100
    assert (image[:, :, 0] > 180).mean() > 0.05
