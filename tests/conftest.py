"""What all rooms share: which tests need what of this machine, and the real Redis-compatible server they use."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from nodes import embedded

USE_VALKEY = {"nodes", "web", "browser"}
"""Rooms whose every test has the server."""

ONE_AT_A_TIME = ("root", "kernel")
"""Marks whose tests share something of the machine: those of a group run on one worker, one after another."""

VALKEY_SECONDS = 60

# How long an example takes says more of what else the machine does than of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    not_root = pytest.mark.skip(reason="needs root: network namespaces and WireGuard links")
    for item in items:
        grouped = item.get_closest_marker("xdist_group") is not None
        if not grouped and any(item.get_closest_marker(mark) for mark in ONE_AT_A_TIME):
            item.add_marker(pytest.mark.xdist_group("machine"))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(not_root)


def room_of(item):
    """The first folder below tests/."""
    return item.path.relative_to(item.config.rootpath / "tests").parts[0]


@pytest.fixture(autouse=True)
def _valkey_where_it_is_used(request):
    if room_of(request.node) in USE_VALKEY:
        request.getfixturevalue("valkey")


class Valkey:
    """The private server of this process' tests, which a test may stop and start."""

    def __init__(self) -> None:
        self.data = Path(os.environ["KUBESPAN_DATA"])
        self.url = os.environ["REDIS_URL"]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(embedded.valkey_command(self.data), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + VALKEY_SECONDS
        while not self._answers():
            assert self._process.poll() is None, "valkey-server ended"
            assert time.monotonic() < deadline, "valkey-server does not answer"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        """Kill it: what it held is gone."""
        if self._process:
            self._process.kill()
            self._process.wait()
        self._process = None

    def client(self) -> redis.Redis:
        """A client to look at what it holds."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def empty(self) -> None:
        """Forget everything; start it again where a test left it stopped."""
        if self._process is None:
            self.start()
        with self.client() as client:
            client.flushall()


@pytest.fixture(scope="session")
def _valkey():
    server = Valkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(_valkey):
    """The real server, empty."""
    _valkey.empty()
    return _valkey
