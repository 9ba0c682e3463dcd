"""What axe, and the width of a screen, say of every page: `python -m tests.browser.every_page` prints it as one object.

A process of its own, for a console's settings are read once. Pages are found from the URL patterns (tests/pages.py), so
that none is forgotten; each is looked at by axe light and dark, and measured at 390 pixels.
"""

from __future__ import annotations

import contextlib
import json
import sys

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, Page, sync_playwright

from tests import pages
from tests.bench.console import Console
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.screenshots import keep_alive

NODES = 12
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
LIVE_MILLISECONDS = 8_000


def look_at(page: Page, address: str) -> list[str]:
    """What is wrong with one page."""
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.set_viewport_size(WIDE)
    page.goto(address)
    if page.locator(".ks-banner").count():
        with contextlib.suppress(Error):  # what never gets live is for other tests
            page.locator('.ks-banner[data-live="live"]').wait_for(timeout=LIVE_MILLISECONDS)
    wrong = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = Axe().run(page, options={"resultTypes": ["violations"]})
        if found.violations_count:
            wrong.append(f"{scheme}: {found.generate_report()}")
    for size in (WIDE, PHONE):
        page.set_viewport_size(size)
        if (beyond := page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")) > 0:
            wrong.append(f"{beyond} pixels wider than the {size['width']} of the screen")
    return wrong


def look() -> dict[str, list[str]]:
    """What is wrong, by page; an empty list for one that is as it should be."""
    with Console(discovery=True) as console:
        # The rows first: Playwright keeps a loop running in this thread, which Django's would not like.
        furnished = pages.furnish(NODES, name="homelab")
        client = pages.sign_in()
        addresses = pages.find(client, furnished)
        cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value, "url": console.url}
        keep_alive(furnished)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            context = chromium.new_context(base_url=console.url)
            context.add_cookies([cookie])
            page = context.new_page()
            found = {name: look_at(page, address) for name, address in addresses.items()}
            chromium.close()
        return found


if __name__ == "__main__":
    json.dump(look(), sys.stdout)
