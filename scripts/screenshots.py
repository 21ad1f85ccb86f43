"""Take the pictures of the page that the docs show, with the model that ships.

    python scripts/screenshots.py        writes docs/page-*.png

Runs in the development environment (``pip install -e ".[dev]"``) and needs a Chromium, in the path
or named by CHROMIUM.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from _environment import ROOT, fail

DOCS = ROOT / "docs"
PROMPTS = (
    "a white star on a purple background",
    "an orange square on a green background",
    "a green triangle left of a yellow square",
    "a yellow star on a black background",
    "a blue circle above a red square",
    "a red circle on a blue background",
)
DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
COLOURS = 192
"""Of a saved picture; a third of the bytes, and nothing to be seen."""
PATIENCE_MS = 60_000


def chromium() -> str:
    """The browser, or the end."""
    named = os.environ.get("CHROMIUM")
    found = named or shutil.which("chromium") or shutil.which("google-chrome")
    return found or fail("no Chromium: install one, or name it in CHROMIUM") or ""


def save(page: Any, name: str) -> None:
    """What the window shows, small enough to keep."""
    from PIL import Image

    page.wait_for_timeout(700)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    small = image.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    path = DOCS / f"page-{name}.png"
    small.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)} {path.stat().st_size} bytes")


def draw(page: Any, prompt: str, seed: int) -> None:
    """A picture on the stage."""
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    with page.expect_response(lambda answer: answer.status == 202) as answer:
        page.keyboard.press("Control+Enter")
    job = answer.value.json()["id"]
    page.wait_for_selector(f"figure.frame:not(.drawing) > img[src*='{job}']")
    page.locator("#seed").blur()


def shoot(browser: Any, url: str) -> None:
    """Desktop and phone, light and dark."""
    context = browser.new_context(**DESKTOP, color_scheme="light", locale="en-GB")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(url)
    for number, prompt in enumerate(PROMPTS):
        draw(page, prompt, 7 + number)
    page.wait_for_selector(f".strip button >> nth={len(PROMPTS) - 1}")
    page.wait_for_selector(".forecast .chip")
    save(page, "light")
    state = context.storage_state()
    context.close()

    context = browser.new_context(
        **DESKTOP, color_scheme="dark", locale="en-GB", storage_state=state
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(".strip button >> nth=2")
    page.click(".strip button >> nth=2")
    page.click(".actions >> text=Continue")
    box = page.locator(".painting").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.68, box["y"] + box["height"] * 0.62)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.84, box["y"] + box["height"] * 0.5, steps=8)
    page.mouse.up()
    page.fill("#prompt", "a yellow star and a red circle on a black background")
    page.locator("#prompt").blur()
    page.wait_for_selector(".forecast strong")
    save(page, "dark")
    context.close()

    for scheme, view in (("light", "Draw"), ("dark", "Gallery")):
        context = browser.new_context(
            **PHONE, color_scheme=scheme, locale="en-GB", storage_state=state
        )
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector(".strip img >> nth=1")
        page.click(f"nav >> text={view}")
        save(page, f"phone-{scheme}")
        context.close()


def main() -> int:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        fail('playwright is not installed: pip install -e ".[dev]"')
    path = chromium()
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "sdlite.cli", "serve", "--port", "0"]
        server = subprocess.Popen(
            [*command, "--model", "shapes", "--runtime", "onnxruntime"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"SDLITE_HOME": home},
        )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("sdlite serves ").strip()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=path, args=["--no-sandbox", "--disable-gpu"]
                )
                shoot(browser, url)
                browser.close()
        finally:
            server.kill()
            server.communicate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
