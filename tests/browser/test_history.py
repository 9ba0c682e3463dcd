"""History in a real Chromium: charts have the points that the table has, and one more each minute, without polling."""

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from nodes import certificates
from nodes.playground import await_true
from tests.browser.looking import Held, await_held, held
from tests.browser.steps import the_connection_is_lost_for_a_moment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("administrator")]

ROOT = Path(__file__).parents[2]
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
QUARTERS = 7 * 96
CHARTS = ["Links by state", "Traffic", "Round trip", "Loss"]


@pytest.fixture(scope="module")
def mesh(console, machines, administrator):
    """Two members with a past of a week, and one that came just now."""
    console.call("create_cluster", "homelab")
    token = console.call("create_token", "homelab", "--uses", "9")["token"]
    pin = certificates.fingerprint((console.directory / "tls" / "certificate.pem").read_bytes())
    for name in ("edge-1", "edge-2"):
        machines.join(name, f"echo {token} | sudo kubespan-agent enrol {console.tls_url} --pin {pin} --token-file -")
    await_true(lambda: all(one["reporting"] for one in console.call("list_nodes", "homelab")["nodes"]), 60, "reports")
    command = [sys.executable, "-m", "tests.past", "--data", str(console.directory), "--cluster", "homelab"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)


def go_to(page, name):
    page.goto(f"/nodes/?q={name}")
    page.get_by_role("link", name=name, exact=True).click()


def drawn(page):
    """How many points the page's first chart has, once it is there."""
    chart = page.locator(".ks-plot").first
    expect(chart.locator("canvas")).to_be_visible()
    return int(chart.get_attribute("data-points"))


AS_MANY_ROWS = """() => {
  const points = Number(document.querySelector(".ks-plot").dataset.points);
  return document.querySelectorAll(".ks-points tbody tr").length === points + 4;
}"""
"""Whether the table has a row for each point that its chart has, and for the hour when it was away."""

ADD_A_POINT = """(more) => {
  const place = document.querySelector("[data-history]");
  const body = document.querySelector("[data-history-body]");
  const plot = document.querySelector(".ks-plot");
  if (body.ariaBusy === "true") return null;
  const before = Number(plot.dataset.points);
  const now = Math.floor(Date.now() / 60000) * 60 + 60;
  place.dispatchEvent(new CustomEvent("history:points", { detail: [{ ...more, at: [now] }] }));
  return { more: Number(plot.dataset.points) - before, said: plot.ariaLabel, fetched: body.ariaBusy === "true" };
}"""
"""What becomes of a chart when the socket tells of one more point, in one go: a minute of the console's own may end."""


def test_a_nodes_charts_say_what_their_table_says(open_browser, mesh):
    browser = open_browser(viewport=WIDE, reduced_motion="reduce").sign_in()
    page = browser.page
    go_to(page, "edge-1")
    history = page.get_by_role("region", name="History")
    expect(history.get_by_role("heading", name="Links by state")).to_have_count(2)
    assert [one.get_attribute("aria-label").split(". ")[0] for one in page.locator(".ks-plot").all()] == CHARTS
    browser.check()

    history.get_by_role("link", name="7 d").click()
    expect(history.get_by_role("link", name="7 d")).to_have_attribute("aria-current", "true")
    expect(page.locator("[data-history-body]")).to_have_attribute("aria-busy", "false")
    assert "history=7d" in page.url
    points = drawn(page)
    assert QUARTERS - 10 < points < QUARTERS, "but for a gap, and the time when it was away"
    history.get_by_text("As a table").click()
    away = history.locator(".ks-points tbody tr", has=page.locator("td:nth-child(2)", has_text="0 %")).filter(
        has_not_text="100 %"
    )
    expect(away, "an hour").to_have_count(4)
    page.wait_for_function(AS_MANY_ROWS)  # a quarter of an hour may end meanwhile, for both
    browser.check()

    page.reload()
    expect(history.get_by_role("link", name="7 d")).to_have_attribute("aria-current", "true")
    assert abs(drawn(page) - points) <= 1


def test_a_strip_is_read_by_keyboard(open_browser, mesh):
    browser = open_browser(viewport=PHONE, has_touch=True, reduced_motion="reduce").sign_in()
    page = browser.page
    go_to(page, "edge-1")
    strip = page.get_by_role("slider", name="Links by state")
    strip.focus()
    page.keyboard.press("End")
    last = strip.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowLeft")
    before = strip.get_attribute("aria-valuetext")
    assert last != before
    assert before.endswith("1 of 1 up")
    expect(page.locator(".ks-plot-legend").first).to_contain_text("up 1")
    browser.check()


def test_a_links_page_has_its_history_live(open_browser, mesh):
    browser = open_browser(viewport=WIDE, reduced_motion="reduce").sign_in()
    page = browser.page
    go_to(page, "edge-1")
    page.get_by_role("navigation", name="Node", exact=True).get_by_role("link", name="Links", exact=True).click()
    expect(page.locator(".ks-trail svg")).to_be_visible()
    page.locator("[data-peers] tbody tr td a").first.click()
    expect(page.get_by_role("heading", name="edge-1 and edge-2")).to_be_visible()
    expect(page.get_by_role("slider", name="edge-1 sees edge-2")).to_be_visible()
    page.get_by_role("button", name="Keep its history").click()
    expect(page.get_by_role("button", name="Let go of its history")).to_be_visible()
    browser.check()
    drawn(page)
    more = {"name": "edge-1", "at": [0], **{key: [1] for key in ("connected", "up", "unknown", "down")}}
    more |= {key: [0.5] for key in ("rtt", "loss", "received", "sent")}
    became = page.wait_for_function(ADD_A_POINT, arg=more).json_value()
    assert became["more"] in (0, 1), "the oldest may have gone"
    assert "worst 500 ms" in became["said"]
    assert not became["fetched"], "nothing is fetched for it"


ROUNDS = 12


def see_all_of_it(page):
    """Look at the week, at the day, and lose the connection."""
    for span in ("7 d", "24 h"):
        page.get_by_role("link", name=span, exact=True).click()
        expect(page.get_by_role("link", name=span, exact=True)).to_have_attribute("aria-current", "true")
        expect(page.locator("[data-history-body]")).to_have_attribute("aria-busy", "false")
    the_connection_is_lost_for_a_moment(page)
    expect(page.locator("[data-history-body]")).to_have_attribute("aria-busy", "false")


def test_a_page_left_open_holds_its_memory(open_browser, mesh):
    """A day of it in little: whatever is fetched again or drawn anew takes the place of what was there."""
    browser = open_browser(viewport=WIDE, reduced_motion="reduce").sign_in()
    page = browser.page
    go_to(page, "edge-1")
    page.get_by_role("navigation", name="Node", exact=True).get_by_role("link", name="Links", exact=True).click()
    page.locator("[data-peers] tbody tr td a").first.click()
    expect(page.get_by_role("heading", name="edge-1 and edge-2")).to_be_visible()
    expect(page.locator("[data-history-body]")).to_have_attribute("aria-busy", "false")
    for _ in range(3):
        see_all_of_it(page)
    before = held(page)
    for _ in range(ROUNDS):
        see_all_of_it(page)
    await_held(page, before, Held(10 * ROUNDS, ROUNDS, 200_000 * ROUNDS))
