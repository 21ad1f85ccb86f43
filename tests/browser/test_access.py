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
def test_axe_finds_nothing(serve: Any, visit: Any, scheme: str) -> None:
    # axe is put into the page as a script, which the page's own policy forbids.
    server = serve(calls=3)
    page = visit(server, color_scheme=scheme, bypass_csp=True)
    page.wait_for_selector("text=of memory")
    assert findings(page) == [], "empty"
    page.click("nav >> text=Gallery")
    page.wait_for_selector(".nothing")
    assert findings(page) == [], "empty gallery"
    page.click("nav >> text=Draw")
    for prompt in ("a red circle", "a blue circle"):
        page.fill("#prompt", prompt)
        page.keyboard.press("Control+Enter")
    page.wait_for_selector("figure.drawing > img")
    page.wait_for_selector("text=1 more to follow")
    assert findings(page) == [], "drawing"
    server.allow()
    page.wait_for_selector(".strip button >> nth=1")
    page.click("text=More settings")
    page.click("text=LoRAs and embeddings")
    page.click(".assets >> text=ink")
    page.click(".caption summary")
    page.click(".actions >> text=Again")
    assert findings(page) == [], "drawn"
    page.keyboard.press("Escape")
    page.click("[aria-label='Remove ink']")
    page.click(".actions >> text=Compare")
    page.wait_for_selector(".differences tr")
    assert findings(page) == [], "comparing"
    page.click(".actions >> text=Continue")
    page.wait_for_selector(".painting canvas")
    page.focus(".painting")
    page.keyboard.press("Space")
    page.wait_for_selector("text=Begin with")
    assert findings(page) == [], "painting"
    page.click("[aria-label='Do without this picture']")
    page.click("nav >> text=Grid")
    assert findings(page) == [], "empty grid"
    page.fill("#grid-x", "2, 3")
    page.click("text=Draw 2 pictures")
    page.locator("td button img").nth(1).wait_for()
    page.wait_for_selector("text=Save as one picture")
    assert findings(page) == [], "grid"
    for view, ready in (("Gallery", ".wall img"), ("Set-up", ".rows li")):
        page.click(f"nav >> text={view}")
        page.wait_for_selector(ready)
        assert findings(page) == [], view
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    assert findings(page) == [], "keys"
    page.keyboard.press("Escape")
    page.click("nav >> text=Draw")
    page.click(".actions >> text=Delete")
    page.wait_for_selector(".toast")
    server.kill()
    page.fill("#prompt", "nobody hears")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("text=The connection to sdlite is lost")
    page.wait_for_selector(".problem")
    assert findings(page) == [], "no connection"


@pytest.mark.parametrize("locale", ["en-GB", "de-DE", "nl-NL"])
def test_a_phone(shared: Any, visit: Any, locale: str) -> None:
    page = visit(shared, **PHONE, locale=locale, bypass_csp=True)
    page.fill("#prompt", "a red circle")
    fits(page)
    page.tap("button.primary")
    page.wait_for_selector(RESULT)
    # The form was what the finger was on; the picture is what the eye wants.
    place = f"document.querySelector({RESULT!r}).getBoundingClientRect().top"
    assert 0 <= page.evaluate(place) < PHONE["viewport"]["height"] / 2
    for view, ready in ((2, ".wall img"), (3, "#grid-x"), (4, ".rows li"), (1, RESULT)):
        page.tap(f"header nav button:nth-child({view})")
        page.wait_for_selector(ready)
        fits(page)
        assert findings(page) == [], view
    page.tap(".actions > button >> nth=2")
    page.wait_for_selector(".painting canvas")
    fits(page)
    assert findings(page) == []


def fits(page: Any) -> None:
    """Nothing is wider than the screen, and everything that is pressed is large enough for it."""
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["viewport"]["width"]
    small = page.evaluate(
        """[...document.querySelectorAll("button, summary, select, .segments label")]
            .filter((item) => item.offsetParent && !item.closest(".edge, .wall, .strip"))
            .filter((item) => item.getBoundingClientRect().height < 40)
            .map((item) => item.outerHTML.slice(0, 100))"""
    )
    assert small == []


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
