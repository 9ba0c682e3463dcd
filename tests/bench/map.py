"""How smoothly the map of 1,000 nodes is panned in a real Chromium, without a graphics card.

A console with the nodes in its database and what they see of each other in Redis; a browser with the map open at
1280 × 860, and the nodes reporting meanwhile. The map is dragged by script, a few pixels a frame to and fro;
`frames_a_second` are those that the page drew, `frame` the time between two of them. `first_drawing` is how long it
takes from opening the page to the map, `kib` what the page loads of scripts, compressed.
"""

from __future__ import annotations

import gzip
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.console import CannotRun, Console
from tests.bench.figures import spread
from tests.browser.conftest import CHROMIUM
from tests.screenshots import furnished_browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

NODES = 1000
SECONDS = 5.0
STATIC = Path(__file__).parent.parent.parent / "nodes" / "static" / "nodes"

ASIDE = 30
"""Pixels by which each drag ends to the right of where it began."""

PAN = """async ({ seconds, aside }) => {
  const box = document.querySelector("[data-map-canvas]").getBoundingClientRect();
  const middle = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  const target = document.elementFromPoint(middle.x, middle.y);
  const tell = (on, kind, x) => on.dispatchEvent(new MouseEvent(kind, {
    bubbles: true, cancelable: true, view: window, clientX: x, clientY: middle.y, buttons: 1,
  }));
  const times = [];
  let x = middle.x, step = 6;
  tell(target, "mousedown", x);
  const until = performance.now() + seconds * 1000;
  await new Promise((done) => {
    const frame = (at) => {
      times.push(at);
      if (at >= until) return done();
      if (Math.abs(x + step - middle.x) > box.width / 3) step = -step;
      x += step;
      tell(document, "mousemove", x);
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  });
  tell(document, "mousemove", middle.x + aside);
  tell(document, "mouseup", middle.x + aside);
  return times;
}"""

MIDDLE = """async () => {
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  let ink = 0, moment = 0;
  for (const canvas of document.querySelectorAll("[data-map-canvas] canvas")) {
    const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 3; at < data.length; at += 4) {
      ink += data[at];
      moment += data[at] * (((at - 3) / 4) % width);
    }
  }
  return moment / ink;
}"""
"""Where the middle of what is drawn is, from the left: live updates of links hardly move it."""


def pan(page: Page, seconds: float) -> list[float]:
    """Drag it for so long: the times of the frames; raises RuntimeError where the drawing does not follow."""
    before = page.evaluate(MIDDLE)
    times = page.evaluate(PAN, {"seconds": seconds, "aside": ASIDE})
    moved = page.evaluate(MIDDLE) - before
    if abs(moved - ASIDE) > ASIDE / 3:
        raise RuntimeError(f"the map was dragged by {ASIDE} pixels, and moved by {moved:.1f}")
    return times


def bench(nodes: int = NODES, seconds: float = SECONDS) -> dict[str, object]:
    """Open it, and drag it."""
    if CHROMIUM is None:
        raise CannotRun("no Chromium on this machine")
    with Console() as console, furnished_browser(console, nodes) as (chromium, addresses, cookie):
        context = chromium.new_context(base_url=console.url, viewport={"width": 1280, "height": 860})
        context.add_cookies([cookie])
        page = context.new_page()
        started = time.monotonic()
        page.goto(addresses["cluster-map"])
        page.locator('[data-map][data-drawn="yes"][data-grouped="true"]').wait_for()
        first = time.monotonic() - started
        page.get_by_text("too many to draw every link").wait_for()
        pan(page, 1.0)  # the first picture of a page takes longer
        times = pan(page, seconds)
    frames = [(after - before) / 1000 for before, after in itertools.pairwise(times)]
    found = {"frames_a_second": round(len(frames) / sum(frames), 1), "frame": spread(frames)}
    scripts = sum(len(gzip.compress((STATIC / name).read_bytes())) for name in ("theme.js", "main.js", "map.js"))
    return {"nodes": nodes, **found, "first_drawing": {"seconds": round(first, 2)}, "kib": round(scripts / 1024)}
