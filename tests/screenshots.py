"""Pictures of every page, in docs/screenshots: `make screenshots`, or with names of pages for those alone.

A console runs with a cluster whose nodes report (tests/big.py); what is photographed is what a browser draws of it,
once the page says that it is live. Each page is made light at 1280 pixels; some also dark, and as on a phone.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import redis
from playwright.sync_api import Browser, Error, Page, sync_playwright

from tests import pages
from tests.bench.console import Console
from tests.browser.conftest import ARGUMENTS, CHROMIUM

FOLDER = Path(__file__).parent.parent / "docs" / "screenshots"
NODES = 48
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
MAP = {"width": 1024, "height": 700}
"""A map has no two pixels alike, and its picture would be too large."""
DARK = {"overview", "cluster-links", "node-list", "pair", "cluster-map"}
"""Pages that are also made dark."""
NARROW = {"overview", "node-list", "node"}
"""Pages that are also made as on a phone."""
PATIENCE = 8_000
SETTLED = 700
"""Milliseconds that a canvas has to draw itself after the page is live."""
DOORS = ("account_", "mfa_", "socialaccount_")
"""What somebody's own account asks, secrets among it: pages by the beginning of their names that have no picture."""
ALIKE = {"activity-audit", "cluster-activity-audit"}
"""Pages that look as another one does, and have no picture either."""
LIMIT = 300_000
"""Bytes of one picture."""
TOGETHER = 6_000_000


def keep_alive(furnished: pages.Furnished) -> None:
    """Its nodes report from now on, each before it would be taken for silent."""

    def report() -> None:
        with contextlib.suppress(redis.RedisError):  # the console ends first
            furnished.live.go_on()

    threading.Thread(target=report, daemon=True).start()


def open_live(page: Page, url: str) -> None:
    """Open a page, and wait until it says that it is live where it can; whether it does is for tests to say."""
    page.goto(url)
    if page.locator(".ks-banner").count():
        with contextlib.suppress(Error):
            page.locator('.ks-banner[data-live="live"]').wait_for(timeout=PATIENCE)


def photograph(page: Page, url: str, target: Path, look: str) -> None:
    """Open a page and keep what it looks like."""
    open_live(page, url)
    page.wait_for_load_state("load")
    page.wait_for_timeout(SETTLED)
    page.screenshot(path=target / f"{look}.png", animations="disabled", caret="hide")


def looks(name: str) -> Iterator[tuple[str, dict[str, object]]]:
    """The pictures of one page: name and browser."""
    common = {"reduced_motion": "reduce"}
    wide = MAP if name == "cluster-map" else WIDE
    yield name, {"viewport": wide, "color_scheme": "light", **common}
    if name in DARK:
        yield f"{name}-dark", {"viewport": wide, "color_scheme": "dark", **common}
    if name in NARROW:
        yield f"{name}-phone", {"viewport": PHONE, "color_scheme": "light", "has_touch": True, **common}


@contextlib.contextmanager
def furnished_browser(console: Console, nodes: int) -> Iterator[tuple[Browser, dict[str, str], dict[str, str]]]:
    """A browser, each page by its name, and an administrator's cookie; there is something on every page."""
    # The rows first: Playwright keeps a loop running in this thread, which Django's would not like.
    furnished = pages.furnish(nodes, name="homelab")
    client = pages.sign_in()
    addresses = pages.find(client, furnished)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value, "url": console.url}
    keep_alive(furnished)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium, addresses, cookie
        chromium.close()


def make(console: Console, wanted: list[str], target: Path) -> None:
    """All pictures, or those of the pages that are wanted."""
    with furnished_browser(console, NODES) as (chromium, addresses, cookie):
        for name, address in addresses.items():
            if name.startswith(DOORS) or name in ALIKE or (wanted and not any(name.startswith(one) for one in wanted)):
                continue
            for look, options in looks(name):
                with chromium.new_context(base_url=console.url, **options) as context:
                    context.add_cookies([cookie])
                    photograph(context.new_page(), address, target, look)
                print(look, flush=True)


def main() -> int:
    """Make them; the exit status says whether all are small enough."""
    target = FOLDER
    wanted = sys.argv[1:]
    if wanted and wanted[0].startswith("/"):
        target = Path(wanted.pop(0))
    target.mkdir(parents=True, exist_ok=True)
    if not wanted:
        for old in target.glob("*.png"):
            old.unlink()
    with Console(discovery=True) as console:
        make(console, wanted, target)
    sizes = {picture.name: picture.stat().st_size for picture in target.glob("*.png")}
    large = {name: size for name, size in sizes.items() if size > LIMIT}
    print(f"{len(sizes)} pictures, {sum(sizes.values()):,} bytes; too large: {large or 'none'}")
    return 1 if large or sum(sizes.values()) > TOGETHER else 0


if __name__ == "__main__":
    sys.exit(main())
