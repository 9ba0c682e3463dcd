"""What a machine sees wrong with a page: axe, light and dark, and the width of the screen."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

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
    """What reaches beyond the screen."""
    beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return [f"{beyond} pixels wider than the screen"] if beyond > 0 else []
