"""API tokens: what a program may read by one, as whom, and what it may not."""

import json
from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from django.urls import reverse
from django.utils import timezone

from nodes import bearer
from nodes.access import may
from nodes.models import ApiToken, Audit, Cluster, Role
from nodes.models.roles import Roles, limit_roles, roles_of
from nodes.services import api_tokens, tokens
from nodes.services.refused import Refused
from tests.factories import NOW, enrol, make_cluster, make_user

pytestmark = pytest.mark.django_db

NODES = "/nodes/?_export=json"


@pytest.fixture
def cluster():
    return make_cluster("homelab")


def make_api_token(user, role="viewer", *, now=None, days=1, name="script"):
    return api_tokens.create_api_token(
        user, name=name, role=role, lifetime=timedelta(days=days), now=now or timezone.now()
    )


def bear(plain):
    return {"HTTP_AUTHORIZATION": f"Bearer {plain}"}


def said(answer):
    return answer.status_code, answer.json()["code"]


def test_a_program_reads_what_its_owner_may_see(client, cluster):
    node = enrol(cluster)
    hidden = enrol(make_cluster("hidden"))
    token, plain = make_api_token(make_user("bob", "viewer", cluster))
    answer = client.get(NODES, **bear(plain))
    assert [row["name"] for row in json.loads(answer.content)] == [node.name]
    assert hidden.name not in answer.content.decode()
    assert client.get("/clusters/?_export=csv", **bear(plain)).content.decode().count("homelab") == 1
    token.refresh_from_db()
    assert token.last_used is not None
    assert client.get(NODES).status_code == 302, "no session was begun"


def test_how_the_console_stands_is_told_to_programs(client, valkey):
    _, plain = make_api_token(make_user("bob", "viewer"))
    told = client.get("/api/health", **bear(plain)).json()
    assert (told["state"], told["parts"]["redis"]["state"], told["queued"]) == ("down", "up", 0)
    assert client.get("/api/health").status_code == 302


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/nodes/", (403, "not-a-page"), id="a page"),
        pytest.param("/admin/nodes/node/", (403, "not-a-page"), id="the admin"),
        pytest.param("/nothing/?_export=json", (404, "not-found"), id="nothing there"),
        pytest.param("/nodes/?_export=pdf", (400, "bad-request"), id="no such kind"),
    ],
)
def test_what_a_token_is_not_for(path, expected, client):
    _, plain = make_api_token(make_user("root", is_superuser=True), "administrator")
    assert said(client.get(path, **bear(plain))) == expected


@pytest.mark.parametrize(
    "page", ["overview", "account", "settings-about", "settings-webhook-create", "help", "admin:index"]
)
def test_a_page_that_has_no_file_is_not_read_as_one(page, client):
    _, plain = make_api_token(make_user("root", is_superuser=True), "administrator")
    assert said(client.get(reverse(page), {"_export": "json"}, **bear(plain))) == (403, "not-a-page")


@pytest.mark.parametrize("page", ["settings-people", "settings-alerts", "settings-keys"])
@pytest.mark.parametrize(("role", "status"), [("operator", 403), ("administrator", 200)])
def test_lists_of_the_settings_are_for_tokens_of_administrators(page, role, status, client):
    _, plain = make_api_token(make_user("root", is_superuser=True), role)
    assert client.get(reverse(page), {"_export": "json"}, **bear(plain)).status_code == status


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_a_token_changes_nothing(method, client, cluster):
    _, plain = make_api_token(make_user("root", is_superuser=True), "administrator")
    path = f"/clusters/{cluster.uuid}/delete/?_export=json"
    answer = getattr(client, method)(path, {"typed_name": "homelab"}, **bear(plain))
    assert said(answer) == (405, "read-only")
    assert Cluster.objects.exists()


def test_a_token_of_an_administrator_sees_no_more_than_its_role(client, cluster):
    root = make_user("root", is_superuser=True)
    _, plain = make_api_token(root, "viewer")
    Audit.objects.create(at=NOW, actor_name="console", verb="console.first-code-made", target="of the console")
    assert "of the console" not in client.get("/activity/?tab=audit&_export=csv", **bear(plain)).content.decode()
    _, plain = make_api_token(root, "administrator")
    assert "of the console" in client.get("/activity/?tab=audit&_export=csv", **bear(plain)).content.decode()


@pytest.mark.parametrize(
    ("columns", "role", "most", "expected"),
    [
        pytest.param({"is_superuser": True}, None, "operator", "operator", id="of a superuser"),
        pytest.param({}, "administrator", "viewer", "viewer", id="of more"),
        pytest.param({}, "viewer", "administrator", "viewer", id="of less"),
    ],
)
def test_roles_are_limited(columns, role, most, expected):
    user = limit_roles(make_user("bob", role, **columns), Role(most))
    assert roles_of(user) == Roles(Role(expected))
    assert may(user, "manage_console") is (expected == "administrator")


def test_a_role_in_one_cluster_is_limited_as_well(cluster):
    user = limit_roles(make_user("bob", "administrator", cluster), Role.VIEWER)
    assert roles_of(user) == Roles(None, {cluster.pk: Role.VIEWER})


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        pytest.param(lambda token: ApiToken.objects.all().delete(), "api-token-unknown", id="unknown"),
        pytest.param(lambda token: ApiToken.objects.update(revoked_at=NOW), "api-token-revoked", id="revoked"),
        pytest.param(lambda token: ApiToken.objects.update(expires=NOW), "api-token-expired", id="expired"),
        pytest.param(lambda token: type(token.user).objects.update(is_active=False), "api-token-user", id="dismissed"),
    ],
)
def test_a_token_that_is_worth_nothing(spoil, code, client):
    token, plain = make_api_token(make_user("bob", "viewer"))
    spoil(token)
    answer = client.get(NODES, **bear(plain))
    assert said(answer) == (401, code)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_token_needs_the_second_factor_that_its_owner_needs(client, settings):
    settings.SECOND_FACTOR = "administrators"
    root = make_user("root", "administrator")
    _, plain = make_api_token(root)
    _, of_a_viewer = make_api_token(make_user("bob", "viewer"))
    assert said(client.get(NODES, **bear(plain))) == (403, "second-factor")
    assert client.get(NODES, **bear(of_a_viewer)).status_code == 200
    Authenticator.objects.create(user=root, type=Authenticator.Type.TOTP, data={"secret": ""})
    assert client.get(NODES, **bear(plain)).status_code == 200


def test_whoever_guesses_waits_and_others_do_not(client, valkey):
    _, plain = make_api_token(make_user("bob", "viewer"))
    for _ in range(bearer.ATTEMPTS):
        assert client.get(NODES, **bear("kapi_guess")).status_code == 401
    answer = client.get(NODES, **bear(plain))
    assert said(answer) == (429, "throttled")
    assert int(answer.headers["Retry-After"]) > 0
    assert client.get(NODES, **bear(plain), REMOTE_ADDR="198.51.100.9").status_code == 200


def test_a_token_is_let_in_without_redis(client, valkey):
    _, plain = make_api_token(make_user("bob", "viewer"))
    valkey.stop()
    assert client.get(NODES, **bear(plain)).status_code == 200
    assert client.get(NODES, **bear("kapi_guess")).status_code == 401


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer kst_something", "Basic a2FwaV8=", "kapi_x"],
    ids=["none", "empty", "other", "basic", "bare"],
)
def test_other_headers_are_nobodys_token(header, client):
    assert client.get(NODES, HTTP_AUTHORIZATION=header).status_code == 302


def test_a_token_in_an_address_is_not_believed(client):
    _, plain = make_api_token(make_user("bob", "viewer"))
    assert client.get(f"{NODES}&token={plain}").status_code == 302


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"name": " "}, "name", id="no name"),
        pytest.param({"role": "operator"}, "role", id="more than oneself"),
        pytest.param({"role": "god"}, "role", id="no role"),
        pytest.param({"days": 367}, "lifetime", id="for ever"),
    ],
)
def test_what_is_refused(changes, code):
    asked = {"role": "viewer"} | changes
    with pytest.raises(Refused) as refused:
        make_api_token(make_user("bob", "viewer"), **asked)
    assert refused.value.code == code
    assert not ApiToken.objects.exists()


def test_there_is_an_end_to_them(monkeypatch):
    monkeypatch.setattr(api_tokens, "MOST", 1)
    bob = make_user("bob", "viewer")
    token, _ = make_api_token(bob)
    with pytest.raises(Refused, match="revoke one"):
        make_api_token(bob)
    api_tokens.revoke_api_token(bob, token.uuid, NOW)
    make_api_token(bob)


PAGE = "settings-api-tokens"


def test_a_token_is_made_shown_once_and_revoked_by_its_page(client):
    bob = make_user("bob", "viewer")
    client.force_login(bob)
    made = client.post(reverse(PAGE), {"name": "inventory", "role": "viewer", "lifetime": "30"})
    token = ApiToken.objects.get()
    text = made.content.decode()
    plain = text.partition("data-secret>")[2].partition("<")[0]
    assert tokens.digest_token(plain) == token.digest
    assert 'data-stay-with="[data-secret]"' in text
    assert "no-store" in made.headers["Cache-Control"]
    again = client.get(reverse(PAGE)).content.decode()
    assert "inventory" in again
    assert plain not in again
    client.post(reverse("settings-api-token-revoke", args=[token.uuid]))
    assert said(client.get(NODES, **bear(plain))) == (401, "api-token-revoked")
    verbs = Audit.objects.filter(verb__startswith="api-token").order_by("pk")
    assert [*verbs.values_list("verb", "target")] == [
        ("api-token.created", "inventory"), ("api-token.revoked", "inventory")
    ]  # fmt: skip
    assert plain not in str([*Audit.objects.values_list("details", flat=True)])


def test_nobody_offers_more_than_one_has(client):
    client.force_login(make_user("bob", "operator"))
    page = client.get(reverse(PAGE)).content.decode()
    assert 'value="operator"' in page
    assert 'value="administrator"' not in page
    answer = client.post(reverse(PAGE), {"name": "x", "role": "administrator", "lifetime": "30"})
    assert answer.status_code == 400
    assert not ApiToken.objects.exists()


def test_only_administrators_see_and_revoke_those_of_others(client):
    token, _ = make_api_token(make_user("bob", "viewer"), name="of-bob")
    client.force_login(make_user("eve", "operator"))
    assert "of-bob" not in client.get(reverse(PAGE)).content.decode()
    client.post(reverse("settings-api-token-revoke", args=[token.uuid]))
    token.refresh_from_db()
    assert token.revoked_at is None
    client.force_login(make_user("root", "administrator"))
    assert "of-bob" in client.get(reverse(PAGE)).content.decode()
    client.post(reverse("settings-api-token-revoke", args=[token.uuid]))
    token.refresh_from_db()
    assert token.revoked_at is not None
    assert Audit.objects.get(verb="api-token.revoked").details == {"of": "bob"}
