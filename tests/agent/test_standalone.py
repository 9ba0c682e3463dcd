"""An agent without a console: what it makes of what discovery lists, and what it says there."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from ipaddress import ip_address

import pytest

from kubespan.agent.loop import Facts
from kubespan.agent.registries import Standing
from kubespan.agent.registries.opening import open_registry
from kubespan.agent.store import SETTINGS, DiscoveryService, StoreError
from kubespan.core.endpoint import Endpoint
from kubespan.core.listed import LEFT_KEPT
from kubespan.core.options import Options
from kubespan.core.plan import SetPeers
from kubespan.core.resources import parse
from tests.agent.console_double import ALPHA, BRAVO, CHARLIE, CLUSTER_ID, SECRET, SetClock, someone
from tests.agent.discovery_double import FakeRegistry, Lone, listed
from tests.discovery.test_client import listening

DELTA = someone("delta", 4)
BRAVO_KEY, CHARLIE_KEY = BRAVO.keys.public_key, CHARLIE.keys.public_key
PATIENCE = 60.0


@pytest.fixture
def lone(tmp_path):
    lone = Lone(tmp_path / "alpha", ALPHA, clock=SetClock())
    lone.join()
    return lone


@pytest.fixture
def registry():
    return FakeRegistry()


class Started:
    """An agent whose looks are called by hand."""

    def __init__(self, lone, registry):
        self.lone = lone
        self.agent = lone.agent(registry.open)
        self.agent.held.restore()
        self.agent.lead.begin()

    async def look(self, pass_by=0.0):
        self.lone.clock.pass_by(pass_by)
        await self.agent.look()
        assert self.agent.fault == ""

    @property
    def peers(self):
        return set(self.lone.kernel.peers)

    def published(self):
        """Resources by type and id."""
        return {
            (one.metadata.type.partition(".")[0], one.metadata.id): one.spec
            for one in parse(self.lone.store.read_published("resources.json"))
        }


@pytest.fixture
def started(lone, registry):
    return Started(lone, registry)


async def test_it_meshes_with_whatever_is_listed(started, registry):
    await started.look()
    assert started.peers == set()
    registry.list(listed(BRAVO), listed(CHARLIE))
    await started.look()
    assert started.peers == {BRAVO_KEY, CHARLIE_KEY}
    assert {peer.preshared_key for peer in started.lone.kernel.peers.values()} == {SECRET}
    assert {str(network) for network in started.lone.kernel.peers[BRAVO_KEY].allowed_ips} == {
        "192.0.2.2/32", f"{BRAVO.address}/128",
    }  # fmt: skip
    await started.look()
    published = started.published()
    assert {name for kind, name in published if kind == "Members"} == {"alpha", "bravo", "charlie"}
    assert published["Affiliates", ALPHA.node_id]["kubespan"]["publicKey"] == ALPHA.keys.public_key


async def test_a_second_look_finds_nothing_to_do_and_nothing_to_store(started, registry):
    registry.list(listed(BRAVO))
    await started.look()
    stored = started.lone.store.settings(CLUSTER_ID)
    started.lone.kernel.applied.clear()
    await started.look(30.0)
    assert started.lone.kernel.applied == []
    assert started.lone.store.settings(CLUSTER_ID) == stored


async def test_a_new_one_is_added_and_no_other_is_touched(started, registry):
    registry.list(listed(BRAVO))
    await started.look()
    started.lone.kernel.applied.clear()
    registry.list(listed(BRAVO), listed(CHARLIE))
    await started.look()
    told = [change for change in started.lone.kernel.applied if isinstance(change, SetPeers)]
    assert [[peer.public_key for peer in change.peers] for change in told] == [[CHARLIE_KEY]]


async def test_who_has_a_member_but_no_kubespan_is_no_peer(started, registry):
    registry.list(listed(BRAVO, public_key="", address=None), listed(CHARLIE))
    await started.look()
    assert started.peers == {CHARLIE_KEY}
    assert ("Members", "bravo") in started.published()


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(listed(BRAVO, node_id=ALPHA.node_id), id="this machine's own id"),
        pytest.param(listed(BRAVO, public_key=ALPHA.keys.public_key), id="this machine's own key"),
        pytest.param(listed(BRAVO, address=ip_address("fd00::1")), id="an address outside the cluster's"),
        pytest.param(listed(BRAVO, public_key="x" * 44), id="a key that is none"),
    ],
)
async def test_who_cannot_be_is_no_peer_and_costs_nobody_anything(lone, registry, odd):
    started = Started(lone, registry)
    registry.list(odd, listed(CHARLIE))
    await started.look()
    assert started.peers == {CHARLIE_KEY}
    assert started.published()["Affiliates", ALPHA.node_id]["kubespan"]["publicKey"] == ALPHA.keys.public_key


async def test_one_that_is_deleted_stays_while_its_handshakes_go_on(started, registry):
    registry.list(listed(BRAVO), listed(CHARLIE))
    await started.look()
    for _ in range(2):  # first it must be seen that it is up
        started.lone.kernel.shake(BRAVO_KEY, started.lone.clock.wall() + 1)
        await started.look(2.0)
    registry.list()
    await started.look()
    assert started.peers == {BRAVO_KEY, CHARLIE_KEY}
    for _ in range(int(LEFT_KEPT // 30) + 1):
        started.lone.kernel.shake(BRAVO_KEY, started.lone.clock.wall())
        await started.look(30.0)
    assert started.peers == {BRAVO_KEY}
    await started.look(LEFT_KEPT)
    assert started.peers == set()


async def test_nobody_leaves_while_discovery_is_away(started, registry):
    registry.list(listed(BRAVO))
    await started.look()
    registry.affiliates = None
    for _ in range(3):
        await started.look(86400.0)
    assert started.peers == {BRAVO_KEY}


async def test_it_starts_with_the_members_it_knew_and_no_discovery(lone, registry):
    registry.list(listed(BRAVO), listed(CHARLIE))
    started = Started(lone, registry)
    await started.look()
    registry.affiliates = None
    lone.kernel.delete_link()
    lone.kernel.rules.clear()
    again = Started(lone, registry)
    await again.look()
    assert again.peers == {BRAVO_KEY, CHARLIE_KEY}
    registry.list(listed(DELTA), listed(BRAVO))
    await again.look()
    indexes = {member.name: index for index, member in again.agent.mesh.membership.members.items()}
    assert indexes == {"alpha": 0, "bravo": 1, "charlie": 2, "delta": 3}


async def test_a_restart_changes_nothing(lone, registry):
    registry.list(listed(BRAVO))
    await Started(lone, registry).look()
    lone.kernel.applied.clear()
    await Started(lone, registry).look()
    assert lone.kernel.applied == []


async def test_what_it_says_of_itself(tmp_path, registry):
    lone = Lone(tmp_path, ALPHA, clock=SetClock())
    lone.join(
        Options(
            endpoint_filters=("192.0.2.0/24", "203.0.113.0/24"), exclude_advertised_networks=("10.9.5.0/24",)
        ),
        networks=("10.9.0.0/16",), extra_endpoints=("198.51.100.7:4000",), listen_port=51821,
    )  # fmt: skip
    lone.host.now = Facts("alpha.example", "Testing Linux 1", ("192.0.2.1", "10.0.0.1", str(ALPHA.address)))
    registry.public_addresses = (ip_address("203.0.113.5"), ip_address("127.0.0.1"))
    await Started(lone, registry).look()
    (own, others), = registry.published  # fmt: skip
    assert (own.node_id, own.nodename, own.hostname) == (ALPHA.node_id, "alpha", "alpha.example")
    assert (own.machine_type, own.operating_system) == ("worker", "Testing Linux 1")
    assert (own.public_key, own.address, own.api_server_port) == (ALPHA.keys.public_key, ALPHA.address, None)
    assert own.addresses == (ip_address("192.0.2.1"), ip_address("10.0.0.1"))
    assert [str(network) for network in own.additional_addresses] == ["10.9.0.0/16"]
    assert [str(network) for network in own.exclude_advertised_networks] == ["10.9.5.0/24"]
    assert list(map(str, own.endpoints)) == ["192.0.2.1:51821", "203.0.113.5:51821", "198.51.100.7:4000"]
    assert others == {}


async def test_its_name_is_the_machines_where_it_was_given_none(tmp_path, registry):
    lone = Lone(tmp_path, ALPHA, clock=SetClock())
    lone.join(name="")
    await Started(lone, registry).look()
    assert registry.published[0][0].nodename == "alpha.example"


@pytest.mark.parametrize("harvest", [True, False])
async def test_it_tells_where_it_sees_others_where_that_is_wanted(tmp_path, registry, harvest):
    lone = Lone(tmp_path, ALPHA, clock=SetClock())
    lone.join(Options(harvest_extra_endpoints=harvest))
    registry.list(listed(BRAVO), listed(CHARLIE))
    started = Started(lone, registry)
    await started.look()
    roamed = Endpoint.parse("203.0.113.9:4000")
    lone.clock.pass_by(1.0)
    lone.kernel.shake(BRAVO_KEY, lone.clock.wall(), roamed)
    await started.look()
    await started.look()
    assert registry.published[-1][1] == ({BRAVO.node_id: (roamed,)} if harvest else {})


async def test_options_are_those_of_the_join_and_may_be_changed_by_another(lone, registry):
    registry.list(listed(BRAVO))
    await Started(lone, registry).look()
    lone.join(Options(mtu=1300, peer_endpoint_filters=("198.51.100.0/24",)))
    again = Started(lone, registry)
    registry.affiliates = None
    await again.look()
    assert lone.kernel.link.mtu == 1300
    assert again.peers == {BRAVO_KEY}
    assert again.agent.mesh.specs[BRAVO_KEY].endpoints == ()


async def test_a_wrong_secret_is_a_fault_and_said_as_such(started, registry):
    registry.list()
    registry.fault = "the cluster secret is not the one of this cluster"
    await started.agent.look()
    assert started.agent.fault == registry.fault


async def test_a_double_of_this_machine_is_told(started, registry):
    registry.list(listed(BRAVO, nodename="alpha"))
    await started.look()
    texts = [notice.text for notice in started.agent.talk._notices]
    assert any("has this one's name, alpha" in text for text in texts)


async def test_the_port_of_a_service_on_this_machine_stays_outside(started, registry):
    registry.exempt = frozenset({3000})
    await started.look()
    assert started.lone.kernel.firewall.exempt == {3000}


async def test_how_discovery_stands_is_published(started, registry):
    registry.standings = (Standing("discovery.example:443", 5.0, "connection refused"),)
    await started.look()
    assert b'"discovery":[{"place":"discovery.example:443","since":5.0,"fault":"connection refused"}]' in (
        started.lone.store.read_published("status.json")
    )


async def test_secrets_are_in_nothing_that_is_published(started, registry):
    registry.list(listed(BRAVO))
    await started.look()
    for name in ("status.json", "resources.json"):
        content = started.lone.store.read_published(name)
        assert SECRET.encode() not in content
        assert ALPHA.keys.private_key.encode() not in content


async def test_damaged_settings_name_what_to_do(lone, registry):
    path = lone.store.path(SETTINGS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="joins again"):
        Started(lone, registry)


# With the real service.


@contextlib.asynccontextmanager
async def running(*lones):
    agents = [lone.agent(partial(open_registry, lone.store)) for lone in lones]
    tasks = [asyncio.create_task(agent.run(None)) for agent in agents]
    try:
        yield agents
    finally:
        for agent in agents:
            agent.stop()
        await asyncio.gather(*tasks)


def make(tmp_path, port, *them, **other):
    lones = []
    for one in them:
        lone = Lone(tmp_path / one.name, one)
        lone.host.now = Facts(f"{one.name}.example", "Testing Linux 1", (f"192.0.2.{one.index}",))
        lone.join(services=(DiscoveryService(url=f"http://127.0.0.1:{port}"),), **other)
        lones.append(lone)
    return lones


async def await_peers(lones):
    async with asyncio.timeout(PATIENCE):
        for lone in lones:
            others = {other.one.keys.public_key for other in lones} - {lone.one.keys.public_key}
            await lone.kernel.until(lambda lone=lone, others=others: set(lone.kernel.peers) == others)


async def test_machines_find_each_other_by_a_real_service_and_outlive_it(tmp_path):
    async with listening() as port:
        lones = make(tmp_path, port, ALPHA, BRAVO, CHARLIE)
        async with running(*lones) as agents:
            await await_peers(lones)
            assert lones[0].kernel.peers[BRAVO_KEY].endpoint == Endpoint.parse("192.0.2.2:51820")
            assert all(not agent.lead.standings[0].fault for agent in agents)
    # With no service they start and mesh as before; with an empty one they find a new one, and lose nobody.
    for lone in lones:
        lone.kernel.delete_link()
        lone.kernel.rules.clear()
    async with running(*lones):
        await await_peers(lones)
        async with listening(port=port):
            (delta,) = make(tmp_path, port, DELTA)
            async with running(delta):
                await await_peers([*lones, delta])


async def test_another_secret_opens_nothing(tmp_path):
    async with listening() as port:
        lones = make(tmp_path, port, ALPHA)
        strange = Lone(tmp_path / "strange", BRAVO)
        strange.join(services=(DiscoveryService(url=f"http://127.0.0.1:{port}"),))
        path = strange.store.path(SETTINGS)
        path.write_bytes(path.read_bytes().replace(SECRET.encode(), b"A" * 43 + b"="))
        async with running(*lones, strange) as (_, agent):
            async with asyncio.timeout(PATIENCE):
                while "nothing that discovery lists can be opened" not in agent.fault:
                    await agent.talk.news.wait()
                    await asyncio.sleep(0.02)
            assert strange.kernel.peers == {}
            assert lones[0].kernel.peers == {}
