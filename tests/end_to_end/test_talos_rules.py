"""The Talos machine of these tests decides as KubeSpan does: the values that upstream's own tests assert."""

from __future__ import annotations

import pytest

from tests.end_to_end.talos_rules import NEVER, PeerStatus, kubespan_address, own_endpoints, peer_specs, ruleset

CLUSTER = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo="
NOW = 10_000.0
E0, E1 = "10.3.4.5:10500", "192.168.3.8:457"


def test_an_address_follows_from_cluster_and_hardware() -> None:
    assert str(kubespan_address(CLUSTER, "2e:1a:b6:53:81:69")) == "fd7f:175a:b97c:5602:2c1a:b6ff:fe53:8169"


def test_filters_choose_and_order_what_is_offered() -> None:
    current = ["172.20.0.2", "10.5.0.1", "192.168.192.168", "2001:123:4567::1"]
    offered = own_endpoints(current, "1.1.1.1", ["0.0.0.0/0", "2001::/16"])
    assert offered[:4] == ["172.20.0.2:51820", "10.5.0.1:51820", "192.168.192.168:51820", "1.1.1.1:51820"]
    assert offered[4:] == ["[2001:123:4567::1]:51820"]
    assert own_endpoints(current[:1], "1.1.1.1", []) == ["172.20.0.2:51820", "1.1.1.1:51820"]


def affiliate(node_id: str, key: str, **said: object) -> dict[str, object]:
    """What the client tells of one."""
    return {"id": node_id, "public_key": key, "nodename": node_id} | said


def test_peers_are_made_of_affiliates_and_the_lowest_id_keeps_an_address() -> None:
    one = affiliate(
        "a", "A", address="fd50:8d60:4238:6302:f857:23ff:fe21:d1e0", addresses=["192.168.3.4"],
        additional=["10.244.3.1/24", "10.244.3.0/32"], excluded=["10.244.3.128/25"], endpoints=[E0, E1],
    )  # fmt: skip
    two = affiliate(
        "b", "B", address="fd50:8d60:4238:6302:f857:23ff:fe21:d1e1", additional=["10.244.2.0/23", "192.168.3.0/24"]
    )
    own, bare = affiliate("own", "C", address="fd50::1"), affiliate("bare", "")
    specs = peer_specs([two, own, bare, one], "own")
    assert set(specs) == {"A", "B"}
    assert [str(network) for network in specs["A"].allowed_ips] == [
        "10.244.3.0/25", "192.168.3.4/32", "fd50:8d60:4238:6302:f857:23ff:fe21:d1e0/128",
    ]  # fmt: skip
    assert specs["A"].endpoints == (E0, E1)
    left = {str(network) for network in specs["B"].allowed_ips}
    assert {"10.244.2.0/24", "10.244.3.128/25"} < left
    assert not left & {"10.244.3.0/25", "192.168.3.4/32", "192.168.3.0/24"}


@pytest.mark.parametrize(
    ("handshake", "change", "used", "state"),
    [
        (3600.0, 3600.0, False, "unknown"),
        (550.0, 550.0, True, "down"),
        (550.0, 7.5, True, "unknown"),
        (0.0, 7.5, True, "up"),
        (0.0, 15.001, True, "up"),
        (30.0, 15.001, True, "down"),
        (137.5, 275.001, True, "up"),
    ],
)
def test_a_peer_is_up_down_or_unknown(handshake: float, change: float, used: bool, state: str) -> None:
    assert PeerStatus("", E0 if used else "", NOW - change, NOW - handshake).state(NOW) == state


def test_endpoints_are_tried_in_turn() -> None:
    def following(used: str, endpoints: list[str]) -> str:
        changed = NOW - 20 if used else NEVER
        return PeerStatus(used, used, changed).next_endpoint(endpoints, NOW)

    both = [E0, E1]
    assert [following(used, both) for used in ("", E0, E1)] == [E0, E1, E0]
    assert (following(E0, [E0]), following(E0, [E1]), following(E0, [])) == ("", E1, "")
    assert PeerStatus(E0, E0, NOW - 5).next_endpoint(both, NOW) == ""  # it has not had its time yet


def test_rules_name_the_families_that_have_members_alone() -> None:
    one = peer_specs([affiliate("a", "A", address="fd50:8d60:4238:6302::1", addresses=["172.20.0.2"])], "own")
    rules = ruleset(one.values())
    assert "ip daddr { 172.20.0.2/32 } meta mark set" in rules
    assert "maxseg size set 1368" in rules
    assert "ip6 daddr" not in rules
    assert "daddr" not in ruleset([])
