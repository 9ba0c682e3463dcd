"""The map, drawn in a real Chromium, and what stands beside it: on live data."""

import re

import pytest
from playwright.sync_api import expect

from nodes import certificates
from tests.browser.conftest import press

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("administrator")]

WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def mesh(console, machines, administrator):
    """Three members."""
    cluster = console.call("create_cluster", "homelab")
    token = console.call("create_token", "homelab", "--uses", "9")["token"]
    pin = certificates.fingerprint((console.directory / "tls" / "certificate.pem").read_bytes())
    for name in ("edge-1", "edge-2", "nas"):
        machines.join(name, f"echo {token} | sudo kubespan-agent enrol {console.tls_url} --pin {pin} --token-file -")
    return cluster["uuid"]


def rows(page, heading):
    """The table below a heading of the list."""
    return page.get_by_role("region", name=heading).locator("tbody tr")


LOOK = """() => [...document.querySelectorAll("[data-map-canvas] canvas")].map((one) => one.toDataURL()).join()"""
"""What is drawn."""

RESTS = f"""async () => {{
  const look = {LOOK};
  const before = look();
  const began = performance.now();
  const waits = (frames) => frames < 30 || performance.now() - began < 500;
  for (let frames = 0; waits(frames); frames++) await new Promise(requestAnimationFrame);
  return look() === before && before;
}}"""
"""What is drawn, where half a second and thirty frames, in which any view arrives, change nothing of it."""


def picture(page):
    """What is drawn, once it rests."""
    return page.wait_for_function(RESTS).json_value()


def becomes(page, wanted):
    """Wait until this is drawn."""
    page.wait_for_function(f"(wanted) => ({LOOK})() === wanted", arg=wanted)


def differs(page, before):
    """Wait until something else is drawn than before."""
    page.wait_for_function(f"(before) => ({LOOK})() !== before", arg=before)


SOMEBODY = """(place) => {
  const canvas = place.querySelector("canvas[data-id$='-node']");
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const node = (x, y) => data[4 * (y * width + x) + 2] > 150 && data[4 * (y * width + x)] < 100;
  for (let y = 8; y < height - 8; y += 2)
    for (let x = 8; x < width - 8; x += 2)
      if (node(x, y) && node(x - 6, y) && node(x + 6, y) && node(x, y - 6) && node(x, y + 6)) return [x, y];
}"""


def somebody(page, box):
    """Where a node is drawn: blue all around."""
    x, y = page.locator("[data-map-canvas]").evaluate(SOMEBODY)
    return box["x"] + x, box["y"] + y


def test_the_map_and_the_list_beside_it_follow_a_link_that_is_cut(open_browser, mesh, machines):
    browser = open_browser(viewport=WIDE, reduced_motion="reduce").sign_in()
    page = browser.page
    page.goto("/")
    press(page, "g", "m")
    expect(page.get_by_role("heading", name="Map of homelab")).to_be_visible()
    expect(page.get_by_text("3 nodes; every link that was reported is up.")).to_be_visible()
    expect(page.locator("[data-map]")).to_have_attribute("data-drawn", "yes")
    expect(rows(page, "Nodes")).to_have_count(3)
    expect(rows(page, "Sites")).to_have_text(["No site3all 6 up"])
    browser.check()
    before = picture(page)

    press(page, "/")
    page.keyboard.type("nas")
    expect(rows(page, "Nodes")).to_have_count(1)
    differs(page, before)  # the rest is dimmed
    page.keyboard.press("Escape")
    page.get_by_label("Search the map").fill("nobody")
    expect(page.get_by_text("Nothing matches.")).to_be_visible()
    page.get_by_label("Search the map").fill("")
    expect(rows(page, "Nodes")).to_have_count(3)
    becomes(page, before)

    page.get_by_role("button", name="edge-1", exact=True).click()
    expect(page.get_by_role("region", name="edge-1").get_by_text("2 up")).to_be_visible()
    differs(page, before)  # it stands in the centre
    browser.check()
    page.get_by_role("button", name="Take it out of the centre").click()
    expect(page.get_by_role("region", name="edge-1")).to_be_hidden()

    machines.tell("cut", "edge-1", "edge-2")
    machines.tell("skip", "edge-1", "400")
    bad = rows(page, "Links that are not up")
    expect(bad.filter(has_text="edge-1").first).to_be_visible()
    expect(page.get_by_text("3 nodes; 1 link not up.")).to_be_visible()
    differs(page, before)
    bad.first.get_by_role("link").click()
    expect(page).to_have_url(re.compile("/links/"))
    machines.tell("heal", "edge-1", "edge-2")


def test_sites_are_groups(open_browser, mesh):
    browser = open_browser(viewport=WIDE, reduced_motion="reduce").sign_in()
    page = browser.page
    page.goto("/nodes/?q=nas")
    page.get_by_role("link", name="nas", exact=True).click()
    page.get_by_role("button", name="Set options").click()
    page.get_by_label("Site").fill("attic")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.goto(f"/clusters/{mesh}/map/")
    expect(rows(page, "Sites").get_by_role("rowheader")).to_have_text(["attic", "No site"])
    page.get_by_role("button", name="attic").click()  # has it fill the view
    page.get_by_role("link", name="Kind").click()
    expect(rows(page, "Kinds").get_by_role("rowheader")).to_have_text(["Linux"])
    browser.check()


def test_on_a_phone_nothing_overflows(open_browser, mesh):
    browser = open_browser(viewport=PHONE, has_touch=True, reduced_motion="reduce").sign_in()
    browser.page.goto(f"/clusters/{mesh}/map/")
    expect(rows(browser.page, "Nodes")).to_have_count(3)
    browser.check()


def test_the_drawing_follows_pointer_and_keys(open_browser, mesh):
    browser = open_browser(viewport=WIDE, reduced_motion="reduce").sign_in()
    page = browser.page
    page.goto(f"/clusters/{mesh}/map/")
    expect(page.locator("[data-map]")).to_have_attribute("data-drawn", "yes")
    page.evaluate("document.fonts.ready.then(() => null)")  # names are written anew then
    whole = picture(page)
    canvas = page.locator("[data-map-canvas]")
    box = canvas.bounding_box()
    corner = (box["x"] + 20, box["y"] + 20)  # where nothing stands

    page.mouse.move(*corner)
    page.mouse.down()
    page.mouse.move(corner[0] + 60, corner[1] + 40, steps=4)
    page.mouse.up()
    differs(page, whole)  # dragged
    expect(canvas).to_be_focused()
    page.keyboard.press("0")
    becomes(page, whole)  # fits again
    page.keyboard.press("ArrowRight")
    differs(page, whole)  # moved by a key
    page.keyboard.press("0")
    becomes(page, whole)
    page.mouse.wheel(0, -300)
    differs(page, whole)  # closer by the wheel
    page.keyboard.press("0")
    becomes(page, whole)

    page.keyboard.press("Tab")
    page.mouse.move(*somebody(page, box))
    expect(canvas).to_have_css("cursor", "pointer")
    page.mouse.move(box["x"] - 20, box["y"])
    expect(canvas, "nobody is pointed at outside").not_to_have_css("cursor", "pointer")
    page.mouse.move(*somebody(page, box))
    page.mouse.down()
    page.mouse.move(*corner, steps=4)
    page.mouse.up()
    assert picture(page) != whole, "dragged by a node"
    expect(page.get_by_role("button", name="Take it out of the centre")).to_be_hidden()
    canvas.press("0")
    becomes(page, whole)  # before somebody is looked for
    page.mouse.click(*somebody(page, box))
    expect(page.get_by_role("button", name="Take it out of the centre")).to_be_visible()
    page.mouse.click(*corner)
    expect(page.get_by_role("button", name="Take it out of the centre")).to_be_hidden()
    assert page.evaluate("scrollY") == 0


def test_a_view_on_its_way_ends_where_it_leads_though_the_window_changes(open_browser, mesh):
    page = open_browser(viewport=WIDE).sign_in().page
    page.goto(f"/clusters/{mesh}/map/")
    expect(page.locator("[data-map]")).to_have_attribute("data-drawn", "yes")
    page.evaluate("document.fonts.ready.then(() => null)")
    narrow = {**WIDE, "width": WIDE["width"] - 300}
    closer = page.get_by_role("button", name="Closer")

    closer.click()
    page.set_viewport_size(narrow)  # it is on its way for a third of a second
    on_its_way = picture(page)
    page.get_by_role("button", name="Fit all of it").click()
    assert picture(page) != on_its_way
    closer.click()
    becomes(page, on_its_way)
