"""The page on keys: what encrypts what, what cannot be opened, and how old clusters' secrets are."""

from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from cryptography.fernet import Fernet
from django.urls import reverse

from nodes.models import Audit, Cluster
from nodes.secrets import Secret, unreadable
from nodes.services import rotation, webhooks
from nodes.vitals.keys import read_cluster_secrets, read_keys
from tests.factories import NOW, make_cluster, make_user

pytestmark = pytest.mark.django_db

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
PAGE = "settings-keys"


@pytest.fixture
def cluster(settings):
    """One that an older key encrypts."""
    settings.KUBESPAN_KEYS = {"old": OLD}
    return make_cluster("homelab")


@pytest.fixture
def page(client):
    client.force_login(make_user("root", "administrator"))

    def page():
        return client.get(reverse(PAGE)).content.decode()

    return page


def test_each_key_and_what_it_encrypts(cluster, settings):
    settings.KUBESPAN_KEYS = {"new": NEW, "old": OLD}
    asked = webhooks.Wanted("on call", "https://hooks.example/", "json", ["node.away"], (), timedelta(0))
    webhooks.create_webhook("tests", asked, NOW)
    found = read_keys()
    assert [(key.name, key.newest, key.held, key.values) for key in found.keys] == [
        ("new", True, True, {"address of webhooks": 1, "secret of webhooks": 1}),
        ("old", False, True, {"secret of clusters": 1}),
    ]
    assert (found.outdated, found.unreadable) == (1, [])


def test_everything_is_encrypted_anew_by_a_button(cluster, settings, page, client):
    settings.KUBESPAN_KEYS = {"new": NEW, "old": OLD}
    secret = cluster.secret.reveal()
    assert "Encrypt everything with the newest key" in page()
    answer = client.post(reverse("settings-keys-rotate"), follow=True).content.decode()
    assert "1 value was encrypted anew." in answer
    assert "it may be taken out" in answer
    settings.KUBESPAN_KEYS = {"new": NEW}
    assert Cluster.objects.get().secret.reveal() == secret
    audit = Audit.objects.get(verb="keys.rotated")
    assert (audit.actor_name, audit.details) == ("root", {"key": "new", "secrets": 1})


def add_factor(user, kind, **data):
    Authenticator.objects.create(user=user, type=kind, data=data)


def test_a_key_that_second_factors_need_may_not_go(settings, page, client):
    settings.KUBESPAN_KEYS = {"old": OLD}
    bob = make_user("bob")
    add_factor(bob, Authenticator.Type.TOTP, secret=Secret("an app's key").dump())
    add_factor(bob, Authenticator.Type.RECOVERY_CODES, seed=Secret("a seed").dump(), used_mask=0)
    add_factor(bob, Authenticator.Type.WEBAUTHN, credential={})
    settings.KUBESPAN_KEYS = {"new": NEW, "old": OLD}
    assert [(key.name, key.values) for key in read_keys().keys] == [("new", {}), ("old", {"second factors": 2})]
    assert "it may be taken out" not in page()
    assert "may go" in client.post(reverse("settings-keys-rotate"), follow=True).content.decode()
    assert "it may be taken out" in page()
    settings.KUBESPAN_KEYS = {"newest": OTHER}
    assert "The second factor of bob needs key &#x27;new&#x27;" in page()
    assert len(unreadable()) == 2


@pytest.mark.parametrize(
    ("keys", "state"),
    [pytest.param({"new": NEW}, "missing", id="gone"), pytest.param({"old": OTHER}, "encrypts", id="another one")],
)
def test_what_no_key_opens_is_said_and_the_rest_is_shown(keys, state, cluster, settings, page, client):
    settings.KUBESPAN_KEYS = keys
    text = page()
    assert "1 value cannot be opened" in text
    assert "The secret of cluster homelab" in text
    assert state in text
    assert (
        "0 values were encrypted anew. 1 value cannot be opened"
        in client.post(reverse("settings-keys-rotate"), follow=True).content.decode()
    )


def test_neither_keys_nor_secrets_are_on_the_page(cluster, page):
    text = page()
    assert "homelab" in text
    for hidden in (OLD, cluster.secret.reveal(), cluster.secret.dump(), cluster.cluster_id):
        assert hidden not in text


def test_how_old_the_secrets_of_clusters_are(cluster, django_assert_num_queries, page):
    second = make_cluster("second")
    started = rotation.start("tests", cluster, automatic=False, now=NOW)
    assert [one.handing_out for one in read_cluster_secrets() if one.cluster == cluster] == [started.generation]
    rotation.switch("tests", cluster, started.generation, NOW + timedelta(days=400))
    Cluster.objects.update(created=NOW)
    with django_assert_num_queries(2):
        found = read_cluster_secrets()
    assert [(one.cluster, one.since, one.handing_out) for one in found] == [
        (second, NOW, None), (cluster, NOW + timedelta(days=400), None)
    ]  # fmt: skip
    assert page().count(reverse("cluster-rotation", args=[cluster.uuid])) == 1


def test_it_is_for_administrators_of_the_console(client, cluster):
    for person in (make_user("bob", "operator"), make_user("eve", "administrator", cluster)):
        client.force_login(person)
        assert client.get(reverse(PAGE)).status_code == 403
        assert client.post(reverse("settings-keys-rotate")).status_code == 403
    assert not Audit.objects.filter(verb="keys.rotated").exists()
