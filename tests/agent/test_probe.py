"""Echoes through the tunnel: the running part with a socket of the test's, and the real one between real machines."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Interface

import pytest

from kubespan.agent import probe
from kubespan.agent.clock import Clock
from kubespan.agent.probe import LINK_IS_GONE, Answer, LinkEcho, Probes
from kubespan.core import probe as core
from kubespan.core.history import Histories, read_track
from kubespan.core.messages import Applied, FetchHistory, History, Pace, Report
from kubespan.core.plan import Link
from tests.agent.console_double import BRAVO, Bench, ConsoleDouble, running, sealed_secret, snapshot
from tests.agent.data_plane import DATA_PLANES, bring, data_plane, make_desired, make_key, make_peer
from tests.answers import await_answer
from tests.namespaces import Lab

PEER = IPv6Address("fd7f:175a:b97c:5602::2")


class FakeEcho:
    """Answers everything at once, or refuses, as the test wants; an event counter says when there is something."""

    def __init__(self, *, waited=0.0, fault=None):
        self.waited, self.fault = waited, fault
        self.asked: list[IPv6Address] = []
        self._answers: list[Answer] = []
        self._event = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self):
        return self._event

    def ask(self, address, cookie):
        if self.fault is not None:
            raise self.fault
        self.asked.append(address)
        self._answers.append(Answer(cookie, address, self.waited))
        os.eventfd_write(self._event, 1)

    def read(self):
        os.eventfd_read(self._event)
        answers, self._answers = self._answers, []
        return answers

    def close(self):
        os.close(self._event)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(core, "GRAIN", 0.01)
    monkeypatch.setattr(core, "FASTEST", 0.02)
    monkeypatch.setattr(probe, "RETRY_SECONDS", 0.02)


@asynccontextmanager
async def probing(open_echo, histories=None):
    """Probes of one peer, who is looked at."""
    clock = Clock()
    probes = Probes(clock, histories or Histories(), open_echo)
    probes.aim({2: PEER}, {2})
    probes.quicken(0.02, clock.now() + 600)
    task = asyncio.create_task(probes.run())
    try:
        yield probes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def measured(probes):
    """The peer's round trip and loss, once there are both."""
    async with asyncio.timeout(30):
        while None in probes.prober.measured(2):
            await asyncio.sleep(0.01)
    return probes.prober.measured(2)


async def test_answers_are_measured():
    echo = FakeEcho()
    async with probing(lambda: echo) as probes:
        rtt, loss = await measured(probes)
    assert (rtt >= 0, rtt < 5, loss) == (True, True, 0.0)
    assert set(echo.asked) == {PEER}


async def test_an_answer_that_waited_for_the_loop_is_no_longer_a_round_trip():
    async with probing(lambda: FakeEcho(waited=3600.0)) as probes:
        rtt, _ = await measured(probes)
    assert rtt == 0.0, "as long as it lay here it was no round trip, and none is shorter than nothing"


async def test_a_socket_that_lost_its_link_is_opened_anew():
    echoes = [FakeEcho(fault=OSError(errno.ENODEV, "No such device")), FakeEcho()]
    left = list(echoes)
    async with probing(lambda: left.pop(0)) as probes:
        await measured(probes)
    assert (left, echoes[0].asked) == ([], [])


async def test_where_nobody_may_ask_nothing_is_measured_until_one_may():
    attempts = []

    def refuse_twice():
        attempts.append(1)
        if len(attempts) < 3:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return FakeEcho()

    async with probing(refuse_twice) as probes:
        await measured(probes)
    assert len(attempts) == 3


async def test_a_peer_that_this_machines_own_firewall_keeps_out_of_reach_is_lost_and_stops_nobody(monkeypatch):
    monkeypatch.setattr(core, "TIMEOUT", 0.2)
    echo = FakeEcho()
    async with probing(lambda: echo) as probes:
        await measured(probes)
        echo.fault = PermissionError(errno.EPERM, "Operation not permitted")
        async with asyncio.timeout(30):
            while probes.prober.measured(2) != (None, 1.0):
                await asyncio.sleep(0.01)
        echo.fault = None
        async with asyncio.timeout(30):
            while probes.prober.measured(2)[1] != 0:
                await asyncio.sleep(0.01)


# The whole agent, with a fake kernel.


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "state")


def agent(bench, echo):
    made = bench.agent()
    made.probes = Probes(Clock(), made.history, lambda: echo)
    return made


async def await_report(line, condition):
    while not condition(report := await line.hear(Report)):
        pass
    return report


async def test_an_agent_probes_who_is_up_and_reports_what_it_measured(bench):
    echo = FakeEcho()
    async with ConsoleDouble().listening() as console, running(agent(bench, echo), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        await line.say(Pace(seconds=0.5, lease=60.0))
        bench.kernel.shake(BRAVO.keys.public_key, time.time() + 5)
        report = await await_report(line, lambda report: any(loss >= 0 for loss in report.losses))
    found = dict(zip(report.members, zip(report.rtts, report.losses, strict=True), strict=True))
    assert found[2] == (pytest.approx(0, abs=5e6), 0)
    assert found.get(3, (-1, -1)) == (-1, -1), "charlie is not up"
    assert set(echo.asked) == {BRAVO.address}


async def test_an_agent_tells_a_links_past_when_it_is_asked(bench):
    running_agent = bench.agent()
    async with ConsoleDouble().listening() as console, running(running_agent, console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Report)
        minute = running_agent.history
        now = Clock().now()
        for late in (60, 90, 120):
            minute.note(running_agent.talk.rows, {2, 3}, now + late)
        await line.say(FetchHistory(request=7, member=2), FetchHistory(request=8, member=99))
        told = await line.hear(History)
        assert (told.request, told.member, len(told.tracks)) == (7, 2, 2)
        assert [point.state for _, point in read_track(told.tracks[0], 0.0) if point is not None]
        assert await line.hear(History) == History(request=8, member=99)


# Real sockets, real WireGuard.


@pytest.fixture(params=DATA_PLANES)
def wireguard(request):
    return data_plane(request.param)


@pytest.fixture
def pair(wireguard):
    """Two machines with a tunnel between them."""
    with Lab() as lab:
        one, two = lab.machine("one"), lab.machine("two")
        lab.join(one, two, addresses=("192.0.2.1/24", "192.0.2.2/24"))
        for machine, own, other in ((one, 1, 2), (two, 2, 1)):
            peer = make_peer(other, f"fd7f:175a:b97c:5602::{other}/128", endpoint=f"192.0.2.{other}:51820")
            link = Link(mtu=1420, listen_port=51820, private_key=make_key(own).private_key)
            address = IPv6Interface(f"fd7f:175a:b97c:5602::{own}/64")
            bring(machine, wireguard, replace(make_desired(peer, address=address), link=link))
        await_answer(one, str(PEER))
        yield one, two


EVERY_OTHER = """
table inet lossy {
  chain arriving { type filter hook input priority -10; icmpv6 type echo-request numgen inc mod 2 == 0 drop; }
}
"""


COUNTED = """
table inet seen {
  chain arriving { type filter hook prerouting priority -300; iifname "wire0" icmpv6 type echo-request counter; }
}
"""


@pytest.mark.root
def test_round_trip_and_loss_of_a_real_link(pair, monkeypatch):
    monkeypatch.setattr(core, "TIMEOUT", 20.0)
    one, two = pair
    histories = Histories()

    async def measure(asked, until=lambda loss: True):
        async with probing(LinkEcho, histories) as probes:
            async with asyncio.timeout(60):
                while (
                    (answers := probes.prober._answers.get(2)) is None
                    or answers.count < core.WINDOW
                    or probes._echo._sequence < asked
                    or not until(answers.loss)
                ):
                    await asyncio.sleep(0.02)
            return probes.prober.measured(2)

    rtt, loss = one.call(lambda: measure(core.WINDOW))
    assert (rtt > 0, loss) == (True, 0.0)
    monkeypatch.setattr(core, "TIMEOUT", 1.0)
    two.run("nft", "-f", "-", stdin=EVERY_OTHER)
    # After so many what was lost has its part in the window; it may come to its end in bursts on a busy machine.
    one.call(lambda: measure(150, lambda loss: loss == pytest.approx(0.5, abs=0.11)))


@pytest.mark.root
@pytest.mark.parametrize("wireguard", ["userspace"], indirect=True)
def test_a_probe_never_goes_outside_the_link(pair):
    """There is a way around the tunnel, and nothing takes it."""
    one, two = pair
    two.ip(f"address add {PEER}/64 dev wire0 nodad")
    one.ip("address add fd7f:175a:b97c:5602::9/64 dev wire0 nodad")
    two.run("nft", "-f", "-", stdin=COUNTED)

    async def ask_with_and_without_the_link():
        with contextlib.closing(LinkEcho()) as echo:
            echo.ask(PEER, 1)
            one.ip("link delete kubespan")
            with pytest.raises(OSError) as gone:
                echo.ask(PEER, 2)
            assert gone.value.errno in LINK_IS_GONE
        with pytest.raises(OSError, match="No such device"):
            LinkEcho()

    one.call(ask_with_and_without_the_link)
    one.run("ping", "-6", "-c1", "-W5", "-I", "wire0", str(PEER))
    assert " packets 1 " in two.run("nft", "list", "table", "inet", "seen"), "the ping's own, and nothing else"
