"""The surroundings of every test: settings, a data directory, where its Valkey listens, PostgreSQL on demand.

Loaded by `-p tests.environment`, before Django's settings are. Each xdist worker loads it too, and so has a data
directory and a Valkey of its own; PostgreSQL is started once, by whoever started pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

POSTGRESQL_SECONDS = 30

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
    """Make and start a private cluster on a Unix socket; it never runs as root. Returns its address."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise pytest.UsageError("no PostgreSQL on this machine: apt-get install -y --no-install-recommends postgresql")
    directory = Path(tempfile.mkdtemp(prefix="kubespan-postgresql-"))
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(directory, "nobody", "nogroup")
    quiet = {"cwd": directory, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    rows = str(directory / "rows")
    initdb = ["initdb", "-D", rows, "-U", "console", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run([found[-1] / initdb[0], *initdb[1:]], check=True, **quiet)
    fast = ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
    server = subprocess.Popen(
        [found[-1] / "postgres", "-D", rows, "-k", str(directory), "-c", "listen_addresses=", *fast], **quiet
    )
    _stack.append(lambda: shutil.rmtree(directory, ignore_errors=True))
    _stack.append(lambda: (server.terminate(), server.wait(POSTGRESQL_SECONDS)))
    deadline = time.monotonic() + POSTGRESQL_SECONDS
    while subprocess.run([found[-1] / "pg_isready", "-q", "-h", directory], check=False).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            raise pytest.UsageError(f"PostgreSQL did not start in {directory}")
        time.sleep(0.05)
    return f"postgresql://console@{str(directory).replace('/', '%2F')}/postgres"
