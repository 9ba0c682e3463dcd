"""Where the console is: the resolver's word, the last address that was good, and whether that is this machine."""

from __future__ import annotations

import socket
import threading

import pytest

from kubespan.agent import sockets
from kubespan.agent.store import Store
from kubespan.agent.trust import ConsoleUrl
from kubespan.agent.whereabouts import CONSOLE_ADDRESS, Whereabouts, is_here
from kubespan.core.endpoint import parse_address
from tests.agent.console_double import ConsoleDouble, running, sealed_secret, snapshot
from tests.agent.test_loop import bench  # noqa: F401 - a fixture

NAME = ConsoleUrl.parse("https://console.example:8443")


def answer(*addresses):
    """A resolver that gives these."""

    def getaddrinfo(host, port, type):  # noqa: A002 - the library's name
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return getaddrinfo


def fail(*_, **__):
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def silence():
    """A resolver that never answers, until the test is over."""
    over = threading.Event()
    yield lambda *_, **__: over.wait() and []
    over.set()


async def found(whereabouts):
    return [info[4][0] for info in await whereabouts.find()]


async def test_the_resolver_comes_first_and_what_was_good_before_last(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(sockets.socket, "getaddrinfo", answer("192.0.2.7", "192.0.2.8"))
    Whereabouts(NAME, store).note("192.0.2.9")
    assert await found(Whereabouts(NAME, store)) == ["192.0.2.7", "192.0.2.8", "192.0.2.9"]
    Whereabouts(NAME, store).note("192.0.2.8")
    assert await found(Whereabouts(NAME, store)) == ["192.0.2.7", "192.0.2.8"]


async def test_without_the_resolver_the_last_address_is_tried(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(sockets.socket, "getaddrinfo", fail)
    with pytest.raises(OSError, match="Temporary failure"):
        await Whereabouts(NAME, store).find()
    Whereabouts(NAME, store).note("2001:db8::9")
    assert await found(Whereabouts(NAME, store)) == ["2001:db8::9"]


async def test_a_resolver_that_never_answers_is_not_waited_for(tmp_path, monkeypatch, silence):
    monkeypatch.setattr(sockets.socket, "getaddrinfo", silence)
    monkeypatch.setattr("kubespan.agent.whereabouts.LOOK_UP_SECONDS", 0.01)
    whereabouts = Whereabouts(NAME, Store(tmp_path))
    with pytest.raises(TimeoutError):
        await whereabouts.find()
    whereabouts.note("192.0.2.9")
    assert await found(whereabouts) == ["192.0.2.9"]


async def test_another_name_s_address_or_a_damaged_file_is_no_address(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(sockets.socket, "getaddrinfo", fail)
    Whereabouts(NAME, store).note("192.0.2.9")
    with pytest.raises(OSError, match="Temporary failure"):
        await Whereabouts(ConsoleUrl.parse("https://other.example"), store).find()
    store.publish(CONSOLE_ADDRESS, b"{")
    with pytest.raises(OSError, match="Temporary failure"):
        await Whereabouts(NAME, store).find()


async def test_an_address_is_asked_nobody_for(monkeypatch):
    monkeypatch.setattr(sockets.socket, "getaddrinfo", fail)
    assert await found(Whereabouts(ConsoleUrl.parse("https://[2001:db8::1]:8443"))) == ["2001:db8::1"]


@pytest.mark.parametrize(
    ("address", "here"), [("127.0.0.1", True), ("127.0.1.1", True), ("::1", True), ("192.0.2.77", False)]
)
def test_an_address_of_this_machine(address, here):
    assert is_here(parse_address(address)) is here


def test_a_console_on_this_machine_has_its_port_exempt(tmp_path):
    whereabouts = Whereabouts(NAME, Store(tmp_path), frozenset({443}))
    assert whereabouts.exempt == {443}
    whereabouts.note("192.0.2.77")
    assert whereabouts.exempt == {443}
    whereabouts.note("127.0.0.1")
    assert whereabouts.exempt == {443, 8443}
    # Known at the next start before any connection.
    assert Whereabouts(NAME, Store(tmp_path)).exempt == {8443}


async def test_an_agent_beside_its_console_exempts_the_console_s_port(bench):  # noqa: F811 - the fixture
    async with ConsoleDouble().listening() as console, running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await bench.kernel.until(lambda: bench.kernel.firewall is not None)
        assert bench.kernel.firewall.exempt == {console.way.url.port}
