"""Django's admin: every model to search and look at, nothing to change past the services, no secret to see."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import User
from django.urls import reverse

from kubespan.core.messages import Finding, Notice
from kubespan.discovery.state import Update
from nodes.counters import count
from nodes.models import ApiToken, Cluster, Grant, Invitation, Outage, Rollout, RolloutStep, Rotation, Token
from nodes.services import api_tokens, discovery, nodes, obstacles, people, rotation, sessions, webhooks
from tests.factories import NOW, Machine, enrol, make_cluster, make_token

pytestmark = pytest.mark.django_db

MODELS = list(apps.get_app_config("nodes").get_models())


def name(model):
    return model._meta.model_name


@pytest.fixture
def rows():
    """A row of every model."""
    people.first_code(NOW)
    cluster = make_cluster("production")
    make_token(cluster)
    rotation.start("tests", cluster, automatic=False, now=NOW)
    edge = enrol(cluster, Machine("edge"))
    sessions.record_notice(edge.pk, Notice(kind="drift", text="healed"), NOW)
    obstacles.record_findings(edge.pk, [Finding(code="port-taken", text="UDP port 1 is taken", remedy="kill 1")], NOW)
    rollout = Rollout.objects.create(
        cluster=cluster, version="0.2.0", sha256="ab" * 32, size=1, started=NOW, started_by="tests"
    )
    discovery.beat(0.0)
    here = discovery.find(cluster.cluster_id, serve_all=False)
    discovery.apply(here, [Update("af1", b"sealed", (), 60.0)], 0.0)
    Grant.objects.create(user=User.objects.create_user("bob"), cluster=cluster, role="viewer", at=NOW)
    Invitation.objects.create(name="carol", digest="d" * 64, role="viewer", made=NOW, expires=NOW)
    RolloutStep.objects.create(rollout=rollout, node=edge, order=0, before="0.1.0")
    nodes.remove_node("tests", enrol(cluster, Machine("gone")), "gone", NOW)
    api_tokens.create_api_token(
        User.objects.create_superuser("zoe"), name="script", role="viewer", lifetime=timedelta(days=1), now=NOW
    )
    wanted = webhooks.Wanted("on call", "https://hooks.example/", "json", ["node.away"], (), timedelta(0))
    webhook, _ = webhooks.create_webhook("tests", wanted, NOW)
    webhooks.send_test("tests", webhook.pk, NOW)
    Outage.objects.create(webhook=webhook, node=edge, peer=edge, since=NOW)


@pytest.fixture
def browser(client):
    client.force_login(User.objects.create_superuser("alice"))
    return client


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_every_model_is_searched_listed_and_shown_without_secrets(model, rows, browser):
    row = model.objects.first()
    listing = browser.get(reverse(f"admin:nodes_{name(model)}_changelist"), {"q": "1"})
    every = browser.get(reverse(f"admin:nodes_{name(model)}_changelist"))
    shown = browser.get(reverse(f"admin:nodes_{name(model)}_change", args=[row.pk]))

    assert [page.status_code for page in (listing, every, shown)] == [200, 200, 200]
    cluster = Cluster.objects.get()
    following = Rotation.objects.get().secret
    secrets = [each for one in (cluster.secret, following) for each in (one.reveal(), one.dump())]
    secrets += [*Token.objects.values_list("digest", flat=True), *ApiToken.objects.values_list("digest", flat=True)]
    for page in (every, shown):
        assert not any(secret in page.content.decode() for secret in secrets)
        assert "Secret(" not in page.content.decode()


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_nothing_is_changed_past_the_services(model, rows, browser):
    row = model.objects.first()
    base = f"admin:nodes_{name(model)}"
    assert browser.get(reverse(f"{base}_add")).status_code == 403
    assert browser.post(reverse(f"{base}_change", args=[row.pk]), {"name": "other"}).status_code == 403
    assert browser.post(reverse(f"{base}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert model.objects.filter(pk=row.pk).exists()


def test_every_model_is_registered():
    assert set(MODELS) <= set(admin.site._registry)


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_a_list_asks_no_query_a_row(model, rows, browser, django_assert_num_queries, django_assert_max_num_queries):
    page = reverse(f"admin:nodes_{name(model)}_changelist")
    with django_assert_max_num_queries(20) as captured:
        browser.get(page)
    cluster = Cluster.objects.get()
    for number in range(5):
        make_token(cluster)
        enrol(cluster)
        nodes.remove_node("tests", enrol(cluster, Machine(f"gone-{number}")), f"gone-{number}", NOW)
    with django_assert_num_queries(len(captured)):
        browser.get(page)


def test_the_console_shows_what_it_counted(rows, browser, valkey):
    page = reverse("admin:nodes_console_change", args=[1])
    assert "nothing" in browser.get(page).content.decode()
    for code in ("enrol.token-expired", "enrol.token-expired", "frame.<bad>"):
        count(code)
    assert "enrol.token-expired: 2<br>frame.&lt;bad&gt;: 1" in browser.get(page).content.decode()
    valkey.stop()
    assert "not known while Redis is away" in browser.get(page).content.decode()
