"""Drift: what something else changed, told in words, and not fought without pause."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Interface

import pytest

from kubespan.agent.drift import LONGEST_PAUSE, SHORTEST_PAUSE, describe, find_drift, pause
from kubespan.core.endpoint import Endpoint
from kubespan.core.plan import Desired, Firewall, Link, Peer, Route, Rule, plan
from tests.fakes import FakeKernel

PEER = Peer("peer", "psk", Endpoint.parse("192.0.2.2:51820"), (IPv4Network("10.0.0.2/32"),))
SETTLED = Desired(
    link=Link(mtu=1420, listen_port=51820, private_key="key"),
    address=IPv6Interface("fd00::1/64"),
    peers={"peer": PEER},
    routes=frozenset({Route(4, 1420), Route(6, 1420)}),
    rules=frozenset({Rule(4), Rule(6)}),
    firewall=Firewall(1420, frozenset({IPv4Network("10.0.0.2/32")})),
)


@pytest.fixture
def kernel():
    kernel = FakeKernel()
    kernel.make(plan(SETTLED, kernel.look()))
    return kernel


def test_what_was_settled_is_no_drift(kernel):
    assert find_drift(SETTLED, kernel.look()) == []


def test_before_anything_was_settled_nothing_is_drift(kernel):
    kernel.delete_link()
    assert find_drift(None, kernel.look()) == []


def test_a_peer_may_roam(kernel):
    kernel.peers["peer"] = replace(kernel.peers["peer"], endpoint=Endpoint.parse("203.0.113.9:1"))
    assert find_drift(SETTLED, kernel.look()) == []


def _remove_rule(kernel):
    kernel.rules.discard(Rule(6))


def _other_rule(kernel):
    _remove_rule(kernel)
    kernel.rules.add(Rule(6, priority=99))


def _foreign_peer(kernel):
    kernel.peers["evil"] = replace(PEER, public_key="evil")


def _no_firewall(kernel):
    kernel.firewall = None


def _no_peer(kernel):
    kernel.peers.clear()


def _no_address(kernel):
    kernel.addresses.clear()


@pytest.mark.parametrize(
    ("meddle", "words"),
    [
        pytest.param(
            FakeKernel.delete_link,
            "changed the link, the link's settings, the link's address, 1 peer, a route",
            id="ip link del",
        ),
        pytest.param(_remove_rule, "changed a rule", id="ip rule del"),
        pytest.param(_foreign_peer, "added 1 peer", id="wg set peer"),
        pytest.param(_no_firewall, "changed the firewall table", id="nft flush ruleset"),
        pytest.param(_no_peer, "changed 1 peer", id="wg set peer remove"),
        pytest.param(_other_rule, "changed a rule and added a rule", id="a rule of another priority instead"),
        pytest.param(_no_address, "changed the link's address", id="ip addr flush"),
    ],
)
def test_drift_in_words(kernel, meddle, words):
    meddle(kernel)
    drift = find_drift(SETTLED, kernel.look())
    assert describe(drift) == f"something else on this machine {words}; all is as it should be again"


def test_the_pause_grows_to_the_tick_and_stays_there():
    pauses = [pause(drifts) for drifts in range(40)]
    assert pauses[0] == SHORTEST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
