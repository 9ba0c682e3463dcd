"""Accounts in a browser: coming in by invitation, second factors, sessions, and what is noted of it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import (
    SECRET_SESSION_KEY,
    format_hotp_value,
    hotp_value,
    yield_hotp_counters_from_time,
)
from allauth.usersessions.models import UserSession
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from nodes.models import Audit, Grant, Role
from nodes.secrets import Secret
from nodes.services import invitations, keys, people
from tests.factories import enrol, make_cluster, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _quick(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def cluster():
    return make_cluster("homelab", now=timezone.now())


@pytest.fixture
def alice():
    return make_user("alice", "administrator", password=PASSWORD)


def read(response):
    return re.sub(r"\s+", " ", response.content.decode())


def verbs(**which):
    return list(Audit.objects.filter(**which).order_by("pk").values_list("verb", flat=True))


def sign_in(name="alice", password=PASSWORD, **client):
    browser = Client(**client)
    return browser, browser.post("/login/", {"login": name, "password": password})


def confirm(browser, back="/account/"):
    return browser.post(f"/account/confirm/?next={back}", {"password": PASSWORD})


def code_of(secret):
    """What the app shows next: allauth takes each code once."""
    return format_hotp_value(hotp_value(secret, list(yield_hotp_counters_from_time())[1]))


def add_app(browser):
    """Add an authenticator app, as the page leads; gives its key."""
    confirm(browser)
    assert browser.get("/account/app/").status_code == 200
    secret = browser.session[SECRET_SESSION_KEY]
    assert browser.post("/account/app/", {"code": code_of(secret)}).headers["Location"] == "/account/codes/"
    return secret


# ---------------------------------------------------------------------------------------------------------- invitations


def test_an_invitation_makes_an_account_with_its_role_once(client, alice, cluster):
    client.force_login(alice)
    form = {"name": "Bob Jones", "role": "viewer", "where": cluster.uuid, "lifetime": "7"}
    made = read(client.post("/settings/people/", form))
    (link,) = re.findall(r"http://testserver(/invitation/[^<]+)<", made)
    assert link not in read(client.get("/settings/people/"))

    bob = Client()
    page = read(bob.get(link))
    assert "alice invites you as viewer of the cluster homelab" in page
    assert 'value="bob.jones"' in page
    given = {"username": "bob", "password": PASSWORD, "again": PASSWORD}
    assert "differ" in read(bob.post(link, given | {"again": "another"}))
    assert bob.post(link, given).headers["Location"] == "/"
    assert bob.get(cluster.get_absolute_url()).status_code == 200
    assert (bob.get(link).status_code, bob.post(link, given).status_code) == (410, 410)
    assert verbs(actor_name="bob") == ["user.created", "user.signed-in"]
    assert verbs(verb__startswith="invitation") == ["invitation.made"]
    grant = Grant.objects.get(user__username="bob")
    assert (grant.cluster, grant.role, grant.given_by) == (cluster, "viewer", "alice")


def test_a_viewer_sees_a_node_and_may_not_approve_it(cluster):
    node = enrol(cluster, now=timezone.now(), approval_required=True)
    client = Client()
    client.force_login(make_user("bob", "viewer", cluster))
    page = read(client.get(cluster.get_absolute_url()))
    assert node.name in page
    assert reverse("node-approve", args=[node.pk]) not in page
    assert reverse("node-approve", args=[node.pk]) not in read(client.get(node.get_absolute_url()))
    refused = client.post(reverse("node-approve", args=[node.pk]))
    assert refused.status_code == 403
    assert "To approve a machine you need the role operator for the cluster homelab" in read(refused)
    node.refresh_from_db()
    assert node.status == "pending"


def test_a_clusters_administrator_invites_to_that_cluster_alone(client, cluster):
    other = make_cluster("elsewhere")
    client.force_login(make_user("carol", "administrator", cluster))
    page = read(client.get("/settings/people/"))
    assert "elsewhere" not in page
    for where in (other.uuid, ""):
        form = {"name": "x", "role": "administrator", "where": where, "lifetime": "1"}
        assert client.post("/settings/people/", form).status_code == 400
    assert verbs(verb__startswith="invitation") == []


# ------------------------------------------------------------------------------------------------------- second factors


def test_an_app_is_added_and_then_asked_for(alice, django_capture_on_commit_callbacks):
    browser, _ = sign_in()
    with django_capture_on_commit_callbacks(execute=True):
        secret = add_app(browser)
    kept = Authenticator.objects.get(type="totp").data["secret"]
    assert secret not in kept
    assert Secret(stored=kept).reveal() == secret

    again, response = sign_in()
    assert response.headers["Location"] == "/login/second-factor/"
    assert again.get("/").status_code == 302
    assert "does not fit" in read(again.post("/login/second-factor/", {"code": "000000"}))
    assert again.post("/login/second-factor/", {"code": code_of(secret)}).headers["Location"] == "/"
    assert again.get("/").status_code == 200
    assert verbs() == [
        "user.signed-in", "user.second-factor-added", "user.second-factor-added", "user.second-factor-failed",
        "user.signed-in",
    ]  # fmt: skip
    assert Audit.objects.filter(verb="user.signed-in").first().details["by"] == ["password", "second factor"]


def test_recovery_codes_are_shown_once_and_each_lets_in_once(alice):
    browser, _ = sign_in()
    add_app(browser)
    codes = RecoveryCodes(Authenticator.objects.get(type="recovery_codes")).get_unused_codes()
    assert codes[0] in read(browser.get("/account/codes/"))
    assert codes[0] not in read(browser.get("/account/codes/"))
    for expected in (302, 200):
        again, _ = sign_in()
        assert again.post("/login/second-factor/", {"code": codes[0]}).status_code == expected


def test_with_a_second_factor_a_password_alone_confirms_nothing(alice, cluster):
    browser, _ = sign_in()
    secret = add_app(browser)
    again, _ = sign_in()
    again.post("/login/second-factor/", {"code": code_of(secret)})
    address = reverse("cluster-secret", args=[cluster.uuid])
    assert again.get(address).headers["Location"].startswith("/account/confirm/code/?next=")
    assert confirm(again, address).headers["Location"].startswith("/account/confirm/code/")
    assert again.get(address).status_code == 302


def test_guesses_of_the_second_factor_end(alice):
    browser, _ = sign_in()
    add_app(browser)
    again, _ = sign_in()
    pages = [read(again.post("/login/second-factor/", {"code": "000000"})) for _ in range(11)]
    assert "Too many failed attempts" not in pages[9]
    assert "Too many failed attempts" in pages[10]


@pytest.mark.parametrize(
    ("required", "role", "led"),
    [
        pytest.param("everybody", "viewer", True, id="everybody"),
        pytest.param("administrators", "administrator", True, id="administrators"),
        pytest.param("administrators", "operator", False, id="not an operator"),
        pytest.param("optional", "administrator", False, id="optional"),
    ],
)
def test_who_must_have_a_second_factor_gets_no_further_without(settings, required, role, led):
    settings.SECOND_FACTOR = required
    make_user("alice", role, password=PASSWORD)
    browser, _ = sign_in()
    response = browser.get("/nodes/")
    assert response.headers.get("Location") == ("/account/" if led else None)
    if led:
        assert "asks for a second factor" in read(browser.get("/account/"))
        add_app(browser)
        assert browser.get("/nodes/").status_code == 200


def test_the_last_second_factor_of_who_must_have_one_stays(settings, alice):
    browser, _ = sign_in()
    add_app(browser)
    settings.SECOND_FACTOR = "everybody"
    browser.post("/account/app/remove/")
    assert Authenticator.objects.filter(type="totp").exists()
    settings.SECOND_FACTOR = "optional"
    browser.post("/account/app/remove/")
    assert not Authenticator.objects.exists()


def test_a_new_key_encrypts_second_factors_too(settings, alice):
    browser, _ = sign_in()
    add_app(browser)
    settings.KUBESPAN_KEYS = {"newer": "B" * 43 + "="} | settings.KUBESPAN_KEYS
    assert keys.rotate_keys("console", timezone.now()) == (2, [])
    assert {row.data.get("secret", row.data.get("seed"))[:6] for row in Authenticator.objects.all()} == {"newer$"}


# ----------------------------------------------------------------------------------------------------------- one's own


def test_one_signs_out_elsewhere(alice):
    here, _ = sign_in(HTTP_USER_AGENT="Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/130.0")
    there, _ = sign_in()
    assert "Firefox on Linux" in read(here.get("/account/"))
    assert UserSession.objects.count() == 2
    here.post("/account/sessions/end/")
    assert (here.get("/").status_code, there.get("/").status_code) == (200, 302)
    assert verbs(verb="user.sessions-ended") == ["user.sessions-ended"]


def test_another_password(alice):
    browser, _ = sign_in()
    form = {"oldpassword": PASSWORD, "password1": "another long one", "password2": "another long one"}
    browser.post("/account/password/", form)
    assert browser.get("/").status_code == 200
    assert sign_in(password="another long one")[1].headers["Location"] == "/"
    assert "user.password-changed" in verbs()


def test_a_failed_sign_in_is_noted_at_a_name_that_somebody_has_and_nowhere_else(alice):
    sign_in("alice", "wrong")
    sign_in("secret typed into the wrong field", "x")
    row = Audit.objects.get(verb="user.sign-in-failed")
    assert (row.target, row.actor_name, row.details["address"]) == ("alice", "somebody", "127.0.0.1")


# --------------------------------------------------------------------------------------------------------------- people


def test_people_are_listed_with_what_they_may_in_as_many_queries_as_ever(
    client, alice, cluster, django_assert_num_queries
):
    client.force_login(alice)
    make_user("bob", "viewer", cluster)
    client.get("/settings/people/")
    page = read(client.get("/settings/people/"))
    for wanted in ("administrator of the whole console", "viewer of homelab"):
        assert wanted in page
    with django_assert_num_queries(9) as few:
        client.get("/settings/people/")
    for number in range(5):
        make_user(f"p{number}", "operator", cluster)
    with django_assert_num_queries(len(few)):
        client.get("/settings/people/")
    assert "Nobody matches" in read(client.get("/settings/people/?q=zzz"))


def test_a_role_is_given_changed_and_taken(client, alice, cluster):
    client.force_login(alice)
    bob = make_user("bob")
    page = f"/settings/people/{bob.pk}/"
    client.post(page, {"role": "operator", "where": cluster.uuid})
    client.post(page, {"role": "viewer", "where": cluster.uuid})
    assert list(bob.grants.values_list("role", flat=True)) == ["viewer"]
    client.post(page, {"role": "administrator", "where": ""})
    bob.refresh_from_db()
    assert (bob.is_superuser, bob.is_staff) == (True, True)
    client.post(page + "take/")
    client.post(page + "take/", {"cluster": cluster.uuid})
    bob.refresh_from_db()
    assert (bob.is_superuser, bob.grants.exists()) == (False, False)
    assert verbs(verb__startswith="user.role") == ["user.role-given"] * 3 + ["user.role-taken"] * 2


def test_who_takes_the_last_role_in_their_cluster_sees_the_person_no_more(client, cluster):
    client.force_login(make_user("carol", "administrator", cluster))
    bob = make_user("bob", "viewer", cluster)
    page = f"/settings/people/{bob.pk}/"
    answer = client.post(page + "take/", {"cluster": cluster.uuid}, follow=True)
    assert (answer.status_code, answer.request["PATH_INFO"]) == (200, "/settings/people/")
    assert "bob has no role of cluster homelab any more." in read(answer)
    assert client.get(page).status_code == 404


def test_the_last_administrator_stays(client, alice):
    client.force_login(alice)
    page = f"/settings/people/{alice.pk}/"
    for send in (
        lambda: client.post(page, {"role": "viewer", "where": ""}),
        lambda: client.post(page + "take/", follow=True),
        lambda: client.post(page + "deactivate/", follow=True),
    ):
        assert "last administrator" in read(send())
    alice.refresh_from_db()
    assert (alice.is_active, alice.is_superuser) == (True, True)


def test_who_is_shut_out_is_out_at_once(client, alice):
    make_user("bob", "operator", password=PASSWORD)
    bob, _ = sign_in("bob")
    assert bob.get("/").status_code == 200
    client.force_login(alice)
    page = f"/settings/people/{User.objects.get(username='bob').pk}/"
    client.post(page + "deactivate/")
    assert bob.get("/").status_code == 302
    assert sign_in("bob")[1].headers["Location"] == "/account/inactive/"
    client.post(page + "activate/")
    assert sign_in("bob")[1].headers["Location"] == "/"
    assert verbs(actor=alice) == ["user.deactivated", "user.activated"]


def test_who_lost_a_second_factor_is_let_in_again(client, alice):
    make_user("bob", "viewer", password=PASSWORD)
    bob, _ = sign_in("bob")
    add_app(bob)
    client.force_login(alice)
    client.post(f"/settings/people/{User.objects.get(username='bob').pk}/second-factor/")
    assert sign_in("bob")[1].headers["Location"] == "/"
    assert verbs(actor=alice) == ["user.second-factor-reset"]


def test_of_two_links_for_one_name_the_second_asks_for_another(alice):
    now = timezone.now()
    _, token = invitations.invite("tests", None, name="x", role=Role.VIEWER, lifetime=timedelta(days=1), now=now)
    with pytest.raises(people.Refused, match="already exists"):
        invitations.accept(token, "alice", PASSWORD, now)
    assert invitations.accept(token, "bob", PASSWORD, now).username == "bob"


@pytest.mark.parametrize(
    ("change", "after"),
    [pytest.param(None, timedelta(days=2), id="expired"), pytest.param("withdraw", timedelta(), id="withdrawn")],
)
def test_a_link_that_lets_nobody_in(client, alice, change, after):
    now = timezone.now()
    made, token = invitations.invite("tests", None, name="x", role=Role.VIEWER, lifetime=timedelta(days=1), now=now)
    if change:
        invitations.withdraw("tests", made, now)
    with pytest.raises(people.Refused) as refused:
        invitations.accept(token, "bob", PASSWORD, now + after)
    assert refused.value.status == 410
    assert token not in made.digest
