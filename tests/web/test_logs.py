"""Lines that programs read, without secrets."""

import json
import logging
import logging.config

import pytest
import structlog

from kubespan_web import logs


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
    ],
)
def test_redact(given, kept):
    assert logs.redact(None, "info", given) == kept
