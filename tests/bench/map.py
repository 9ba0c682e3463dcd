"""How smoothly the map of 1,000 nodes is panned in a real Chromium, without a graphics card: WebGL by software.

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

from tests import pages
from tests.bench.console import CannotRun, Console
from tests.bench.figures import spread
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.screenshots import living

if TYPE_CHECKING:
    from playwright.sync_api import Page

NODES = 1000
SECONDS = 5.0
STATIC = Path(__file__).parent.parent.parent / "nodes" / "static" / "nodes"

RENDERER = """() => {
  const gl = document.createElement("canvas").getContext("webgl2");
  const info = gl?.getExtension("WEBGL_debug_renderer_info");
  return gl ? gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER) : "none";
}"""

PAN = """async (seconds) => {
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
  tell(document, "mouseup", x);
  return times;
}"""


def pan(page: Page, seconds: float) -> dict[str, object]:
    """Drag it for a while, the first second uncounted; raises RuntimeError where the drawing does not follow."""
    before = page.locator("[data-map-canvas]").screenshot()
    page.evaluate(PAN, 1.0)
    if page.locator("[data-map-canvas]").screenshot() == before:
        raise RuntimeError("the map was dragged, and did not move")
    times = page.evaluate(PAN, seconds)
    frames = [(after - before) / 1000 for before, after in itertools.pairwise(times)]
    return {"frames_a_second": round(len(frames) / sum(frames), 1), "frame": spread(frames)}


def bench(nodes: int = NODES, seconds: float = SECONDS) -> dict[str, object]:
    """Open it, and drag it."""
    if CHROMIUM is None:
        raise CannotRun("no Chromium on this machine")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - what cannot run needs none

    with Console() as console:
        furnished = pages.furnish(nodes, name="large")
        cookie = {"name": "sessionid", "value": pages.sign_in().cookies["sessionid"].value, "url": console.url}
        with living(furnished), sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            with chromium.new_context(base_url=console.url, viewport={"width": 1280, "height": 860}) as context:
                context.add_cookies([cookie])
                page = context.new_page()
                started = time.monotonic()
                page.goto(f"/clusters/{furnished.mesh.cluster.uuid}/map/")
                page.locator('[data-map][data-drawn="yes"][data-grouped="true"]').wait_for()
                first = time.monotonic() - started
                page.get_by_text("too many to draw every link").wait_for()
                found = {"rendering": page.evaluate(RENDERER), **pan(page, seconds)}
            chromium.close()
    scripts = sum(len(gzip.compress((STATIC / name).read_bytes())) for name in ("theme.js", "main.js", "map.js"))
    return {"nodes": nodes, **found, "first_drawing": {"seconds": round(first, 2)}, "kib": round(scripts / 1024)}
