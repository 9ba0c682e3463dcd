"""Pages that fetch themselves anew while somebody is at work on them: what was begun there stays as it is."""

import re

import pytest
from playwright.sync_api import expect

from nodes import certificates
from tests.browser.looking import Held, await_held, held
from tests.browser.steps import close_the_dialog, make_line, the_connection_is_lost_for_a_moment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("administrator")]

WIDE = {"width": 1280, "height": 860}
ROUNDS = 6


@pytest.fixture(scope="module")
def line(console, administrator):
    """The line by which machines join the cluster."""
    console.call("create_cluster", "homelab")
    token = console.call("create_token", "homelab", "--uses", "99")["token"]
    pin = certificates.fingerprint((console.directory / "tls" / "certificate.pem").read_bytes())
    return f"echo {token} | sudo kubespan-agent enrol {console.tls_url} --pin {pin} --token-file -"


@pytest.fixture(scope="module")
def mesh(machines, line):
    """Three members, two of which cannot reach each other; the third asks for a network."""
    machines.tell("cut", "edge-1", "edge-2")
    for name in ("edge-1", "edge-2"):
        machines.join(name, line)
    machines.join("nas", line, "10.20.0.0/16")


@pytest.fixture
def page(open_browser, mesh):
    """A page of somebody who sees what moves."""
    return open_browser(viewport=WIDE, reduced_motion="no-preference").sign_in().page


def go_to(page, address):
    page.goto(address)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()


def test_a_tick_stays_with_its_network(page, machines):
    """A node chooses the order of what it asks for: that must not move an operator's yes to another network."""
    page.goto("/nodes/?q=nas")
    page.get_by_role("link", name="nas", exact=True).click()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.get_by_label("10.20.0.0/16").check()
    machines.tell("claim", "nas", "10.66.0.0/16", "10.20.0.0/16")
    expect(page.get_by_role("heading", name="Waiting for your yes (2)")).to_be_visible()
    expect(page.locator("input[name=networks]").first).to_have_value("10.66.0.0/16")
    expect(page.get_by_label("10.66.0.0/16")).not_to_be_checked()
    expect(page.get_by_label("10.20.0.0/16")).to_be_checked()
    machines.tell("claim", "nas", "10.66.0.0/16")
    expect(page.get_by_role("heading", name="Waiting for your yes (1)")).to_be_visible()
    expect(page.get_by_label("10.66.0.0/16")).not_to_be_checked()


def test_a_tick_stays_with_its_link(page, machines, line):
    go_to(page, "/links/?view=list&sort=from")
    # Whichever end says first that it is down.
    chosen = page.get_by_label(re.compile("edge-1 and edge-2|edge-2 and edge-1"))
    chosen.check()
    machines.tell("cut", "a-first", "edge-1")
    machines.join("a-first", line)
    prepended = page.get_by_label(re.compile("a-first and edge-1|edge-1 and a-first"))
    expect(page.locator("input[name=pair]").first).to_have_accessible_name("Choose the link of a-first and edge-1")
    expect(prepended).not_to_be_checked()
    expect(chosen).to_be_checked()


def test_the_focus_stays_with_its_row(page, console, machines, line):
    """Whoever goes by keys would else press another row's button."""
    go_to(page, "/nodes/?sort=-name")
    page.get_by_label("Choose nas").focus()
    machines.join("z-last", line)
    expect(page.locator("tbody tr").filter(has_text="z-last")).to_be_visible()
    expect(page.get_by_label("Choose nas")).to_be_focused()
    console.call("create_token", "homelab", "--name", "first")
    go_to(page, "/tokens/")
    page.get_by_label("Choose first").focus()
    console.call("create_token", "homelab", "--name", "second")
    expect(page.locator("tbody tr").filter(has_text="second")).to_be_visible()
    expect(page.get_by_label("Choose first")).to_be_focused()


def test_an_open_menu_stays_open(page, console):
    go_to(page, "/clusters/")
    page.get_by_text("Export", exact=True).click()
    expect(page.get_by_role("link", name="CSV, for a spreadsheet")).to_be_visible()
    console.call("create_cluster", "elsewhere")
    expect(page.get_by_role("link", name="elsewhere").first).to_be_visible()
    expect(page.get_by_role("link", name="CSV, for a spreadsheet")).to_be_visible()
    page.get_by_text("Export", exact=True).press("Escape")
    expect(page.get_by_role("link", name="CSV, for a spreadsheet")).to_be_hidden()


NOTE_FLASHES = """
document.body.dataset.flashed = "";
document.addEventListener("animationstart", (event) => {
  if (event.animationName === "ks-flash") document.body.dataset.flashed += event.target.dataset.key + " ";
});
"""


def test_a_row_flashes_whose_state_is_another(page, machines):
    go_to(page, "/nodes/?q=nas")
    row = page.get_by_role("row", name=re.compile("nas"))
    expect(row).to_contain_text("connected")
    page.evaluate(NOTE_FLASHES)
    key = row.get_attribute("data-key")
    machines.tell("stop", "nas")
    expect(row).to_contain_text("away")
    expect(page.locator("body")).to_have_attribute("data-flashed", re.compile(f"^({key} )+$"))
    machines.tell("start", "nas")
    expect(row).to_contain_text("connected")
    expect(page.locator("body")).to_have_attribute("data-flashed", re.compile(f"^({key} ){{2,}}$"))


def links_tab(page, name, query=""):
    page.goto(f"/nodes/?q={name}")
    go_to(page, page.get_by_role("link", name=name, exact=True).get_attribute("href") + f"links/{query}")


def test_a_nodes_links_are_sorted_searched_and_explained(page):
    links_tab(page, "edge-1")
    rows = page.locator("[data-peers] tbody tr")
    worst = page.locator("[data-peers] tbody tr", has=page.get_by_role("cell", name="down", exact=True))
    expect(worst.filter(has_text="edge-2")).to_have_count(1)
    expect(rows.first).to_contain_text(re.compile("is trying|has not answered"))  # the worst first
    expect(rows.last.get_by_role("cell", name="up", exact=True)).to_be_visible()
    row = rows.filter(has_text="edge-2")
    expect(row).to_contain_text(re.compile("edge-1 is trying edge-2 at|edge-2 has not answered edge-1"))
    button = row.get_by_role("button", name="Try again edge-2")
    assert button.bounding_box()["x"] < WIDE["width"] / 2
    assert page.locator("[data-peers] .ks-table-wrap").evaluate("(one) => one.scrollWidth - one.clientWidth") <= 0
    page.locator("a[data-sort=name]").click()
    expect(page).to_have_url(re.compile(r"\?sort=name$"))
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Peer")
    page.locator("a[data-sort=name]").click()
    expect(page).to_have_url(re.compile(r"\?sort=-name$"))
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Peer")
    names = rows.locator("th").all_inner_texts()
    assert names == sorted(names, reverse=True)
    page.get_by_label("Search").fill("EDGE")
    expect(rows).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?sort=-name&q=EDGE$"))
    page.get_by_text("Export", exact=True).click()
    file = page.get_by_role("link", name="JSON, for a program").get_attribute("href")
    assert [row["peer"] for row in page.request.get(page.url.partition("?")[0] + file).json()] == ["edge-2"]
    page.reload()
    expect(rows).to_have_count(1)
    page.get_by_label("Search").fill("nobody")
    expect(page.get_by_text("No peer has that in its name.")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Search")).to_have_value("")
    expect(rows.nth(1)).to_be_visible()


def test_another_reason_leaves_the_button_the_focus(page, machines):
    links_tab(page, "edge-1")
    row = page.locator("[data-peers] tbody tr").filter(has_text="edge-2").first
    button = row.get_by_role("button", name="Try again edge-2")
    button.focus()
    machines.tell("stop", "edge-2")
    expect(row).to_contain_text("The agent of edge-2 is away")
    expect(button).to_be_focused()
    machines.tell("start", "edge-2")
    expect(row).not_to_contain_text("is away")
    expect(button).to_be_focused()


@pytest.fixture(scope="module")
def many(console, administrator):
    """A cluster of more nodes than a page has rows; no agent of theirs is there."""
    console.call("create_cluster", "crowd")
    imports = "from tests.factories import fill; from nodes.models import Cluster"
    console.call("shell", "--no-imports", "-c", f"{imports}; fill(Cluster.objects.get(name='crowd'), 60)")


def test_a_node_of_many_peers_has_pages_of_links(page, many):
    links_tab(page, "bulk-0", "?sort=name")
    rows = page.locator("[data-peers] tbody tr")
    expect(rows).to_have_count(25)
    expect(rows.first).to_contain_text("bulk-1")
    expect(rows.last).to_contain_text("The agent of bulk-0 is away")
    expect(page.get_by_text("1–25 of 59", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Previous")).to_be_hidden()
    page.get_by_role("link", name="Next").click()
    expect(page).to_have_url(re.compile(r"\?sort=name&page=2$"))
    expect(rows.first).to_contain_text("bulk-26")
    expect(rows.last).to_contain_text("The agent of bulk-0 is away")
    page.get_by_role("link", name="Next").click()
    expect(rows).to_have_count(9)
    expect(page.get_by_role("link", name="Next")).to_be_hidden()
    page.go_back()
    expect(page.get_by_text("26–50 of 59", exact=True)).to_be_visible()


def enrol_nobody(page, machines):
    """Make a line in the dialog, and close it while it waits."""
    page.get_by_role("link", name="Enrol a machine").first.click()
    make_line(page)
    expect(page.get_by_text("Waiting for the machine")).to_be_visible()
    close_the_dialog(page)


def come_and_go(page, machines):
    """What changes is shown without a flash."""
    row = page.get_by_role("row", name=re.compile("nas"))
    for verb, said in (("stop", "away"), ("start", "connected")):
        machines.tell(verb, "nas")
        expect(row).to_contain_text(said)


def sort_and_begin_anew(page, machines):
    page.locator("a[data-sort=name]").click()
    the_connection_is_lost_for_a_moment(page)
    page.get_by_label("Search").fill("nas")
    expect(page.locator("[data-peers] tbody tr")).to_have_count(1)
    page.get_by_label("Search").fill("")
    expect(page.locator("[data-peers] tbody tr").nth(1)).to_be_visible()


@pytest.mark.parametrize(
    ("name", "again"),
    [
        pytest.param("", enrol_nobody, id="a dialog that waited"),
        pytest.param("", come_and_go, id="rows that would flash"),
        pytest.param("edge-1", sort_and_begin_anew, id="links that are told again"),
    ],
)
def test_nothing_is_left_behind_by(open_browser, mesh, machines, name, again):
    page = open_browser(viewport=WIDE, reduced_motion="reduce").sign_in().page
    if name:
        links_tab(page, name)
    else:
        go_to(page, "/nodes/?q=nas")
    for _ in range(2):
        again(page, machines)
    before = held(page)
    for _ in range(ROUNDS):
        again(page, machines)
    await_held(page, before, Held(10 * ROUNDS, ROUNDS, 200_000 * ROUNDS))


def test_a_link_that_becomes_the_worst_keeps_focus_and_tick(page, machines):
    """It moves within one list; in the other it is named by its other end first, once both have lost each other."""
    links_tab(page, "nas")
    rows = page.locator("[data-peers] tbody tr")
    peer = page.get_by_role("link", name="edge-2", exact=True)
    expect(rows.filter(has=peer).locator("[data-state=up]")).to_have_count(2)
    peer.focus()
    machines.tell("cut", "nas", "edge-2")
    machines.tell("skip", "nas", "400")
    expect(rows.first.get_by_role("link", name="edge-2", exact=True)).to_be_focused()
    go_to(page, "/links/?view=list&q=nas")
    page.get_by_label("Choose the link of nas and edge-2").check()
    machines.tell("skip", "edge-2", "400")
    expect(page.get_by_label("Choose the link of edge-2 and nas")).to_be_checked()
