"""Django's admin: every model to search and look at, nothing to change past the services, no secret to see."""

from __future__ import annotations

from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import User
from django.urls import reverse

from kubespan.core.messages import Finding, Notice
from kubespan.discovery.state import Update
from nodes.admin import Shown
from nodes.counters import count
from nodes.models import (
    ApiToken,
    Cluster,
    FollowedLink,
    Grant,
    HistoryMark,
    Invitation,
    LinkHistory,
    NodeHistory,
    Outage,
    Rollout,
    RolloutStep,
    Rotation,
    Token,
)
from nodes.models.history import Period
from nodes.secrets import SecretField
from nodes.services import api_tokens, discovery, nodes, obstacles, people, rotation, sessions, webhooks
from tests.factories import NOW, Machine, enrol, make_cluster, make_token, make_user

pytestmark = pytest.mark.django_db

NOT_SHOWN = {
    "admin.LogEntry": "nothing is changed in the admin, so it logs nothing",
    "auth.Group": "roles are grants",
    "auth.Permission": "roles are grants",
    "contenttypes.ContentType": "Django's own list of models",
    "sessions.Session": "whoever has a session's key is signed in",
    "account.EmailAddress": "accounts are changed on people's own pages",
    "account.EmailConfirmation": "the same",
    "socialaccount.SocialApp": "it is set in the environment",
    "socialaccount.SocialToken": "none is kept",
    "usersessions.UserSession": "whoever has a session's key is signed in",
}
"""Models that the admin does not have, each with its reason."""

MODELS = [one for one in apps.get_models() if one._meta.label not in NOT_SHOWN]


def name(model):
    return model._meta.model_name


def base(model):
    return f"admin:{model._meta.app_label}_{name(model)}"


SEED = "what-second-factors-are-made-from"


@pytest.fixture
def rows():
    """A row of every model."""
    people.first_code(NOW)
    cluster = make_cluster("production")
    make_token(cluster)
    rotation.start("tests", cluster, automatic=False, now=NOW)
    edge = enrol(cluster, Machine("edge"))
    sessions.record_notices(cluster.pk, [(edge.pk, Notice(kind="drift", text="healed"), NOW)], NOW)
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
    zoe = User.objects.get(username="zoe")
    Authenticator.objects.create(user=zoe, type="totp", data={"secret": SEED})
    SocialAccount.objects.create(user=zoe, provider="sso", uid="zoe", extra_data={"token": SEED})
    NodeHistory.objects.create(node=edge, period=Period.MINUTE, start=NOW, points=b"")
    LinkHistory.objects.create(node=edge, peer=edge, period=Period.MINUTE, start=NOW, points=b"")
    FollowedLink.objects.create(node=edge, peer=edge)
    HistoryMark.objects.create(cluster=cluster)


@pytest.fixture
def browser(client):
    client.force_login(User.objects.create_superuser("alice"))
    return client


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_every_model_is_searched_listed_and_shown_without_secrets(model, rows, browser):
    row = model.objects.first()
    listing = browser.get(reverse(f"{base(model)}_changelist"), {"q": "1"})
    every = browser.get(reverse(f"{base(model)}_changelist"))
    shown = browser.get(reverse(f"{base(model)}_change", args=[row.pk]))

    assert [page.status_code for page in (listing, every, shown)] == [200, 200, 200]
    cluster = Cluster.objects.get()
    following = Rotation.objects.get().secret
    secrets = [each for one in (cluster.secret, following) for each in (one.reveal(), one.dump())]
    secrets += [
        SEED,
        *Token.objects.values_list("digest", flat=True),
        *ApiToken.objects.values_list("digest", flat=True),
    ]
    for page in (every, shown):
        assert not any(secret in page.content.decode() for secret in secrets)
        assert "Secret(" not in page.content.decode()


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_nothing_is_changed_past_the_services(model, rows, browser):
    row = model.objects.first()
    assert browser.get(reverse(f"{base(model)}_add")).status_code == 403
    assert browser.post(reverse(f"{base(model)}_change", args=[row.pk]), {"name": "other"}).status_code == 403
    assert browser.post(reverse(f"{base(model)}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert model.objects.filter(pk=row.pk).exists()


@pytest.mark.parametrize("model", list(apps.get_models()), ids=name)
def test_every_model_is_registered_or_left_out_for_a_reason(model):
    assert admin.site.is_registered(model) is not (model._meta.label in NOT_SHOWN), (
        "register it in nodes/admin.py as Shown, with what is secret hidden, or name it in NOT_SHOWN with a reason"
    )


@pytest.mark.parametrize("shown", list(admin.site._registry.values()), ids=str)
def test_every_model_is_shown_and_searched_and_nothing_is_done_there(shown):
    assert isinstance(shown, Shown)
    assert shown.search_fields
    assert not shown.actions
    named = (field for field in shown.model._meta.fields if isinstance(field, SecretField))
    assert not {field.name for field in named} & {*shown.list_display, *shown.search_fields}


def test_passwords_are_not_shown(client):
    boss = User.objects.create_superuser("alice", password="correct horse battery")
    client.force_login(boss)
    assert boss.password not in client.get(reverse("admin:auth_user_change", args=[boss.pk])).content.decode()


@pytest.mark.parametrize(
    ("role", "of_cluster", "status"),
    [
        pytest.param("administrator", False, 200, id="administrator of the console"),
        pytest.param("operator", False, 403, id="operator"),
        pytest.param("administrator", True, 403, id="administrator of a cluster"),
        pytest.param(None, False, 403, id="nobody"),
    ],
)
def test_it_is_for_administrators_of_the_console(role, of_cluster, status, client):
    cluster = make_cluster("homelab") if of_cluster else None
    client.force_login(make_user("bob", role, cluster, is_staff=True))
    for page in ("admin:index", "admin:nodes_cluster_changelist", "admin:nodes_audit_changelist"):
        assert client.get(reverse(page), follow=True).status_code == status


def test_a_row_leads_to_the_page_where_it_is_dealt_with(rows, browser):
    cluster = Cluster.objects.get()
    node = cluster.nodes.get(name="edge")
    for model, page in (("cluster", cluster), ("node", node), ("rotation", cluster), ("transition", node)):
        text = browser.get(reverse(f"admin:nodes_{model}_changelist")).content.decode()
        assert f'<a href="{page.get_absolute_url()}">' in text
    shown = browser.get(reverse("admin:nodes_node_change", args=[node.pk])).content.decode()
    assert "Open its page" in shown


def test_it_stands_in_the_console_s_frame_and_loads_nothing_of_its_own(rows, browser):
    for page in ("admin:index", "admin:nodes_audit_changelist"):
        text = browser.get(reverse(page)).content.decode()
        assert 'class="ks-sidebar"' in text
        assert "/static/admin/" not in text


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_a_list_asks_no_query_a_row(model, rows, browser, django_assert_num_queries, django_assert_max_num_queries):
    page = reverse(f"{base(model)}_changelist")
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
