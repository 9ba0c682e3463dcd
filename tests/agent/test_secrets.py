"""A rotation of the cluster secret as one machine lives it: handed out, kept, switched to, forgotten; killed meanwhile.

Real WebSocket and real store, a fake kernel.
"""

from __future__ import annotations

import base64
import json

import msgspec
import pytest

from kubespan.agent.console import Way
from kubespan.agent.mesh import Mesh, Own
from kubespan.agent.store import SETTINGS, STATE_VERSION, Settings, StoreError
from kubespan.agent.trust import ConsoleUrl
from kubespan.core.endpoint import Endpoint
from kubespan.core.membership import Membership
from kubespan.core.messages import Applied, Challenge, Delta, Notice, Revision, SecretKept, Snapshot, parse_from_agent
from kubespan.core.peer_status import CONNECT_TIMEOUT, PeerState
from kubespan.core.plan import CreateLink, RemovePeers, SetPeers, SetPresharedKeys, plan
from kubespan.core.rotation import KeptSecret, Secrets
from tests.agent.console_double import (
    ALPHA,
    BRAVO,
    CLUSTER,
    SECRET,
    Bench,
    ConsoleDouble,
    SetClock,
    WatchedKernel,
    running,
    sealed_secret,
    snapshot,
    someone,
)
from tests.fakes import FakeKernel

NEXT = base64.b64encode(bytes(range(1, 33))).decode()
AFTER_NEXT = base64.b64encode(bytes(range(2, 34))).decode()
NOWHERE = Way(ConsoleUrl.parse("http://127.0.0.1:9"), None)


def switch(number, generation=2, *, since=1, changed=()):
    """The revision that names another generation."""
    return Delta(
        since=Revision(1, since), revision=Revision(1, number), secret_generation=generation, changed=tuple(changed)
    )


def in_use(kernel):
    return {peer.preshared_key for peer in kernel.peers.values()}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "state")


@pytest.fixture
async def console():
    async with ConsoleDouble().listening() as console:
        yield console


async def test_handed_out_kept_and_switched_to(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        assert await line.hear(SecretKept) == SecretKept(generation=1)
        await line.say(sealed_secret(NEXT, 2))
        assert await line.hear(SecretKept) == SecretKept(generation=2)
        assert bench.store.settings(CLUSTER).secrets == Secrets(
            generation=1, secret=SECRET, others=(KeptSecret(2, NEXT),)
        )
        assert in_use(bench.kernel) == {SECRET}
        bench.kernel.applied.clear()
        await line.say(switch(2))
        assert await line.hear(Applied) == Applied(revision=Revision(1, 2))
    assert [type(change) for change in bench.kernel.applied] == [SetPresharedKeys]
    assert in_use(bench.kernel) == {NEXT}
    assert bench.store.settings(CLUSTER).secrets == Secrets(generation=2, secret=NEXT)
    assert SECRET not in bench.store.path(SETTINGS).read_text()


async def test_it_is_kept_on_the_disk_before_it_is_said_to_be(bench, console):
    bench.store.path(f".{SETTINGS}.new").mkdir()
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        assert "cannot write" in (await line.hear(Applied)).fault
        await line.say(sealed_secret(NEXT, 2), switch(2))
        assert "cannot write" in (await line.hear(Applied)).fault
        bench.store.path(f".{SETTINGS}.new").rmdir()
        await line.say(switch(3, since=2))
        assert await line.hear(SecretKept) == SecretKept(generation=2)
    assert bench.store.settings(CLUSTER).secrets == Secrets(generation=2, secret=NEXT)


async def test_what_is_said_at_hello_is_not_said_again(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot(), sealed_secret(NEXT, 2))
        while (await line.hear(SecretKept)).generation != 2:
            pass
    async with running(bench.agent(), console.way):
        line = await console.line()
        assert (line.hello.held, line.hello.secret_generation) == (Revision(1, 1), 2)
        await line.let_in()
        await line.hear(Applied)
        await line.say(sealed_secret(AFTER_NEXT, 3))
        assert await line.hear(SecretKept) == SecretKept(generation=3)


async def test_a_version_1_console_is_told_nothing_of_it(bench, console):
    console.first = Challenge(nonce="nonce of this connection", versions=(1,))
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.say(sealed_secret(NEXT, 2), switch(2))
        said = []
        while not said or said[-1] != Applied(revision=Revision(1, 2)):
            said.append(parse_from_agent(await line.socket.recv(), version=1))
    assert in_use(bench.kernel) == {NEXT}


async def test_a_cancelled_one_is_forgotten_when_the_present_one_comes_again(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot(), sealed_secret(NEXT, 2))
        while (await line.hear(SecretKept)).generation != 2:
            pass
        await line.say(sealed_secret())
        assert await line.hear(SecretKept) == SecretKept(generation=1)
    assert bench.store.settings(CLUSTER).secrets == Secrets(generation=1, secret=SECRET)
    assert json.loads(bench.store.path(SETTINGS).read_bytes())["version"] == STATE_VERSION
    assert NEXT not in bench.store.path(SETTINGS).read_text()


async def test_a_generation_that_it_has_not_got_is_asked_for_and_costs_no_link(bench, console):
    """Members are followed, links go on with the old secret; the connection that follows brings what is missing."""
    delta = someone("delta", 4)
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        await line.say(switch(2, changed=[delta.member()]))
        assert (await line.gone())[0] == 1000
        again = await console.line()
        assert (again.hello.held, again.hello.secret_generation) == (Revision(1, 2), 0)
        await again.let_in()
        fault = (await again.hear(Applied)).fault
        assert "generation 2" in fault
        assert delta.keys.public_key in bench.kernel.peers
        assert in_use(bench.kernel) == {SECRET}
        await again.say(switch(2, since=2))  # the console has not got it either: asked once, not for ever
        await again.say(sealed_secret(NEXT, 2))
        await bench.kernel.until(lambda: in_use(bench.kernel) == {NEXT})
        assert await again.hear(Applied) == Applied(revision=Revision(1, 2))
    assert bench.store.settings(CLUSTER).secrets == Secrets(generation=2, secret=NEXT)


async def test_one_that_is_sealed_for_somebody_else_is_a_fault_and_changes_nothing(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        await line.say(sealed_secret(NEXT, 2, to=BRAVO))
        assert "does not open" in (await line.hear(Notice)).text
    assert bench.store.settings(CLUSTER).secrets == Secrets(generation=1, secret=SECRET)


def stored(*, named, generation, secret, others=()):
    """Settings as a kill may have left them."""
    secrets = Secrets(generation=generation, secret=secret, others=others)
    return Settings.of(CLUSTER, secrets, msgspec.structs.replace(snapshot(), secret_generation=named))


KEPT = (KeptSecret(2, NEXT),)


@pytest.mark.parametrize(
    ("left", "used"),
    [
        pytest.param(stored(named=1, generation=1, secret=SECRET), SECRET, id="before it came"),
        pytest.param(stored(named=1, generation=1, secret=SECRET, others=KEPT), SECRET, id="kept, not switched"),
        pytest.param(stored(named=2, generation=2, secret=NEXT), NEXT, id="switched, and not applied yet"),
    ],
)
async def test_killed_at_any_instant_it_goes_on_from_what_is_stored(bench, left, used):
    bench.store.save_settings(left)
    bench.kernel = WatchedKernel()
    async with running(bench.agent(), NOWHERE):
        await bench.kernel.until(lambda: in_use(bench.kernel) == {used})


async def test_killed_before_the_switch_was_stored_it_switches_at_the_next_connection(bench, console):
    bench.store.save_settings(stored(named=1, generation=1, secret=SECRET, others=KEPT))
    async with running(bench.agent(), console.way):
        line = await console.line()
        assert line.hello.secret_generation == 2
        await line.let_in(switch(2))
        await bench.kernel.until(lambda: in_use(bench.kernel) == {NEXT})


async def test_away_over_one_switch_and_back_during_the_next_rotation(bench, console):
    bench.store.save_settings(stored(named=1, generation=1, secret=SECRET))
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(NEXT, 2), sealed_secret(AFTER_NEXT, 3), switch(5))
        await bench.kernel.until(lambda: in_use(bench.kernel) == {NEXT})
        await line.say(switch(6, 3, since=5))
        await bench.kernel.until(lambda: in_use(bench.kernel) == {AFTER_NEXT})


async def test_a_console_restored_from_a_backup_goes_back_to_an_older_generation(bench, console):
    bench.store.save_settings(stored(named=2, generation=2, secret=NEXT))
    async with running(bench.agent(), console.way):
        line = await console.line()
        restored = Snapshot(
            revision=Revision(9, 1), secret_generation=1, options=snapshot().options, members=snapshot().members
        )
        await line.let_in(sealed_secret(), restored)
        await bench.kernel.until(lambda: in_use(bench.kernel) == {SECRET})
    assert bench.store.settings(CLUSTER).secrets == Secrets(generation=1, secret=SECRET)


def test_a_damaged_secret_beside_the_one_in_use_stops_the_start(bench):
    bench.store.save_settings(stored(named=1, generation=1, secret=SECRET, others=(KeptSecret(2, "short"),)))
    with pytest.raises(StoreError, match="remove it"):
        bench.agent().held.restore()


def test_settings_with_one_secret_are_as_the_release_before_wrote_them(bench):
    bench.store.save_settings(stored(named=1, generation=1, secret=SECRET))
    assert set(json.loads(bench.store.path(SETTINGS).read_bytes())) == {
        "version", "cluster", "secret", "secretGeneration", "snapshot",
    }  # fmt: skip


class Pair:
    """One machine's mesh with one peer that has two endpoints, a fake kernel and a clock."""

    def __init__(self):
        self.kernel, self.clock = FakeKernel(), SetClock()
        self.mesh = Mesh(Own(ALPHA.keys, ALPHA.node_id, ALPHA.address, 51820))
        members = (ALPHA.member(), BRAVO.member(endpoints=("192.0.2.2:51820", "198.51.100.2:51820")))
        self.membership = Membership().apply(snapshot(1, *members))
        self.mesh.take(self.membership, SECRET)

    def look(self):
        decision = self.mesh.decide(self.kernel.look(), wall=self.clock.wall(), now=self.clock.now())
        changes = plan(decision.desired, self.kernel.look())
        self.kernel.make(changes)
        self.mesh.settle(decision)
        return changes

    def rekey(self):
        self.mesh.take(self.membership, NEXT)
        return self.look()

    @property
    def status(self):
        return self.mesh.statuses[BRAVO.keys.public_key]

    @property
    def state(self):
        return self.status.state(self.clock.now())


@pytest.mark.parametrize("age", [20, 100, 170, 250, 274])
def test_a_link_that_is_up_stays_up_with_its_endpoint_whatever_its_age(age):
    """The next handshake may be due at the switch itself, and fail until the other end has switched as well."""
    pair = Pair()
    pair.look()
    pair.kernel.shake(BRAVO.keys.public_key, pair.clock.wall() + 1)
    pair.clock.pass_by(age)
    pair.look()
    assert pair.state is PeerState.UP
    changes = pair.rekey()
    assert not {type(change) for change in changes} & {SetPeers, RemovePeers, CreateLink}
    pair.clock.pass_by(1)
    assert pair.look() == []
    assert (pair.state, pair.status.endpoint) == (PeerState.UP, Endpoint.parse("192.0.2.2:51820"))


def test_an_endpoint_that_is_being_tried_has_its_time_anew():
    pair = Pair()
    pair.look()
    pair.clock.pass_by(CONNECT_TIMEOUT - 1)
    pair.rekey()
    pair.clock.pass_by(CONNECT_TIMEOUT - 1)
    pair.look()
    assert (pair.state, pair.status.last_used_endpoint) == (PeerState.UNKNOWN, Endpoint.parse("192.0.2.2:51820"))
    pair.clock.pass_by(2)
    pair.look()
    assert pair.status.last_used_endpoint == Endpoint.parse("198.51.100.2:51820")


def test_the_first_secret_is_no_other_one():
    pair = Pair()
    pair.look()
    changed = pair.status.endpoint_changed
    pair.clock.pass_by(3)
    pair.mesh.take(pair.membership, SECRET)
    pair.look()
    assert pair.status.endpoint_changed == changed
