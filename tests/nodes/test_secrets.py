"""Secrets at rest: encrypted with named keys, opened on demand, rotated, and named when their key is gone."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command

from nodes import secrets
from nodes.models import Audit, Cluster
from tests.factories import make_cluster

pytestmark = pytest.mark.django_db

OLD, NEW = "A" * 43 + "=", "B" * 43 + "="


def stored(cluster):
    return Cluster.objects.filter(pk=cluster.pk).values_list("secret", flat=True).get().dump()


def test_what_is_stored_names_its_key_and_is_not_the_secret(settings):
    settings.KUBESPAN_KEYS = {"spring": OLD}
    cluster = make_cluster()
    assert stored(cluster).startswith("spring$")
    assert cluster.secret.reveal() not in stored(cluster)


def test_an_assigned_text_is_wrapped_at_once():
    cluster = Cluster(secret="very secret")
    assert isinstance(cluster.secret, secrets.Secret)
    assert "very secret" not in f"{cluster.secret} {cluster.secret!r} {vars(cluster)}"


def test_a_row_that_is_saved_unread_keeps_its_text(settings):
    cluster = make_cluster()
    before = stored(cluster)
    settings.KUBESPAN_KEYS = {"other": NEW}
    row = Cluster.objects.get(pk=cluster.pk)
    row.name = "renamed"
    row.save()
    assert stored(row) == before


def test_a_deferred_secret_is_read_when_asked_for():
    cluster = make_cluster()
    assert Cluster.objects.defer("secret").get().secret == cluster.secret


def test_a_missing_key_is_named_with_what_it_would_open(settings):
    settings.KUBESPAN_KEYS = {"spring": OLD}
    make_cluster("production")
    settings.KUBESPAN_KEYS = {"summer": NEW}
    make_cluster("testing")

    assert [row.name for row in Cluster.objects.all()] == ["production", "testing"]
    (fault,) = secrets.unreadable()
    assert fault == "the secret of cluster production needs key 'spring', which KUBESPAN_KEYS does not hold"


def test_a_console_that_starts_without_an_old_key_says_so(settings, capsys):
    settings.KUBESPAN_KEYS = {"spring": OLD}
    make_cluster("production")
    settings.KUBESPAN_KEYS = {"summer": NEW}
    call_command("check", databases=["default"])
    assert "the secret of cluster production needs key 'spring'" in capsys.readouterr().err


def test_another_key_of_the_same_name_is_told_apart(settings):
    settings.KUBESPAN_KEYS = {"spring": OLD}
    cluster = make_cluster()
    settings.KUBESPAN_KEYS = {"spring": NEW}
    with pytest.raises(secrets.Unreadable, match="another key bears that name"):
        Cluster.objects.get(pk=cluster.pk).secret.reveal()


def test_rotation_lets_the_old_key_go(settings):
    settings.KUBESPAN_KEYS = {"spring": OLD}
    cluster = make_cluster()
    settings.KUBESPAN_KEYS = {"summer": NEW, "spring": OLD}
    said = io.StringIO()
    call_command("rotate_keys", stdout=said)
    settings.KUBESPAN_KEYS = {"summer": NEW}

    assert said.getvalue() == "1 secrets encrypted anew\n"
    assert Cluster.objects.get().secret.reveal() == cluster.secret.reveal()
    assert secrets.unreadable() == []
    row = Audit.objects.get(verb="keys.rotated")
    assert (row.actor_name, row.details) == ("console", {"key": "summer", "secrets": 1})


def test_rotation_names_what_it_cannot_open_and_does_the_rest(settings):
    settings.KUBESPAN_KEYS = {"lost": OLD}
    make_cluster("lost")
    settings.KUBESPAN_KEYS = {"spring": NEW}
    make_cluster("kept")
    settings.KUBESPAN_KEYS = {"summer": "C" * 43 + "=", "spring": NEW}
    said = io.StringIO()
    with pytest.raises(CommandError, match="the secret of cluster lost needs key 'lost'"):
        call_command("rotate_keys", stdout=said)
    assert said.getvalue() == "1 secrets encrypted anew\n"
    assert stored(Cluster.objects.get(name="kept")).startswith("summer$")
