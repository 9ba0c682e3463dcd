"""The page on single sign-on: what the environment says, whose account is linked, and whether the provider answers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest
from allauth.socialaccount.models import SocialAccount
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from nodes import certificates
from nodes.accounts.provider import NEEDED, QUOTED, check_provider, judge, may_check, read_provider
from tests.factories import NOW, make_cluster, make_user
from tests.provider import CLIENT, SECRET, name_provider, running

pytestmark = pytest.mark.django_db

PAGE, CHECK = "settings-sign-on", "settings-sign-on-check"
CALLBACK = "/account/oidc/sso/login/callback/"
ISSUER = "https://accounts.example.com"
VARIABLES = ("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET", "OIDC_NAME", "OIDC_ROLE")


@pytest.fixture(scope="module")
def answering():
    with running() as provider:
        yield provider


@pytest.fixture
def configure(settings):
    """Name a provider, as the environment would."""
    return lambda issuer=ISSUER, secret=SECRET: name_provider(settings, issuer, secret)


@pytest.fixture
def page(client, settings):
    settings.KUBESPAN_URL = "http://testserver"
    client.force_login(make_user("root", "administrator"))

    def page(query=""):
        return client.get(reverse(PAGE) + query).content.decode()

    return page


def link(name, issuer=ISSUER, **columns):
    user = make_user(name, "viewer", **columns)
    kept = {"userinfo": {"a": "claim"}, "id_token": {"iss": issuer}} if issuer else {"a": "claim"}
    return SocialAccount.objects.create(user=user, provider="sso", uid=f"subject of {name}", extra_data=kept)


# ------------------------------------------------------------------------------------------- what the environment says


def test_without_a_provider_the_page_teaches_how_to_name_one(page, client):
    text = page()
    assert "No single sign-on yet" in text
    assert f'id="redirect-uri">http://testserver{CALLBACK}</p>' in text
    assert 'data-copy-from="redirect-uri"' in text
    assert all(f"<code>{name}</code>" in text for name in VARIABLES)
    assert "OIDC_ISSUER=https://accounts.example.com" in text
    assert 'id="linked"' not in text
    assert "Check the provider" not in text
    assert client.post(reverse(CHECK)).status_code == 404


def test_what_is_read_from_the_environment_is_shown_but_for_the_secret(page, configure):
    secret = "c0nfidential-and-s3cret"
    configure(secret=secret)
    text = page()
    assert "Continue with Example Inc" in text
    for shown in (ISSUER, CLIENT, f"http://testserver{CALLBACK}"):
        assert f'data-copy="{shown}"' in text
    assert "<span>set</span>" in text
    assert not any(secret[start : start + 6] in text for start in range(len(secret) - 5))
    assert "No single sign-on yet" not in text


def test_a_secret_that_is_empty_is_told(page, configure):
    """As the compose file's is, where no file is named."""
    configure(secret="")
    text = page()
    assert "The client secret is empty." in text
    assert "<span>set</span>" not in text


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("invited", "Nobody is let in: only whose account is linked, or who brings an invitation."),
        ("viewer", "and is viewer of the whole console"),
        ("operator", "and is operator of the whole console"),
    ],
)
def test_who_comes_by_it_uninvited_is_said_in_words(role, words, page, configure, settings):
    configure()
    settings.OIDC_ROLE = role
    text = page()
    assert words in text
    assert text.count("of the whole console") == (role != "invited")


def test_whoever_came_by_another_address_is_told_where_the_provider_sends_back_to(page, configure, settings):
    configure()
    assert "another address" not in page()
    settings.KUBESPAN_URL = "https://console.example"
    text = page()
    assert f'data-copy="https://console.example{CALLBACK}"' in text
    assert "You came by another address" in text
    assert f'data-copy="http://testserver{CALLBACK}"' in text


def test_it_is_in_the_navigation_of_administrators_alone(page, client):
    entry = f'<a href="{reverse(PAGE)}" aria-current="page">'
    assert entry in page()
    client.force_login(make_user("bob", "operator"))
    assert reverse(PAGE) not in client.get(reverse("settings-about")).content.decode()


@pytest.mark.parametrize("role", ["viewer", "operator", "administrator of a cluster"])
def test_it_is_for_administrators_of_the_console(role, client, configure, answering):
    configure(answering.url)
    given = ["administrator", make_cluster()] if " " in role else [role]
    client.force_login(make_user("bob", *given))
    for answer in (client.get(reverse(PAGE)), client.post(reverse(CHECK))):
        assert answer.status_code == 403
        assert "you need the role administrator for the whole console" in answer.content.decode()


# --------------------------------------------------------------------------------------------- whose account is linked


def test_linked_accounts_with_what_else_opens_them(page, configure):
    configure()
    assert "account is linked yet" in page()
    link("bob", password="correct horse battery")
    link("carol", is_active=False)
    text = page()
    for name in ("bob", "carol"):
        pk = User.objects.get(username=name).pk
        assert f'<a href="{reverse("settings-person", args=[pk])}">{name}</a>' in text
    row_of_bob, row_of_carol = text.split("<tbody>")[1].split("</tr>")[:2]
    assert (">set</div>" in row_of_bob, ">none<" in row_of_bob, "shut out" in row_of_bob) == (True, False, False)
    assert (">set</div>" in row_of_carol, ">none<" in row_of_carol, "shut out" in row_of_carol) == (False, True, True)
    assert "subject of" not in text
    assert "account is linked yet" not in text


def test_accounts_that_are_linked_to_no_provider_any_more_are_told(page, configure):
    link("bob")
    text = page()
    assert "There is no provider now" in text
    assert ">bob</a>" in text
    configure()
    assert "There is no provider now" not in page()


@pytest.mark.parametrize(
    ("issuer", "words"),
    [
        pytest.param(ISSUER, "", id="the present one"),
        pytest.param(f"{ISSUER}/", "", id="but for a slash"),
        pytest.param("https://former.example", "https://former.example", id="another"),
        pytest.param("", "its name was not kept", id="nobody knows who"),
    ],
)
@pytest.mark.parametrize("configured", [ISSUER, f"{ISSUER}/"])
def test_links_to_a_former_provider_are_marked_in_words(issuer, words, configured, page, configure):
    configure(configured)
    link("bob", issuer)
    text = page()
    row = text.split("<tbody>")[1].split("</tr>")[0]
    assert ("former provider" in row, words in row) == (bool(words), True)
    assert ("1 link with another issuer than" in text, "links anew under Sign-in" in text) == (bool(words),) * 2


def test_links_to_a_former_provider_are_counted_on_each_page_of_the_list(page, configure, client):
    configure()
    for number in range(26):
        link(f"p-{number:02}", ISSUER if number < 25 else "https://former.example")
    text = page()
    assert "1 link with another issuer than" in text
    assert "https://former.example" not in text
    assert "https://former.example" in page("?page=2")
    rows = client.get(reverse(PAGE), {"_export": "json"}).json()
    assert [row["issuer"] for row in rows[24:]] == [ISSUER, "https://former.example"]


def test_linked_accounts_are_a_list_of_few_queries(page, client, configure):
    configure()
    link("p-00")
    page()
    with CaptureQueriesContext(connection) as few:
        page()
    for number in range(1, 27):
        link(f"p-{number:02}")
    with CaptureQueriesContext(connection) as many:
        assert page().count('href="/settings/people/') > 25
    assert len(many) == len(few)
    assert "27 accounts" in page()
    assert [row.user.username for row in client.get(reverse(PAGE), {"page": 2}).context["linked"]] == ["p-25", "p-26"]
    rows = client.get(reverse(PAGE), {"_export": "json"}).json()
    assert [row["name"] for row in rows] == [f"p-{number:02}" for number in range(27)]
    assert rows[0].keys() == {"name", "may_sign_in", "issuer", "has_password", "linked", "last_used"}


# ----------------------------------------------------------------------------------------- whether the provider answers

ADDRESS = f"{ISSUER}/.well-known/openid-configuration"
DESCRIBED = dict.fromkeys(NEEDED, f"{ISSUER}/there") | {"issuer": ISSUER}


@pytest.mark.parametrize(
    ("described", "sentence"),
    [
        pytest.param(DESCRIBED, "The provider answers, and is the one that OIDC_ISSUER names.", id="fine"),
        pytest.param(None, f"What {ADDRESS} answers is no JSON object: no provider is there.", id="no JSON"),
        pytest.param([], f"What {ADDRESS} answers is no JSON object: no provider is there.", id="a list"),
        pytest.param(
            DESCRIBED | {"issuer": f"{ISSUER}/"},
            f"The provider calls itself {ISSUER}/, and OIDC_ISSUER is {ISSUER}. Set it to what the provider says.",
            id="another issuer",
        ),
        pytest.param(
            DESCRIBED | {"token_endpoint": None, "jwks_uri": 1},
            "The provider does not say its token_endpoint and jwks_uri.",
            id="without addresses",
        ),
        pytest.param({}, f"The provider does not say its {' and '.join(NEEDED)}.", id="nothing"),
    ],
)
def test_what_a_provider_says_of_itself(described, sentence):
    assert judge(described, ISSUER, ADDRESS) == (described is DESCRIBED, sentence)


def test_an_issuer_is_compared_to_its_end_and_shown_from_its_beginning():
    long = f"{ISSUER}/{'a' * QUOTED}"
    assert judge(DESCRIBED | {"issuer": long}, long, ADDRESS).fine
    found = judge(DESCRIBED | {"issuer": f"{long}/"}, ISSUER, ADDRESS)
    assert f"The provider calls itself {long[:QUOTED]}…, and OIDC_ISSUER is {ISSUER}." in found.sentence
    assert not judge(DESCRIBED | {"issuer": long}, long[:QUOTED], ADDRESS).fine


@pytest.fixture
def answer():
    """A server that gives each that comes the same bytes; or none at all, and stays connected."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve(said, context):
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                one, _ = listener.accept()
                kept.append(one)
                if said is not None:
                    with contextlib.suppress(ssl.SSLError):
                        say(context.wrap_socket(one, server_side=True) if context else one, said)

    def say(one, said):
        with one:
            one.recv(65536)
            one.sendall(said)

    def answer(said, context=None):
        threading.Thread(target=serve, args=[said, context], daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield answer
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for one in kept:
        one.close()


def http(status, body=b"", *headers):
    lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


WELL_KNOWN = "/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        pytest.param(http("200 OK", b"<html>"), "What http://{host}{path} answers is no JSON object", id="a web site"),
        pytest.param(http("404 Not Found"), "http://{host}{path} answers 404 Not Found. OIDC_ISSUER is not", id="404"),
        pytest.param(http("302 Found", b"", f"Location: {WELL_KNOWN}"), "never arrives.", id="redirects for ever"),
        pytest.param(
            http("302 Found", b"", "Location: https://[bad"),
            "http://{host}{path} leads on to https://[bad, which cannot be asked: ",
            id="redirects to no address",
        ),
        pytest.param(
            http("302 Found", b"", "Location: https://a..b/"),
            "http://{host}{path} leads on to https://a..b/, which cannot be asked: ",
            id="redirects to no host",
        ),
        pytest.param(
            http("302 Found", b"", "Location: http://127.0.0.1:9/"),
            "127.0.0.1:9 cannot be reached: Connection refused.",
            id="redirects where nobody listens",
        ),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "{host} cannot be reached: SSH-2.0-OpenSSH_9.2.", id="no HTTP"),
        pytest.param(b"", "{host} cannot be reached: Remote end closed connection without response.", id="closes"),
        pytest.param(None, "{host} does not answer within 0.2 s.", id="silent"),
    ],
)
def test_what_is_no_provider_is_told_in_a_sentence(said, sentence, answer, configure):
    host = answer(said)
    configure(f"http://{host}")
    found = check_provider(read_provider(), seconds=0.2 if said is None else 5)
    assert not found.fine
    assert sentence.format(host=host, path=WELL_KNOWN) in found.sentence


@pytest.mark.parametrize(
    ("issuer", "sentence"),
    [
        pytest.param("http://127.0.0.1:9", "127.0.0.1:9 cannot be reached: Connection refused.", id="nobody listens"),
        pytest.param("accounts.example.com", "OIDC_ISSUER is no address", id="no scheme"),
        pytest.param("https://", "it begins with https:// or http://, and a host follows.", id="no host"),
        pytest.param("ftp://accounts.example.com", "OIDC_ISSUER is no address", id="not the web"),
        pytest.param("https://[bad", "OIDC_ISSUER is no address", id="a bracket"),
        pytest.param("https://a..b", "OIDC_ISSUER is no address", id="an empty label"),
        pytest.param("https://accounts.example.com:https", "OIDC_ISSUER is no address", id="a word for a port"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(issuer, sentence, configure):
    configure(issuer)
    assert sentence in check_provider(read_provider()).sentence


@pytest.mark.parametrize(
    ("proxy", "sentence"),
    [
        pytest.param("http://", "a.example is asked by way of a proxy, and the one that the env", id="no host"),
        pytest.param("http://a..b:3128", "a.example cannot be reached: label empty or too long.", id="an empty label"),
    ],
)
def test_a_proxy_that_is_no_address_is_not_the_issuers_fault(proxy, sentence, configure, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "")
    configure("http://a.example")
    assert sentence in check_provider(read_provider()).sentence


def test_a_certificate_that_nobody_trusts_is_told(answer, configure, tmp_path):
    made = certificates.ensure(tmp_path, ["127.0.0.1"], NOW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    host = answer(http("200 OK"), context)
    configure(f"https://{host}")
    sentence = f"There is no TLS with {host}: self-signed certificate."
    assert check_provider(read_provider()) == (False, sentence)


def test_a_press_of_the_button_asks_the_provider(page, client, configure, answering, valkey, monkeypatch):
    monkeypatch.setattr("nodes.accounts.provider.PAUSE_SECONDS", 3600)
    configure(answering.url)
    assert "Check the provider" in page()
    text = client.post(reverse(CHECK)).content.decode()
    assert "The provider answers, and is the one that OIDC_ISSUER names. Whether client id" in text
    assert "<html" in text
    again = client.post(reverse(CHECK))
    assert (again.status_code, "Somebody checked a moment ago" in again.content.decode()) == (429, True)
    piece = client.post(reverse(CHECK), headers={"HX-Request": "true"}).content.decode()
    assert "Somebody checked a moment ago" in piece
    assert "<html" not in piece


def test_a_check_needs_the_pages_own_form(configure, answering):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(make_user("root", "administrator"))
    configure(answering.url)
    assert strict.post(reverse(CHECK)).status_code == 403
    assert strict.get(reverse(CHECK)).status_code == 405


def test_while_redis_is_away_it_may(valkey):
    valkey.stop()
    assert may_check()
