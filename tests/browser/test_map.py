"""The map, drawn by WebGL in a real Chromium, and what stands beside it: on live data, and without WebGL."""

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


def picture(page):
    """What is drawn, once it rests."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")
    return page.locator("[data-map-canvas]").screenshot()


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
    assert picture(page) != before, "the rest is dimmed"
    page.keyboard.press("Escape")
    page.get_by_label("Search the map").fill("nobody")
    expect(page.get_by_text("Nothing matches.")).to_be_visible()
    page.get_by_label("Search the map").fill("")
    expect(rows(page, "Nodes")).to_have_count(3)
    assert picture(page) == before

    page.get_by_role("button", name="edge-1", exact=True).click()
    expect(page.get_by_role("region", name="edge-1").get_by_text("2 up")).to_be_visible()
    assert picture(page) != before, "it stands in the centre"
    browser.check()
    page.get_by_role("button", name="Take it out of the centre").click()
    expect(page.get_by_role("region", name="edge-1")).to_be_hidden()

    machines.tell("cut", "edge-1", "edge-2")
    machines.tell("skip", "edge-1", "400")
    bad = rows(page, "Links that are not up")
    expect(bad.filter(has_text="edge-1").first).to_be_visible()
    expect(page.get_by_text("3 nodes; 1 link not up.")).to_be_visible()
    assert picture(page) != before
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


def test_without_webgl_the_list_remains(open_browser, mesh):
    browser = open_browser(viewport=WIDE, reduced_motion="reduce").sign_in()
    page = browser.page
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(f"/clusters/{mesh}/map/")
    expect(page.get_by_role("heading", name="This browser cannot draw the map")).to_be_visible()
    expect(rows(page, "Nodes")).to_have_count(3)
    browser.check()
