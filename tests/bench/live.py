"""What one matrix costs its browser while 1,000 nodes report: real agents' protocol, Redis, channel layer, Chromium.

A crowd of 1,000 agents reports at the normal pace, each link having moved bytes, as keepalives make it; a browser has
the matrix open in the mode `state`, then in `received`, where the console has some nodes in view report each second.
`main_thread` is what Chromium's main thread computed each second, in milliseconds, over windows; `idle` is the same
page while nobody is connected. `socket` is what the page's WebSocket received a second.
"""

from __future__ import annotations

import time
from typing import Any

from tests.apart import allow_files
from tests.bench.browser import Browser, open_browser
from tests.bench.console import Console
from tests.bench.figures import spread
from tests.crowd import Crowd

AGENTS = 1000
EVERY = 30.0
WINDOWS = 6
SECONDS = 5.0
PATIENCE = 600.0


def watch(browser: Browser, windows: int, seconds: float) -> dict[str, Any]:
    """So many windows: what the page did in each."""
    busy, received, messages = [], [], []
    for _ in range(windows):
        before = browser.read()
        time.sleep(seconds)
        after = browser.read()
        passed = after["at"] - before["at"]
        busy.append((after["busy"] - before["busy"]) / passed)
        received.append((after["bytes"] - before["bytes"]) / passed)
        messages.append((after["messages"] - before["messages"]) / passed)
    return {
        "main_thread": spread(busy),
        "most_ms": round(max(busy) * 1000, 1),
        "socket": spread(received, "a_second"),
        "messages": spread(messages, "a_second"),
        "heap_mib": round(browser.heap() / 1024**2, 1),
    }


def bench(
    agents: int = AGENTS, every: float = EVERY, windows: int = WINDOWS, seconds: float = SECONDS
) -> dict[str, object]:
    """Look at it idle, then with all of them reporting."""
    allow_files()
    with Console() as console, Crowd([console.url]) as crowd:
        cluster, token = console.make_cluster(agents)
        crowd.ask("enrol", token=token, count=agents)
        revision = console.revision(cluster)  # while there is no event loop of Playwright's
        with open_browser(console, f"/clusters/{cluster.uuid}/links/") as browser:
            browser.open(cells=False)
            found: dict[str, object] = {"idle": watch(browser, 2, seconds)}
            crowd.ask("set", reports={"every": every, "share": 1.0})
            crowd.ask("connect")
            told = crowd.ask("await", what="acknowledged", revision=revision, seconds=PATIENCE)
            if told["ready"] != agents:
                raise RuntimeError(f"only {told['ready']} of {agents} are connected")
            time.sleep(every)  # so that each has reported in full
            for mode in ("state", "received"):
                browser.page.locator("select[name=mode]").select_option(mode)
                browser.await_cells()
                time.sleep(seconds)
                found[mode] = watch(browser, windows, seconds)
        if crowd.ask("state")["connected"] != agents:
            raise RuntimeError("some were cut")
    return {"agents": agents, "links": agents * (agents - 1), "every": every, "window_seconds": seconds, **found}
