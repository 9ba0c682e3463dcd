"""The surroundings of every test: settings, a data directory, where its Valkey listens, PostgreSQL on demand.

Loaded by `-p tests.environment`, before Django's settings are. Each xdist worker loads it too, and so has a data
directory and a Valkey of its own; PostgreSQL is started once, by whoever started pytest.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.postgresql import PostgreSQL, find_programs

_stack: list = []


def pytest_addoption(parser):
    parser.addoption(
        "--database", choices=["sqlite", "postgresql"], default="sqlite", help="what the console's rows are kept in"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config, parser, args):
    data = Path(tempfile.mkdtemp(prefix="kubespan-tests-"))
    _stack.append(lambda: shutil.rmtree(data, ignore_errors=True))
    os.environ |= {
        "KUBESPAN_SECRET_KEY": "a secret key that only tests know, and long enough at that",
        "KUBESPAN_KEYS": "tests:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "KUBESPAN_URL": "http://127.0.0.1:8000",
        "KUBESPAN_DATA": str(data),
        "KUBESPAN_DEBUG": "yes",
        "KUBESPAN_AGENT_FILES": str(data / "no agent"),
        "ALLOWED_HOSTS": "127.0.0.1,localhost,testserver",
        "REDIS_URL": f"unix://{data}/valkey.sock",
        "LOG_LEVEL": "WARNING",
        # Playwright keeps a loop running in the thread in which its tests also use the database.
        "DJANGO_ALLOW_ASYNC_UNSAFE": "yes",
    }
    if early_config.known_args_namespace.database == "postgresql" and "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ["DATABASE_URL"] = start_postgresql()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    while _stack:
        _stack.pop()()


def start_postgresql() -> str:
    """Make and start a private cluster; returns its address."""
    programs = find_programs()
    if programs is None:
        raise pytest.UsageError("no PostgreSQL on this machine: apt-get install -y --no-install-recommends postgresql")
    directory = Path(tempfile.mkdtemp(prefix="kubespan-postgresql-"))
    _stack.append(lambda: shutil.rmtree(directory, ignore_errors=True))
    server = PostgreSQL(programs, directory)
    server.make()
    _stack.append(server.stop)
    try:
        server.start()
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from None
    return server.url
