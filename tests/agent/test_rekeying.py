"""Another preshared key at both ends of a real tunnel: what passes is not lost, and the old key opens nothing any more.

The `kernel` cases need a kernel with WireGuard; `tests/vm` runs them in a virtual machine where this one has none.
"""

from __future__ import annotations

import subprocess
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Interface

import pytest

from kubespan.core.plan import Desired, Link, SetPresharedKeys
from tests.agent.data_plane import DATA_PLANES, bring, data_plane, look, make_desired, make_key, make_peer
from tests.answers import await_answer
from tests.namespaces import Lab

pytestmark = pytest.mark.root

NEXT = b64encode(bytes(range(1, 33))).decode()
INITIATION = 148
"""Bytes of the first message of a handshake."""
SECONDS = 60.0


@pytest.fixture(params=DATA_PLANES, scope="module")
def wireguard(request):
    """A data plane to make kernels of."""
    return data_plane(request.param)


class End:
    """One machine of the tunnel."""

    def __init__(self, machine, wireguard, own, other):
        peer = make_peer(other, f"fd7f:175a:b97c:5602::{other}/128", endpoint=f"192.0.2.{other}:51820")
        link = Link(mtu=1420, listen_port=51820, private_key=make_key(own).private_key)
        address = IPv6Interface(f"fd7f:175a:b97c:5602::{own}/64")
        self.machine, self.wireguard, self.other = machine, wireguard, f"fd7f:175a:b97c:5602::{other}"
        self.key = peer.public_key
        self.wanted: Desired = replace(make_desired(peer, address=address), link=link)

    def bring(self):
        return bring(self.machine, self.wireguard, self.wanted)

    def rekey(self, secret=NEXT):
        """What an agent does at the switch; the kinds of changes that it took."""
        peers = {key: replace(peer, preshared_key=secret) for key, peer in self.wanted.peers.items()}
        self.wanted = replace(self.wanted, peers=peers)
        return [type(change) for change in self.bring()]

    def forget_sessions(self):
        """Make the link anew, as a restart of the machine does: whatever passes then needs a handshake."""
        self.machine.call(self.wireguard().delete)
        self.bring()

    @property
    def counters(self):
        return look(self.machine, self.wireguard).counters[self.key]

    def pings(self, *options):
        return ("ping", "-6", "-n", *options, self.other)


@pytest.fixture(scope="module")
def wired(wireguard):
    """Two machines, and a wire between them."""
    with Lab() as lab:
        one, two = lab.machine("one"), lab.machine("two")
        lab.join(one, two, addresses=("192.0.2.1/24", "192.0.2.2/24"))
        yield one, two


@pytest.fixture
def ends(wired, wireguard):
    """Both ends of a new tunnel, with a session."""
    one, two = wired
    pair = End(one, wireguard, 1, 2), End(two, wireguard, 2, 1)
    for end in pair:
        end.forget_sessions()
    await_answer(one, pair[0].other)
    return pair


def wait(condition: Callable[[], bool]) -> None:
    """Nothing announces a handshake."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "not within a minute"
        time.sleep(0.1)


def test_a_switch_at_both_ends_loses_nothing_and_ends_no_session(ends):
    """Also between the two: one end has switched, the other has not, and both go on with the session that they have."""
    one, two = ends
    before = one.counters.last_handshake
    with one.machine.start(*one.pings("-q", "-i0.01", "-c300", "-W30"), stdout=subprocess.PIPE, text=True) as ping:
        passed = one.counters.received
        assert one.rekey() == [SetPresharedKeys]
        wait(lambda: one.counters.received > passed + 2000)
        assert two.rekey() == [SetPresharedKeys]
        report = ping.communicate()[0]
    assert " 0% packet loss" in report, report
    assert one.counters.last_handshake == before > 0
    assert one.bring() == two.bring() == []


def test_the_next_handshake_is_made_with_the_new_key(ends):
    one, two = ends
    for end in ends:
        end.rekey()
    before = two.counters.last_handshake
    one.forget_sessions()
    await_answer(one.machine, one.other)
    assert two.counters.last_handshake > before


def test_a_handshake_while_the_ends_differ_fails_and_is_repeated_by_itself(ends):
    one, two = ends
    one.rekey()
    one.forget_sessions()
    with one.machine.start(*one.pings("-q", "-i0.2"), stdout=subprocess.DEVNULL) as ping:
        try:
            wait(lambda: one.counters.sent >= INITIATION)
            assert one.counters.last_handshake == 0
            two.rekey()
            wait(lambda: one.counters.last_handshake > 0)
        finally:
            ping.terminate()


def test_who_knows_only_the_old_key_opens_nothing_even_where_it_is_still_a_peer(ends):
    """Nor does it answer: a removed machine, and a member that has switched and not heard of the removal."""
    removed, member = ends
    removed.forget_sessions()
    await_answer(removed.machine, removed.other)  # it could, before the switch
    member.rekey()
    member.forget_sessions()
    removed.forget_sessions()
    pings = [end.machine.start(*end.pings("-q", "-c8", "-i1", "-W1"), stdout=subprocess.DEVNULL) for end in ends]
    assert 0 not in [ping.wait() for ping in pings]
    wait(lambda: min(end.counters.sent for end in ends) >= 2 * INITIATION)
    assert [end.counters.last_handshake for end in ends] == [0, 0]
