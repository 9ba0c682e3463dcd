"""What is wrong with any page, to axe, on a narrow screen, or by the size of its scripts.

`python -m tests.browser.every_page` prints it as one object. A process of its own, for a console's settings are read
once. Pages are found from the URL patterns (tests/pages.py), so that none is forgotten; each is looked at by axe light
and dark, and measured at 390 pixels.
"""

from __future__ import annotations

import json
import sys

from playwright.sync_api import Page

from tests.bench.console import Console
from tests.browser.looking import Scripts, axe, width
from tests.screenshots import PHONE, WIDE, furnished_browser, open_live

NODES = 12


def look_at(page: Page, address: str, scripts: Scripts) -> list[str]:
    """What is wrong with one page."""
    page.set_viewport_size(WIDE)
    open_live(page, address)
    wrong = scripts.weigh(page) + axe(page)
    for size in (WIDE, PHONE):
        page.set_viewport_size(size)
        wrong += width(page)
    return wrong


def look() -> dict[str, list[str]]:
    """What is wrong, by page; an empty list for one that is as it should be."""
    with (
        Console(discovery=True) as console,
        furnished_browser(console, NODES) as (chromium, addresses, cookie),
        chromium.new_context(base_url=console.url) as context,
    ):
        context.add_cookies([cookie])
        page, scripts = context.new_page(), Scripts()
        return {name: look_at(page, address, scripts) for name, address in addresses.items()}


if __name__ == "__main__":
    json.dump(look(), sys.stdout)
