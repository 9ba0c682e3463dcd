"""The first administrator: a page that exists once, for whoever can read what the console printed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection

from nodes.models import Audit, Console
from nodes.services import people
from nodes.services.refused import Refused
from tests.factories import NOW

pytestmark = pytest.mark.django_db

PASSWORD = "a long enough password"


def test_the_code_makes_the_first_administrator_and_then_is_gone():
    code = people.first_code(NOW)
    user = people.create_first_administrator(f" {code.upper()} ", "alice", PASSWORD, NOW)

    assert (user.is_staff, user.is_superuser, user.check_password(PASSWORD)) == (True, True, True)
    assert people.first_code(NOW) is None
    assert Console.objects.get().first_code == ""
    assert Audit.objects.get(verb="user.created").actor == user
    with pytest.raises(Refused) as refused:
        people.create_first_administrator(code, "mallory", PASSWORD, NOW)
    assert (refused.value.code, User.objects.count()) == ("not-first", 1)


def test_a_command_prints_the_code_where_the_console_was_not_started_by_run(capsys):
    call_command("first_code")
    printed = capsys.readouterr().out
    assert printed.startswith("first administrator: http://127.0.0.1:8000/first/  one-time code: ")
    people.create_first_administrator(printed.rpartition(" ")[2], "alice", PASSWORD, NOW)
    call_command("first_code")
    assert capsys.readouterr().out == ""


def test_the_code_is_kept_as_a_hash_and_a_new_one_replaces_it():
    first, second = people.first_code(NOW), people.first_code(NOW)
    assert second not in Console.objects.get().first_code
    with pytest.raises(Refused) as refused:
        people.create_first_administrator(first, "alice", PASSWORD, NOW)
    assert refused.value.code == "code"


def test_without_a_code_there_is_no_first_administrator():
    with pytest.raises(Refused) as refused:
        people.create_first_administrator("", "alice", PASSWORD, NOW)
    assert refused.value.code == "code"


@pytest.mark.parametrize(
    ("username", "password", "code"),
    [
        pytest.param("", PASSWORD, "username", id="no name"),
        pytest.param("a b", PASSWORD, "username", id="name with a space"),
        pytest.param("alice", "short", "password", id="short"),
        pytest.param("alice", "123456789012", "password", id="digits only"),
    ],
)
def test_what_is_wrong_is_named_and_the_code_stays_good(username, password, code):
    first = people.first_code(NOW)
    with pytest.raises(Refused) as refused:
        people.create_first_administrator(first, username, password, NOW)
    assert refused.value.code == code
    assert people.create_first_administrator(first, "alice", PASSWORD, NOW).pk


@pytest.mark.django_db(transaction=True)
def test_two_at_once_are_one_administrator():
    code = people.first_code(NOW)
    start = Barrier(4)

    def work(name):
        start.wait()
        try:
            return people.create_first_administrator(code, name, PASSWORD, NOW).username
        except Refused as refused:
            return refused.code
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, ["a1", "b2", "c3", "d4"]))
    assert results.count("not-first") == 3
    assert User.objects.count() == 1
