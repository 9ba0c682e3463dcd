"""Pages: who gets in, what a refusal looks like, what is shown once, and that lists cost the same for any length."""

from __future__ import annotations

import re
from uuid import uuid4

import msgspec
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver, reverse
from django.utils import timezone

from kubespan.core.messages import ENROL_PATH
from nodes import certificates, delivery, live
from nodes.connections import sync_redis
from nodes.counters import read_counters
from nodes.models import Audit, Cluster, Node, Token
from nodes.routing import websocket_urlpatterns
from nodes.services import people
from nodes.services.enrolment import enrol as accept
from nodes.words import count
from tests.factories import PEER, Machine, cluster_identity, enrol, fill, make_cluster, make_token, make_user

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"


@pytest.fixture
def staff():
    return make_user("alice", "administrator", password=PASSWORD)


@pytest.fixture
def page(client, staff):
    """Alice's browser."""
    client.force_login(staff)
    return client


@pytest.fixture
def cluster():
    return make_cluster("homelab", now=timezone.now())


def read(response):
    return re.sub(r"\s+", " ", response.content.decode())


def alerts(response):
    return re.findall(r'role="alert"[^>]*>(.*?)</div>', read(response))


# -------------------------------------------------------------------------------------------------------- who gets in

HANDED_OUT = {"agent-release", "agent-archive", "agent-script"}
OPEN = {"enrol", "discovery-stats", "settings", *HANDED_OUT}
"""Pages for people who aren't signed in; enrolment is for machines with a token, and the agent for machines to be. How
many affiliates there are in all is for whoever asks, as with other discovery services; `settings` leads on."""


def patterns(resolver):
    """All that it resolves, those of the resolvers within it as well."""
    for pattern in resolver.url_patterns:
        yield from patterns(pattern) if hasattr(pattern, "url_patterns") else (pattern,)


def addresses(cluster, node, token):
    """Every page of the console, by name."""
    found = {}
    pair = {"here": node.pk, "there": enrol(cluster, now=timezone.now()).pk, "token": uuid4()}
    for pattern in patterns(get_resolver("nodes.urls")):
        given = {"uuid": token.uuid if pattern.name.startswith("token") else cluster.uuid, "pk": node.pk} | pair
        wanted = pattern.pattern.converters
        found[pattern.name] = reverse(pattern.name, kwargs={name: given[name] for name in wanted})
    return found


def test_nothing_is_shown_to_who_is_not_signed_in(client, staff, cluster):
    node = enrol(cluster, now=timezone.now())
    for name, address in addresses(cluster, node, Token.objects.first()).items():
        for send in (client.get, client.post):
            response = send(address)
            if name not in OPEN:
                assert (response.status_code, response.headers["Location"]) == (302, f"/login/?next={address}"), name


def test_who_has_no_role_is_told_whom_to_ask(client, staff, cluster):
    client.force_login(make_user("bob"))
    response = client.get("/")
    assert response.status_code == 403
    said = "To open the console you need the role viewer for the whole console. It is given by alice."
    assert said in read(response)


def test_every_page_opens(page, cluster):
    node = enrol(cluster, now=timezone.now())
    absent = {"first-run", "discovery-stranger", "rollout-cancel", *HANDED_OUT}  # there is neither stranger nor rollout
    for name, address in addresses(cluster, node, Token.objects.first()).items():
        response = page.get(address)
        assert response.status_code in {200, 302, 404, 405}, name
        if response.status_code == 404:
            of_one = any(part.isdecimal() or part.count("-") == 4 for part in address.split("/"))  # which is not there
            assert name in absent or (name.startswith("settings-") and of_one), name


def test_pages_forbid_inline_code_and_have_none(page, staff, cluster):
    staff.is_superuser = True
    staff.save()
    node = enrol(cluster, now=timezone.now())
    found = addresses(cluster, node, Token.objects.first())
    found |= {f"admin{path}": f"/admin/{path}" for path in ("", "nodes/node/", f"nodes/node/{node.pk}/change/")}
    for name, address in found.items():
        response = page.get(address)
        policy = response.headers["Content-Security-Policy"]
        for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'"):
            assert rule in policy.split("; "), name
        assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", read(response)), name


# ------------------------------------------------------------------------------------------------------------ the door


def test_the_first_page_makes_an_administrator_who_is_signed_in(client):
    code = people.first_code(timezone.now())
    assert client.get("/login/").headers["Location"] == "/first/"
    form = {"code": code, "username": "alice", "password": PASSWORD, "again": PASSWORD}
    assert client.post("/first/", form).headers["Location"] == "/"
    assert client.get("/").status_code == 200
    assert client.get("/first/").status_code == 404


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"code": "guessed"}, "not the code", id="wrong code"),
        pytest.param({"again": "another"}, "passwords differ", id="mistyped password"),
        pytest.param({"password": "12345678", "again": "12345678"}, "too common", id="weak password"),
    ],
)
def test_the_first_page_refuses(client, changes, said):
    form = {"code": people.first_code(timezone.now()), "username": "alice", "password": PASSWORD, "again": PASSWORD}
    response = client.post("/first/", form | changes)
    assert said in " ".join(alerts(response))
    assert not get_user_model().objects.exists()


def test_who_guesses_passwords_waits(client, staff):
    wrong = {"login": "alice", "password": "guess"}
    for _ in range(10):
        assert client.post("/login/", wrong).status_code == 200
    response = client.post("/login/", {"login": "alice", "password": PASSWORD})
    assert response.status_code == 200
    assert "Too many failed attempts" in " ".join(alerts(response))
    assert read_counters()["sign-in.throttled"] == 1


def test_guesses_are_counted_for_all_processes_and_without_names(client, staff, valkey):
    client.post("/login/", {"login": "alice", "password": "guess"})
    with valkey.client() as redis:
        kept = list(redis.scan_iter("kubespan:cache:*login_failed*"))
        assert len(kept) == 2
        assert not any(word in key for key in kept for word in ("alice", "guess"))


def test_the_admin_has_no_door_of_its_own(client, staff):
    response = client.get("/admin/", follow=True)
    assert response.redirect_chain[-1][0] == "/login/?next=%2Fadmin%2F"
    response = client.post("/login/?next=/admin/", {"login": "alice", "password": PASSWORD}, follow=True)
    assert response.redirect_chain[-1][0] == "/admin/"
    client.force_login(get_user_model().objects.create_user("bob"))
    assert client.get("/admin/", follow=True).status_code == 403


def test_without_redis_one_signs_in_all_the_same(client, staff, valkey):
    valkey.stop()
    assert client.post("/login/", {"login": "alice", "password": "guess"}).status_code == 200
    assert client.post("/login/", {"login": "alice", "password": PASSWORD}).headers["Location"] == "/"


def test_who_guesses_locks_out_nobody_else(client, staff):
    for _ in range(10):
        client.post("/login/", {"login": "alice", "password": "guess"}, REMOTE_ADDR="203.0.113.9")
    response = client.post("/login/", {"login": "alice", "password": PASSWORD})
    assert response.headers["Location"] == "/"


# ------------------------------------------------------------------------------------------------------------ clusters


def options(**changes):
    return {"enabled": "on", "discovery": "on", "probes": "on", "routing": "after-handshake", "mtu": "1420"} | changes


def opened_tab(response):
    """The tab of the enrolment dialog that opens with the page; none where it stays shut."""
    dialog = re.search(r'<dialog[^>]*id="enrol"[^>]*>.*?</dialog>', read(response))[0]
    return re.search(r"data-focus>(\w+)</a>", dialog)[1] if "data-open-at-load" in dialog.partition(">")[0] else None


def imported(name="talos"):
    cluster_id, secret = cluster_identity()
    return options(name=name, cluster_id=cluster_id, secret=secret)


@pytest.mark.parametrize(
    ("address", "form", "tab"),
    [
        pytest.param("/clusters/create/", options(name="homelab"), "Linux", id="made here"),
        pytest.param("/clusters/import/", imported(), "Talos", id="imported by id and secret"),
    ],
)
def test_the_page_of_a_new_cluster_opens_the_enrolment_dialog_once(page, address, form, tab):
    response = page.post(address, form)
    cluster = Cluster.objects.get(name=form["name"])
    assert response.headers["Location"] == cluster.get_absolute_url()
    other = make_cluster("other", now=timezone.now())
    assert opened_tab(page.get(other.get_absolute_url())) is None
    assert opened_tab(page.get(cluster.get_absolute_url())) == tab
    assert opened_tab(page.get(cluster.get_absolute_url())) is None


def test_without_scripts_a_clusters_page_leads_to_enrolment(page, cluster):
    text = read(page.get(cluster.get_absolute_url()))
    openers = re.findall(r'<(\w+) [^>]*?href="([^"]*)" data-open="enrol"', text)
    assert openers == [("a", f"/clusters/{cluster.uuid}/enrolment/")] * 2
    assert text.count('data-open="enrol"') == 2


def test_a_new_cluster_has_the_options_that_were_chosen(page):
    page.post("/clusters/create/", options(name="homelab", harvest_extra_endpoints="on"))
    assert Cluster.objects.get(name="homelab").kubespan.harvest_extra_endpoints


def test_an_import_keeps_the_id_verbatim_and_warns_of_an_odd_one(page):
    _, secret = cluster_identity()
    form = options(name="talos", cluster_id=" odd id ", secret=secret)
    response = page.post("/clusters/import/", form, follow=True)
    assert Cluster.objects.get(name="talos").cluster_id == " odd id "
    assert 'data-tone="warn"' in read(response)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"secret": "c2hvcnQ="}, "secret", id="secret of the wrong length"),
        pytest.param({"secret": "no base64!"}, "secret", id="secret of the wrong alphabet"),
        pytest.param({"secret": ""}, "secret", id="no secret"),
        pytest.param({"cluster_id": "x" * 257}, "cluster_id", id="id of too many characters"),
        pytest.param({"cluster_id": "ü" * 129}, "cluster_id", id="id of too many bytes"),
        pytest.param({"cluster_id": "a\0b"}, "cluster_id", id="id with a character that no database takes"),
        pytest.param({"name": "homelab"}, "name", id="a name that is taken"),
    ],
)
def test_an_import_is_refused_at_the_field(page, cluster, changes, field):
    cluster_id, secret = cluster_identity()
    form = options(name="talos", cluster_id=cluster_id, secret=secret)
    response = page.post("/clusters/import/", form | changes)
    assert response.status_code >= 400
    assert response.context["form"].errors[field]
    assert Cluster.objects.count() == 1
    assert re.findall(r'<input[^>]*name="(\w+)"[^>]* autofocus', read(response)) == [field]
    assert not re.search("<details[^>]* open", read(response))  # no option is wrong
    assert secret not in response.content.decode()
    assert (changes.get("secret") or secret) not in response.content.decode()
    assert [(name.partition(".")[0], times) for name, times in read_counters().items()] == [("page", 1)]


def test_a_wrong_option_of_a_new_cluster_is_not_folded_away(page):
    response = page.post("/clusters/create/", options(name="x", mtu="1000"))
    assert re.search("<details[^>]* open", read(response))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"mtu": "1000"}, "mtu", id="mtu too small"),
        pytest.param({"endpoint_filters": "10.0.0.0/8\nhome"}, "endpoint_filters", id="no network"),
        pytest.param({"routing": "perhaps"}, "routing", id="no way of routing"),
    ],
)
def test_bad_options_are_told_at_their_field(page, cluster, changes, field):
    response = page.post(reverse("cluster-options", args=[cluster.uuid]), options(**changes))
    assert response.status_code == 400
    assert response.context["form"].errors[field]
    assert Cluster.objects.get().revision == cluster.revision


def test_options_tell_what_they_will_change_and_the_revision_they_became(page, cluster):
    form = options(mtu="1400")
    preview = page.post(reverse("cluster-preview", args=[cluster.uuid]), form)
    assert "1400" in read(preview)
    assert Cluster.objects.get().revision == cluster.revision
    saved = page.post(reverse("cluster-options", args=[cluster.uuid]), form, follow=True)
    assert f"now at revision {cluster.epoch}.{cluster.revision + 1}" in read(saved)
    again = page.post(reverse("cluster-options", args=[cluster.uuid]), form, follow=True)
    assert "no new revision" in read(again)


def test_options_that_others_changed_meanwhile_are_told_and_the_form_stays(page, cluster):
    address = reverse("cluster-options", args=[cluster.uuid])
    before = page.get(address)
    follow = re.search(r'id="meanwhile" hx-get="(.*?)"', read(before))[1]
    assert "changed meanwhile" not in read(page.get(follow))
    seen = re.search(r'name="seen" value="(.*?)"', read(before))[1]
    page.post(address, options(mtu="1400", seen=seen))
    told = read(page.get(follow))
    assert "The options were changed meanwhile." in told
    assert f"Save as revision {cluster.epoch}.{cluster.revision + 2}" in told
    assert "changed meanwhile" in read(page.post(address, options(mtu="1", seen=seen)))
    assert "changed meanwhile" not in read(page.get(address))


@pytest.mark.parametrize(
    "name", ["token-list", "activity", "cluster-activity", "cluster-options", "settings-api-tokens"]
)
def test_what_may_grow_old_says_whether_it_is_live(page, cluster, name):
    make_token(cluster, now=timezone.now())
    address = reverse(name, args=[cluster.uuid] if name.startswith("cluster-") else [])
    text = read(page.get(address))
    assert "data-banner" in text
    live = re.search(r'data-live="(/live/[^"]+)" data-live-page="overview"', text)[1]
    assert any(pattern.pattern.match(live[1:]) for pattern in websocket_urlpatterns)
    follows = re.search(r"<[^>]* data-follow>", text)[0]
    target = re.search(r' id="(.*?)"', follows)[1]
    assert f'hx-select="#{target}" hx-target="#{target}"' in follows


@pytest.mark.parametrize(
    ("routing", "bypass", "forced"),
    [("bypass", True, False), ("after-handshake", False, False), ("always", False, True)],
)
def test_the_way_of_routing_becomes_two_options(page, cluster, routing, bypass, forced):
    page.post(reverse("cluster-options", args=[cluster.uuid]), options(routing=routing))
    chosen = Cluster.objects.get().kubespan
    assert (chosen.allow_down_peer_bypass, chosen.force_from_start) == (bypass, forced)
    shown = page.get(reverse("cluster-options", args=[cluster.uuid]))
    assert f'value="{routing}" checked' in read(shown)


def test_the_secret_needs_the_password_again_and_leaves_a_row(page, cluster):
    address = reverse("cluster-secret", args=[cluster.uuid])
    secret = cluster.secret.reveal()
    for send in (page.get, page.post):
        assert send(address).headers["Location"] == f"/account/confirm/?next={address.replace('/', '%2F')}"
    wrong = page.post(f"/account/confirm/?next={address}", {"password": "guess"})
    assert "not your password" in read(wrong)
    assert not Audit.objects.filter(verb="cluster.secret-shown").exists()
    assert page.post(f"/account/confirm/?next={address}", {"password": PASSWORD}).headers["Location"] == address
    assert secret not in page.get(address).content.decode()
    shown = page.post(address)
    assert secret in shown.content.decode()
    assert "no-store" in shown.headers["Cache-Control"]
    assert Audit.objects.get(verb="cluster.secret-shown").actor_name == "alice"


def test_a_cluster_goes_only_when_its_name_is_typed(page, cluster):
    address = reverse("cluster-delete", args=[cluster.uuid])
    assert "Type the cluster" in " ".join(alerts(page.post(address, {"typed_name": "homelap"})))
    assert Cluster.objects.exists()
    assert page.post(address, {"typed_name": "homelab"}).headers["Location"] == "/clusters/"
    assert not Cluster.objects.exists()


# ----------------------------------------------------------------------------------------------------------- enrolment


def ask_token(page, cluster, changes=()):
    form = {"cluster": cluster.uuid, "uses": 1, "lifetime": "3600", "name": ""} | dict(changes)
    return page.post(reverse("cluster-enrolment", args=[cluster.uuid]), form)


def test_the_line_is_shown_once_and_keeps_the_token_off_the_command_line(page, cluster):
    response = ask_token(page, cluster)
    line = re.search(r"data-secret>(.*?)</p>", read(response))[1]
    token = re.fullmatch(r"echo (\S+) \| sudo kubespan-agent enrol http://127.0.0.1:8000 --token-file -", line)[1]
    assert "no-store" in response.headers["Cache-Control"]
    assert token not in read(page.get("/tokens/"))
    assert f"/live/enrolment/{Token.objects.get().uuid}" in read(response)
    assert accept(Machine().request(token), peer=PEER, now=timezone.now()).status == "approved"


def test_the_line_pins_the_consoles_own_certificate(settings, tmp_path):
    settings.EMBEDDED, settings.KUBESPAN_DATA = True, tmp_path
    own = certificates.ensure(tmp_path, ["192.0.2.1"], timezone.now())
    settings.KUBESPAN_AGENT_URL = "https://192.0.2.1:8443"
    pinned = f"enrol https://192.0.2.1:8443 --pin {own.fingerprint} --token-file -"
    assert pinned in delivery.write_line("t", None)
    settings.EMBEDDED = False  # TLS is somebody else's then, with a certificate that machines trust already
    assert "--pin" not in delivery.write_line("t", None)
    settings.EMBEDDED, settings.KUBESPAN_AGENT_URL = True, "http://127.0.0.1:8000"
    assert "--pin" not in delivery.write_line("t", None)


@pytest.mark.parametrize("changes", [{"uses": 0}, {"lifetime": "1"}, {"cluster": "nonsense"}])
def test_a_token_that_cannot_be_is_refused(page, cluster, changes):
    assert ask_token(page, cluster, changes).status_code == 400
    assert not Token.objects.exists()


def test_a_revoked_token_says_so(page, cluster):
    token, _ = make_token(cluster, now=timezone.now())
    response = page.post(reverse("token-revoke", args=[token.uuid]), follow=True)
    assert "revoked" in read(response)
    assert Token.objects.get().revoked_at is not None
    assert "Revoke<span" not in read(page.get("/tokens/"))


# --------------------------------------------------------------------------------------------------------------- nodes


def test_a_pending_node_is_approved_from_the_page(page, cluster):
    node = enrol(cluster, approval_required=True, now=timezone.now())
    assert "Pending approval (1)" in read(page.get(cluster.get_absolute_url()))
    page.post(reverse("node-approve", args=[node.pk]))
    assert Node.objects.get().status == Node.Status.APPROVED
    again = page.post(reverse("node-approve", args=[node.pk]), follow=True)
    assert "was approved already" in " ".join(alerts(again))


def test_a_removal_lists_who_has_not_heard_of_it(page, cluster):
    gone, stays = enrol(cluster, now=timezone.now()), enrol(cluster, now=timezone.now())
    address = reverse("node-remove", args=[gone.pk])
    refused = page.post(address, {"typed_name": "other"})
    assert "data-open-at-load" in read(refused)
    assert Node.objects.get(pk=gone.pk).status == Node.Status.APPROVED
    shown = page.post(address, {"typed_name": gone.name}, follow=True)
    assert "Not yet cut off" in read(shown)
    assert f'<a href="{stays.get_absolute_url()}">{stays.name}</a>' in read(shown)
    tombstone = Node.objects.get(pk=gone.pk).tombstone
    Node.objects.filter(pk=stays.pk).update(applied_epoch=tombstone.epoch, applied_number=tombstone.number)
    assert "Not yet cut off" not in read(page.get(gone.get_absolute_url()))


def test_networks_wait_for_a_yes(page, cluster):
    node = enrol(cluster, Machine(networks=("10.20.0.0/16", "10.30.0.0/16")), now=timezone.now())
    assert "Waiting for your yes (2)" in read(page.get(node.get_absolute_url()))
    page.post(reverse("node-networks", args=[node.pk]), {"networks": ["10.20.0.0/16"]})
    assert Node.objects.get().networks == ["10.20.0.0/16"]
    assert "Waiting for your yes (1)" in read(page.get(node.get_absolute_url()))


def test_a_nodes_options_are_refused_in_their_dialog(page, cluster):
    node = enrol(cluster, now=timezone.now())
    address = reverse("node-options", args=[node.pk])
    refused = page.post(address, {"extra_endpoints": "nowhere"})
    assert refused.status_code == 400
    assert "data-open-at-load" in read(refused)
    page.post(address, {"extra_endpoints": "203.0.113.5:51820", "excluded_networks": "10.0.0.0/8"})
    node.refresh_from_db()
    assert (node.extra_endpoints, node.excluded_networks) == (["203.0.113.5:51820"], ["10.0.0.0/8"])


@pytest.mark.parametrize(
    ("query", "names"),
    [
        pytest.param("", ["bulk-0", "bulk-1", "bulk-2"], id="all"),
        pytest.param("?q=bulk-1", ["bulk-1"], id="by name"),
        pytest.param("?sort=-name", ["bulk-2", "bulk-1", "bulk-0"], id="sorted"),
        pytest.param("?configuration=applied", ["bulk-2"], id="by configuration"),
        pytest.param("?agent=connected", ["bulk-0"], id="by presence"),
        pytest.param("?status=removed", [], id="none"),
        pytest.param("?q=0&cluster=nonsense&sort=nonsense&page=99", ["bulk-0", "bulk-1", "bulk-2"], id="nonsense"),
    ],
)
def test_the_list_of_nodes_follows_its_address(page, cluster, query, names):
    fill(cluster, 3)
    revision = Cluster.objects.get().revision
    Node.objects.filter(name="bulk-2").update(applied_epoch=1, applied_number=revision)
    Node.objects.filter(name="bulk-0").update(session="s")
    text = read(page.get(f"/nodes/{query}"))
    assert re.findall(r'<a href="/nodes/\d+/">(.*?)</a>', text) == names
    assert ("Nothing matches" in text) == (not names)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        pytest.param("", ["edge", "homelab", "office"], id="by name"),
        pytest.param("?sort=-name", ["office", "homelab", "edge"], id="by name, backwards"),
        pytest.param("?sort=nodes", ["edge", "office", "homelab"], id="the fewest nodes"),
        pytest.param("?sort=-nodes", ["homelab", "office", "edge"], id="the most nodes"),
        pytest.param("?sort=-not-up", ["office", "edge", "homelab"], id="the most links not up, then by name"),
        pytest.param("?sort=colour", ["edge", "homelab", "office"], id="by nothing there is"),
    ],
)
def test_clusters_are_sorted_as_the_address_says(page, cluster, query, names):
    office = make_cluster("office", now=timezone.now())
    make_cluster("edge", now=timezone.now())
    fill(cluster, 3)
    summary = live.Summary("s", up=0, unknown=1, down=1)
    sync_redis().set(live.summary_key(fill(office, 2)[0].pk), msgspec.msgpack.encode(summary))
    assert [found.name for found in page.get(f"/clusters/{query}").context["clusters"]] == names
    file = page.get(f"/clusters/{query}{'&' if query else '?'}_export=json")
    assert [row["name"] for row in file.json()] == names


def test_the_sorting_of_clusters_is_a_link_that_turns_round(page, cluster):
    assert "sort=" not in read(page.get("/clusters/"))  # of one there is nothing to sort,
    assert 'role="search"' not in read(page.get("/clusters/"))  # nor to search
    make_cluster("office", now=timezone.now())

    def links(query):
        found = re.search(r'aria-label="Sort by">(.*?)</div>', read(page.get(f"/clusters/{query}")))[1]
        return re.findall(r'href="\?sort=([^"]*)"( aria-current="true")?', found)

    assert links("") == [("-name", ' aria-current="true"'), ("-nodes", ""), ("-not-up", "")]
    assert links("?sort=-nodes") == [("name", ""), ("nodes", ' aria-current="true"'), ("-not-up", "")]


def test_clusters_have_pages_of_25(page, cluster):
    for number in range(26):
        make_cluster(f"site-{number:02}", now=timezone.now())
    assert len(re.findall("ks-cluster-card", read(page.get("/clusters/?sort=-name")))) == 25
    last = page.get("/clusters/?sort=-name&page=2")
    assert [found.name for found in last.context["clusters"]] == ["site-00", "homelab"]
    assert "26–27 of 27" in read(last)


def test_large_counts_are_read_in_thousands():
    assert (count(1, "node"), count(12_345, "link")) == ("1 node", "12,345 links")


def test_lists_have_pages_of_25(page, cluster):
    fill(cluster, 30)
    assert len(re.findall(r'data-key="\d+"', read(page.get("/nodes/")))) == 25
    assert len(re.findall(r'data-key="\d+"', read(page.get("/nodes/?page=2&q=bulk")))) == 5


def test_clusters_are_found_by_a_part_of_their_name(page):
    for name in ("home", "office one", "Office two"):
        fill(make_cluster(name), 2)
    text = read(page.get("/clusters/?q=OFFICE&sort=-name"))
    cards = r'<article.*?<a href="[^"]*">(.*?)</a>.*? of (\d+) nodes'
    assert re.findall(cards, text) == [("Office two", "2"), ("office one", "2")]
    assert "Take away the filter Search: OFFICE" in text
    assert [row["name"] for row in page.get("/clusters/?q=office&_export=json").json()] == ["office one", "Office two"]
    assert "Nothing matches" in read(page.get("/clusters/?q=nobody"))


@pytest.mark.parametrize(
    "address", ["/nodes/", "/clusters/", "/activity/", "/activity/?tab=audit", "/links/?view=list"]
)
def test_what_can_be_searched_has_a_field_for_the_key(page, cluster, address):
    fill(cluster, 2)
    make_cluster("another")
    assert len(re.findall(r"<input[^>]* data-search", read(page.get(address)))) == 1


@pytest.mark.parametrize("name", ["overview", "node-list", "cluster-list", "token-list", "activity"])
def test_no_list_asks_the_database_for_each_row(page, cluster, name):
    def ask(address):
        with CaptureQueriesContext(connection) as asked:
            assert page.get(address).status_code == 200
        return len(asked)

    address = reverse(name)
    fill(cluster, 3)
    make_token(cluster, now=timezone.now())
    few = ask(address)
    fill(cluster, 27)
    for _ in range(9):
        make_token(cluster, now=timezone.now())
    assert ask(address) == few


def test_a_cluster_and_a_node_ask_the_same_for_any_number_of_members(page, cluster):
    counts = []
    for more in (3, 27):
        node = fill(cluster, more)[0]
        for address in (cluster.get_absolute_url(), node.get_absolute_url()):
            with CaptureQueriesContext(connection) as asked:
                page.get(address)
            counts.append(len(asked))
    assert counts[:2] == counts[2:]


def test_pages_go_on_without_redis(page, cluster, valkey):
    fill(cluster, 2)
    valkey.stop()
    for address in ("/", "/nodes/", "/clusters/", cluster.get_absolute_url()):
        assert page.get(address).status_code == 200


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        pytest.param(lambda valkey: valkey.stop(), "Redis does not answer", id="away"),
        pytest.param(lambda valkey: valkey.empty(), "ha(s|ve) not reported yet|Nobody has reported yet", id="emptied"),
    ],
)
@pytest.mark.parametrize("name", ["overview", "cluster-list", "cluster"])
def test_without_what_agents_said_no_page_says_how_links_are(page, cluster, valkey, name, happens, said):
    fill(cluster, 2)
    Node.objects.update(session="s", applied_epoch=cluster.epoch, applied_number=Cluster.objects.get().revision)
    happens(valkey)
    text = read(page.get(cluster.get_absolute_url() if name == "cluster" else reverse(name)))
    assert re.search(said, text)
    assert "Nothing. Every machine" not in text
    assert "No links yet" not in text
    figures = re.findall(r"Links (?:up|unknown|down)</span></span></dt><dd>(.*?)</dd>", text)
    assert figures == ([] if name == "cluster-list" else ["—"] * 3)


def test_files_have_no_figures_of_links_that_cannot_be_read(page, cluster, valkey):
    fill(cluster, 2)
    valkey.stop()
    for address in ("/nodes/", "/clusters/"):
        assert page.get(f"{address}?_export=json").json()[0]["links_down"] is None


def test_a_fragment_sends_the_whole_page_to_sign_in(client):
    asked = {"HX-Request": "true", "HX-Current-URL": "http://testserver/nodes/?q=edge"}
    response = client.get("/nodes/", headers=asked)
    assert response.headers["HX-Redirect"] == "/login/?next=/nodes/%3Fq%3Dedge"
    assert not response.content


# -------------------------------------------------------------------------------------------------------------- errors


def test_what_is_not_there_says_so_in_the_same_dress(client):
    response = client.get("/nothing/")
    assert response.status_code == 404
    assert "There is nothing here" in read(response)


def test_browsers_find_an_icon_that_no_page_names(client):
    response = client.get("/favicon.ico")
    assert response.status_code == 302
    assert re.fullmatch(r"/static/nodes/favicon(\.\w+)?\.svg", response.headers["Location"])


def test_a_form_without_its_token_is_refused_kindly(staff):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(staff)
    response = browser.post("/clusters/create/", options(name="x"))
    assert response.status_code == 403
    assert "too old" in read(response)


def test_enrolment_is_no_page(client):
    assert client.get(ENROL_PATH).status_code == 405


def test_a_peer_that_cannot_be_is_not_there(page, cluster):
    node = enrol(cluster)
    for peer in ("abc", "99999999999999999999", str(node.pk + 1)):
        assert page.post(f"/nodes/{node.pk}/try-again/", {"peer": peer}).status_code == 404
