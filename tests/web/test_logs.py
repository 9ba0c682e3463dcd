"""Lines that programs read, without secrets."""

import json
import logging
import logging.config

import pytest
import structlog
from django.db import OperationalError
from django.test import Client
from django.urls import URLPattern, get_resolver, reverse

from kubespan_web import logs
from nodes.services import invitations


@pytest.fixture(params=["json"])
def lines(request, capsys):
    kept = structlog.get_config()
    logging.config.dictConfig(logs.configure(request.param, "INFO"))
    parse = json.loads if request.param == "json" else str
    yield lambda: [parse(line) for line in capsys.readouterr().err.splitlines()]
    structlog.configure(**kept)
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}})


def test_an_event_is_one_line_of_json(lines):
    structlog.get_logger("room").info("node approved", node="web-1")
    (line,) = lines()
    assert line | {"timestamp": ""} == {
        "event": "node approved",
        "node": "web-1",
        "level": "info",
        "logger": "room",
        "timestamp": "",
    }


def test_the_standard_librarys_loggers_go_the_same_way(lines):
    logging.getLogger("uvicorn.error").warning("listening on %s", "loopback", extra={"token": "abc"})
    (line,) = lines()
    assert (line["event"], line["token"]) == ("listening on loopback", logs.BLOT)


def test_an_error_is_one_line_too(lines):
    try:
        raise ValueError("half\na\nfile")
    except ValueError:
        structlog.get_logger("room").exception("could not read")
    (line,) = lines()
    assert "ValueError: half" in line["exception"]


@pytest.mark.parametrize("lines", ["json", "text"], indirect=True)
def test_an_error_does_not_tell_what_its_functions_held(lines):
    def fail(body):
        raise ValueError("half a file")

    try:
        fail(f"{40 + 2} and other secrets")
    except ValueError:
        structlog.get_logger("room").exception("could not read")
    said = str(lines())
    assert "half a file" in said
    assert "42 and other" not in said


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param({"token": "abc"}, {"token": logs.BLOT}, id="by name"),
        pytest.param({"cluster_secret": "abc"}, {"cluster_secret": logs.BLOT}, id="by a part of the name"),
        pytest.param({"Private-Key": "abc"}, {"Private-Key": logs.BLOT}, id="in any case"),
        pytest.param({"a": {"psk": "abc", "b": 1}}, {"a": {"psk": logs.BLOT, "b": 1}}, id="deeper"),
        pytest.param({"a": [{"password": "abc"}]}, {"a": [{"password": logs.BLOT}]}, id="in a list"),
        pytest.param({"token": None}, {"token": None}, id="nothing to hide"),
        pytest.param({"public_key": "abc"}, {"public_key": "abc"}, id="public"),
        pytest.param(
            {"event": "Gone: /invitation/abc/"}, {"event": f"Gone: /invitation/{logs.BLOT}/"}, id="an address in words"
        ),
        pytest.param(
            {"a": ["/invitation/abc?b=c d"]}, {"a": [f"/invitation/{logs.BLOT}?b=c d"]}, id="an address that ends early"
        ),
        pytest.param({"a": "/nodes/7/"}, {"a": "/nodes/7/"}, id="any other address"),
    ],
)
def test_redact(given, kept):
    assert logs.redact(None, "info", given) == kept


INVITATION = "an-invitation-that-nobody-may-read"
CODE = "a-code-of-the-provider"


@pytest.fixture
def browser():
    """Whose forms lack what this console's have."""
    return Client(enforce_csrf_checks=True, raise_request_exception=False)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "form", "fault", "status"),
    [
        pytest.param(f"/invitation/{INVITATION}/", None, None, 410, id="an invitation"),
        pytest.param(f"/invitation/{INVITATION}/", {}, None, 403, id="one without the form's token"),
        pytest.param(f"/invitation/{INVITATION}", None, None, 301, id="one cut short"),
        pytest.param(f"/invitation/{INVITATION}/more", None, None, 404, id="one with something behind it"),
        pytest.param(f"/invitation/{INVITATION}/", None, OperationalError("away"), 503, id="one without a database"),
        pytest.param(f"/invitation/{INVITATION}/", None, ValueError("a fault"), 500, id="one that meets a fault"),
        pytest.param(f"/account/oidc/sso/login/callback/?code={CODE}&state=x", None, None, 404, id="single sign-on"),
        pytest.param(f"/login/?next=/invitation/{INVITATION}/", {}, None, 403, id="on the way to one"),
    ],
)
@pytest.mark.parametrize("lines", ["json", "text"], indirect=True)
def test_no_address_that_lets_somebody_in_is_logged(lines, browser, monkeypatch, path, form, fault, status):
    def fail(*_):
        raise fault

    if fault is not None:
        monkeypatch.setattr(invitations, "find_open", fail)
    lines()
    answer = browser.get(path) if form is None else browser.post(path, form)
    said = str(lines())

    assert answer.status_code == status
    assert "request_started" in said
    assert "request_finished" in said or "request_failed" in said
    assert INVITATION not in said
    assert CODE not in said


def test_every_route_that_has_a_secret_in_it_is_known():
    """One that is added must be among those that logs.py blots out."""
    routes = {
        pattern.name: name
        for pattern in find_routes(get_resolver())
        for name in pattern.pattern.converters
        if logs.SECRET_NAME.search(name)
    }
    assert "invitation" in routes
    for route, name in routes.items():
        address = reverse(route, kwargs={name: INVITATION})
        assert INVITATION not in str(logs.redact(None, "info", {"event": address}))


def find_routes(resolver):
    for pattern in resolver.url_patterns:
        yield from [pattern] if isinstance(pattern, URLPattern) else find_routes(pattern)
