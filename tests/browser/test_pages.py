"""What pages show and do, light and dark, wide and narrow: nothing for axe to find, nothing beyond the screen."""

import base64
import contextlib
import gzip
import os
import re
import sqlite3
from ipaddress import IPv6Address, ip_address

import grpc
import pytest
from playwright.sync_api import expect

from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import ula_prefix
from kubespan.core.identity import KeyPair
from kubespan.discovery import service as names
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.sealing import seal_affiliate
from nodes import certificates
from tests.browser.conftest import PASSWORD, press
from tests.factories import cluster_identity

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("administrator")]

WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def mesh(console, machines, administrator):
    """A cluster with members, one that waits, and one pair that cannot reach each other."""
    cluster = console.call("create_cluster", "homelab")
    token = console.call("create_token", "homelab", "--uses", "9")["token"]
    waiting = console.call("create_token", "homelab", "--approval-required")["token"]
    for name in ("edge-1", "edge-2", "a-machine-with-a-name-of-some-length"):
        machines.join(name, line(console, token))
    machines.join("nas", line(console, token), "10.20.0.0/16")
    machines.join("stranger", line(console, waiting))
    machines.tell("cut", "edge-1", "edge-2")
    return cluster["uuid"]


def line(console, token):
    """What enrols a machine by that token."""
    pin = certificates.fingerprint((console.directory / "tls" / "certificate.pem").read_bytes())
    return f"echo {token} | sudo kubespan-agent enrol {console.tls_url} --pin {pin} --token-file -"


VIEWS = [
    pytest.param({"viewport": WIDE}, id="wide"),
    pytest.param({"viewport": PHONE, "has_touch": True}, id="phone"),
]


@pytest.mark.parametrize("view", VIEWS)
def test_the_door(open_browser, view):
    browser = open_browser(**view)
    for address in ("/login/", "/nothing/"):
        browser.page.goto(address)
        browser.check()


def test_pages_of_machines_that_report(open_browser, mesh):
    browser = open_browser(viewport=WIDE, reduced_motion="reduce").sign_in()
    page, cluster = browser.page, f"/clusters/{mesh}/"
    browser.check()
    for address in ("/nodes/?q=nobody", "/activity/?tab=audit", f"{cluster}activity/?kind=audit"):
        page.goto(address)
        browser.check()
    for tab in ("", "nodes/"):
        page.goto(cluster + tab)
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        browser.check()
    page.goto(f"{cluster}links/")
    expect(page.locator("[data-mx-total=up]")).not_to_have_text(re.compile("^[–0]$"))
    browser.check()
    grid = page.get_by_role("grid", name=re.compile("^Matrix of links"))
    grid.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("gridcell")).to_contain_text(" sees ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What changed")).to_be_visible()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    browser.check()
    page.goto("/nodes/?q=nas")
    page.get_by_role("link", name="nas", exact=True).click()
    expect(page.get_by_role("heading", name="How it stands")).to_be_visible()
    browser.check()
    for tab, heading in (("Endpoints", "Endpoints"), ("Configuration", "Peers it should have"), ("Activity", "nas")):
        page.get_by_role("navigation", name="Node", exact=True).get_by_role("link", name=tab).click()
        expect(page.get_by_role("heading", name=heading)).to_be_visible()
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        browser.check()
    page.get_by_role("navigation", name="Node", exact=True).get_by_role("link", name="Links").click()
    expect(page.locator("[data-peers] tbody tr")).to_have_count(3)
    browser.check()
    page.goto("/nodes/?q=stranger")
    page.get_by_role("link", name="stranger", exact=True).click()
    expect(page.get_by_text("It waits for your yes.")).to_be_visible()
    browser.check()


def channel_to(console):
    return grpc.insecure_channel(console.discovery[0].removeprefix("http://"))


def publish(console, cluster_id, secret, *node_ids, **more):
    """Say at the discovery service what Talos machines of that cluster would."""
    with channel_to(console) as channel:
        update = channel.unary_unary(
            names.AFFILIATE_UPDATE, proto.AffiliateUpdateRequest.SerializeToString,
            proto.AffiliateUpdateResponse.FromString,
        )  # fmt: skip
        for node_id in node_ids:
            said = Affiliate(node_id, (ip_address("10.5.0.2"),), f"{node_id}.example", node_id, "worker", **more)
            data = seal_affiliate(said, base64.b64decode(secret), os.urandom(12))
            request = proto.AffiliateUpdateRequest(cluster_id=cluster_id, affiliate_id=node_id, affiliate_data=data)
            request.ttl.FromSeconds(1800)
            update(request, timeout=60, wait_for_ready=True)


@pytest.mark.parametrize("view", VIEWS)
def test_discovery_is_followed_by_a_page_that_was_open(open_browser, console, administrator, view):
    browser = open_browser(**view, reduced_motion="reduce").sign_in()
    page = browser.page
    cluster_id, secret = cluster_identity(str(view))
    page.goto("/clusters/import/")
    page.get_by_label("Name", exact=True).fill(f"talos {secret[:4].strip('+/')} at home")
    page.get_by_label("Cluster id").fill(cluster_id)
    page.get_by_label("Cluster secret").fill(secret)
    page.get_by_role("button", name="Import the cluster").click()
    expect(page.get_by_text("has been imported")).to_be_visible()
    page.goto(re.sub(r"(/clusters/[^/]+/).*", r"\1discovery/", page.url))
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="Nobody is listed yet")).to_be_visible()
    browser.check()
    publish(console, cluster_id, base64.b64encode(bytes(32)).decode(), "stranger")
    expect(page.get_by_text("The secret that this console holds is not that of these machines.")).to_be_visible()
    browser.check()
    publish(console, cluster_id, secret, "one", "two")
    expect(page.get_by_text("1 affiliate does not open.")).to_be_visible()
    page.get_by_role("button", name="Open the contents").click()
    expect(page.get_by_text("one.example")).to_be_visible()
    browser.check()
    page.get_by_role("link", name="Close the contents").click()
    expect(page.get_by_text("one.example")).to_be_hidden()
    page.goto("/discovery/")
    expect(page.get_by_text("serving", exact=True)).to_be_visible()
    browser.check()


def withdraw(console, cluster_id, node_id):
    """Delete a machine there."""
    with channel_to(console) as channel:
        delete = channel.unary_unary(
            names.AFFILIATE_DELETE, proto.AffiliateDeleteRequest.SerializeToString,
            proto.AffiliateDeleteResponse.FromString,
        )  # fmt: skip
        delete(proto.AffiliateDeleteRequest(cluster_id=cluster_id, affiliate_id=node_id), timeout=60)


def test_a_talos_machine_that_leaves_and_returns_is_followed_by_an_open_page(open_browser, console, administrator):
    browser = open_browser().sign_in()
    page = browser.page
    cluster_id, secret = cluster_identity("leaves and returns")
    page.goto("/clusters/import/")
    page.get_by_label("Name", exact=True).fill("leaves and returns")
    page.get_by_label("Cluster id").fill(cluster_id)
    page.get_by_label("Cluster secret").fill(secret)
    page.get_by_role("button", name="Import the cluster").click()
    expect(page.get_by_text("has been imported")).to_be_visible()
    page.goto(re.sub(r"(/clusters/[^/]+/).*", r"\1nodes/", page.url))
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    address = IPv6Address(int(ula_prefix(cluster_id).network_address) + 1)
    machine = {"public_key": KeyPair.make(bytes(range(32))).public_key, "address": address}
    publish(console, cluster_id, secret, "roamer", **machine)
    page.get_by_role("button", name="Approve roamer").click()
    row = page.locator("[data-rows] tr", has_text="roamer")
    expect(row.locator("[data-cell=agent]")).to_have_text("in discovery")
    expect(page.locator("[data-count=connected]")).to_have_text("1")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    withdraw(console, cluster_id, "roamer")
    expect(row.locator("[data-cell=agent]")).to_contain_text("left discovery")
    expect(page.locator("[data-count=connected]")).to_have_text("0")
    publish(console, cluster_id, secret, "roamer", **machine)
    expect(row.locator("[data-cell=agent]")).to_have_text("in discovery")
    expect(page.locator("[data-count=connected]")).to_have_text("1")


FINDINGS = (
    (
        "rp-filter|The kernel drops what peers send.|printf '%s\\n' 'net.ipv4.conf.all.rp_filter = 0' "
        "> /etc/sysctl.d/99-z-kubespan.conf && sysctl -e -p /etc/sysctl.d/99-z-kubespan.conf"
    ),
    "firewall|The firewall ufw may drop what peers send to UDP port 51820.|ufw allow 51820/udp",
)


@pytest.mark.parametrize("view", VIEWS)
def test_findings_come_and_go_by_themselves(open_browser, mesh, machines, view):
    browser = open_browser(**view, reduced_motion="reduce").sign_in()
    page = browser.page
    page.goto("/nodes/?q=nas")
    page.get_by_role("link", name="nas", exact=True).click()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    machines.tell("find", "nas", *FINDINGS)
    expect(page.get_by_role("heading", name="Findings (2)")).to_be_visible()
    expect(page.get_by_text("stops traffic")).to_be_visible()
    browser.check()
    page.goto("/")
    expect(page.get_by_text("preflight: the kernel drops what peers send (and 1 more finding)")).to_be_visible()
    page.goto(f"/clusters/{mesh}/nodes/")
    expect(page.get_by_text("1 machine with findings.")).to_be_visible()
    browser.check()
    machines.tell("find", "nas")
    expect(page.get_by_text("1 machine with findings.")).to_be_hidden()


@pytest.mark.parametrize("view", VIEWS)
def test_the_admin(open_browser, mesh, view):
    """Django's own pages look like the rest, and keep to the policy as well; of each kind one."""
    browser = open_browser(**view, reduced_motion="reduce").sign_in()
    for address in ("", "nodes/node/", "nodes/node/1/change/", "nodes/audit/", "nodes/audit/?q=nobody", "auth/user/"):
        browser.page.goto(f"/admin/{address}")
        expect(browser.page.get_by_role("navigation", name="Models")).to_be_visible()
        browser.check()
    browser.page.goto("/admin/nodes/node/")
    browser.page.get_by_text("Status", exact=True).first.click()
    browser.page.get_by_role("link", name="pending").click()
    expect(browser.page.get_by_role("link", name="stranger", exact=True).first).to_be_visible()


@pytest.mark.parametrize("view", VIEWS)
def test_what_is_shown_once_stays_until_it_is_kept(open_browser, mesh, view):
    browser = open_browser(**view, reduced_motion="reduce").sign_in()
    page = browser.page
    page.goto("/settings/api-tokens/")
    page.get_by_role("button", name="Make a token").first.click()
    page.get_by_label("Name", exact=True).fill(f"script of {view}"[:40])
    browser.check()
    page.get_by_role("button", name="Make it").click()
    secret = page.locator("[data-secret]")
    expect(secret).to_have_text(re.compile("^kapi_"))
    browser.check()
    for _ in range(2):
        page.keyboard.press("Escape")
    page.mouse.click(2, 2)
    expect(secret).to_be_visible()
    page.get_by_role("link", name="I have kept it").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("kapi_")).to_have_count(0)


@pytest.mark.parametrize("view", VIEWS)
def test_a_webhook_says_what_became_of_its_test(open_browser, mesh, view):
    browser = open_browser(**view, reduced_motion="reduce").sign_in()
    page = browser.page
    page.goto("/settings/alerts/create/")
    page.get_by_label("Name", exact=True).fill(f"on call {len(str(view))}")
    page.get_by_label("Address").fill("http://127.0.0.1:9/")
    page.get_by_role("button", name="Add it").click()
    page.get_by_role("link", name="I have kept it").click()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("which is not a public address")).to_be_visible()
    browser.check()
    page.goto("/settings/about/")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_text("1 worker lives")).to_be_visible()
    browser.check()


def test_errors_look_like_the_rest(open_browser, mesh, console):
    alice = open_browser().sign_in().page
    make_bob = "from django.contrib.auth.models import User; User.objects.create_user('bob', password='{}')"
    console.call("shell", "--no-imports", "-c", make_bob.format(PASSWORD))
    browser = open_browser()
    page = browser.page
    page.goto("/login/")
    page.context.clear_cookies()
    page.get_by_label("User name").fill("bob")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="That form was too old")).to_be_visible()
    browser.check()
    page.goto("/login/")
    page.get_by_label("User name").fill("bob")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Not with your role")).to_be_visible()
    browser.check()
    page.route("**/elsewhere/", lambda route: route.fulfill(response=route.fetch(headers={"host": "elsewhere"})))
    page.goto("/elsewhere/")
    expect(page.get_by_role("heading", name="That was not understood")).to_be_visible()
    browser.check()
    with without_tokens(console):
        alice.goto("/tokens/")
        expect(alice.get_by_role("heading", name="The database is away")).to_be_visible()
        html = alice.content()
    page.route("**/broken/", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto("/broken/")
    browser.check()


@contextlib.contextmanager
def without_tokens(console):
    """A console that meets a fault of its own: a table is not there."""
    with contextlib.closing(sqlite3.connect(console.directory / "console.sqlite3", timeout=20)) as database:
        database.execute("ALTER TABLE nodes_token RENAME TO nodes_token_away")
        try:
            yield
        finally:
            database.execute("ALTER TABLE nodes_token_away RENAME TO nodes_token")


@pytest.mark.parametrize("view", VIEWS)
def test_dialogs(open_browser, mesh, view):
    browser = open_browser(**view, reduced_motion="reduce").sign_in()
    page = browser.page
    page.goto(f"/clusters/{mesh}/")
    page.get_by_role("link", name="Enrol a machine").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    browser.check()
    page.get_by_role("button", name="Make the line").click()
    expect(page.get_by_text("Waiting for the machine")).to_be_visible()
    browser.check()
    page.goto("/nodes/?q=stranger")
    page.get_by_role("link", name="stranger", exact=True).click()
    for name in ("Rename", "Set options", "Remove"):
        page.get_by_role("button", name=name).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        browser.check()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()


@pytest.mark.parametrize("view", VIEWS)
def test_a_talos_cluster_is_brought_here(open_browser, mesh, view):
    """A patch for the machines that there are, a look at the service in place, and the patch with both, shown once."""
    browser = open_browser(**view, reduced_motion="reduce").sign_in()
    page = browser.page
    page.goto(f"/clusters/{mesh}/talos/")
    patch = page.locator("#patch-text")
    expect(patch).to_contain_text("registries:")
    page.get_by_label("Talos on the machines").select_option("1.14")
    page.get_by_label("Made by an earlier Talos").uncheck()
    page.get_by_label("Beside the public service").check()
    expect(patch).to_contain_text("name: kubespan-web")
    expect(patch).not_to_contain_text("registries:")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "talos-1.14.yaml"
    assert download.value.path().read_text() == patch.text_content()
    page.get_by_role("button", name="Test from here").click()
    expect(page.get_by_text("nothing listens at").or_(page.get_by_text("a moment ago"))).to_be_visible()
    browser.check()
    page.get_by_role("button", name="Show it with both").click()
    browser.confirm()
    page.get_by_role("button", name="Show it with both").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("[data-secret]")).to_have_text(re.compile(r"clusterSecret: [A-Za-z0-9+/]{43}="))
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    browser.check()
    dialog.get_by_role("link", name="Done").click()
    expect(page.locator("[data-secret]")).to_have_count(0)
    expect(page.get_by_label("Beside the public service")).to_be_checked()


def test_a_talos_patch_without_scripts(open_browser, mesh):
    browser = open_browser(java_script_enabled=False).sign_in()
    page = browser.page
    page.goto(f"/clusters/{mesh}/talos/")
    page.get_by_label("Talos on the machines").select_option("0.12")
    page.get_by_role("button", name="Show the patch").click()
    expect(page.locator("#patch-text")).to_contain_text('"op": "add"')
    page.get_by_role("button", name="Test from here").click()
    expect(page.get_by_text("nothing listens at").or_(page.get_by_text("a moment ago"))).to_be_visible()


def test_the_secret_stays_until_it_is_closed(open_browser, mesh):
    browser = open_browser().sign_in()
    page = browser.page
    page.goto(f"/clusters/{mesh}/secret/")
    browser.confirm()
    page.get_by_role("button", name="Reveal").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("[data-secret]")).to_have_text(re.compile(r"^[A-Za-z0-9+/]{43}=$"))
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.mouse.click(2, 2)
    expect(dialog).to_be_visible()
    browser.check()
    dialog.get_by_role("link", name="Done").click()
    expect(page.locator("[data-secret]")).to_have_count(0)


def test_a_rotation_is_followed_by_a_page_that_was_open(open_browser, mesh, machines):
    """Begun elsewhere with a machine away: the page hears of it, and asks before that one is cut off."""
    where = f"/clusters/{mesh}/rotation/"
    browser = open_browser(reduced_motion="reduce").sign_in()
    page = browser.page
    page.goto(where)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    machines.tell("stop", "nas")
    elsewhere = page.context.new_page()
    elsewhere.goto(where)
    elsewhere.get_by_role("button", name="Hand out a new secret").click()
    expect(page.get_by_role("heading", name="Generation 2 is being handed out")).to_be_visible()
    expect(page.get_by_role("heading", name="Not ready (1)")).to_be_visible()
    browser.check()
    page.get_by_role("link", name="Switch now").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    browser.check()
    dialog.get_by_role("button", name="Switch now").click()
    expect(page.get_by_text("1 machine does not use generation 2 yet:")).to_be_visible()
    browser.check()
    machines.tell("start", "nas")
    expect(page.get_by_text("Every machine uses it")).to_be_visible()


def test_copying_is_told(open_browser, mesh, console):
    browser = open_browser(permissions=["clipboard-read", "clipboard-write"]).sign_in()
    page = browser.page
    page.goto(f"/clusters/{mesh}/options/")
    button = page.get_by_role("button", name=re.compile("^fd")).first
    address = button.inner_text()
    button.click()
    expect(page.locator("#toasts")).to_contain_text("Prefix copied")
    assert page.evaluate("navigator.clipboard.readText()") == address


def test_options_say_what_they_will_change(open_browser, mesh):
    browser = open_browser().sign_in()
    page = browser.page
    page.goto(f"/clusters/{mesh}/options/")
    preview = page.locator("#preview")
    expect(preview).to_contain_text("Nothing is different")
    page.get_by_label("MTU of the KubeSpan link").fill("1400")
    expect(preview).to_contain_text("Saving will change")
    expect(preview).to_contain_text("1400")
    page.get_by_label("Endpoints that machines offer").fill("nonsense")
    expect(preview).to_contain_text("Not yet right")
    page.get_by_label("Endpoints that machines offer").fill("")
    expect(preview).to_contain_text("1400")
    beside = page.context.new_page()
    beside.goto(page.url)
    beside.get_by_label("MTU of the KubeSpan link").fill("1300")
    expect(beside.get_by_text("Live", exact=True)).to_be_visible()
    page.get_by_role("button", name="Save as revision").click()
    expect(page.get_by_text("The cluster is now at revision")).to_be_visible()
    expect(page.get_by_text("The options were changed meanwhile.")).to_have_count(0)
    expect(beside.get_by_text("The options were changed meanwhile.")).to_be_visible()
    expect(beside.get_by_label("MTU of the KubeSpan link")).to_have_value("1300")
    expect(beside.locator("[data-revision]")).to_have_text(page.locator("[data-revision]").inner_text())
    page.bring_to_front()


def test_keys_lead_where_they_say(open_browser, mesh, console):
    console.call("create_cluster", "beside")
    browser = open_browser().sign_in()
    page = browser.page
    press(page, "g", "n")
    expect(page).to_have_url(re.compile("/nodes/$"))
    expect(page.get_by_text("Live", exact=True)).to_be_visible()  # so the rows are all there
    everybody = page.locator("tbody tr").count()
    press(page, "/")
    page.keyboard.type("edge-2")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("q=edge-2"))
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name=re.compile("Take away the filter Search")).click()
    expect(page.locator("tbody tr")).to_have_count(everybody)
    for address, searched in ((page.url, True), ("/", False)):
        page.goto(address)
        press(page, "?")
        expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
        expect(page.get_by_role("dialog").get_by_text("Search", exact=True)).to_be_visible(visible=searched)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    press(page, "g", "c")
    expect(page).to_have_url(re.compile("/clusters/$"))
    press(page, "/")
    page.keyboard.type("nobody's")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
    browser.check()
    page.get_by_role("link", name=re.compile("Take away the filter Search")).click()
    expect(page.locator(".ks-cluster-card")).not_to_have_count(0)
    browser.check()


def test_the_theme_stays_as_it_was_chosen(open_browser, mesh):
    browser = open_browser(color_scheme="dark").sign_in()
    page = browser.page
    root = page.locator("html")
    expect(root).to_have_attribute("data-bs-theme", "dark")
    page.get_by_role("button", name=re.compile("^Theme")).click()
    expect(root).to_have_attribute("data-bs-theme", "light")
    page.reload()
    expect(root).to_have_attribute("data-bs-theme", "light")


def test_a_phone_has_a_drawer(open_browser, mesh):
    browser = open_browser(viewport=PHONE, has_touch=True).sign_in()
    page = browser.page
    nodes = page.get_by_role("navigation", name="Main").get_by_role("link", name=re.compile("^Nodes"))
    expect(nodes).to_be_hidden()
    page.get_by_role("button", name="Navigation", exact=True).click()
    expect(nodes).to_be_visible()
    browser.check()
    page.keyboard.press("Escape")
    expect(nodes).to_be_hidden()
    page.get_by_role("button", name="Navigation", exact=True).click()
    nodes.click()
    expect(page).to_have_url(re.compile("/nodes/$"))


def test_a_stranger_is_approved_from_the_list(open_browser, mesh):
    browser = open_browser().sign_in()
    page = browser.page
    page.goto(f"/clusters/{mesh}/nodes/")
    expect(page.locator("[data-count=nodes]")).to_have_text("4")
    page.get_by_role("button", name="Approve stranger").click()
    expect(page.get_by_text("stranger is approved")).to_be_visible()
    expect(page.locator("[data-count=nodes]")).to_have_text("5")


def test_what_a_page_loads_is_small(open_browser):
    browser = open_browser()
    replies = {}
    browser.page.on("response", lambda reply: replies.update({reply.url: reply}))
    browser.page.goto("/login/")
    browser.page.wait_for_load_state("networkidle")
    sizes = {url: len(gzip.compress(reply.body())) for url, reply in replies.items()}
    assert any("/main." in url for url in sizes)
    assert sum(sizes.values()) < 250_000


def tab_to(page, name):
    """Go on by Tab until the focus is on what has this name."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.innerText || document.activeElement.name || ''")
        if re.fullmatch(name, focused.strip()):
            return
    raise AssertionError(f"{name} is not reached by Tab")


def answer_after_the_news(page, route, heard):
    """The page hears that the node is another before it has the answer; that must not cut the answer off."""
    heard.clear()
    answer = route.fetch()
    while not any('"delta"' in frame for frame in heard):
        page.wait_for_timeout(20)
    route.fulfill(response=answer)


def test_a_machine_is_enrolled_without_a_mouse(open_browser, console, machines):
    cluster = console.call("create_cluster", "keyboard")
    page = open_browser().page
    page.goto(f"/login/?next=/clusters/{cluster['uuid']}/")
    expect(page.get_by_label("User name")).to_be_focused()
    page.keyboard.type("alice")
    page.keyboard.press("Tab")
    page.keyboard.type("correct horse battery")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="No machine yet")).to_be_visible()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    tab_to(page, "Enrol a machine")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    tab_to(page, "Make the line")
    page.keyboard.press("Enter")
    expect(page.locator("#enrol-line")).to_be_visible()
    expect(page.get_by_role("button", name="Copy", exact=True)).to_be_focused()
    machines.join("by-hand", page.locator("#enrol-line").inner_text())
    expect(page.get_by_role("link", name="Open by-hand")).to_be_visible()
    heard, aborted = [], []
    page.on("requestfailed", lambda request: aborted.append(request.url))
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: heard.append(str(frame))))
    page.route("**/remove/", lambda route: answer_after_the_news(page, route, heard))
    tab_to(page, "Open by-hand")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="by-hand", exact=True)).to_be_visible()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    tab_to(page, "Remove")
    page.keyboard.press("Enter")
    page.keyboard.type("by-hand")
    page.keyboard.press("Enter")
    expect(page.get_by_text("by-hand is removed.")).to_be_visible()
    assert not [url for url in aborted if url.endswith("/remove/")]


def test_what_machines_use_up_goes_up_on_an_open_page(open_browser, console, machines):
    console.call("create_cluster", "uses")
    token = console.call("create_token", "uses", "--uses", "2")["token"]
    browser = open_browser(reduced_motion="reduce").sign_in()
    page, activity = browser.page, browser.context.new_page()
    for one, address in ((page, "/tokens/"), (activity, "/activity/?tab=audit")):
        one.goto(address)
        expect(one.get_by_text("Live", exact=True)).to_be_visible()
    newest = page.locator("tbody tr").first
    expect(newest).to_contain_text("0 / 2")
    browser.check()
    machines.join("used-up", line(console, token))
    expect(newest).to_contain_text("1 / 2")
    expect(activity.get_by_text("used-up enrolled in uses")).to_be_visible()
