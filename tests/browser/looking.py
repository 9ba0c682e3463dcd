"""What a machine sees of a page: axe, light and dark, the width of the screen, how much it loads, and what it holds."""

from __future__ import annotations

import contextlib
import gzip
import time
from typing import NamedTuple

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from playwright.sync_api import TimeoutError as NotInTime

COLLECTED_SECONDS = 30.0
BEYOND = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
FITTED = 30_000
"""Milliseconds that a page has to fit."""
RULES = {"dark": {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}, "light": {}}
"""Nothing but colours is another in the dark; light comes last, and stays."""


def axe(page: Page) -> list[str]:
    """What axe finds, light and dark."""
    wrong = []
    for scheme, rules in RULES.items():
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        expect(page.locator("html")).to_have_attribute("data-bs-theme", scheme)
        found = Axe().run(page, options={"resultTypes": ["violations"], **rules})
        if found.violations_count:
            wrong.append(f"{scheme}: {found.generate_report()}")
    return wrong


def width(page: Page) -> list[str]:
    """What reaches beyond the screen, once what scripts draw has followed its size."""
    with contextlib.suppress(NotInTime):
        page.wait_for_function(f"{BEYOND} <= 0", timeout=FITTED)
    beyond = page.evaluate(BEYOND)
    return [f"{beyond} pixels wider than the screen"] if beyond > 0 else []


class Scripts:
    """What pages run, each file weighed once."""

    LIMIT = 250_000
    """Bytes that the scripts of one page may have, compressed."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    def weigh(self, page: Page) -> list[str]:
        """What is too much of them; a page without any was not looked at rightly."""
        loaded = page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
        urls = {url for url in loaded if url.partition("?")[0].endswith(".js")}
        for url in urls - self._sizes.keys():
            self._sizes[url] = len(gzip.compress(page.request.get(url).body()))
        size = sum(self._sizes[url] for url in urls)
        if not any("/main." in url for url in urls):
            return ["its scripts are not seen"]
        return [f"{size:,} bytes of scripts"] if size > self.LIMIT else []


class Held(NamedTuple):
    """What a page holds."""

    elements: float
    """And whatever else is a node of a document, shown or not."""
    listeners: float
    heap: float
    """Bytes of scripts."""


def held(page: Page) -> Held:
    """What the page holds once all that nothing needs is gone."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return Held(found["Nodes"], found["JSEventListeners"], found["JSHeapUsedSize"])


def await_held(page: Page, before: Held, more: Held) -> None:
    """Wait until the page holds less than before and `more`: what is let go may be collected late, a leak never is."""
    deadline = time.monotonic() + COLLECTED_SECONDS
    while any(now - then >= limit for now, then, limit in zip(held(page), before, more, strict=True)):
        assert time.monotonic() < deadline, f"{before} became {held(page)}"
