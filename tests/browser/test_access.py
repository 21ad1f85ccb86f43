"""For everybody: screen readers, keys, phones, dark mode, little motion."""

from __future__ import annotations

from typing import Any

import pytest

axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
PHONE = {"viewport": {"width": 360, "height": 760}, "has_touch": True}
RESULT = "figure.frame:not(.drawing) > img"


def findings(page: Any) -> list[str]:
    """What axe has against the page as it is."""
    answer = axe_api.Axe().run(page, options=RULES).response
    assert len(answer["passes"]) > 15, "axe did not look"
    found = answer["violations"]
    return [
        f"{item['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for item in found
        for node in item["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(shared: Any, visit: Any, scheme: str) -> None:
    # axe is put into the page as a script, which the page's own policy forbids.
    page = visit(shared, color_scheme=scheme, bypass_csp=True)
    assert findings(page) == []
    page.fill("#prompt", "a red circle")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(RESULT)
    page.wait_for_selector(".strip button")
    page.click("text=More settings")
    page.click(".caption summary")
    assert findings(page) == []
    page.click(".actions >> text=Continue")
    page.wait_for_selector(".painting canvas")
    assert findings(page) == []
    for view, ready in (("Gallery", ".wall img"), ("Grid", "#grid-x"), ("Set-up", ".rows li")):
        page.click(f"nav >> text={view}")
        page.wait_for_selector(ready)
        assert findings(page) == [], view
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    assert findings(page) == []


@pytest.mark.parametrize("locale", ["en-GB", "de-DE", "nl-NL"])
def test_a_phone(shared: Any, visit: Any, locale: str) -> None:
    page = visit(shared, **PHONE, locale=locale, bypass_csp=True)
    page.fill("#prompt", "a red circle")
    page.tap("button.primary")
    page.wait_for_selector(RESULT)
    for view in (1, 2, 3, 4):
        page.tap(f"header nav button:nth-child({view})")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
    page.tap("header nav button:nth-child(1)")
    page.tap(".actions > button >> nth=2")
    page.wait_for_selector(".painting canvas")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert findings(page) == []


def test_everything_by_keys(shared: Any, visit: Any) -> None:
    page = visit(shared)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    names = []
    for _ in range(40):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    order = [names.index(name) for name in ("Draw", "Gallery", "prompt", "negative", "seed")]
    assert order == sorted(order)
    page.focus("#prompt")
    page.keyboard.type("with keys")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(RESULT)
    page.wait_for_selector(".strip button")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.press("Alt+2")
    page.wait_for_selector("#search")
    page.keyboard.press("Alt+1")
    page.wait_for_selector(RESULT)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    page.keyboard.press("Delete")
    page.wait_for_selector(".toast >> text=Deleted.")


@pytest.mark.parametrize("wish", ["reduce", "no-preference"])
def test_little_motion(shared: Any, visit: Any, wish: str) -> None:
    page = visit(shared, reduced_motion=wish)
    moves = page.evaluate("getComputedStyle(document.querySelector('button.primary')).transition")
    assert (wish == "reduce") == moves.startswith(("all 0s", "none", "all"))


def test_it_is_usable_at_once(shared: Any, visit: Any) -> None:
    page = visit(shared)
    script = "performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert all(name.startswith(shared.url) for name in page.evaluate(script))
    sent = page.evaluate(
        "performance.getEntriesByType('resource').reduce((sum, e) => sum + e.transferSize, 0)"
    )
    assert 0 < sent < 300_000
