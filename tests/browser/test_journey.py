"""The first day: an administrator, a cluster, machines that enrol; a link comes up and goes down; one is removed.

One test, because each step begins where the one before ended; the step that failed is in its traceback.
"""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Browser, press
from tests.browser.steps import (
    a_node_is_removed_everywhere,
    cluster_tab,
    create_a_cluster,
    first_administrator,
    node_tab,
    the_console_goes_and_the_page_says_so,
    the_console_returns_and_the_page_is_live_by_itself,
    the_first_machine_enrols,
    the_second_machine_shows_its_first_handshake_in_the_dialog,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def browser(chromium, console):
    """One browser for the whole journey."""
    browser = Browser(chromium, console.url, viewport={"width": 1280, "height": 860})
    yield browser
    browser.close()


def test_the_first_day(browser, console, machines):
    page = browser.page
    first_administrator(browser, console)
    create_a_cluster(page)
    the_first_machine_enrols(page, machines)
    the_second_machine_shows_its_first_handshake_in_the_dialog(page, machines)
    a_link_is_up_live(page)
    the_link_goes_down_live_and_says_why(page, machines)
    an_operator_has_a_link_tried_again(page)
    the_link_comes_back_live(page, machines)
    a_node_page_counts_traffic_live(page)
    an_agent_that_stops_is_away_live(page, machines)
    the_overview_follows(page, machines)
    a_node_is_removed_everywhere(browser, "edge-1")
    the_others_stay(page)
    what_was_done_is_told(page)
    open_nodes_of_the_cluster(page)
    the_console_goes_and_the_page_says_so(page, console)
    the_console_returns_and_the_page_is_live_by_itself(page, console)


def a_link_is_up_live(page):
    cluster_tab(page, "Links")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.locator("[data-mx-total=up]")).to_have_text("2")
    page.get_by_role("grid").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("gridcell")).to_have_text("edge-1 sees edge-2 up; so does the other end")
    page.get_by_role("link", name="Not up", exact=True).click()
    expect(page.get_by_role("heading", name="Every link is up")).to_be_visible()


def click_on_cell(page, row, column, size=76):
    """Click into a cell of a small matrix, right of and below the names (frontend/src/matrix/geometry.ts)."""
    grid = page.get_by_role("grid")
    left, top = min(176, max(96, round(grid.bounding_box()["width"] * 0.22))), 124
    grid.click(position={"x": left + (column + 0.5) * size, "y": top + (row + 0.5) * size})


def the_link_goes_down_live_and_says_why(page, machines):
    machines.tell("cut", "edge-1", "edge-2")
    machines.tell("skip", "edge-1", "400")
    row = page.get_by_role("row", name=re.compile("edge-1 edge-2"))
    expect(row).to_contain_text("down")
    expect(row).to_contain_text("one direction only")
    page.get_by_role("link", name="Matrix", exact=True).click()
    expect(page.locator("[data-mx-total=down]")).to_have_text("1")
    page.get_by_role("grid").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("gridcell")).to_have_text("edge-1 sees edge-2 down; edge-2 sees edge-1 up")
    machines.tell("skip", "edge-2", "400")
    expect(page.locator("[data-mx-total=down]")).to_have_text("2")
    expect(page.get_by_role("gridcell")).to_have_text("edge-1 sees edge-2 down; so does the other end")
    click_on_cell(page, row=0, column=1)
    expect(page.get_by_role("heading", name="edge-1 and edge-2")).to_be_visible()
    page.goto("/")
    expect(page.get_by_text(re.compile("edge-1 cannot reach edge-2, nor the other way round"))).to_be_visible()
    page.get_by_role("link", name="why edge-1 cannot reach edge-2").click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
    expect(page.get_by_text(re.compile("edge-2 has not answered edge-1 at|is trying edge-"))).to_be_visible()
    page.go_back()


def an_operator_has_a_link_tried_again(page):
    page.get_by_role("link", name="edge-1").first.click()
    node_tab(page, "Links")
    expect(page.get_by_text(re.compile("edge-2 has not answered edge-1 at|is trying edge-"))).to_be_visible()
    page.get_by_role("button", name="Try again edge-2").click()
    expect(page.get_by_text("edge-1 tries the next endpoint of edge-2 now")).to_be_visible()


def the_link_comes_back_live(page, machines):
    page.get_by_role("link", name="homelab").first.click()
    cluster_tab(page, "Links")
    expect(page.locator("[data-mx-total=up]")).to_have_text("0")
    machines.tell("heal", "edge-1", "edge-2")
    expect(page.locator("[data-mx-total=up]")).to_have_text("2")


def a_node_page_counts_traffic_live(page):
    cluster_tab(page, "Nodes")
    page.get_by_role("link", name="edge-1").first.click()
    node_tab(page, "Links")
    row = page.locator("[data-peers] tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("192.0.2.2:51820")
    expect(row).to_contain_text(re.compile(r"\d B/s"))


def an_agent_that_stops_is_away_live(page, machines):
    node_tab(page, "Overview")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    machines.tell("stop", "edge-1")
    agent = page.locator("[data-cell=agent]")
    expect(agent).to_contain_text("away since")
    machines.tell("start", "edge-1")
    expect(agent).to_contain_text("connected")


def the_overview_follows(page, machines):
    press(page, "g", "o")
    attention = page.get_by_role("region", name="Needs attention")
    expect(attention).to_contain_text("edge-1 has a clock that is 6 m ahead")
    machines.tell("stop", "edge-2")
    expect(attention).to_contain_text("edge-2 is away")
    machines.tell("start", "edge-2")
    expect(attention).not_to_contain_text("edge-2 is away")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()


def the_others_stay(page):
    page.get_by_role("link", name="homelab").first.click()
    cluster_tab(page, "Nodes")
    expect(page.locator("[data-count=nodes]")).to_have_text("1")
    expect(page.get_by_role("row", name=re.compile("edge-2"))).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("edge-1"))).to_have_count(0)


def what_was_done_is_told(page):
    press(page, "g", "a")
    page.get_by_role("link", name="Who did what").click()
    expect(page.get_by_text("alice removed node edge-1")).to_be_visible()
    expect(page.get_by_text("alice created cluster homelab")).to_be_visible()


def open_nodes_of_the_cluster(page):
    page.goto("/clusters/")
    page.get_by_role("link", name="homelab").click()
    cluster_tab(page, "Nodes")
