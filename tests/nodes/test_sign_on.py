"""Single sign-on, against a real provider on loopback."""

from __future__ import annotations

import http.client
import re
from datetime import timedelta
from urllib.parse import urlparse

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time
from allauth.socialaccount.models import SocialAccount, SocialToken
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from nodes.models import Audit, Role
from nodes.secrets import Secret
from nodes.services import invitations
from tests.factories import make_cluster, make_user
from tests.provider import name_provider, running

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

START = "/account/oidc/sso/login/"
PASSWORD = "correct horse battery"
APP = "JBSWY3DPEHPK3PXP"
"""What somebody's authenticator app makes codes from."""


@pytest.fixture(scope="module")
def answering():
    with running() as provider:
        yield provider


@pytest.fixture
def provider(answering, settings):
    name_provider(settings, answering.url)
    return answering


def go_there(browser, address=START):
    """Follow the way to the provider, and what it answers back to the console."""
    response = browser.get(address)
    assert response.status_code == 302, response.content
    asked = urlparse(response.headers["Location"])
    connection = http.client.HTTPConnection(asked.netloc)
    connection.request("GET", f"{asked.path}?{asked.query}")
    back = urlparse(connection.getresponse().headers["Location"])
    connection.close()
    return browser.get(f"{back.path}?{back.query}")


def test_who_is_not_invited_gets_no_account(provider):
    page = go_there(Client()).content.decode()
    assert "You are not invited yet" in page
    assert not User.objects.exists()


def test_an_invitation_is_accepted_by_it(provider):
    cluster = make_cluster("homelab")
    now = timezone.now()
    role, day = Role.OPERATOR, timedelta(days=1)
    made, token = invitations.invite("alice", cluster, name="Bob", role=role, lifetime=day, now=now)
    browser = Client()
    assert "Continue with Example Inc" in browser.get(f"/invitation/{token}/").content.decode()
    assert go_there(browser).headers["Location"] == "/"
    assert browser.get(cluster.get_absolute_url()).status_code == 200
    bob = User.objects.get()
    assert (bob.username, bob.has_usable_password()) == ("bob", False)
    assert bob.grants.get().role == "operator"
    made.refresh_from_db()
    assert made.accepted_by == bob
    assert go_there(Client()).headers["Location"] == "/"  # and from then on without
    assert User.objects.count() == 1
    assert Audit.objects.filter(verb="user.signed-in").first().details["by"] == ["single sign-on"]
    assert not SocialToken.objects.exists()


def test_whoever_the_provider_vouches_for_may_have_a_role(provider, settings):
    settings.OIDC_ROLE = "viewer"
    make_user("bob")  # another one
    browser = Client()
    assert go_there(browser).headers["Location"] == "/"
    assert browser.get("/").status_code == 200
    made = SocialAccount.objects.get().user
    assert made.username.startswith("bob")
    assert made.username != "bob"
    assert made.grants.get().role == "viewer"


def test_an_account_is_linked_from_its_own_page_alone(provider):
    alice = make_user("alice", "administrator", password=PASSWORD)
    browser = Client()
    browser.post("/login/", {"login": "alice", "password": PASSWORD})
    for key in ("", "&key=", "&key=guess"):
        assert browser.get(f"{START}?process=connect{key}").status_code == 403
    page = browser.get("/account/").content.decode()
    assert browser.get(f"{START}?process=connect&key=\N{SNOWMAN}").status_code == 403
    (address,) = re.findall(rf'{START}\?process=connect&amp;key=[^"]+', page)
    address = address.replace("&amp;", "&")
    assert browser.get(address).headers["Location"].startswith("/account/confirm/")
    browser.post("/account/confirm/", {"password": PASSWORD})
    assert go_there(browser, address).headers["Location"] == "/account/"
    assert SocialAccount.objects.get().user == alice
    assert go_there(Client()).headers["Location"] == "/"
    browser.post("/account/sign-on/unlink/")
    assert not SocialAccount.objects.exists()
    assert {"user.sign-on-linked", "user.sign-on-unlinked"} <= set(Audit.objects.values_list("verb", flat=True))


@pytest.mark.parametrize("kept", [{"id_token": {"iss": "https://former.example"}}, {"sub": "1"}])
def test_whoever_is_linked_with_a_former_provider_links_anew_and_unlinks_that(provider, kept):
    alice = make_user("alice", "administrator", password=PASSWORD)
    former = SocialAccount.objects.create(user=alice, provider="sso", uid="1", extra_data=kept)
    browser = Client()
    browser.post("/login/", {"login": "alice", "password": PASSWORD})
    page = browser.get("/account/").content.decode()
    assert "Your account is linked with a former provider." in page
    assert ("https://former.example" in page, "one whose name was not kept" in page) == (
        "id_token" in kept,
        "sub" in kept,
    )
    (address,) = re.findall(rf'{START}\?process=connect&amp;key=[^"]+', page)
    address = address.replace("&amp;", "&")
    browser.get(address)
    browser.post("/account/confirm/", {"password": PASSWORD})
    assert go_there(browser, address).headers["Location"] == "/account/"
    page = browser.get("/account/").content.decode()
    assert "Your account is linked with a former provider." not in page
    assert ("Link it" in page, page.count(">Unlink<")) == (False, 2)
    browser.post("/account/sign-on/unlink/", {"former": "yes"})
    assert SocialAccount.objects.exclude(pk=former.pk).get().user == alice
    page = browser.get("/account/").content.decode()
    assert ("Former provider" in page, page.count(">Unlink<")) == (False, 1)
    assert go_there(Client()).headers["Location"] == "/"


def test_who_has_nothing_to_confirm_with_is_told_so_whatever_their_mail_address(provider, settings):
    settings.OIDC_ROLE = "viewer"
    browser = Client()
    go_there(browser)
    assert EmailAddress.objects.get().verified
    answer = browser.post("/account/sign-on/unlink/")
    assert answer.status_code == 403
    assert "neither a password nor a second factor" in answer.content.decode()


def test_who_has_no_password_unlinks_a_former_provider_only_beside_the_present_one(client, provider, settings):
    alice = make_user("alice", "administrator")
    Authenticator.objects.create(user=alice, type="totp", data={"secret": Secret(APP).dump()})
    for issuer in ("https://former.example", provider.url):
        kept = {"id_token": {"iss": issuer}}
        SocialAccount.objects.create(user=alice, provider="sso", uid=issuer, extra_data=kept)
    client.force_login(alice)
    code = format_hotp_value(hotp_value(APP, list(yield_hotp_counters_from_time())[1]))
    assert client.post("/account/confirm/code/", {"code": code}).status_code == 302

    def unlink():
        return client.post("/account/sign-on/unlink/", {"former": "yes"}, follow=True).content.decode()

    assert "linked with a former provider no more" in unlink()
    assert SocialAccount.objects.get().uid == provider.url
    settings.OIDC_ISSUER = "https://next.example"
    assert "Set a password first" in unlink()
    assert SocialAccount.objects.get().uid == provider.url


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "https://[bad", "https://a..b"])
def test_a_provider_that_is_away_is_told(provider, settings, address):
    settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"][0]["settings"] = {"server_url": address}
    response = Client().get(START)
    assert response.status_code == 502
    assert "Single sign-on failed" in response.content.decode()


def test_a_forged_answer_lets_nobody_in(provider):
    browser = Client()
    browser.get(START)
    answer = browser.get(f"{START}callback/?code=forged&state=forged")
    assert "Single sign-on failed" in answer.content.decode()
    assert "_auth_user_id" not in browser.session


def test_another_providers_person_is_somebody_else(provider, settings):
    settings.OIDC_ROLE = "viewer"
    go_there(Client())
    first = User.objects.get()
    with running() as another:
        assert another.person["sub"] == provider.person["sub"]
        name_provider(settings, another.url)
        assert go_there(Client()).headers["Location"] == "/"
    assert User.objects.exclude(pk=first.pk).count() == 1
    name_provider(settings, provider.url)
    assert go_there(Client()).headers["Location"] == "/"
    assert User.objects.count() == 2


@pytest.mark.parametrize("same", [True, False])
def test_a_link_known_by_the_bare_subject_is_good_for_the_issuer_it_was_last_used_with(provider, same):
    issuer = provider.url if same else "https://former.example"
    kept = {"userinfo": {"sub": "1"}, "id_token": {"sub": "1", "iss": issuer}}
    SocialAccount.objects.create(user=make_user("alice", "viewer"), provider="sso", uid="1", extra_data=kept)
    page = go_there(Client())
    assert (page.headers.get("Location") == "/") is same
    assert SocialAccount.objects.get().extra_data["id_token"]["iss"] == issuer, "it is not another's from now on"


@pytest.mark.parametrize("kept", [{"sub": "1"}, {"userinfo": {"sub": "1"}}, {"id_token": {"sub": "1"}}])
def test_a_link_that_names_no_issuer_is_good_for_nobody(provider, kept):
    link = SocialAccount.objects.create(user=make_user("alice", "viewer"), provider="sso", uid="1", extra_data=kept)
    assert "You are not invited yet" in go_there(Client()).content.decode()
    link.refresh_from_db()
    assert link.extra_data == kept


@pytest.mark.parametrize("role", ["invited", "viewer"])
def test_a_subject_that_is_what_another_is_known_by_is_somebody_else(provider, settings, monkeypatch, role):
    settings.OIDC_ROLE = "viewer"
    go_there(Client())
    first = SocialAccount.objects.get()
    settings.OIDC_ROLE = role
    monkeypatch.setitem(provider.person, "sub", first.uid)
    for _ in range(2):
        page = go_there(Client())
        assert (page.headers.get("Location") == "/") is (role == "viewer")
    first.refresh_from_db()
    assert first.extra_data["userinfo"]["sub"] == "1", "nobody else came in by it"
    assert SocialAccount.objects.exclude(user=first.user).count() == (role == "viewer")
