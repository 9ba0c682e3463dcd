"""The state machine of a peer: the specification's tables, and any history whatever."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kubespan.core.endpoint import Endpoint
from kubespan.core.options import Options
from kubespan.core.peer_spec import PeerSpec
from kubespan.core.peer_status import (
    CONNECT_TIMEOUT,
    NEVER,
    PEER_DOWN_AFTER,
    TICK,
    PeerState,
    PeerStatus,
    adopt,
    observe,
    pick_endpoint,
    routed,
    step,
    use_endpoint,
)

NOW = 100_000.0
FIRST = Endpoint.parse("10.3.4.5:10500")
SECOND = Endpoint.parse("192.168.3.8:457")
ROAMED = Endpoint.parse("[2001:db8::5]:40000")
ADDRESS = ip_address("fd50:8d60:4238:6302:f857:23ff:fe21:d1e0")
NS = 1e-9


def spec(*endpoints, allowed=()):
    return PeerSpec("key", ADDRESS, tuple(map(ip_network, allowed)), endpoints, "peer")


@pytest.mark.parametrize(
    ("handshake", "changed", "last_used", "state"),  # seconds ago
    [
        pytest.param(3600, 3600, None, PeerState.UNKNOWN, id="an hour ago, none given"),
        pytest.param(550, 550, FIRST, PeerState.DOWN, id="both long ago"),
        pytest.param(550, 7.5, FIRST, PeerState.UNKNOWN, id="just given"),
        pytest.param(0, 7.5, FIRST, PeerState.UP, id="just given and answered"),
        pytest.param(0, 15 + NS, FIRST, PeerState.UP, id="answered at last"),
        pytest.param(30, 15 + NS, FIRST, PeerState.DOWN, id="answered the one before"),
        pytest.param(137.5, 275 + NS, FIRST, PeerState.UP, id="settled, recent enough"),
        pytest.param(inf, 15, FIRST, PeerState.DOWN, id="never, 15 s exactly"),
        pytest.param(274, 275, FIRST, PeerState.UP, id="275 s exactly, answered after it was given"),
        pytest.param(275, 275, FIRST, PeerState.DOWN, id="275 s exactly, not strictly after"),
        pytest.param(275, 276, FIRST, PeerState.DOWN, id="settled, too long ago"),
        pytest.param(5, 5, FIRST, PeerState.UNKNOWN, id="at the same instant"),
        pytest.param(99, 100, FIRST, PeerState.UP, id="a second after it was given"),
        pytest.param(101, 100, FIRST, PeerState.DOWN, id="a second before it was given"),
        pytest.param(10, inf, None, PeerState.UP, id="the peer contacted us first"),
        pytest.param(inf, inf, None, PeerState.UNKNOWN, id="nothing ever happened"),
    ],
)
def test_state(handshake, changed, last_used, state):
    status = PeerStatus(last_used_endpoint=last_used, last_handshake=NOW - handshake, endpoint_changed=NOW - changed)
    assert status.state(NOW) is state


def test_states_have_the_numbers_and_words_of_talos():
    assert [(state.value, str(state)) for state in PeerState] == [(0, "unknown"), (1, "up"), (2, "down")]


@pytest.mark.parametrize(
    ("changed", "last_used", "expected"),
    [
        pytest.param(20, FIRST, True, id="down"),
        pytest.param(5, FIRST, False, id="unknown alone is no reason"),
        pytest.param(5, None, True, id="none given yet"),
    ],
)
def test_should_change_endpoint(changed, last_used, expected):
    status = PeerStatus(last_used_endpoint=last_used, endpoint_changed=NOW - changed)
    assert status.should_change_endpoint(NOW) is expected


def test_upstreams_sequence_of_endpoints():
    both = (FIRST, SECOND)
    status = PeerStatus()
    for endpoints, expected in (
        (both, FIRST),
        (both, SECOND),
        (both, FIRST),
        ((FIRST,), None),
        ((SECOND,), SECOND),
        ((Endpoint.parse("10.3.4.5:10501"), Endpoint.parse("192.168.3.8:458")), Endpoint.parse("10.3.4.5:10501")),
    ):
        picked = pick_endpoint(status, endpoints)
        assert picked == expected
        if picked is not None:
            status = use_endpoint(status, picked, NOW)


@pytest.mark.parametrize(
    ("status", "endpoints", "picked"),
    [
        pytest.param(PeerStatus(), (), None, id="no endpoints"),
        pytest.param(PeerStatus(last_used_endpoint=FIRST), (), None, id="no endpoints any more"),
        pytest.param(
            PeerStatus(last_used_endpoint=FIRST, endpoint=ROAMED), (FIRST,), FIRST, id="the only one, after roaming"
        ),
    ],
)
def test_pick_endpoint(status, endpoints, picked):
    assert pick_endpoint(status, endpoints) == picked


def test_a_new_peer_gets_its_first_endpoint():
    status, given = step(spec(FIRST, SECOND), PeerStatus(label="peer"), NOW)
    assert given == FIRST
    assert status == PeerStatus("peer", FIRST, FIRST, NOW)
    assert status.state(NOW) is PeerState.UNKNOWN


def test_a_peer_that_contacted_us_first_gets_one_too():
    status = observe(PeerStatus(), ROAMED, NOW - 1, 10, 10)
    assert status.state(NOW) is PeerState.UP
    status, given = step(spec(FIRST), status, NOW)
    assert given == FIRST
    assert status.state(NOW) is PeerState.UNKNOWN


def test_an_endpoint_has_fifteen_seconds():
    status = use_endpoint(PeerStatus(), FIRST, NOW)
    assert step(spec(FIRST, SECOND), status, NOW + CONNECT_TIMEOUT - 0.1)[1] == FIRST
    assert step(spec(FIRST, SECOND), status, NOW + CONNECT_TIMEOUT)[1] == SECOND


def test_roaming_is_left_alone_while_it_works():
    status = observe(use_endpoint(PeerStatus(), FIRST, NOW), ROAMED, NOW + 1, 1, 1)
    after, given = step(spec(FIRST, SECOND), status, NOW + 60)
    assert given is None
    assert after == status
    assert after.last_used_endpoint == FIRST
    assert after.endpoint_changed == NOW


def test_a_lost_endpoint_is_given_again_and_does_not_count_as_a_change():
    status = observe(use_endpoint(PeerStatus(), FIRST, NOW), None, NOW + 1, 1, 1)
    after, given = step(spec(FIRST, SECOND), status, NOW + 60)
    assert given == FIRST
    assert after.endpoint_changed == NOW


def test_a_changed_list_changes_nothing_while_the_peer_is_up():
    status = observe(use_endpoint(PeerStatus(), FIRST, NOW), FIRST, NOW + 1, 1, 1)
    assert step(spec(SECOND), status, NOW + 60)[1] == FIRST


def test_a_peer_without_endpoints_is_passive():
    assert step(spec(), PeerStatus(), NOW) == (PeerStatus(), None)


def test_a_working_link_is_adopted_untouched():
    status = adopt(spec(FIRST, SECOND), ROAMED, NOW - 100, 5, 6, NOW)
    assert status.state(NOW) is PeerState.UP
    assert step(spec(FIRST, SECOND), status, NOW) == (status, ROAMED)
    assert (status.received, status.sent, status.met) == (5, 6, True)


@pytest.mark.parametrize("handshake", [pytest.param(NEVER, id="never"), pytest.param(NOW - 300, id="long ago")])
def test_an_endpoint_that_does_not_work_is_adopted_with_its_full_time(handshake):
    status = adopt(spec(FIRST, SECOND), FIRST, handshake, 0, 0, NOW)
    assert step(spec(FIRST, SECOND), status, NOW)[1] == FIRST
    assert step(spec(FIRST, SECOND), status, NOW + TICK)[1] == SECOND


def test_a_peer_without_an_endpoint_is_adopted_as_new():
    assert step(spec(FIRST), adopt(spec(FIRST), None, NEVER, 0, 0, NOW), NOW)[1] == FIRST


UP = PeerStatus(met=True, last_used_endpoint=FIRST, endpoint_changed=NOW - 60, last_handshake=NOW - 50)
WENT_DOWN = PeerStatus(met=True, last_used_endpoint=FIRST, endpoint_changed=NOW - 60, last_handshake=NOW - 400)
NEW = PeerStatus(last_used_endpoint=FIRST, endpoint_changed=NOW)

FORCED = Options()
FROM_START = Options(force_from_start=True)
BYPASS = Options(allow_down_peer_bypass=True)


@pytest.mark.parametrize(
    ("options", "statuses", "expected"),
    [
        pytest.param(FROM_START, (NEW, NEW), ["10.244.3.0/24", "10.244.4.0/24"], id="from the start, as KubeSpan"),
        pytest.param(FROM_START, (None, None), ["10.244.3.0/24", "10.244.4.0/24"], id="even without any status"),
        pytest.param(FORCED, (NEW, NEW), [], id="nobody is locked out at the join"),
        pytest.param(FORCED, (UP, NEW), ["10.244.3.0/24"], id="from the first handshake"),
        pytest.param(FORCED, (WENT_DOWN, UP), ["10.244.3.0/24", "10.244.4.0/24"], id="and then for good"),
        pytest.param(BYPASS, (NEW, NEW), [], id="bypass: unknown"),
        pytest.param(BYPASS, (WENT_DOWN, UP), ["10.244.4.0/24"], id="bypass: down"),
        pytest.param(BYPASS, (UP, UP), ["10.244.3.0/24", "10.244.4.0/24"], id="bypass: both up"),
    ],
)
def test_routed(options, statuses, expected):
    specs = {
        "one": spec(allowed=["10.244.3.0/24", f"{ADDRESS}/128"]),
        "two": spec(allowed=["10.244.4.0/24", "fd7f:175a:b97c:5602::1/128"]),
    }
    given = {key: status for key, status in zip(specs, statuses, strict=True) if status is not None}
    assert sorted(map(str, routed(specs, given, options, NOW))) == expected


def test_routed_is_minimal_over_all_peers():
    specs = {"one": spec(allowed=["10.0.0.0/25"]), "two": spec(allowed=["10.0.0.128/25", "2001:db8::/64"])}
    found = routed(specs, {}, FROM_START, NOW)
    assert found == {ip_network("10.0.0.0/24"), ip_network("2001:db8::/64")}


def test_a_link_made_anew_does_not_let_traffic_out():
    status = observe(UP, None, NEVER, 0, 0)
    assert routed({"one": spec(allowed=["10.0.0.0/24"])}, {"one": status}, FORCED, NOW)


def test_no_peers_route_nothing():
    assert routed({}, {}, FROM_START, NOW) == frozenset()


ENDPOINTS = tuple(Endpoint.parse(f"192.0.2.{number}:51820") for number in range(1, 6))


class PeerHistory(RuleBasedStateMachine):
    """Anything may happen to a peer; then, with a working endpoint in its list, it comes up in bounded time."""

    @initialize()
    def begin(self):
        self.now = 0.0
        self.spec = spec()
        self.status = PeerStatus()
        self.endpoint = None
        self.handshake = NEVER

    @rule(endpoints=st.lists(st.sampled_from(ENDPOINTS), max_size=5, unique=True))
    def advertise(self, endpoints):
        self.spec = replace(self.spec, endpoints=tuple(endpoints))

    @rule(seconds=st.sampled_from((0.0, 1.0, 14.9, 15.0, 30.0, 120.0, 275.0, 276.0, 4000.0)))
    def wait(self, seconds):
        self.now += seconds

    @rule(roams_to=st.none() | st.sampled_from((ROAMED, *ENDPOINTS)))
    def shake(self, roams_to):
        self.handshake = self.now
        self.endpoint = roams_to or self.endpoint or ROAMED

    @rule()
    def lose_link(self):
        self.endpoint, self.handshake = None, NEVER

    @rule()
    def restart(self):
        self.status = adopt(self.spec, self.endpoint, self.handshake, 0, 0, self.now)

    @rule()
    def tick(self):
        self.status = observe(self.status, self.endpoint, self.handshake, 0, 0)
        self.status, given = step(self.spec, self.status, self.now)
        self.endpoint = given or self.endpoint

    @rule(working=st.sampled_from(ENDPOINTS))
    def settle(self, working):
        if working not in self.spec.endpoints:
            self.spec = replace(self.spec, endpoints=(*self.spec.endpoints, working))
        # A link may count as up for 275 s after it broke; then each endpoint has one tick.
        bound = int(PEER_DOWN_AFTER / TICK) + 2 + len(self.spec.endpoints)
        for _ in range(bound):
            self.tick()
            self.now += TICK
            if self.endpoint == working:
                self.handshake = self.now - 1
                break
        self.tick()
        assert self.endpoint == working
        assert self.status.state(self.now) is PeerState.UP

    @invariant()
    def has_a_state(self):
        assert self.status.state(self.now) in PeerState


TestPeerHistory = PeerHistory.TestCase
