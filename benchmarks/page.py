"""How soon the page can be used, and what is sent for it, in Chromium slowed down four times.

``python -m benchmarks.page``; needs the extra ``[dev]`` and a Chromium, in the path or named by
CHROMIUM. Times are the browser's own, from the start of the navigation.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.serving import serving

SLOWDOWN = 4
"""By how much Chromium slows its processor down, as its developer tools do for a slow laptop."""
WIFI = {"offline": False, "latency": 40, "downloadThroughput": 625_000, "uploadThroughput": 250_000}
"""A phone in the next room: 5 Mbit/s and 40 ms."""
USABLE_TARGET = 1.0
BYTES_TARGET = 300e3
KEYS = "a red circle"
MARKS = {"prompt": "#prompt", "settings": ".settings", "forecast": ".forecast strong"}
"""When these are there: the prompt can be written, settings chosen, the forecast read."""
WATCH = """
window.seen = {}; window.blocked = 0; window.keys = [];
new MutationObserver(() => {
    for (const [name, place] of Object.entries(MARKS)) {
        if (!(name in seen) && document.querySelector(place)) seen[name] = performance.now();
    }
}).observe(document, { childList: true, subtree: true });
new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) blocked += Math.max(duration - 50, 0);
}).observe({ type: "longtask", buffered: true });
addEventListener("keydown", (event) => {
    requestAnimationFrame(() => setTimeout(() => keys.push(performance.now() - event.timeStamp)));
}, true);
"""


def chromium() -> str:
    """The browser; raises ``SystemExit`` where there is none."""
    named = os.environ.get("CHROMIUM")
    found = named or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("no Chromium: install one, or name it in CHROMIUM")
    return found


def visit(browser: Any, url: str, network: Mapping[str, Any] | None) -> dict[str, float]:
    """One visit with an empty cache: seconds to every mark, bytes sent, how long a key took."""
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.add_init_script(WATCH.replace("MARKS", repr(MARKS), 1))
    tools = context.new_cdp_session(page)
    tools.send("Network.enable")
    tools.send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
    if network is not None:
        tools.send("Network.emulateNetworkConditions", dict(network))
    page.goto(url)
    page.wait_for_selector(MARKS["forecast"])
    sent = page.evaluate(
        """performance.getEntriesByType("navigation")
            .concat(performance.getEntriesByType("resource"))
            .filter(({ name }) => !name.includes("/api/"))
            .reduce((sum, entry) => sum + entry.transferSize, 0)"""
    )
    seen = page.evaluate("seen")
    blocked = page.evaluate("blocked")
    page.focus("#prompt")
    for letter in KEYS:
        page.keyboard.press(letter)
    # Not wait_for_function: the page's policy forbids what it evaluates.
    while page.evaluate("keys.length") < len(KEYS):
        page.wait_for_timeout(20)
    keys = sorted(page.evaluate("keys"))
    context.close()
    found = {name: seen[name] / 1000 for name in MARKS}
    return found | {"bytes": sent, "blocked": blocked, "key": keys[len(keys) // 2]}


def measurements(slow: Sequence[Mapping[str, float]], wifi: Sequence[Mapping[str, float]]) -> Any:
    """Figures of the visits."""

    def taken(visits: Sequence[Mapping[str, float]], name: str) -> tuple[float, ...]:
        return tuple(visit[name] for visit in visits)

    slower = f"processor slowed {SLOWDOWN} times, empty cache"
    return [
        Measurement(
            "usable_seconds",
            "Page: until the prompt can be written",
            "s",
            taken(slow, "prompt"),
            target=USABLE_TARGET,
            note=slower,
        ),
        Measurement(
            "settings_seconds", "Page: until every setting is there", "s", taken(slow, "settings")
        ),
        Measurement(
            "forecast_seconds",
            "Page: until the forecast is there",
            "s",
            taken(slow, "forecast"),
            note="the first plan of the server's life imports and opens what it plans for",
        ),
        Measurement(
            "blocked_ms",
            "Page: what tasks took beyond 50 ms each until then",
            "ms",
            taken(slow, "blocked"),
        ),
        Measurement("key_ms", "Page: from a key to its letter", "ms", taken(slow, "key")),
        Measurement(
            "usable_wifi_seconds",
            "Page: until the prompt can be written, 5 Mbit/s and 40 ms",
            "s",
            taken(wifi, "prompt"),
            note=slower,
        ),
        Measurement(
            "sent_bytes",
            "Page: bytes sent, compressed, headers included",
            "bytes",
            taken(slow, "bytes"),
            statistic="max",
            target=BYTES_TARGET,
        ),
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--model", default="shapes", help="model the server offers first")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="few samples; proves that it runs")
    parser.add_argument("--note", action="append", default=[], help="what to say of this run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rounds = 1 if options.quick else options.rounds
    from playwright.sync_api import sync_playwright

    before = machine()
    with serving(options.model) as server, sync_playwright() as playwright:
        # Its sandbox does not work for root, nor in most containers; only our own page is opened.
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        url = f"http://127.0.0.1:{server.port}"
        slow = [visit(browser, url, None) for _ in range(rounds)]
        wifi = [visit(browser, url, WIFI) for _ in range(rounds)]
        name = f"Chromium {browser.version}"
        browser.close()
    write(
        options.output / "page.json",
        "page",
        "The page: how soon it can be used",
        measurements(slow, wifi),
        machine_before=before,
        quick=options.quick,
        notes=[name, *options.note],
    )


if __name__ == "__main__":
    main()
