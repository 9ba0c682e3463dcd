"""Steps of journeys that more than one test takes, on machines that are played and on real ones alike.

What is called `machines` here has `join(name, line)`: enrol by the line that the console shows, and start.
"""

from __future__ import annotations

import re

from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time
from playwright.sync_api import expect

from tests.browser.conftest import PASSWORD, read_code

# ------------------------------------------------------------------------------------------------------ finding the way


def cluster_tab(page, name):
    """Go to a tab of the cluster that is shown."""
    page.get_by_role("navigation", name="Cluster", exact=True).get_by_role("link", name=name, exact=True).click()


def node_tab(page, name):
    """Go to a tab of the node that is shown."""
    page.get_by_role("navigation", name="Node", exact=True).get_by_role("link", name=name, exact=True).click()


def open_node(page, name, query=""):
    """Go to the page of a node, from the list of all."""
    page.goto(f"/nodes/{query}")
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()


# -------------------------------------------------------------------------------------------------------- the first day


def first_administrator(browser, console):
    page = browser.page
    page.goto("/")
    expect(page.get_by_role("heading", name="Make the first administrator")).to_be_visible()
    browser.check()
    page.get_by_label("One-time code").fill("guessed")
    page.get_by_label("User name").fill("alice")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Make administrator").click()
    expect(page.get_by_role("alert")).to_contain_text("not the code")
    page.get_by_label("One-time code").fill(read_code(console))
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Make administrator").click()
    expect(page.get_by_text("Welcome, alice")).to_be_visible()
    expect(page.get_by_role("heading", name="No cluster yet")).to_be_visible()


def create_a_cluster(page):
    """Ends with the dialog open that enrols a machine."""
    page.get_by_role("link", name="Create a cluster").click()
    page.get_by_label("Name").fill("homelab")
    page.get_by_role("button", name="Create the cluster").click()
    expect(page.get_by_text("homelab has been created")).to_be_visible()
    expect(page.get_by_role("dialog", name="Enrol a machine")).to_be_visible()
    expect(page.get_by_role("dialog").locator(":focus")).to_have_text("Linux")
    page.reload()
    expect(page.get_by_role("dialog")).to_have_count(0)  # once is enough
    page.get_by_role("link", name="Enrol a machine").first.click()


def make_line(page):
    """Ask for a line in the dialog, on whatever page has one."""
    page.get_by_role("button", name="Make the line").click()
    expect(page.locator("#enrol-line")).to_be_visible()
    return page.locator("#enrol-line").inner_text()


def the_first_machine_enrols(page, machines):
    line = make_line(page)
    expect(page.get_by_text("Waiting for the machine")).to_be_visible()
    machines.join("edge-1", line)
    expect(page.get_by_text("edge-1 has enrolled")).to_be_visible()
    expect(page.get_by_text("It is the first machine")).to_be_visible()
    page.get_by_role("link", name="Open edge-1").click()
    expect(page.get_by_role("heading", name="edge-1", exact=True)).to_be_visible()


def the_second_machine_shows_its_first_handshake_in_the_dialog(page, machines):
    page.get_by_role("link", name="homelab").first.click()
    cluster_tab(page, "Nodes")
    page.get_by_role("link", name="Enrol a machine").first.click()
    dialog = page.get_by_role("dialog")
    line = make_line(page)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.mouse.click(5, 5)
    expect(dialog).to_be_visible()  # what is shown only once does not go by accident
    machines.join("edge-2", line)
    expect(dialog.get_by_text(re.compile(r"First handshake after \d+\.\d s"))).to_be_visible()
    close_the_dialog(page)
    expect(page.locator("[data-count=nodes]")).to_have_text("2")
    expect(page.get_by_role("row", name=re.compile("edge-2"))).to_be_visible()


def close_the_dialog(page):
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("link", name="Close").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("[data-secret]")).to_have_count(0)  # the token is gone from the page


def a_node_is_removed_everywhere(browser, name):
    """By the page's own dialog, until every member has dropped it."""
    page = browser.page
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Nodes").click()
    page.get_by_role("link", name=name, exact=True).click()
    page.get_by_role("button", name="Remove").click()
    dialog = page.get_by_role("dialog")
    go_on = dialog.get_by_role("button", name="Remove")
    expect(go_on).to_be_disabled()
    dialog.get_by_label(f"Type {name} to go on").fill(name)
    go_on.click()
    expect(page.get_by_text(f"{name} is removed.")).to_be_visible()
    expect(page.get_by_text("Every member that this console knows has dropped it.")).to_be_visible()
    browser.check()


# -------------------------------------------------------------------------------------------------- the console is away


def the_console_goes_and_the_page_says_so(page, console):
    banner = page.locator("[data-banner]")
    expect(banner).to_have_text("Live")
    console.stop()
    expect(banner).to_have_text(re.compile(r"Stale since \d\d:\d\d:\d\d"))


def the_connection_is_lost_for_a_moment(page):
    """The page begins anew, with a snapshot."""
    heard = []

    def listen(socket):  # at once: the first that it hears may be there before anybody waits for it
        socket.on("framereceived", lambda frame: heard.append(str(frame)))

    page.on("websocket", listen)
    page.evaluate("dispatchEvent(new Event('offline'))")
    while not heard:  # the test's own time limit is its limit
        page.wait_for_timeout(20)
    page.remove_listener("websocket", listen)
    expect(page.locator("[data-banner]")).to_have_text("Live")


def the_console_returns_and_the_page_is_live_by_itself(page, console):
    console.start()
    expect(page.locator("[data-banner]")).to_have_text("Live")


# --------------------------------------------------------------------------------------------------------- other people


def code_of(secret):
    """The newest code that the console takes: each is good once."""
    return format_hotp_value(hotp_value(secret, list(yield_hotp_counters_from_time())[-1]))


def invite(page, name, role, where):
    """Gives the link, which is shown once."""
    page.goto("/settings/people/")
    page.get_by_role("button", name="Invite").first.click()
    page.get_by_label("For whom").fill(name)
    page.get_by_label("Role", exact=True).select_option(label=role)
    page.get_by_label("Where", exact=True).select_option(label=where)
    page.get_by_role("button", name="Make the link").click()
    dialog = page.get_by_role("dialog", name=f"Link for {name}")
    link = dialog.locator("#made-link").inner_text()
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    dialog.get_by_role("link", name="Done").click()
    expect(page.get_by_text(link)).to_have_count(0)
    return link


def comes_by_the_link(bob, link):
    page = bob.page
    page.goto(link)
    expect(page.get_by_text("alice invites you as viewer of the cluster homelab")).to_be_visible()
    bob.check()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    expect(page.get_by_text("Welcome, bob")).to_be_visible()


def adds_an_app(bob):
    """Gives the key that the app keeps."""
    page = bob.page
    page.goto("/account/")
    page.get_by_role("link", name="Add an authenticator app").click()
    bob.check()
    bob.confirm()
    page.get_by_text("Or type it").click()
    secret = page.locator("#app-secret").inner_text()
    bob.check()
    page.get_by_label("Code that the app shows").fill(code_of(secret))
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_text("they are not shown again")).to_be_visible()
    assert len(page.locator("#codes-text").inner_text().split()) == 10
    bob.check()
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_text("10 codes left")).to_be_visible()
    bob.check()
    return secret


def signs_in_with_it(again, secret):
    page = again.page
    page.goto("/login/")
    page.get_by_label("User name").fill("bob")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Second factor")).to_be_visible()
    again.check()
    page.get_by_label("Code").fill("000000")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_text("does not fit")).to_be_visible()
    page.get_by_label("Code").fill(code_of(secret))
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def sees_and_may_not(again):
    """A viewer sees that the stranger waits. Gives where its page is."""
    page = again.page
    open_node(page, "stranger", "?status=pending")
    address = page.url
    for name in ("Approve", "Remove", "Set options"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.get_by_role("link", name="Enrol a machine")).to_have_count(0)
    is_refused(page, f"{address}approve/", "To approve a machine")
    is_refused(page, f"{address}remove/", "To remove a node", typed_name="stranger")
    page.goto("/settings/people/")
    expect(page.get_by_role("heading", name="Not with your role")).to_be_visible()
    return address


def is_refused(page, address, what, **typed):
    """Not even a form of somebody's own, sent where no button leads, does what an operator may."""
    form = {"csrfmiddlewaretoken": token_of(page)} | typed
    answer = page.request.post(address, form=form, headers={"Referer": page.url})
    assert answer.status == 403
    assert f"{what} you need the role operator for the cluster homelab" in answer.text()


def token_of(page):
    """A token of a form on the page, as a script of somebody's own would take it."""
    return re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.content())[1]


def approves_the_stranger(page, address):
    page.goto(address)
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("stranger is approved")).to_be_visible()
