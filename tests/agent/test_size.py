"""Very many peers on a real kernel: what is told for one more, and what a look understands of very much.

They are a thousand, and fewer on an emulated processor, which takes a minute for that many.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from base64 import b64encode
from dataclasses import replace

import pytest

from kubespan.agent import wireguard as kernel_wireguard
from kubespan.agent.userspace import UserspaceWireGuard
from kubespan.agent.wireguard import KernelWireGuard, decode_device, encode_peers
from kubespan.core.plan import RemovePeers, SetFirewall, SetPeers, plan
from tests.agent.data_plane import DATA_PLANES, SECRET, bring, data_plane, look, make_desired, make_key, make_peer
from tests.bench.answering import Answering
from tests.namespaces import Lab

pytestmark = pytest.mark.root

VIRTUAL = os.environ.get("KUBESPAN_VM")
"""What kind of a virtual machine this is, if one: `tests/vm` says so."""
MANY = 350 if VIRTUAL == "emulated" else 1000
"""Silent peers; in no case do they fit into one message to the kernel."""
LIVE = {None: 1000, "emulated": 25}.get(VIRTUAL, 100)
"""Peers that answer: their half of a handshake is Python's, which an emulated processor is slow at."""


@pytest.fixture(params=DATA_PLANES, scope="module")
def wireguard(request):
    """A data plane to make kernels of."""
    return data_plane(request.param)


@pytest.fixture(scope="module")
def machine(wireguard):
    """One for all cases: each begins with what it wants of it, whatever the one before left there."""
    with Lab() as lab:
        yield lab.machine("one")


def make_peers(first, number):
    """As machines are: an own address, a network behind it, and an endpoint; but silent."""
    return [
        replace(
            make_peer(n, f"fd7f::{n:x}/128", f"10.{n // 250}.{n % 250}.0/25", endpoint="192.0.2.2:51820"), keepalive=0
        )
        for n in range(first, first + number)
    ]


@pytest.fixture
def told(monkeypatch):
    """All that goes to WireGuard's sockets: text to wireguard-go, messages to the kernel; questions apart."""
    texts: list[str | bytes] = []
    ask, request = UserspaceWireGuard._ask, KernelWireGuard._request

    async def spoken(self, words):
        if words != "get=1":
            texts.append(words)
        return await ask(self, words)

    async def sent(self, command, flags, payloads):
        if command != kernel_wireguard.GET_DEVICE:
            texts.extend(payloads)
        return await request(self, command, flags, payloads)

    monkeypatch.setattr(UserspaceWireGuard, "_ask", spoken)
    monkeypatch.setattr(KernelWireGuard, "_request", sent)
    return texts


def named(texts):
    """The peers that are spoken of, one entry for each time."""
    found = []
    for text in texts:
        if isinstance(text, bytes):
            found += decode_device([text]).peers
        else:
            lines = (line.partition("=") for line in text.splitlines())
            found += [b64encode(bytes.fromhex(value)).decode() for name, _, value in lines if name == "public_key"]
    return found


def test_very_many_peers_come_change_and_go(machine, wireguard, told):
    peers = make_peers(10, MANY)
    assert len(encode_peers(peers)) > 1
    bring(machine, wireguard, make_desired())
    told.clear()

    many = make_desired(*peers)
    assert [type(change) for change in bring(machine, wireguard, many)] == [SetPeers, SetFirewall]
    assert sorted(named(told)) == sorted(many.peers)
    told.clear()
    observed = look(machine, wireguard)
    assert plan(many, observed) == []
    assert len(observed.counters) == MANY

    # One more, with an address of the mesh alone: one change, and nothing said of any other peer.
    more = make_peer(9, "fd7f::9/128", endpoint="192.0.2.2:51820")
    grown = replace(many, peers={**many.peers, more.public_key: more})
    assert bring(machine, wireguard, grown) == [SetPeers((more,))]
    assert named(told) == [more.public_key]
    told.clear()
    after = look(machine, wireguard)
    assert {key: after.counters[key] for key in observed.counters} == observed.counters
    assert {key: after.peers[key] for key in observed.peers} == observed.peers
    # The table's listing is as before: it is not understood anew.
    assert after.firewall is observed.firewall

    # One changes, one goes, one moves to another endpoint.
    changed = replace(peers[0], allowed_ips=(*peers[0].allowed_ips, *make_peer(0, "fd70::/64").allowed_ips))
    moved = replace(peers[2], endpoint=more.endpoint and replace(more.endpoint, port=4000))
    gone = peers[1].public_key
    wanted = dict(grown.peers) | {changed.public_key: changed, moved.public_key: moved}
    del wanted[gone]
    changes = bring(machine, wireguard, replace(grown, peers=wanted))
    assert changes == [RemovePeers((gone,)), SetPeers(tuple(sorted((changed, moved), key=lambda one: one.public_key)))]
    assert sorted(named(told)) == sorted([gone, changed.public_key, moved.public_key])
    assert bring(machine, wireguard, replace(grown, peers=wanted)) == []

    told.clear()
    bring(machine, wireguard, replace(grown, peers={more.public_key: more}))
    assert set(look(machine, wireguard).peers) == {more.public_key}
    assert len(named(told)) == MANY - 1


@pytest.fixture
def answering(machine):
    """A machine whose only business is to be at the other end: live peers of `machine`, by their numbers."""
    numbers = range(10, 10 + LIVE)
    with Lab() as lab:
        there = lab.machine("there")
        lab.join(machine, there, addresses=("192.0.2.1/24", "192.0.2.2/24"))
        ready, ended = threading.Event(), threading.Event()

        async def answer():
            loop = asyncio.get_running_loop()
            peers = [make_key(number) for number in numbers]
            transport, _ = await loop.create_datagram_endpoint(
                lambda: Answering(peers, SECRET), local_addr=("192.0.2.2", 51820)
            )
            ready.set()
            await loop.run_in_executor(None, ended.wait)
            transport.close()

        thread = threading.Thread(target=there.call, args=(answer,))
        thread.start()
        assert ready.wait(60)
        yield [make_peer(n, f"fd7f::{n:x}/128", endpoint="192.0.2.2:51820") for n in numbers]
        ended.set()
        thread.join()


def test_one_peer_more_disturbs_no_session(machine, wireguard, answering):
    wanted = make_desired(*answering)
    bring(machine, wireguard, wanted)
    deadline = time.monotonic() + 60
    before = look(machine, wireguard)
    while not all(counters.last_handshake for counters in before.counters.values()):
        assert time.monotonic() < deadline
        before = look(machine, wireguard)
    more = make_peer(9, "fd7f::9/128")
    assert bring(machine, wireguard, make_desired(*answering, more)) == [SetPeers((more,))]
    after = look(machine, wireguard)
    for key, counters in before.counters.items():
        assert after.counters[key].last_handshake == counters.last_handshake
        assert after.counters[key].received == counters.received
    assert len(before.counters) == LIVE


def test_a_peer_with_very_many_networks_among_others(machine, wireguard, monkeypatch):
    """The kernel's dump has no room for such a peer in one message, and splits it: it is one peer all the same."""
    pieces = []
    whole = kernel_wireguard._Message.attributes
    monkeypatch.setattr(
        kernel_wireguard._Message, "attributes", lambda message: pieces.append(whole(message)) or pieces[-1]
    )
    networks = [f"10.{number >> 7}.{2 * (number & 127)}.0/24" for number in range(1500)]
    wide = make_desired(make_peer(2, *networks), *make_peers(5000, 5))
    bring(machine, wireguard, wide)
    pieces.clear()
    observed = look(machine, wireguard)
    assert plan(wide, observed) == []
    assert len(observed.peers[make_peer(2).public_key].allowed_ips) == len(networks)
    if wireguard is KernelWireGuard:
        holders = [piece for piece in pieces if make_peer(2).public_key in decode_device([piece]).peers]
        assert len(holders) > 1
