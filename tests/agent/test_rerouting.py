"""What joining reroutes: told before it happens, with the connections that it moves; and that it waits for a peer."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import replace
from ipaddress import ip_address, ip_network

import msgspec
import pytest
import structlog

from kubespan.agent import loop
from kubespan.agent.fetch import way_to
from kubespan.agent.glance import Glance, GlanceError, glance
from kubespan.agent.kernel import KernelError
from kubespan.agent.rerouting import Session, destinations_of, parse_end, read_sessions, tell
from kubespan.agent.trust import ConsoleUrl, Way
from kubespan.agent.whereabouts import Whereabouts
from kubespan.core.membership import Membership
from kubespan.core.messages import Finding, Findings, Revision
from kubespan.core.options import Options
from tests.agent.console_double import (
    ALPHA,
    BRAVO,
    CHARLIE,
    CLUSTER,
    SIGNING_KEY,
    Bench,
    ConsoleDouble,
    SetClock,
    running,
    sealed_secret,
    snapshot,
)
from tests.agent.test_exempt import ECHO, Visitor
from tests.agent.test_preflight_machine import FOUR, SIX, pair, until  # noqa: F401 - pair is a fixture
from tests.agent.test_process import Node
from tests.namespaces import Lab

REROUTED = {ip_network("192.0.2.2"): "bravo", ip_network("10.2.0.0/16"): "charlie"}
OWN = "192.0.2.2 50000 192.0.2.1 22"


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "state")


def test_destinations_are_the_others_addresses_and_networks():
    members = ALPHA.member(), BRAVO.member(networks=("10.2.0.0/16",)), CHARLIE.member(addresses=("2001:db8::3",))
    membership = Membership().apply(snapshot(1, *members))
    assert destinations_of(membership, ALPHA.node_id) == {
        ip_network("192.0.2.2"): "bravo",
        ip_network("10.2.0.0/16"): "bravo",
        ip_network("2001:db8::3"): "charlie",
    }
    off = Membership().apply(snapshot(1, *members, options=Options(enabled=False)))
    assert destinations_of(off, ALPHA.node_id) == {}


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        pytest.param("0100007F:0016", "127.0.0.1", 22, id="IPv4"),
        pytest.param("B80D0120000000000000000001000000:01BB", "2001:db8::1", 443, id="IPv6"),
        pytest.param("0000000000000000FFFF0000020200C0:0016", "192.0.2.2", 22, id="IPv4 by IPv6's socket"),
    ],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="these are a little machine's")
def test_ends_of_proc_net_tcp(text, address, port):
    assert parse_end(text) == (ip_address(address), port)


def session(**changed):
    plain = Session(ip_address("192.0.2.1"), 40000, ip_address("192.0.2.2"), 8080, "bravo")
    return replace(plain, **changed)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        pytest.param(session(), "TCP 192.0.2.2:8080 (bravo) ↔ 192.0.2.1:40000", id="plain"),
        pytest.param(session(local_port=22), "SSH 192.0.2.2:8080 (bravo) ↔ 192.0.2.1:22", id="by its port"),
        pytest.param(
            session(process="sshd-session", local_port=2222),
            "SSH 192.0.2.2:8080 (bravo) ↔ 192.0.2.1:2222, sshd-session",
            id="by its process",
        ),
        pytest.param(
            session(own=True, local_port=22),
            "SSH 192.0.2.2:8080 (bravo) ↔ 192.0.2.1:22 (this very session)",
            id="one's own",
        ),
        pytest.param(
            session(remote=ip_address("2001:db8::2")), "TCP [2001:db8::2]:8080 (bravo) ↔ 192.0.2.1:40000", id="IPv6"
        ),
    ],
)
def test_a_session_in_words(one, words):
    assert str(one) == words


@pytest.mark.parametrize(
    ("options", "when"),
    [
        pytest.param(Options(), "once the peer's first handshake is there", id="by default"),
        pytest.param(Options(force_from_start=True), "from the start", id="forced"),
        pytest.param(Options(allow_down_peer_bypass=True), "while the peer is up", id="bypass"),
    ],
)
def test_when_it_happens_is_said(options, when):
    lines = tell(REROUTED, [session(local_port=22)], options)
    assert when in lines[0]
    assert lines[1:3] == ["  192.0.2.2/32 (bravo)", "  10.2.0.0/16 (charlie)"]
    assert "keep another way in" in lines[3]
    assert lines[4].startswith("  SSH 192.0.2.2")
    assert tell(REROUTED, [], options)[-1] == "no connection to any of them is open now"
    assert tell({}, [], options) == ["nothing is rerouted: there is nobody else in the cluster yet"]
    many = {ip_network((number << 8, 24)): "x" for number in range(30)}
    assert "  and 10 more" in tell(many, [], options)


@pytest.mark.root
def test_open_connections_are_found(pair):  # noqa: F811
    here, there = pair
    server = here.start(sys.executable, "-c", ECHO)
    until(lambda: "8443" in here.run("ss", "-tln"))
    visitor = Visitor(there, FOUR[0])
    try:
        visitor.ask("hello")
        assert visitor.hears() == "hello"

        async def read(rerouted, **environment):
            return read_sessions(rerouted, environment)

        (found,) = here.call(lambda: read({ip_network(FOUR[1]): "two"}))
        assert (str(found.remote), found.local_port, found.peer, found.own) == (FOUR[1], 8443, "two", False)
        assert found.process.startswith("python")
        own = f"{found.remote} {found.remote_port} {found.local} {found.local_port}"
        (found,) = here.call(lambda: read({ip_network(FOUR[1]): "two"}, SSH_CONNECTION=own))
        assert found.own
        assert here.call(lambda: read({ip_network(SIX[1]): "two"})) == []
    finally:
        visitor.end()
        server.kill()
        server.wait()


# ------------------------------------------------------------------------------------------------- the first connection


async def look_ahead(bench, console):
    enrolment = msgspec.structs.replace(bench.enrolment, url=console.way.url.at(""))
    glimpse = Glance(enrolment, SIGNING_KEY, lambda: 1000.0)
    await glance(way_to(enrolment), glimpse, Whereabouts(console.way.url))
    return glimpse


async def test_the_first_connection_sees_the_members_and_changes_nothing(bench):
    async with ConsoleDouble().listening() as console:
        looking = asyncio.create_task(look_ahead(bench, console))
        line = await console.line()
        assert line.hello.held is None
        await line.let_in(sealed_secret(), snapshot(7))
        glimpse = await looking
        assert (await line.gone())[0] in {1000, 1005, 0}
    assert glimpse.membership.revision == Revision(1, 7)
    assert glimpse.skew == 1000.0
    assert bench.store.settings(bench.enrolment.cluster) is None


async def test_a_machine_that_waits_sees_nothing(bench):
    async with ConsoleDouble().listening() as console:
        looking = asyncio.create_task(look_ahead(bench, console))
        await (await console.line()).let_in(status="pending")
        assert (await looking).membership is None


async def test_a_console_that_is_away_is_a_sentence(bench):
    async with ConsoleDouble().listening() as console:
        way = console.way
    with pytest.raises(GlanceError, match="the console cannot be asked"):
        await glance(way, Glance(bench.enrolment, SIGNING_KEY, lambda: 0.0), Whereabouts(way.url))


# --------------------------------------------------------------------------------------------------- the running agent


async def test_what_is_rerouted_is_in_the_log_when_a_machine_is_let_in_and_never_again(bench):
    for times in (1, 0):
        with structlog.testing.capture_logs() as logs:
            async with ConsoleDouble().listening() as console, running(bench.agent(), console.way):
                line = await console.line()
                await line.let_in(sealed_secret(), snapshot())
                await bench.kernel.until(lambda: bench.kernel.link is not None and len(bench.kernel.peers) == 2)
                await line.say(snapshot(2))
        said = [log["what"] for log in logs if log["event"] == "rerouting"]
        assert sum("192.0.2.2/32 (bravo)" in text for text in said) == times


async def test_the_console_hears_what_preflight_finds_and_that_it_is_gone(bench, monkeypatch):
    monkeypatch.setattr(loop, "CHECK_OFTEN", 0.01)
    monkeypatch.setattr(loop, "CHECK_RARELY", 0.01)
    finding = Finding(code="port-taken", text="it is taken", remedy="kill 1")
    present, asked = [finding], []

    async def preflight(mine, skew, set_back):
        asked.append((mine, skew))
        return tuple(present)

    agent = bench.agent()
    agent._place = replace(agent._place, preflight=preflight)
    async with ConsoleDouble().listening() as console, running(agent, console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        assert (await line.hear(Findings)).findings == (finding,)
        present.clear()
        assert (await line.hear(Findings)).findings == ()
        await bench.kernel.until(lambda: len(bench.kernel.peers) == 2)
        asked.clear()
        while not asked:
            await asyncio.sleep(0.01)
    mine, skew = asked[0]
    assert mine.destinations == {ip_network("192.0.2.2"): "bravo", ip_network("192.0.2.3"): "charlie"}
    assert ALPHA.address in mine.prefix
    assert skew > 0  # the console's clock stands at 1970


async def test_a_look_that_fails_is_not_told(bench, monkeypatch):
    async def preflight(*_):
        raise KernelError("not today")

    agent = bench.agent()
    agent._place = replace(agent._place, preflight=preflight)
    await agent.check()
    assert agent.talk.findings is None


async def test_a_clock_that_is_set_back_while_the_agent_runs_is_noticed(tmp_path):
    bench = Bench(tmp_path / "state", clock=SetClock())
    behind = []

    async def preflight(mine, skew, set_back):
        behind.append(set_back)
        return ()

    agent = bench.agent()
    agent._place = replace(agent._place, preflight=preflight)
    for seconds in (0, 60, -3600, 3000, 3600):
        bench.clock.unix += seconds
        await agent.look()
        await agent.check()
    assert behind == [0, 0, 3600, 600, 0]


@pytest.mark.root
@pytest.mark.parametrize("forced", [False, True], ids=["by default", "forced from the start"])
def test_a_peer_that_never_answers_is_reached_as_before(tmp_path, forced):
    """Nobody loses the way to a machine only because it was named a peer; that is an option."""
    with Lab() as lab:
        node, other = Node(lab, tmp_path), lab.machine("bravo")
        lab.join(node.machine, other, addresses=("192.0.2.1/24", "192.0.2.2/24"))
        settings = node.bench.store.settings(CLUSTER)
        options = Options(force_from_start=forced)
        held = msgspec.structs.replace(settings, snapshot=snapshot(options=options))
        node.bench.store.save_settings(held)
        node.start()
        try:
            until(lambda: len(node.peers()) == 2)
            until(lambda: ("192.0.2.2" in node.machine.run("nft", "list", "ruleset")) is forced)
            answered = node.machine.execute("ping", "-c1", "-W5", "192.0.2.2").returncode == 0
            assert answered is not forced
        finally:
            node.end(signal.SIGTERM)


@pytest.mark.root
def test_a_resolver_that_is_out_of_reach_does_not_lock_the_agent_out(pair, bench, tmp_path):  # noqa: F811
    """As one would be that is reached through a mesh that does not work: it is silent, for as long as libc asks."""
    here, there = pair
    hosts, resolvers = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text("127.0.0.1 console.test\n")
    resolvers.write_text(f"nameserver {FOUR[1]}\n")
    for file in (hosts, resolvers):
        here.run("mount", "--bind", str(file), f"/etc/{file.name}")
    there.run(
        "nft", "-f", "-", stdin="table inet mute { chain in { type filter hook input priority 0; policy drop; }; }"
    )

    async def connect():
        async with ConsoleDouble().listening() as console:
            url = ConsoleUrl(secure=False, host="console.test", port=console.way.url.port, path="")
            glimpse = Glance(bench.enrolment, SIGNING_KEY, lambda: 1000.0)
            looking = asyncio.create_task(glance(Way(url, None), glimpse, Whereabouts(url, bench.store)))
            done, _ = await asyncio.wait(
                [looking, line := asyncio.create_task(console.line())], return_when="FIRST_COMPLETED"
            )
            if looking in done:
                line.cancel()
                return await looking
            await line.result().let_in(sealed_secret(), snapshot(7))
            await looking
            return glimpse.membership

    assert here.call(connect) is not None
    hosts.write_text("")
    assert here.call(connect) is not None
    bench.store.path("console-address.json").unlink()
    with pytest.raises(GlanceError):
        here.call(connect)
