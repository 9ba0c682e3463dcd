"""Desired state and plan: what the specification wants of a machine, and that a second plan is empty."""

import base64
from dataclasses import replace
from ipaddress import IPv6Interface, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.cluster import make_cluster_secret
from kubespan.core.desired import desired
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import KeyPair
from kubespan.core.options import Options
from kubespan.core.peer_spec import PeerSpec
from kubespan.core.plan import (
    NOTHING,
    AddAddress,
    AddRule,
    CreateLink,
    DeleteLink,
    Desired,
    Firewall,
    Link,
    Observed,
    Peer,
    RemoveAddress,
    RemovePeers,
    RemoveRoute,
    RemoveRule,
    Route,
    Rule,
    SetFirewall,
    SetLink,
    SetPeers,
    SetPresharedKeys,
    SetRoute,
    plan,
)
from tests.fakes import FakeKernel

KEYS = KeyPair.make(b"\x01" * 32)
SECRET = make_cluster_secret(bytes(range(32)))
ADDRESS = ip_address("fd7f:175a:b97c:5602::1")


def key(number):
    return base64.b64encode(bytes([number]) * 32).decode()


def peer_spec(number, *networks):
    address = ip_address(f"fd7f:175a:b97c:5602::{number + 16:x}")
    allowed = tuple(map(ip_network, (*networks, f"{address}/128")))
    return PeerSpec(key(number), address, allowed, (), f"peer-{number}")


def want(*specs, options=None, endpoints=None, secret=SECRET, **fields):
    return desired(
        keys=KEYS,
        address=ADDRESS,
        secret=secret,
        options=options or Options(force_from_start=True),
        specs={one.public_key: one for one in specs},
        statuses={},
        endpoints=endpoints or {},
        now=0.0,
        **fields,
    )


ONE = peer_spec(1, "10.244.1.0/24")
TWO = peer_spec(2, "10.244.2.0/24")
ENDPOINT = Endpoint.parse("192.0.2.1:51820")


def test_what_the_specification_wants():
    assert want(ONE, endpoints={key(1): ENDPOINT}) == Desired(
        link=Link(mtu=1420, listen_port=51820, private_key=KEYS.private_key, fwmark=0x20, up=True),
        address=IPv6Interface(f"{ADDRESS}/64"),
        peers={key(1): Peer(key(1), SECRET, ENDPOINT, ONE.allowed_ips, 25)},
        routes=frozenset({Route(4, 1420, 180), Route(6, 1420, 180)}),
        rules=frozenset({Rule(4, 32500, 0x40, 0x60, 180), Rule(6, 32500, 0x40, 0x60, 180)}),
        firewall=Firewall(1420, frozenset({ip_network("10.244.1.0/24")})),
    )


def test_mtu_and_port_are_options():
    found = want(ONE, options=Options(mtu=1300), listen_port=4000)
    assert (found.link.mtu, found.link.listen_port, found.firewall.mtu) == (1300, 4000, 1300)
    assert {route.mtu for route in found.routes} == {1300}


def test_nothing_is_wanted_where_kubespan_is_off():
    assert want(ONE, options=Options(enabled=False)) == NOTHING


def test_a_peer_with_the_machines_own_key_is_left_out():
    assert want(replace(ONE, public_key=KEYS.public_key), TWO).peers.keys() == {key(2)}


def test_the_secret_is_written_as_wireguard_will_report_it():
    other_spelling = SECRET[:-2] + "9="
    assert base64.b64decode(other_spelling) == base64.b64decode(SECRET)
    assert want(ONE, secret=other_spelling) == want(ONE)


def test_secrets_are_never_printed():
    text = repr(want(ONE))
    assert KEYS.private_key not in text
    assert SECRET not in text


def test_a_tunnel_is_complete_before_traffic_is_forced_into_it():
    kinds = [type(change) for change in plan(want(ONE), Observed())]
    assert kinds == [CreateLink, SetLink, AddAddress, SetPeers, SetRoute, SetRoute, AddRule, AddRule, SetFirewall]


def test_traffic_is_let_go_before_the_tunnel_is_taken_away():
    kernel = FakeKernel()
    kernel.make(plan(want(ONE), kernel.look()))
    kinds = [type(change) for change in plan(NOTHING, kernel.look())]
    assert kinds == [SetFirewall, RemoveRule, RemoveRule, RemoveRoute, RemoveRoute, DeleteLink]
    kernel.make(plan(NOTHING, kernel.look()))
    assert kernel.look() == Observed()


def meshed(*specs, **fields):
    kernel = FakeKernel()
    kernel.make(plan(want(*specs, **fields), kernel.look()))
    kernel.applied.clear()
    return kernel


def test_a_new_peer_disturbs_nobody():
    changes = plan(want(ONE, TWO), meshed(ONE).look())
    assert [type(change) for change in changes] == [SetPeers, SetFirewall]
    assert [peer.public_key for peer in changes[0].peers] == [key(2)]


NEXT_SECRET = make_cluster_secret(bytes(range(1, 33)))


def test_another_secret_is_set_and_nothing_else():
    """No peer goes, comes, or loses its allowed IPs for a moment: what passes meanwhile would be lost."""
    kernel = meshed(ONE, TWO, endpoints={key(1): ENDPOINT})
    after = want(ONE, TWO, endpoints={key(1): ENDPOINT}, secret=NEXT_SECRET)
    changes = plan(after, kernel.look())
    assert changes == [SetPresharedKeys((after.peers[key(1)], after.peers[key(2)]))]
    kernel.make(changes)
    assert kernel.peers == dict(after.peers)
    assert plan(after, kernel.look()) == []


def test_another_secret_beside_another_change_of_one_peer():
    kernel = meshed(ONE, TWO)
    after = want(replace(ONE, allowed_ips=ONE.allowed_ips[1:]), TWO, peer_spec(3), secret=NEXT_SECRET)
    changes = plan(after, kernel.look())
    assert [type(change) for change in changes] == [SetPeers, SetPresharedKeys, SetFirewall]
    assert [[peer.public_key for peer in change.peers] for change in changes[:2]] == [[key(1), key(3)], [key(2)]]
    kernel.make(changes)
    assert plan(after, kernel.look()) == []


def test_a_removed_peer_disturbs_nobody():
    changes = plan(want(TWO), meshed(ONE, TWO).look())
    assert changes[0] == RemovePeers((key(1),))
    assert [type(change) for change in changes] == [RemovePeers, SetFirewall]


def test_no_endpoint_means_leave_it():
    kernel = meshed(ONE, endpoints={key(1): ENDPOINT})
    assert plan(want(ONE), kernel.look()) == []
    assert kernel.peers[key(1)].endpoint == ENDPOINT


def test_another_endpoint_is_a_change():
    other = Endpoint.parse("192.0.2.9:1")
    kernel = meshed(ONE, endpoints={key(1): ENDPOINT})
    kernel.make(plan(want(ONE, endpoints={key(1): other}), kernel.look()))
    assert kernel.peers[key(1)].endpoint == other


def test_a_network_moves_from_one_peer_to_another():
    kernel = meshed(ONE, TWO)
    moved = want(replace(ONE, allowed_ips=ONE.allowed_ips[1:]), peer_spec(2, "10.244.1.0/24", "10.244.2.0/24"))
    kernel.make(plan(moved, kernel.look()))
    assert plan(moved, kernel.look()) == []


@pytest.mark.parametrize(
    ("drift", "healed_by"),
    [
        pytest.param(lambda kernel: kernel.delete_link(), CreateLink, id="link deleted"),
        pytest.param(lambda kernel: setattr(kernel, "link", replace(kernel.link, up=False)), SetLink, id="link down"),
        pytest.param(lambda kernel: setattr(kernel, "link", replace(kernel.link, mtu=1500)), SetLink, id="other MTU"),
        pytest.param(lambda kernel: kernel.addresses.clear(), AddAddress, id="address gone"),
        pytest.param(
            lambda kernel: kernel.addresses.add(IPv6Interface("fd00::9/64")), RemoveAddress, id="address too many"
        ),
        pytest.param(lambda kernel: kernel.peers.pop(key(1)), SetPeers, id="peer gone"),
        pytest.param(
            lambda kernel: kernel.peers.update({key(9): replace(kernel.peers[key(1)], public_key=key(9))}),
            RemovePeers,
            id="peer too many",
        ),
        pytest.param(
            lambda kernel: kernel.peers.update({key(1): replace(kernel.peers[key(1)], preshared_key=key(7))}),
            SetPresharedKeys,
            id="other secret",
        ),
        pytest.param(lambda kernel: kernel.routes.clear(), SetRoute, id="routes gone"),
        pytest.param(
            lambda kernel: setattr(kernel, "routes", {Route(4, 1500), Route(6, 1420)}), SetRoute, id="other route MTU"
        ),
        pytest.param(lambda kernel: kernel.rules.clear(), AddRule, id="rules gone"),
        pytest.param(lambda kernel: kernel.rules.add(Rule(4, priority=1)), RemoveRule, id="rule too many"),
        pytest.param(lambda kernel: setattr(kernel, "firewall", None), SetFirewall, id="firewall gone"),
    ],
)
def test_drift_is_healed(drift, healed_by):
    kernel = meshed(ONE, TWO)
    drift(kernel)
    kernel.make(plan(want(ONE, TWO), kernel.look()))
    assert healed_by in map(type, kernel.applied)
    assert plan(want(ONE, TWO), kernel.look()) == []


SPECS = st.lists(st.integers(1, 5), unique=True, max_size=5).map(
    lambda numbers: [peer_spec(number, f"10.244.{number}.0/24", f"10.0.0.{number}/32") for number in numbers]
)
WANTED = st.builds(
    lambda specs, mtu, port, enabled, given: want(
        *specs,
        options=Options(mtu=mtu, enabled=enabled, force_from_start=True),
        listen_port=port,
        endpoints={one.public_key: given for one in specs},
    ),
    SPECS,
    st.sampled_from((1280, 1420)),
    st.sampled_from((51820, 4000)),
    st.booleans(),
    st.none() | st.just(ENDPOINT),
)


@given(st.lists(WANTED, min_size=1, max_size=4))
def test_a_second_plan_is_empty(wanted):
    kernel = FakeKernel()
    for one in wanted:
        kernel.make(plan(one, kernel.look()))
        assert plan(one, kernel.look()) == []


@given(WANTED, WANTED, st.integers(0, 20))
def test_a_plan_that_was_cut_short_is_finished_by_the_next(before, after, made):
    kernel = FakeKernel()
    kernel.make(plan(before, kernel.look()))
    kernel.make(plan(after, kernel.look())[:made])
    kernel.make(plan(after, kernel.look()))
    assert plan(after, kernel.look()) == []


def test_a_bad_secret_makes_no_desired_state():
    with pytest.raises(ValueError, match="expected 32 bytes, got 3"):
        want(ONE, secret="AAAA")
