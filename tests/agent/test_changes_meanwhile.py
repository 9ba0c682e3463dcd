"""Peers and links that somebody else changes or takes away between a look and an act, or in the middle of either."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from kubespan.agent import wireguard as kernel_wireguard
from kubespan.agent.kernel import KernelError
from kubespan.agent.netlink import LinuxKernel
from kubespan.core.plan import CreateLink, RemovePeers, SetPeers, plan
from tests.agent.data_plane import DATA_PLANES, bring, data_plane, look, make_desired, make_peer
from tests.namespaces import Lab

pytestmark = pytest.mark.root

TWO, THREE, FOUR = (make_peer(n, f"10.0.{n}.0/24", endpoint=f"192.0.2.{n}:51820") for n in (2, 3, 4))
ALL = make_desired(TWO, THREE, FOUR)


@pytest.fixture(params=DATA_PLANES, scope="module")
def wireguard(request):
    """A data plane to make kernels of."""
    return data_plane(request.param)


@pytest.fixture(scope="module")
def machine(wireguard):
    """One for all cases: each begins with what it wants of it, whatever the one before left there."""
    with Lab() as lab:
        yield lab.machine("one")


def wg_remove(machine, *peers):
    machine.run("wg", "set", "kubespan", *(word for peer in peers for word in ("peer", peer.public_key, "remove")))


def act_late(machine, wireguard, desired, meanwhile):
    """Look and decide; only after `meanwhile` act. Returns the changes."""

    async def pass_by():
        kernel = LinuxKernel(wireguard())
        changes = plan(desired, await kernel.observe())
        meanwhile()
        await kernel.apply(changes)
        return changes

    return machine.call(pass_by)


WIDER = replace(TWO, allowed_ips=(*TWO.allowed_ips, *make_peer(2, "10.22.0.0/16").allowed_ips))


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        pytest.param(make_desired(WIDER, THREE, FOUR), SetPeers((WIDER,)), id="it was to be changed"),
        pytest.param(make_desired(THREE, FOUR), RemovePeers((TWO.public_key,)), id="it was to be removed"),
    ],
)
def test_a_peer_that_vanishes_between_look_and_act(machine, wireguard, wanted, changes):
    bring(machine, wireguard, ALL)
    assert changes in act_late(machine, wireguard, wanted, lambda: wg_remove(machine, TWO))
    assert bring(machine, wireguard, wanted) == []


def test_a_peer_that_vanishes_unnoticed_is_back_after_one_more_pass(machine, wireguard):
    bring(machine, wireguard, ALL)
    assert act_late(machine, wireguard, ALL, lambda: wg_remove(machine, TWO)) == []
    assert bring(machine, wireguard, ALL) == [SetPeers((TWO,))]
    assert bring(machine, wireguard, ALL) == []


def test_a_link_that_vanishes_between_look_and_act_is_named_and_healed(machine, wireguard):
    bring(machine, wireguard, ALL)

    def end():
        machine.ip("link del kubespan")
        if wireguard.backend == "userspace":
            # Its process follows the interface a moment later, and until then takes what it is told.
            machine.call(wireguard().delete)

    with pytest.raises(KernelError, match="setting peers: "):
        act_late(machine, wireguard, make_desired(WIDER, THREE, FOUR), end)
    assert CreateLink() in bring(machine, wireguard, ALL)
    assert bring(machine, wireguard, ALL) == []


def make_many(number):
    return [make_peer(n, f"10.{n >> 7}.{2 * (n & 127)}.0/24") for n in range(10, 10 + number)]


@pytest.mark.parametrize("wireguard", DATA_PLANES[1:], indirect=True)
@pytest.mark.parametrize("gone", ["peers", "link"])
def test_what_vanishes_while_the_kernel_is_read(machine, wireguard, monkeypatch, gone):
    """The kernel ends a dump at a peer that is gone: taken at its word, all peers behind it would be gone as well."""
    many = make_many(650)  # five messages, of which the second is under way when the first is read
    before, going, behind = many[:150], many[150:550], many[550:]
    bring(machine, wireguard, make_desired(*before, *going, *behind))
    pieces, removers = [], []
    whole = kernel_wireguard._Message.attributes

    def interrupt(message):
        pieces.append(message)
        if len(pieces) == 1 and gone == "peers":
            wg_remove(machine, *going)
        elif len(pieces) == 1:
            # It is off the list at once, and destroyed, which its remover waits for, when the reading has ended.
            removers.append(machine.start("ip", "link", "del", "kubespan"))
            while machine.run("ip", "link", "show", "kubespan", check=False):
                pass
        return whole(message)

    with monkeypatch.context() as patch:
        patch.setattr(kernel_wireguard._Message, "attributes", interrupt)
        observed = look(machine, wireguard)
    assert [remover.wait() for remover in removers] == [0] * len(removers)
    if gone == "link":
        assert observed.link is None
        assert observed.peers == {}
    else:
        assert set(observed.peers) == {peer.public_key for peer in (*before, *behind)}
    assert len(pieces) > 2


@pytest.mark.parametrize("wireguard", DATA_PLANES[1:], indirect=True)
def test_peers_that_never_stand_still_are_said_to_be_so(machine, wireguard, monkeypatch):
    """Another program that changes the interface all the while is a fault to name, not one to wait for."""
    many = make_many(650)
    bring(machine, wireguard, make_desired(*many))
    monkeypatch.setattr(kernel_wireguard, "DUMP_ATTEMPTS", 2)
    whole = kernel_wireguard._Message.attributes
    going = iter(many)

    def interrupt(message):
        wg_remove(machine, next(going))
        return whole(message)

    monkeypatch.setattr(kernel_wireguard._Message, "attributes", interrupt)
    with pytest.raises(KernelError, match="it changed 2 times meanwhile"):
        look(machine, wireguard)


@pytest.mark.parametrize("wireguard", DATA_PLANES[:1], indirect=True)
def test_a_process_that_ends_while_it_is_asked_is_no_device(machine, wireguard):
    bring(machine, wireguard, ALL)
    (server,) = machine.processes()

    async def ask():
        os.kill(server, signal.SIGSTOP)
        asking = asyncio.create_task(LinuxKernel(wireguard()).observe())
        await asyncio.sleep(0)
        os.kill(server, signal.SIGKILL)
        return await asking

    assert machine.call(ask).peers == {}
    assert CreateLink() in bring(machine, wireguard, ALL)
    assert bring(machine, wireguard, ALL) == []
