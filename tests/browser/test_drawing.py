"""The page in a real browser: from a prompt to a picture, and what comes between."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.browser.pages import RESULT, SEED, draw, metric, shown
from tests.server.helpers import until


def test_from_the_prompt_to_the_picture(serve: Any, visit: Any, asked: Any) -> None:
    # The time of a picture is what is told afterwards: calls that take some.
    server = serve(delay=0.1, calls=5)
    page = visit(server)
    jobs = asked(page)
    page.fill("#prompt", "a red circle")
    page.fill("#negative", "blue")
    page.wait_for_selector("text=of memory")
    assert "Time unknown" in page.inner_text(".forecast")
    page.click("button.primary")
    page.wait_for_selector("figure.drawing > img")
    assert page.get_attribute("figure.drawing > img", "src").startswith("data:image/png")
    page.wait_for_selector(".progress >> text=Step 5 of 20")
    assert page.title() == "25 % · sdlite"
    server.allow()
    page.wait_for_selector(RESULT)
    assert page.title() == "sdlite"
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
    server = serve(calls=3)
    page = visit(server)
    page.fill("#prompt", "slow")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("figure.drawing > img")
    page.keyboard.press("Escape")
    page.wait_for_selector(".frame.empty")
    server.allow()
    until(lambda: metric(server, 'sdlite_jobs_total{state="cancelled"}') == 1)
    assert metric(server, "sdlite_jobs_running") == 0


def test_jobs_follow_each_other(serve: Any, visit: Any, asked: Any) -> None:
    server = serve(calls=3)
    page = visit(server)
    jobs = asked(page)
    for prompt in ("one", "two"):
        page.fill("#prompt", prompt)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("figure.drawing")
    page.wait_for_selector("text=1 more to follow")
    server.allow()
    page.wait_for_selector(RESULT)
    page.wait_for_selector(".caption >> text=two")
    assert [job["prompt"] for job in jobs] == ["one", "two"]


def test_a_reload_loses_nothing(serve: Any, visit: Any) -> None:
    server = serve(calls=3)
    page = visit(server)
    page.fill("#prompt", "kept")
    page.fill(SEED, "5")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("figure.drawing > img")
    page.reload()
    page.wait_for_selector("figure.drawing")
    assert page.input_value("#prompt") == "kept" and page.input_value(SEED) == "5"
    server.allow()
    page.wait_for_selector(RESULT)
    page.reload()
    page.wait_for_selector(RESULT)
    assert page.inner_text(".caption > p") == "kept"


def test_a_restart_in_the_middle(serve: Any, visit: Any, asked: Any) -> None:
    server = serve(calls=3)
    page = visit(server)
    jobs = asked(page)
    page.fill("#prompt", "phoenix")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("figure.drawing > img")
    server.kill()
    page.wait_for_selector("text=The connection to sdlite is lost")
    page.fill("#negative", "written meanwhile")
    server.allow()
    server.restart()
    page.wait_for_selector(RESULT)
    page.wait_for_selector("text=The connection to sdlite is lost", state="detached")
    assert page.input_value("#negative") == "written meanwhile"
    assert [job["prompt"] for job in jobs] == ["phoenix", "phoenix"]
    # The picture that was being drawn, not another one: the seed the first server chose.
    assert jobs[1]["seed"] == int(re.findall(r"Seed: (\d+)", page.text_content(".rest"))[0])


def test_two_tabs(serve: Any, visit: Any) -> None:
    server = serve(calls=3)
    first = visit(server)
    first.fill("#prompt", "from the first")
    first.keyboard.press("Control+Enter")
    first.wait_for_selector("figure.drawing")
    second = first.context.new_page()
    second.goto(server.url)
    second.wait_for_selector("figure.drawing")
    server.allow()
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


def test_live(serve: Any, visit: Any, asked: Any) -> None:
    page = visit(serve())
    jobs = asked(page)
    page.get_by_label("Steps").last.fill("4")
    assert page.get_by_role("switch", name="Live").is_disabled()
    page.wait_for_selector("text=Live can be turned on once a first picture")
    draw(page)
    page.get_by_role("switch", name="Live").check()
    page.wait_for_selector(".caption >> text=a red circle")
    page.locator("#prompt").press_sequentially(" and more", delay=60)
    page.wait_for_selector(".caption >> text=a red circle and more")
    lively = jobs[1:]
    assert lively[-1]["prompt"] == "a red circle and more"
    assert len({job["seed"] for job in lively}) == 1
    page.get_by_role("switch", name="Live").uncheck()
    count = len(jobs)
    # The forecast is asked for later than a picture would be.
    with page.expect_response("**/api/v1/plan"):
        page.fill("#prompt", "no more")
    assert len(jobs) == count


def test_loras_and_embeddings(shared: Any, visit: Any, asked: Any) -> None:
    page = visit(shared)
    jobs = asked(page)
    page.fill("#prompt", "a circle")
    page.click("text=LoRAs and embeddings")
    loaded = "[...document.images].filter((image) => image.naturalWidth === 64).length"
    until(lambda: page.evaluate(loaded) == 2)
    page.click(".assets >> text=ink")
    page.locator(".lora input").last.fill("0.5")
    page.click(".assets >> text=zork")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".problem")  # There is nothing in that file.
    assert jobs[0]["prompt"] == "a circle zork"
    assert jobs[0]["loras"] == [{"name": "ink", "unet": 0.5}]
    page.click("[aria-label='Remove ink']")
    draw(page)
    assert "loras" not in jobs[1]


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
