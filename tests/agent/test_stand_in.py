"""Discovery beside a console: endpoints of whom the console has named, while it is away; whoever lies there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from functools import partial
from ipaddress import ip_address

import pytest

from kubespan.agent.registries.opening import open_registry
from kubespan.agent.stand_in import AWAY_SECONDS, StandIn
from kubespan.agent.store import AGENT, Discovery, DiscoveryService
from kubespan.core.endpoint import Endpoint
from kubespan.core.messages import Applied, Welcome
from kubespan.core.options import Options
from kubespan.core.peer_status import TICK
from kubespan.discovery.client import Client, Place
from tests.agent.console_double import (
    ALPHA,
    BRAVO,
    CHARLIE,
    CLUSTER_ID,
    SECRET,
    Bench,
    ConsoleDouble,
    SetClock,
    running,
    sealed_secret,
    snapshot,
    someone,
)
from tests.agent.discovery_double import FakeRegistry, listed
from tests.discovery.test_client import listening

DELTA = someone("delta", 4)
BRAVO_KEY = BRAVO.keys.public_key
MOVED = Endpoint.parse("198.51.100.2:51820")
URL = "https://discovery.example:3000"
PATIENCE = 60.0


class Machine:
    """An enrolled machine that the console has told everything; looks are called by hand."""

    def __init__(self, directory, registry, *, discovery=URL, version=2, given=None, status="approved", options=None):
        self.bench = Bench(directory, clock=SetClock())
        self.clock = self.bench.clock
        self.options = options
        self.registry = registry
        self.make(given)
        self.greet(discovery, version, status)
        if status == "approved":
            self.agent.talk.hear(sealed_secret())
            self.agent.talk.hear(snapshot(options=options))

    def make(self, given=None):
        lead = partial(StandIn, open_registry=self.registry.open, given=given, chance=lambda: 0.0)
        self.agent = self.bench.agent(lead=lead)

    def greet(self, discovery=URL, version=2, status="approved"):
        self.agent.talk.hear(Welcome(version=version, status=status, console_time=0.0, discovery=discovery))

    async def look(self, pass_by=0.0):
        self.clock.pass_by(pass_by)
        await self.agent.look()
        assert self.agent.fault == ""

    async def lose_console(self):
        self.agent.talk.left("it is away")
        await self.look()
        await self.look(AWAY_SECONDS)

    @property
    def peers(self):
        return self.bench.kernel.peers

    def endpoints(self, key=BRAVO_KEY):
        return [str(endpoint) for endpoint in self.agent.mesh.specs[key].endpoints]


@pytest.fixture
def registry():
    registry = FakeRegistry()
    registry.list(listed(BRAVO, endpoints=(MOVED,)))
    return registry


@pytest.fixture
def machine(tmp_path, registry):
    return Machine(tmp_path / "state", registry)


async def test_while_the_console_is_there_nobody_else_is_asked(machine, registry):
    for _ in range(3):
        await machine.look(86400.0)
    assert registry.opened == []
    assert machine.endpoints() == ["192.0.2.2:51820"]


async def test_a_console_that_is_away_for_a_moment_is_waited_for(machine, registry):
    machine.agent.talk.left("it is away")
    await machine.look()
    await machine.look(AWAY_SECONDS - 1)
    assert registry.opened == []
    machine.greet()
    await machine.look(1.0)
    machine.agent.talk.left("it is away")
    await machine.look(AWAY_SECONDS)
    assert registry.opened == []
    await machine.look(AWAY_SECONDS)
    assert len(registry.opened) == 1


async def test_what_discovery_is_asked_by(machine, registry):
    await machine.look()
    await machine.lose_console()
    ((discovery, enrolment, secret, _),) = registry.opened
    assert discovery.services == (DiscoveryService(url=URL),)
    assert (enrolment.cluster_id, enrolment.node_id, secret) == (CLUSTER_ID, ALPHA.node_id, SECRET)


async def test_a_link_that_is_down_is_given_the_endpoint_that_discovery_knows(machine):
    await machine.look()
    await machine.look(TICK)
    assert machine.peers[BRAVO_KEY].endpoint == Endpoint.parse("192.0.2.2:51820")
    await machine.lose_console()
    assert machine.endpoints() == ["192.0.2.2:51820", str(MOVED)]
    assert machine.peers[BRAVO_KEY].endpoint == MOVED


async def test_a_link_that_is_up_is_left_alone(machine):
    await machine.look()
    machine.clock.pass_by(1.0)
    machine.bench.kernel.shake(BRAVO_KEY, machine.clock.wall())
    await machine.look()
    await machine.lose_console()
    await machine.look(TICK)
    assert machine.peers[BRAVO_KEY].endpoint == Endpoint.parse("192.0.2.2:51820")


LIES = [
    pytest.param(listed(DELTA, endpoints=(MOVED,)), id="somebody whom the console never named"),
    pytest.param(listed(BRAVO, public_key=DELTA.keys.public_key, endpoints=(MOVED,)), id="another key for a known id"),
    pytest.param(listed(DELTA, public_key=BRAVO_KEY, endpoints=(MOVED,)), id="another id for a known key"),
    pytest.param(listed(ALPHA, endpoints=(MOVED,)), id="this machine itself"),
    pytest.param(listed(BRAVO, endpoints=(Endpoint(BRAVO.address, 51820), Endpoint(ip_address("127.0.0.1"), 1))),
                 id="endpoints within the tunnel, or on this machine"),
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_adds_nothing(machine, registry, lie):
    registry.list(lie)
    await machine.look()
    before = dict(machine.peers), dict(machine.agent.mesh.specs)
    await machine.lose_console()
    assert (machine.peers, machine.agent.mesh.specs) == before


async def test_a_lie_about_all_else_changes_nothing_else(machine, registry):
    registry.list(
        listed(
            BRAVO, nodename="lie", hostname="lie", machine_type="controlplane", addresses=(ip_address("10.0.0.1"),),
            address=CHARLIE.address, endpoints=(MOVED,),
        )
    )  # fmt: skip
    await machine.look()
    before = machine.agent.mesh.specs[BRAVO_KEY]
    await machine.lose_console()
    after = machine.agent.mesh.specs[BRAVO_KEY]
    assert (after.label, after.address, after.allowed_ips) == (before.label, before.address, before.allowed_ips)
    assert after.endpoints == (*before.endpoints, MOVED)


async def test_who_is_not_listed_stays(machine, registry):
    registry.list()
    await machine.look()
    await machine.lose_console()
    await machine.look(86400.0)
    assert machine.peers.keys() == {BRAVO_KEY, CHARLIE.keys.public_key}


async def test_a_console_that_is_back_leads_alone(machine, registry):
    await machine.look()
    await machine.lose_console()
    machine.greet()
    await machine.look()
    assert machine.endpoints() == ["192.0.2.2:51820"]
    assert machine.agent.lead.standings == ()


async def test_it_publishes_nothing_ever(machine, registry):
    await machine.look()
    await machine.lose_console()
    await machine.look(TICK)
    machine.greet()
    await machine.look()
    assert registry.published == []


async def test_filters_hold_for_what_discovery_knows(tmp_path, registry):
    options = Options(peer_endpoint_filters=("192.0.2.0/24",))
    machine = Machine(tmp_path, registry, options=options)
    await machine.look()
    await machine.lose_console()
    assert machine.endpoints() == ["192.0.2.2:51820"]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"discovery": ""}, id="the console knows no discovery service"),
        pytest.param({"version": 1}, id="a console of the release before"),
        pytest.param({"status": "pending"}, id="it waits for a yes"),
    ],
)
async def test_who_was_told_of_no_discovery_asks_none(tmp_path, registry, other):
    machine = Machine(tmp_path, registry, **other)
    await machine.look()
    await machine.lose_console()
    assert registry.opened == []


async def test_an_operators_own_word_on_where_discovery_is_counts(tmp_path, registry):
    given = Discovery(services=(DiscoveryService(url="https://elsewhere.example"),))
    machine = Machine(tmp_path, registry, given=given)
    await machine.look()
    await machine.lose_console()
    assert registry.opened[0][0] == given


async def test_a_machine_that_starts_without_its_console_knows_where_to_ask(machine, registry):
    await machine.look()
    machine.make()
    machine.agent.held.restore()
    await machine.look()
    await machine.look(AWAY_SECONDS)
    assert registry.opened[0][0].services == (DiscoveryService(url=URL),)
    assert machine.endpoints() == ["192.0.2.2:51820", str(MOVED)]


async def test_a_console_may_say_that_there_is_none_any_more(machine):
    await machine.look()
    assert machine.bench.store.discovery().services == (DiscoveryService(url=URL),)
    machine.greet("")
    await machine.look()
    assert machine.bench.store.discovery().services == ()


async def test_a_discovery_service_on_the_console_s_machine_which_is_this_one_stays_outside(tmp_path):
    """Else who asks it and is reached through the mesh could not be answered before it has asked."""
    bench = Bench(tmp_path / "state")
    async with ConsoleDouble().listening() as console, running(bench.agent(), console.way):
        line = await console.line()
        await line.say(Welcome(version=2, status="approved", console_time=0.0, discovery="https://127.0.0.1:3000"))
        await line.say(sealed_secret(), snapshot())
        await line.hear(Applied)
        assert bench.kernel.firewall.exempt == {console.way.url.port, 3000}


async def test_a_url_that_is_none_is_said_once_and_hurts_nobody(tmp_path):
    bench = Bench(tmp_path, clock=SetClock())
    lead = partial(StandIn, open_registry=partial(open_registry, bench.store), chance=lambda: 0.0)
    agent = bench.agent(lead=lead)
    agent.talk.hear(Welcome(version=2, status="approved", console_time=0.0, discovery="nonsense"))
    agent.talk.hear(sealed_secret())
    agent.talk.hear(snapshot())
    agent.talk.left("it is away")
    for _ in range(4):
        await agent.look()
        bench.clock.pass_by(AWAY_SECONDS)
    assert agent.fault == ""
    assert len(bench.kernel.peers) == 2


async def test_a_former_release_does_not_stumble_over_what_is_kept(machine):
    """What an upgrade may fall back to reads agent.yaml strictly, and the other file not at all."""
    before = machine.bench.store.path(AGENT).read_bytes()
    await machine.look()
    assert machine.bench.store.path(AGENT).read_bytes() == before


# With real ends.


async def test_it_comes_and_goes_with_the_console(tmp_path):
    """The registry's task runs while it is wanted and no longer."""
    registry = FakeRegistry()
    registry.list(listed(BRAVO, endpoints=(MOVED,)))
    bench = Bench(tmp_path / "state", clock=SetClock())
    lead = partial(StandIn, open_registry=registry.open, chance=lambda: 0.0)
    agent = bench.agent(lead=lead)
    console = ConsoleDouble()

    async def until(condition):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                agent.talk.news.set()
                await asyncio.sleep(0.02)

    async with contextlib.AsyncExitStack() as stack:
        async with console.listening():
            port = console.server.sockets[0].getsockname()[1]
            await stack.enter_async_context(running(agent, console.way))
            line = await console.line()
            await line.let_in(sealed_secret(), snapshot())
            await line.hear(Applied)
            agent.held.take_discovery(URL)
        await until(lambda: not agent.talk.connected)
        await asyncio.sleep(0)
        await agent.look()
        bench.clock.pass_by(AWAY_SECONDS)
        await until(lambda: registry.running == 1)
        async with console.listening(port):
            line = await console.line()
            await line.let_in()
            await until(lambda: registry.running == 0)


async def test_a_real_service_adds_endpoints_and_hears_nothing_of_this_machine(tmp_path):
    async with listening() as port:
        bravo = Client(
            Place(f"127.0.0.1:{port}", insecure=True), cluster_id=CLUSTER_ID, affiliate_id=BRAVO.node_id,
            secret=base64.b64decode(SECRET), version="v1", news=lambda: None, chance=lambda: 0.0,
        )  # fmt: skip
        bravo.publish(listed(BRAVO, endpoints=()), [MOVED])
        bench = Bench(tmp_path / "state", clock=SetClock())
        lead = partial(StandIn, open_registry=partial(open_registry, bench.store), chance=lambda: 0.0)
        agent = bench.agent(lead=lead)
        agent.talk.hear(Welcome(version=2, status="approved", console_time=0.0, discovery=f"http://127.0.0.1:{port}"))
        agent.talk.hear(sealed_secret())
        agent.talk.hear(snapshot())
        agent.talk.left("it is away")
        await agent.look()
        bench.clock.pass_by(AWAY_SECONDS)
        tasks = [asyncio.create_task(bravo.run()), asyncio.create_task(agent.lead.run())]
        async with asyncio.timeout(PATIENCE):
            await agent.look()
            while MOVED not in agent.mesh.specs[BRAVO_KEY].endpoints:
                await agent.talk.news.wait()
                agent.talk.news.clear()
                await agent.look()
        assert bravo.known.affiliates == {}
        assert agent.lead.standings[0].fault == ""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
