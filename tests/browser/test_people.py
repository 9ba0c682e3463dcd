"""Somebody comes by invitation, adds second factors, and may do what their role says and no more."""

from __future__ import annotations

import re

import pytest
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time
from playwright.sync_api import expect

from nodes import certificates
from tests.browser.conftest import PASSWORD, Browser

WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def waiting(console, machines, administrator):
    """A cluster with a machine that waits to be let in."""
    cluster = console.call("create_cluster", "homelab")
    token = console.call("create_token", "homelab", "--approval-required")["token"]
    pin = certificates.fingerprint((console.directory / "tls" / "certificate.pem").read_bytes())
    machines.join("stranger", f"echo {token} | sudo kubespan-agent enrol {console.tls_url} --pin {pin} --token-file -")
    return cluster["uuid"]


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


def test_from_the_invitation_to_a_second_factor_to_what_a_viewer_may(open_browser, console, waiting):
    alice = open_browser(viewport=WIDE).sign_in()
    link = invite(alice.page, "bob", "Viewer: sees everything there, changes nothing", "homelab")
    alice.check_both()
    bob = open_browser(viewport=PHONE, has_touch=True)
    comes_by_the_link(bob, link)
    secret = adds_an_app(bob)
    again = open_browser(viewport=WIDE)
    signs_in_with_it(again, secret)
    address = sees_and_may_not(again)
    becomes_operator(alice)
    again.page.goto(address)
    again.page.get_by_role("button", name="Approve").click()
    expect(again.page.get_by_text("stranger is approved")).to_be_visible()


def comes_by_the_link(bob, link):
    page = bob.page
    page.goto(link)
    expect(page.get_by_text("alice invites you as viewer of the cluster homelab")).to_be_visible()
    bob.check_both()
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
    bob.check_both()
    page.get_by_label("Code that the app shows").fill(code_of(secret))
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_text("they are not shown again")).to_be_visible()
    assert len(page.locator("#codes-text").inner_text().split()) == 10
    bob.check_both()
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_text("10 codes left")).to_be_visible()
    bob.check_both()
    return secret


def signs_in_with_it(again, secret):
    page = again.page
    page.goto("/login/")
    page.get_by_label("User name").fill("bob")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Second factor")).to_be_visible()
    again.check_both()
    page.get_by_label("Code").fill("000000")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_text("does not fit")).to_be_visible()
    page.get_by_label("Code").fill(code_of(secret))
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def sees_and_may_not(again):
    """Gives where the machine's page is."""
    page = again.page
    page.goto("/nodes/?status=pending")
    page.get_by_role("link", name="stranger", exact=True).click()
    expect(page.get_by_role("heading", name="stranger", level=1)).to_be_visible()
    address = page.url
    for name in ("Approve", "Remove", "Set options"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.get_by_role("link", name="Enrol a machine")).to_have_count(0)
    token = token_of(page)
    answer = page.request.post(f"{address}approve/", form={"csrfmiddlewaretoken": token}, headers={"Referer": address})
    assert answer.status == 403
    assert "you need the role operator for the cluster homelab" in answer.text()
    page.goto("/settings/people/")
    expect(page.get_by_role("heading", name="Not with your role")).to_be_visible()
    return address


def becomes_operator(alice):
    page = alice.page
    page.goto("/settings/people/")
    page.get_by_role("link", name="bob", exact=True).click()
    alice.check_both()
    page.get_by_label("Role", exact=True).select_option(label="Operator: and acts on nodes, links, tokens and options")
    page.get_by_label("Where", exact=True).select_option(label="homelab")
    page.get_by_role("button", name="Give this role").click()
    expect(page.get_by_text("bob is operator of homelab now.")).to_be_visible()


def token_of(page):
    """A token of a form on the page, as a script of somebody's own would take it."""
    return re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.content())[1]


def test_a_passkey_signs_in_alone(chromium, console, administrator, request):
    """A key kept by the device, made by Chromium's own virtual one; names alone have keys, addresses have none."""
    browser = Browser(chromium, console.url.replace("127.0.0.1", "localhost"), viewport=WIDE)
    request.addfinalizer(browser.close)
    browser.sign_in()
    page = browser.page
    session = browser.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    session.send(
        "WebAuthn.addVirtualAuthenticator",
        {
            "options": {
                "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
                "isUserVerified": True, "automaticPresenceSimulation": True,
            }
        },
    )  # fmt: skip
    page.goto("/account/")
    page.get_by_role("link", name="Add a key").click()
    browser.confirm()
    page.get_by_label("Name").fill("laptop")
    page.get_by_label("Sign in with it alone").check()
    browser.check_both()
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_text("they are not shown again")).to_be_visible()
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_text("signs in alone")).to_be_visible()

    page.get_by_label("Signed in as alice").click()
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.goto("/activity/?tab=audit")
    expect(page.get_by_role("region", name="Activity").get_by_text("alice signed in").first).to_be_visible()
