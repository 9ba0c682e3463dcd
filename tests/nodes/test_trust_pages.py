"""What people may see: masked ids, looks that leave rows, the first administrator, removal's own words, clocks."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from html import unescape
from io import StringIO
from threading import Barrier
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import get_resolver, reverse
from django.utils import timezone

from kubespan.core.reason import explain
from kubespan.discovery.state import Update
from nodes.live import Seen, Summary
from nodes.models import Audit, Cluster, Node, Token
from nodes.pairs import Why, link_of
from nodes.services import discovery, people, sessions, tokens
from nodes.services import nodes as services
from nodes.services.enrolment import enrol as accept
from nodes.services.sessions import Greeting
from nodes.views import attention
from tests.factories import NOW, PEER, Machine, cluster_identity, enrol, make_cluster, make_token, open_session

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"


@pytest.fixture
def alice():
    return get_user_model().objects.create_superuser("alice", password=PASSWORD)


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture
def cluster():
    """One with a member, one that waits, and one that was removed; discovery keeps something of it."""
    cluster = make_cluster("office", now=timezone.now())
    enrol(cluster, Machine("member", networks=("10.8.0.0/16",)), now=timezone.now())
    enrol(cluster, Machine("stranger"), approval_required=True, now=timezone.now())
    gone = enrol(cluster, Machine("gone"), now=timezone.now())
    services.remove_node("tests", gone, "gone", timezone.now())
    kept = discovery.find(cluster.cluster_id, serve_all=False)
    discovery.apply(kept, [Update("affiliate", b"sealed", (b"endpoint",), 60.0)], time.time())
    return cluster


def patterns(resolver):
    """All that it resolves, those of the resolvers within it as well."""
    for pattern in resolver.url_patterns:
        yield from patterns(pattern) if hasattr(pattern, "url_patterns") else (pattern,)


def confirm(browser):
    assert browser.post("/account/confirm/", {"password": PASSWORD}).status_code == 302


def every_address(cluster):
    """Every page of the console and of the admin."""
    for pattern in patterns(get_resolver("nodes.urls")):
        wanted = pattern.pattern.converters
        for node in Node.objects.all() if "pk" in wanted else [Node.objects.first()]:
            token = Token.objects.first()
            pair = {"here": node.pk, "there": Node.objects.exclude(pk=node.pk).first().pk, "token": uuid4()}
            given = {"uuid": token.uuid if pattern.name.startswith("token") else cluster.uuid, "pk": node.pk} | pair
            yield reverse(pattern.name, kwargs={name: given[name] for name in wanted})
    yield "/admin/"
    for model in apps.get_app_config("nodes").get_models():
        listed = reverse(f"admin:nodes_{model._meta.model_name}_changelist")
        yield listed
        for row in model.objects.all():
            yield f"{listed}{row.pk}/change/"


def verbs(*names):
    return list(Audit.objects.filter(verb__in=names).order_by("pk").values_list("verb", "actor_name"))


# Masked ids, and looks.


def test_no_page_shows_the_cluster_id_or_a_secret_unasked(page, cluster):
    hidden = [cluster.cluster_id, cluster.secret.reveal(), *Token.objects.values_list("digest", flat=True)]
    count = Audit.objects.count()
    opened = 0
    for address in every_address(cluster):
        response = page.get(address)
        if response.streaming:
            continue
        text = unescape(response.content.decode())
        assert [word for word in hidden if word in text] == [], address
        opened += response.status_code == 200
    assert opened > 30
    assert Audit.objects.count() == count, "nothing was looked at"


def test_a_look_at_the_cluster_id_is_a_post_and_an_audit_row_each_time(page, cluster):
    address = reverse("cluster-id", args=[cluster.uuid])
    assert page.get(address).status_code == 405
    assert verbs("cluster.id-shown") == []
    for _ in range(2):
        response = page.post(address)
        assert cluster.cluster_id in unescape(response.content.decode())
        assert "no-store" in response.headers["Cache-Control"]
    assert verbs("cluster.id-shown") == [("cluster.id-shown", "alice")] * 2
    assert (
        "looked at the id of cluster"
        in page.get(reverse("cluster-activity", args=[cluster.uuid]) + "?kind=audit").content.decode()
    )


def test_who_may_not_look_leaves_no_row_and_sees_nothing(client, cluster):
    for who in (None, get_user_model().objects.create_user("bob")):
        if who:
            client.force_login(who)
        for name in ("cluster-id", "cluster-secret"):
            response = client.post(reverse(name, args=[cluster.uuid]), {"password": PASSWORD})
            assert response.status_code in {302, 404}
            assert cluster.cluster_id not in unescape(response.content.decode())
    assert verbs("cluster.id-shown", "cluster.secret-shown") == []


def test_a_look_needs_the_forms_own_token(alice, cluster):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(alice)
    assert browser.post(reverse("cluster-id", args=[cluster.uuid])).status_code == 403
    assert verbs("cluster.id-shown") == []


def test_every_look_at_the_secret_is_a_row_and_a_wrong_password_is_none(page, cluster):
    address = reverse("cluster-secret", args=[cluster.uuid])
    page.post("/account/confirm/", {"password": "wrong"})
    assert page.post(address).status_code == 302
    assert verbs("cluster.secret-shown") == []
    confirm(page)
    for _ in range(2):
        assert cluster.secret.reveal() in unescape(page.post(address).content.decode())
    assert verbs("cluster.secret-shown") == [("cluster.secret-shown", "alice")] * 2


def test_a_token_that_is_shown_is_a_row(page, cluster):
    form = {"cluster": str(cluster.uuid), "uses": 1, "lifetime": "3600", "name": "rack"}
    count = len(verbs("token.created"))
    response = page.post(reverse("cluster-enrolment", args=[cluster.uuid]), form)
    assert tokens.TOKEN_MARK in response.content.decode()
    assert verbs("token.created")[count:] == [("token.created", "alice")]


def test_commands_show_neither_id_nor_secret_and_what_they_show_is_a_row(cluster, tmp_path, capsys):
    cluster_id, secret = cluster_identity()
    (tmp_path / "secret").write_text(secret)
    said = StringIO()
    call_command(
        "create_cluster", "talos", "--cluster-id", cluster_id, "--secret-file", tmp_path / "secret", stdout=said
    )
    call_command("list_nodes", "office", stdout=said)
    call_command("create_token", "office", stdout=said)
    call_command("first_code", stdout=said)
    text = said.getvalue() + "".join(capsys.readouterr())
    imported = Cluster.objects.get(name="talos")

    assert [word for word in (cluster_id, secret, cluster.cluster_id) if word in text] == []
    assert imported.secret.reveal() == secret
    assert ("console.first-code-made", "console") in verbs("console.first-code-made")
    assert verbs("token.created")[-1] == ("token.created", "console")


def test_audit_rows_hold_no_secret(page, cluster):
    confirm(page)
    page.post(reverse("cluster-secret", args=[cluster.uuid]))
    page.post(reverse("cluster-id", args=[cluster.uuid]))
    _, plain = make_token(cluster)
    rows = json.dumps(list(Audit.objects.values_list("actor_name", "verb", "target", "details")))
    assert [word for word in (cluster.cluster_id, cluster.secret.reveal(), plain, PASSWORD) if word in rows] == []


# The first administrator.


def test_without_the_code_nobody_becomes_the_first_administrator(client):
    code = people.first_code(timezone.now())
    digest = people._digest(code)
    for guess in ("", code[:-1], code + "0", code[::-1], digest, "0" * len(code)):
        form = {"code": guess, "username": "mallory", "password": PASSWORD, "again": PASSWORD}
        assert client.post("/first/", form).status_code != 302
    assert not get_user_model().objects.exists()


def test_an_old_code_is_worth_nothing(client):
    old = people.first_code(timezone.now())
    people.first_code(timezone.now())
    form = {"code": old, "username": "mallory", "password": PASSWORD, "again": PASSWORD}
    assert client.post("/first/", form).status_code != 302
    assert not get_user_model().objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_many_who_have_the_code_at_once_one_becomes_administrator():
    code, workers = people.first_code(NOW), 8
    start = Barrier(workers)

    def work(number):
        start.wait()
        form = {"code": code, "username": f"user-{number}", "password": PASSWORD, "again": PASSWORD}
        try:
            return Client().post("/first/", form).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(workers) as pool:
        answers = list(pool.map(work, range(workers)))
    assert answers.count(302) >= 1
    assert get_user_model().objects.count() == 1
    assert people.first_code(NOW) is None


# Removal.


def test_the_dialog_says_what_removal_does_and_what_it_does_not(page, cluster):
    member = Node.objects.get(name="member")
    text = re.sub(r"\s+", " ", unescape(page.get(member.get_absolute_url()).content.decode()))
    dialog = text[text.index('id="remove"') :]
    for words in (
        "every connected member drops it within seconds",
        "Members that are away are listed afterwards as “not yet cut off”",
        "Talos machines of the cluster are not cut off either",
        "It still knows the cluster secret",
        "only by a new token and your yes",
    ):
        assert words in dialog


def test_who_is_away_stays_on_the_list_until_it_has_applied_the_removal(page, cluster):
    """Whatever it says of itself but that: being connected, or an older revision, is not enough."""
    gone, member = Node.objects.get(name="gone"), Node.objects.get(name="member")
    cluster.refresh_from_db()
    number = gone.tombstone.number

    def listed():
        text = page.get(gone.get_absolute_url()).content.decode()
        return "Not yet cut off" in text and member.get_absolute_url() in text

    assert listed()
    Node.objects.filter(pk=member.pk).update(session="s", applied_epoch=cluster.epoch, applied_number=number - 1)
    assert listed()
    Node.objects.filter(pk=member.pk).update(applied_epoch=cluster.epoch - 1, applied_number=number + 100)
    assert listed()
    Node.objects.filter(pk=member.pk).update(applied_epoch=cluster.epoch, applied_number=number)
    assert not listed()


def test_talos_machines_stay_on_the_list_of_page_and_command(page, cluster):
    """They take their peers from discovery (docs/security.md)."""
    member, talos = Node.objects.get(name="member"), enrol(cluster, Machine("talos"), now=timezone.now())
    Node.objects.filter(pk=talos.pk).update(kind="talos")
    printed = StringIO()
    call_command("remove_node", "office", "member", stdout=printed)
    assert json.loads(printed.getvalue()) == {"node": "member", "not_yet_cut_off": ["talos"]}

    text = page.get(member.get_absolute_url()).content.decode()
    assert "Not yet cut off" in text
    assert talos.get_absolute_url() in text


# Clocks.


@pytest.mark.parametrize("hours", [-24 * 365, -1, 1, 24 * 365])
def test_a_clock_that_is_wrong_is_shown_and_no_error(page, hours):
    """Neither at the hello nor on the page: it says by how much."""
    cluster = make_cluster(now=timezone.now())
    machine = Machine("skewed")
    node = enrol(cluster, machine, now=timezone.now())
    nonce = sessions.challenge().nonce
    now = timezone.now()
    _, plain = make_token(cluster, now=now)
    reply = accept(machine.request(plain), peer=PEER, now=now)
    hello = machine.hello(reply, nonce, agent_time=(now + timedelta(hours=hours)).timestamp())
    opened = open_session(Greeting(hello, nonce, PEER), now)

    assert opened.status == "approved"
    node.refresh_from_db()
    assert node.clock_skew == pytest.approx(hours * 3600, abs=1)
    text = re.sub(r"\s+", " ", unescape(page.get(node.get_absolute_url()).content.decode()))
    assert "Clock" in text
    assert ("WireGuard refuses" in text) == (hours < 0)


@pytest.mark.parametrize(("late", "named"), [("one", True), ("other", True), (None, False)])
def test_a_link_that_is_down_beside_a_clock_that_was_set_back_says_so(late, named):
    cluster = make_cluster()
    ends = [enrol(cluster, Machine(name)) for name in ("one", "other")]
    for end in ends:
        end.clock_skew = -7200.0 if end.name == late else 2.0
    link = Seen("down", "", NOW.timestamp() - 250, 0, 0, NOW.timestamp())
    summaries = {ends[0].pk: Summary("s", down=1, worst=ends[1].index)}
    why = Why(explain(link_of(*ends, cluster, (link, None), NOW.timestamp())), link)
    reasons = {(ends[0].pk, ends[1].pk): why}
    found = attention.collect(
        ends, {cluster.pk: cluster}, summaries, (), attention.find_broken(ends, summaries), reasons
    )
    said = next(entry.text for entry in found if "cannot reach" in entry.text)

    assert said.startswith("cannot reach other: ")
    assert (f"the clock of {late} is behind: if it was set back, its handshakes are refused as old" in said) == named
