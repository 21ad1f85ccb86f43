"""The set-up page, and the languages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.server.helpers import until


def test_setting_up(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = serve()
    control = tmp_path / "home" / "models" / "controlnet" / "canny.safetensors"
    control.parent.mkdir()
    control.write_bytes(b"no network")
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
    # A ControlNet is added to a model; this one is none, and the command says so.
    page.get_by_label("Model").select_option("tiny")
    with page.expect_request("**/api/v1/exports") as request:
        page.click("text=Add to the model")
    assert request.value.post_data_json == {"name": "canny", "model": "tiny"}
    page.locator(".rows .bad").nth(1).wait_for()


def test_an_answer_that_comes_late_is_not_taken(shared: Any, visit: Any) -> None:
    page = visit(shared)
    late: list[Any] = []
    check = {"name": "disk", "status": "ok", "detail": "1 GB free", "fix": ""}

    def doctor(route: Any) -> None:
        if route.request.method == "POST":
            route.fulfill(json={"running": True, "ok": None, "checks": []})
        elif not late:
            late.append(route)
        else:
            route.fulfill(json={"running": False, "ok": True, "checks": [check]})

    page.route("**/api/v1/doctor", doctor)
    page.click("nav >> text=Set-up")
    until(lambda: page.title() and late)  # asking the page lets its events in
    page.click("text=Look now")
    late[0].fulfill(json={"running": False, "ok": None, "checks": []})
    page.wait_for_selector("text=Everything that is needed works.")
    assert "disk · well" in page.inner_text(".rows .ok")


def test_languages(shared: Any, visit: Any) -> None:
    page = visit(shared)
    page.get_by_label("Language").select_option("de")
    page.wait_for_selector("button.primary >> text=Zeichnen")
    assert page.get_attribute("html", "lang") == "de"
    page.reload()
    page.wait_for_selector("button.primary >> text=Zeichnen")
    dutch: Callable[..., Any] = visit
    assert dutch(shared, locale="nl-BE").inner_text("button.primary").startswith("Tekenen")
