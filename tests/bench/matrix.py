"""How smoothly a matrix of 1,000 nodes is panned in a real Chromium, without a graphics card: software rendering.

A console with 1,000 nodes in its database and what they see of each other in Redis; a browser with the matrix open at
1280 × 860. Panning is done by script, 24 pixels a frame to and fro on both axes, in each mode and size of cells;
`frames_a_second` are those that were drawn, `frame` the time between two of them, `main_thread_ms_a_frame` what the
main thread computed for one. `slowest` is the worst combination.
`first_cells` is how long it takes from opening the page to cells that can be pointed at.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from tests.bench.browser import Browser, open_matrix
from tests.bench.console import Console
from tests.bench.figures import spread

NODES = 1000
SECONDS = 4.0
VIEWS = (("state", 4), ("state", 12), ("state", 24), ("rtt", 8), ("rtt", 24))
"""Mode, and edge of a cell in pixels."""

PAN = """
async ([seconds]) => {
  const grid = document.querySelector("[data-mx='grid']");
  const times = [];
  let step = 24;
  const until = performance.now() + seconds * 1000;
  await new Promise((done) => {
    const frame = (at) => {
      times.push(at);
      if (at >= until) return done();
      const before = grid.scrollTop;
      grid.scrollBy({ left: step, top: step, behavior: "instant" });
      if (grid.scrollTop === before) step = -step;
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  });
  return times;
}
"""


def pan(browser: Browser, mode: str, size: int, seconds: float) -> dict[str, Any]:
    """Pan in one mode at one size; the first half second is not counted."""
    browser.page.locator("select[name=mode]").select_option(mode)
    browser.zoom(size)
    browser.await_cells()
    browser.page.evaluate(PAN, [0.5])
    before = browser.read()
    times = browser.page.evaluate(PAN, [seconds])
    busy = browser.read()["busy"] - before["busy"]
    frames = [(after - before) / 1000 for before, after in itertools.pairwise(times)]
    rate = len(frames) / sum(frames)
    return {
        "mode": mode,
        "size": size,
        "frames_a_second": round(rate, 1),
        "frame": spread(frames),
        "main_thread_ms_a_frame": round(busy / len(frames) * 1000, 2),
    }


def bench(nodes: int = NODES, seconds: float = SECONDS) -> dict[str, object]:
    """Open it, and pan in each way."""
    with Console() as console, open_matrix(console, nodes) as browser:
        opened = time.monotonic()
        browser.open()
        first = time.monotonic() - opened
        found = [pan(browser, mode, size, seconds) for mode, size in VIEWS]
        renderer = browser.renderer()
    return {
        "nodes": nodes,
        "rendering": renderer,
        "first_cells": {"seconds": round(first, 2)},
        "slowest_frames_a_second": min(one["frames_a_second"] for one in found),
        "views": found,
    }
