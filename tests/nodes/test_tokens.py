"""Enrolment tokens: made, shown once, worthless in time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nodes.models import Audit, Token
from nodes.services import tokens
from nodes.services.refused import Refused
from tests.factories import NOW, make_cluster, make_token, make_user

pytestmark = pytest.mark.django_db


def test_a_token_is_kept_as_a_hash_only():
    user = make_user("alice", "operator")
    token, plain = tokens.create_token(
        user, make_cluster(), name="site", uses=3, lifetime=timedelta(days=1), approval_required=True, now=NOW
    )

    assert token.created_by == user
    assert (token.uses, token.expires, token.approval_required) == (3, NOW + timedelta(days=1), True)
    row = Token.objects.values().get()
    assert plain not in str(row) + str(list(Audit.objects.values()))
    assert row["digest"] == tokens.digest_token(plain)
    assert len(plain) > 40


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"name": "  "}, "name", id="no name"),
        pytest.param({"name": "x" * 64}, "name", id="name too long"),
        pytest.param({"uses": 0}, "uses", id="no use"),
        pytest.param({"uses": 10_001}, "uses", id="too many uses"),
        pytest.param({"lifetime": timedelta(0)}, "lifetime", id="no time"),
        pytest.param({"lifetime": timedelta(days=366)}, "lifetime", id="too long"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(changes, code):
    cluster = make_cluster()
    with pytest.raises(Refused) as refused:
        make_token(cluster, **changes)
    assert refused.value.code == code
    assert not Token.objects.exists()


def test_a_token_says_why_it_is_worthless():
    token, _ = make_token(make_cluster())

    assert token.worthless(NOW) is None
    assert token.worthless(NOW + timedelta(hours=1)) == "expired"
    token.used = 1
    assert token.worthless(NOW) == "used-up"
    assert tokens.revoke_token("tests", token, NOW).worthless(NOW) == "revoked"


def test_revoking_twice_is_one_act():
    token, _ = make_token(make_cluster())
    tokens.revoke_token("tests", token, NOW)
    again = tokens.revoke_token("tests", token, NOW + timedelta(minutes=1))

    assert again.revoked_at == NOW
    assert Audit.objects.filter(verb="token.revoked").count() == 1
