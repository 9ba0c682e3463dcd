"""Somebody comes by invitation, adds second factors, and may do what their role says and no more."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from nodes import certificates
from tests.browser.conftest import Browser
from tests.browser.steps import (
    adds_an_app,
    approves_the_stranger,
    comes_by_the_link,
    invite,
    sees_and_may_not,
    signs_in_with_it,
)

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


def test_from_the_invitation_to_a_second_factor_to_what_a_viewer_may(open_browser, console, waiting):
    alice = open_browser(viewport=WIDE).sign_in()
    link = invite(alice.page, "bob", "Viewer: sees everything there, changes nothing", "homelab")
    alice.check()
    bob = open_browser(viewport=PHONE, has_touch=True)
    comes_by_the_link(bob, link)
    secret = adds_an_app(bob)
    again = open_browser(viewport=WIDE)
    signs_in_with_it(again, secret)
    address = sees_and_may_not(again)
    becomes_operator(alice)
    approves_the_stranger(again.page, address)


def becomes_operator(alice):
    page = alice.page
    page.goto("/settings/people/")
    page.get_by_role("link", name="bob", exact=True).click()
    alice.check()
    page.get_by_label("Role", exact=True).select_option(label="Operator: and acts on nodes, links, tokens and options")
    page.get_by_label("Where", exact=True).select_option(label="homelab")
    page.get_by_role("button", name="Give this role").click()
    expect(page.get_by_text("bob is operator of homelab now.")).to_be_visible()


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
    browser.check()
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
