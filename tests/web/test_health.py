"""The probes: alive without looking at anything, ready only with everything."""

import contextlib
import json
import sqlite3

import pytest
from django.conf import settings
from django.db import connection, connections
from django.test import RequestFactory

from nodes import health


def answer(path, **request):
    reply = health.middleware(lambda _request: None)(RequestFactory().get(path, **request))
    return reply and (reply.status_code, reply.content.decode())


def readiness():
    status, body = answer("/readyz")
    return status, json.loads(body)


def test_alive_with_no_database_nor_redis(valkey):
    valkey.stop()
    assert answer("/healthz") == (200, "ok")  # without the mark django_db, a look at the database is an error


def test_any_name_is_good_enough_for_a_probe(client):
    assert client.get("/healthz", HTTP_HOST="10.9.8.7").status_code == 200


def test_other_addresses_are_not_its_business():
    assert answer("/clusters/") is None


@pytest.mark.django_db
def test_ready(valkey):
    with valkey.client() as client:
        client.set(health.WORKER_KEY, 1)
    assert readiness() == (200, {"ready": True, "checks": {"database": "ok", "redis": "ok", "worker": "ok"}})


@pytest.mark.django_db
def test_no_worker(valkey):
    status, body = readiness()
    assert (status, body["ready"]) == (503, False)
    assert body["checks"]["worker"] == "none seen lately (worker or beat is not running)"


@pytest.mark.django_db
def test_no_redis(valkey):
    valkey.stop()
    status, body = readiness()
    assert status == 503
    assert body["checks"] == {
        "database": "ok",
        "redis": "cannot connect: ConnectionError",
        "worker": "unknown while Redis is away",
    }


@pytest.mark.django_db
def test_migrations_are_missing(valkey):
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'nodes'")
    assert readiness()[1]["checks"]["database"].endswith("migrations are not applied")


@pytest.mark.django_db
def test_nothing_secret_is_said(valkey, settings):
    valkey.stop()
    settings.REDIS_URL = "redis://someone:hunter2@127.0.0.1:1/0"
    _, body = readiness()
    assert "hunter2" not in json.dumps(body)
    assert "127.0.0.1" not in json.dumps(body)


def test_the_database_is_away(python, production):
    program = (
        "import django; django.setup();"
        "from nodes import health; from django.test import RequestFactory;"
        "print(health.middleware(None)(RequestFactory().get('/readyz')).content.decode())"
    )
    environ = production | {"REDIS_URL": settings.REDIS_URL, "DJANGO_SETTINGS_MODULE": "kubespan_web.settings"}
    ran = python("-c", program, **environ)
    assert json.loads(ran.stdout)["checks"]["database"] == "cannot connect: OperationalError"


@pytest.mark.django_db(transaction=True)
def test_a_page_says_when_somebody_else_keeps_the_embedded_database(client):
    password = "a long password of nobody"
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 50")  # of 20 s
    with contextlib.closing(sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = client.post("/first/", {"code": "c", "username": "u", "password": password, "again": password})
    assert answer.status_code == 503
    assert "locked by somebody else" in answer.text


ASK = """
import django
django.setup()
from django.test import Client
client = Client()
client.cookies["sessionid"] = "of somebody who is signed in"
for path in ("/", "/login/"):
    answer = client.get(path, secure=True, headers={"host": "console.example"})
    print(answer.status_code, answer.headers.get("Retry-After"), "The database is away" in answer.text)
"""


def test_without_a_database_a_page_says_so(python, production):
    done = python("-c", ASK, **production, DJANGO_SETTINGS_MODULE="kubespan_web.settings", KUBESPAN_DEBUG="yes")
    assert done.stdout == "503 5 True\n" * 2, done.stderr
    assert "a page met no database" in done.stderr
