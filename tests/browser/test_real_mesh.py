"""A firewall between two machines of a real mesh is seen wherever people look, with the reason, until it goes."""

import re

import pytest
from playwright.sync_api import expect

from nodes.certificates import fingerprint
from nodes.playground import TLS_PORT, Mesh, RunningConsole, open_site
from tests.browser.conftest import Browser, free_port, make_administrator

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(400)]

NAMES = ["edge-1", "edge-2", "edge-3"]
NOTHING_FROM = """
table inet firewall {{
  chain arriving {{
    type filter hook input priority -10;
    iifname "eth0" ip saddr {v4} drop
    iifname "eth0" ip6 saddr {v6} udp dport 51820 drop
  }}
}}
"""


@pytest.fixture
def world(tmp_path):
    """Machines that have not enrolled yet, a console that they reach, and how to enrol one of them."""
    with open_site(NAMES) as site, Mesh(site, tmp_path) as mesh:
        (tmp_path / "console").mkdir()
        console = RunningConsole(
            tmp_path / "console", listen=f"127.0.0.1:{free_port()}", tls_listen=f"{site.host}:{TLS_PORT}"
        )
        try:
            console.start()
            make_administrator(console)
            console.call("create_cluster", "office")
            token = console.call("create_token", "office", "--uses", str(len(NAMES)))["token"]
            pin = fingerprint((console.directory / "tls" / "certificate.pem").read_bytes())

            def enrol(name):
                mesh.agents[name].enrol(console.tls_url, pin, token)
                mesh.agents[name].start()

            yield site, console, enrol
        finally:
            console.stop()


def cut(site, one, other):
    """Let nothing of either through the firewall of the other."""
    for here, there in ((one, other), (other, one)):
        v4, v6 = site.addresses[there]
        site.machines[here].run("nft", "-f", "-", stdin=NOTHING_FROM.format(v4=v4, v6=v6))


def heal(site, *names):
    for name in names:
        site.machines[name].run("nft", "delete", "table", "inet", "firewall")


def test_a_firewall_between_two_machines(world, chromium):
    site, console, enrol = world
    cut(site, "edge-2", "edge-3")
    for name in NAMES:
        enrol(name)
    browser = Browser(chromium, console.url, viewport={"width": 1280, "height": 860}).sign_in()
    page = browser.page

    attention = page.get_by_role("region", name="Needs attention")
    # Each endpoint has its turn of 15 s before anybody is told.
    expect(attention).to_contain_text(re.compile("edge-[23] cannot reach edge-[23]"), timeout=120_000)
    expect(attention).to_contain_text("no handshake on")
    page.goto("/links/")
    expect(page.locator("[data-mx-total=up]")).to_have_text("4")
    page.get_by_role("grid").press("ArrowRight")
    expect(page.locator("[data-mx=readout]")).to_contain_text(re.compile("edge-1.*edge-2.*up"))
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-mx=readout]")).to_contain_text(re.compile("edge-2.*edge-3.*(down|unknown)"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="edge-2 and edge-3")).to_be_visible()
    expect(page.locator("[data-reason=silent]")).to_contain_text("not answered")

    heal(site, "edge-2", "edge-3")
    expect(page.locator("[data-reason]")).to_have_count(0, timeout=120_000)
    page.goto("/links/")
    expect(page.locator("[data-mx-total=up]")).to_have_text("6")
    page.goto("/")
    expect(attention).to_contain_text("Nothing.")
    browser.close()
