"""A real Chromium on a console's matrix, and what its main thread and its socket have to do."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

from playwright.sync_api import expect, sync_playwright

from tests.bench.console import CannotRun, Console

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
)
SIZE = {"width": 1280, "height": 860}
PATIENCE = 60_000
"""Milliseconds."""

SAID = re.compile(r" sees | has not said| is away| reports nothing")
"""What a cell says that is loaded."""

RENDERER = """
() => {
  const context = document.createElement("canvas").getContext("webgl");
  const named = context && context.getExtension("WEBGL_debug_renderer_info");
  return named ? context.getParameter(named.UNMASKED_RENDERER_WEBGL) : "software (no WebGL)";
}
"""


class Browser:
    """One page with a matrix."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self._address = address
        self._cdp = page.context.new_cdp_session(page)
        # By the thread's own clock: what others take of the processor is not the page's doing.
        self._cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._cdp.send("Network.enable")
        self._bytes = self._messages = 0
        self._cdp.on("Network.webSocketFrameReceived", self._count)

    def _count(self, event: Mapping[str, Any]) -> None:
        response = event["response"]
        payload = response["payloadData"]
        self._messages += 1
        # What is binary comes in base64.
        self._bytes += len(payload) if response["opcode"] == 1 else len(payload) * 3 // 4

    def open(self, *, cells: bool = True) -> None:
        """Open the page, and wait until it is live."""
        self.page.goto(self._address)
        self.page.locator("[data-banner][data-live=live]").wait_for(timeout=PATIENCE)
        if cells:
            self.await_cells()

    def await_cells(self) -> None:
        """Wait until the cell with the focus can say what it is."""
        grid = self.page.locator("[data-mx='grid']")
        grid.focus()
        grid.press("Control+Home")
        grid.press("ArrowRight")
        cell = self.page.locator("[data-mx='cell']")
        expect(cell).to_have_text(SAID, timeout=PATIENCE)

    def zoom(self, size: int) -> None:
        """Make cells so large, by the buttons: as far out as can be, and in again."""
        sizes = (1, 2, 4, 8, 12, 16, 24, 36, 52, 76)
        out, further = (self.page.locator(f"[data-mx='{name}']") for name in ("out", "in"))
        while out.is_enabled():
            out.click()
        least = 1 if self.page.locator("select[name=mode]").input_value() == "state" else 8
        for _ in range(sizes.index(size) - sizes.index(least)):
            further.click()

    def read(self) -> dict[str, float]:
        """What is counted so far: seconds of the main thread, bytes and messages of its sockets."""
        self.page.evaluate("1")  # events that wait are taken
        metrics = {one["name"]: one["value"] for one in self._cdp.send("Performance.getMetrics")["metrics"]}
        return {
            "at": time.monotonic(),
            "busy": metrics["TaskDuration"],
            "bytes": self._bytes,
            "messages": self._messages,
        }

    def heap(self) -> float:
        """Bytes of the page's own objects, after a collection."""
        self._cdp.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in self._cdp.send("Performance.getMetrics")["metrics"]}
        return metrics["JSHeapUsedSize"]

    def renderer(self) -> str:
        """What Chromium says it draws with."""
        return str(self.page.evaluate(RENDERER))


@contextlib.contextmanager
def open_browser(console: Console, address: str) -> Iterator[Browser]:
    """Somebody's browser, signed in; raises CannotRun where there is no Chromium."""
    if CHROMIUM is None:
        raise CannotRun("no Chromium on this machine")
    cookies = _sign_in(console)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = chromium.new_context(base_url=console.url, viewport=SIZE)
        context.add_cookies([{"name": name, "value": value, "url": console.url} for name, value in cookies.items()])
        yield Browser(context.new_page(), address)
        chromium.close()


def _sign_in(console: Console) -> dict[str, str]:
    """The cookies of an administrator's session, made beside the console."""
    from django.conf import settings  # noqa: PLC0415 - the settings could not be read before there is a console
    from django.contrib.auth.models import User  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(User.objects.create_superuser(f"bench-{secrets.token_hex(4)}"))
    return {settings.SESSION_COOKIE_NAME: client.cookies[settings.SESSION_COOKIE_NAME].value}


@contextlib.contextmanager
def open_matrix(console: Console, nodes: int) -> Iterator[Browser]:
    """A browser for the matrix of a cluster with so many nodes, made in the database, with their state in Redis."""
    from tests.big import Live, make_mesh  # noqa: PLC0415

    mesh = make_mesh(nodes)
    live = Live(mesh, time.time())
    live.write()
    with open_browser(console, f"/clusters/{mesh.cluster.uuid}/links/") as browser:
        yield browser
