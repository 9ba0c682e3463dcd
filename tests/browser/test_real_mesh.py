"""One day on a real mesh: real agents by the lines that the dialog shows, real WireGuard, a real console.

One test, because each step begins where the one before ended; the step that failed is in its traceback.
"""

import re

import pytest
from playwright.sync_api import expect

from nodes.lab import LabError
from nodes.playground import DISCOVERY_PORT, TLS_PORT, Mesh, open_site
from tests.browser.machines import LINE
from tests.browser.steps import (
    a_node_is_removed_everywhere,
    adds_an_app,
    approves_the_stranger,
    close_the_dialog,
    cluster_tab,
    comes_by_the_link,
    create_a_cluster,
    first_administrator,
    invite,
    make_line,
    sees_and_may_not,
    signs_in_with_it,
    the_console_goes_and_the_page_says_so,
    the_console_returns_and_the_page_is_live_by_itself,
    the_first_machine_enrols,
    the_second_machine_shows_its_first_handshake_in_the_dialog,
)
from tests.consoles import PreparedConsole
from tests.ports import free_port
from tests.talos_files import CONFIGURATION

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ["edge-1", "edge-2", "edge-3"]
STRANGER = "stranger"
WIDE = {"width": 1280, "height": 860}
LINK_MILLISECONDS = 120_000
"""Each endpoint of a peer has its turn of 15 s before anybody is told, and before it is tried again."""
NOTHING_FROM = """
table inet firewall {{
  chain arriving {{
    type filter hook input priority -10;
    iifname "eth0" ip saddr {v4} drop
    iifname "eth0" ip6 saddr {v6} udp dport 51820 drop
  }}
}}
"""
NOTHING_THROUGH = """
table inet firewall {{
  chain arriving {{
    type filter hook input priority -10;
    iifname "kubespan" ip6 saddr {address} drop
  }}
}}
"""


class RealMachines:
    """Machines of a site with real agents; they join as those that are played do (tests/browser/machines.py)."""

    def __init__(self, site, mesh):
        self.site = site
        self.agents = mesh.agents

    def join(self, name, line):
        """Enrol by the line that the console shows, and start."""
        token, url, pin = LINE.search(line).groups()
        self.agents[name].enrol(url, pin, token)
        self.agents[name].start()

    def cut(self, one, other):
        """Let nothing of either through the firewall of the other."""
        for here, there in ((one, other), (other, one)):
            v4, v6 = self.site.addresses[there]
            self.run(here, "nft", "-f", "-", stdin=NOTHING_FROM.format(v4=v4, v6=v6))

    def silence(self, one, other):
        """Let nothing of either through the firewall of the other that comes by the tunnel; handshakes are no part."""
        for here, there in ((one, other), (other, one)):
            self.run(here, "nft", "-f", "-", stdin=NOTHING_THROUGH.format(address=self.agents[there].address()))

    def heal(self, *names):
        for name in names:
            self.run(name, "nft", "delete", "table", "inet", "firewall")

    def run(self, name, *command, **options):
        return self.site.machines[name].run(*command, **options)

    def peers(self, name):
        """Public keys that its WireGuard has, whatever its agent says."""
        return set(self.run(name, "wg", "show", "kubespan", "peers").split())

    def public_key(self, name):
        return self.agents[name].resources("kubespanidentities")[0].spec["publicKey"]


@pytest.fixture
def site():
    with open_site([*NAMES, STRANGER]) as site:
        yield site


@pytest.fixture
def machines(site, tmp_path):
    """None has enrolled yet."""
    with Mesh(site, tmp_path) as mesh:
        yield RealMachines(site, mesh)


@pytest.fixture
def console(site, tmp_path):
    """A console from nothing, which the machines reach, with discovery for Talos machines."""
    running = PreparedConsole(
        tmp_path,
        listen=f"127.0.0.1:{free_port()}",
        tls_listen=f"{site.host}:{TLS_PORT}",
        discovery=f"{site.host}:{DISCOVERY_PORT}",
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()


def test_a_day_on_a_real_mesh(open_browser, console, machines):
    alice = open_browser(viewport=WIDE)
    page = alice.page
    machines.cut("edge-2", "edge-3")  # before they enrol: a link that was up is down only after 275 s
    first_administrator(alice, console)
    create_a_cluster(page)
    the_first_machine_enrols(page, machines)
    the_second_machine_shows_its_first_handshake_in_the_dialog(page, machines)
    line = the_third_machine_enrols(page, machines)
    its_token_is_used_up(page, machines, line)
    the_cut_link_is_seen_down_with_the_reason(page)
    it_is_seen_up_again(page, machines)
    a_link_that_carries_nothing_is_seen_with_the_reason(page, machines)
    all_is_well_everywhere(page, machines)
    somebody_must_be_asked(page, machines)
    bob = a_viewer_comes_with_a_second_factor(alice, open_browser)
    address = a_viewer_sees_the_mesh_and_may_nothing(bob)
    the_stranger_is_approved_and_takes_part(page, bob.page, address, machines)
    the_stranger_is_removed_and_cut_off(alice, bob.page, machines)
    a_talos_cluster_is_imported_up_to_the_patch(page, console)
    the_mesh_works_while_the_console_is_away(page, console, machines)


def the_third_machine_enrols(page, machines):
    """Gives the line, whose token is for one machine."""
    page.get_by_role("link", name="Enrol a machine").first.click()
    line = make_line(page)
    machines.join("edge-3", line)
    expect(page.get_by_role("dialog").get_by_text("edge-3 has enrolled")).to_be_visible()
    close_the_dialog(page)
    expect(page.locator("[data-count=nodes]")).to_have_text("3")
    return line


def its_token_is_used_up(page, machines, line):
    with pytest.raises(LabError, match="This token has enrolled as many machines as it may; ask for a new one"):
        machines.join(STRANGER, line)
    page.goto("/tokens/")
    newest = page.get_by_role("region", name="Tokens").locator("tbody tr").first
    expect(newest).to_contain_text("1 / 1")
    expect(newest).to_contain_text("used up")


def the_cut_link_is_seen_down_with_the_reason(page):
    page.goto("/")
    attention = page.get_by_role("region", name="Needs attention")
    expect(attention).to_contain_text(re.compile("edge-[23] cannot reach edge-[23]"), timeout=LINK_MILLISECONDS)
    expect(attention).to_contain_text("no handshake on")
    page.goto("/links/")
    expect(page.locator("[data-mx-total=up]")).to_have_text("4")
    readout = page.locator("[data-mx=readout]")
    page.get_by_role("grid").press("ArrowRight")
    expect(readout).to_contain_text(re.compile("edge-1.*edge-2.*up"))
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(readout).to_contain_text(re.compile("edge-2.*edge-3.*(down|unknown)"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="edge-2 and edge-3")).to_be_visible()
    expect(page.locator("[data-reason=silent]")).to_contain_text("not answered")


def it_is_seen_up_again(page, machines):
    machines.heal("edge-2", "edge-3")
    expect(page.locator("[data-reason]")).to_have_count(0, timeout=LINK_MILLISECONDS)


def a_link_that_carries_nothing_is_seen_with_the_reason(page, machines):
    """Its page is open, so that it is probed every second: twenty that are lost, after one that was answered."""
    expect(page.locator("[data-figure=loss]").first).to_have_text("0 %", timeout=LINK_MILLISECONDS)
    expect(page.locator("[data-figure=loss]").last).to_have_text("0 %", timeout=LINK_MILLISECONDS)
    machines.silence("edge-2", "edge-3")
    why = page.locator("[data-reason=mute]")
    expect(why).to_contain_text("no probe is answered in either direction", timeout=LINK_MILLISECONDS)
    expect(page.locator("#pair .ks-lead")).to_contain_text("up")
    page.goto("/")
    attention = page.get_by_role("region", name="Needs attention")
    expect(attention).to_contain_text(
        re.compile("edge-[23] gets no answer from edge-[23], nor the other way round: handshakes pass"),
        timeout=LINK_MILLISECONDS,
    )


def all_is_well_everywhere(page, machines):
    """Of a link that nobody looks at, a probe in half a minute is answered."""
    machines.heal("edge-2", "edge-3")
    page.goto("/links/")
    expect(page.locator("[data-mx-total=up]")).to_have_text("6")
    page.goto("/")
    attention = page.get_by_role("region", name="Needs attention")
    expect(attention).to_contain_text("Nothing.", timeout=LINK_MILLISECONDS)


def somebody_must_be_asked(page, machines):
    """A machine that enrols, and must wait."""
    page.get_by_role("link", name="Enrol a machine").first.click()
    page.get_by_label("Ask me before a machine takes part").check()
    machines.join(STRANGER, make_line(page))
    expect(page.get_by_text("stranger waits for your approval")).to_be_visible()
    close_the_dialog(page)


def a_viewer_comes_with_a_second_factor(alice, open_browser):
    link = invite(alice.page, "bob", "Viewer: sees everything there, changes nothing", "homelab")
    bob = open_browser(viewport=WIDE)
    comes_by_the_link(bob, link)
    secret = adds_an_app(bob)
    again = open_browser(viewport=WIDE)
    signs_in_with_it(again, secret)
    return again


def a_viewer_sees_the_mesh_and_may_nothing(bob):
    """Ends with the matrix open. Gives where the stranger's page is."""
    address = sees_and_may_not(bob)
    bob.page.goto("/links/")
    expect(bob.page.get_by_text("Live", exact=True)).to_be_visible()
    expect(bob.page.locator("[data-mx-total=up]")).to_have_text("6")
    return address


def the_stranger_is_approved_and_takes_part(page, watched, address, machines):
    """The matrix that is watched was open before."""
    approves_the_stranger(page, address)
    expect(watched.locator("[data-mx-total=up]")).to_have_text("12", timeout=LINK_MILLISECONDS)
    assert machines.public_key(STRANGER) in machines.peers("edge-1")


def the_stranger_is_removed_and_cut_off(alice, watched, machines):
    key = machines.public_key(STRANGER)
    a_node_is_removed_everywhere(alice, STRANGER)
    expect(watched.locator("[data-mx-total=up]")).to_have_text("6")
    assert key not in machines.peers("edge-1")
    assert len(machines.peers("edge-1")) == 2
    agent = machines.agents[STRANGER]
    assert agent.process.wait(60) != 0
    with pytest.raises(LabError, match="kubespan"):
        machines.run(STRANGER, "ip", "link", "show", "kubespan")


def a_talos_cluster_is_imported_up_to_the_patch(page, console):
    page.goto("/clusters/import/")
    page.get_by_label("Name", exact=True).fill("talos")
    file = {"name": "controlplane.yaml", "mimeType": "application/yaml", "buffer": CONFIGURATION.encode()}
    page.get_by_label("Talos files", exact=True).set_input_files(file)
    page.get_by_role("button", name="Import the cluster").click()
    expect(page.get_by_text("KubeSpan's options were taken from the files")).to_be_visible()
    expect(page.locator("#patch-text")).to_contain_text(f"endpoint: {console.discovery[0]}/")
    page.get_by_role("button", name="Test from here").click()
    expect(page.locator("#talos-test [data-tone=good]")).to_be_visible()


def the_mesh_works_while_the_console_is_away(page, console, machines):
    page.goto("/clusters/")
    page.get_by_role("link", name="homelab").click()
    cluster_tab(page, "Nodes")
    address = machines.agents["edge-2"].address()
    the_console_goes_and_the_page_says_so(page, console)
    machines.run("edge-1", "ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", address)
    the_console_returns_and_the_page_is_live_by_itself(page, console)
