"""What the agent decides: pure, with both clocks as arguments."""

from __future__ import annotations

import pytest

from kubespan.agent import mesh
from kubespan.agent.mesh import FIRST_LOOK, JOIN_SECONDS, Mesh, Misfit, Own
from kubespan.core.endpoint import Endpoint
from kubespan.core.membership import Membership
from kubespan.core.options import Options
from kubespan.core.peer_spec import peer_specs
from kubespan.core.peer_status import TICK, PeerState
from kubespan.core.plan import NOTHING, plan
from tests.agent.console_double import ALPHA, BRAVO, CHARLIE, SECRET, SetClock, snapshot
from tests.fakes import FakeKernel

FIRST, SECOND = Endpoint.parse("192.0.2.2:51820"), Endpoint.parse("198.51.100.2:51820")
BRAVO_KEY, CHARLIE_KEY = BRAVO.keys.public_key, CHARLIE.keys.public_key
TWO_WAYS = (str(FIRST), str(SECOND))


class Machine:
    """A mesh, a kernel and two clocks."""

    def __init__(self, *, bravo=("192.0.2.2:51820",), options=None, kernel=None, clock=None):
        self.kernel, self.clock = kernel or FakeKernel(), clock or SetClock()
        self.mesh = Mesh(Own(ALPHA.keys, ALPHA.node_id, ALPHA.address, 51820))
        self.members = (ALPHA.member(), BRAVO.member(endpoints=bravo), CHARLIE.member())
        self.give(snapshot(1, *self.members, options=options))

    def give(self, news, secret=SECRET):
        self.mesh.take(Membership().apply(news), secret)

    def decide(self):
        return self.mesh.decide(self.kernel.look(), wall=self.clock.wall(), now=self.clock.now())

    def look(self):
        """One pass; the changes that it made."""
        decision = self.decide()
        changes = plan(decision.desired, self.kernel.look())
        self.kernel.make(changes)
        self.mesh.settle(decision)
        return changes

    def shake(self, key=BRAVO_KEY, endpoint=None):
        self.kernel.shake(key, self.clock.wall(), endpoint)

    def state(self, key=BRAVO_KEY):
        return self.mesh.statuses[key].state(self.clock.now())

    def endpoint(self, key=BRAVO_KEY):
        return self.kernel.peers[key].endpoint


def test_a_first_pass_makes_the_mesh_and_a_second_finds_nothing_to_do():
    machine = Machine()
    assert machine.look()
    assert machine.kernel.peers.keys() == {BRAVO_KEY, CHARLIE_KEY}
    assert machine.endpoint() == FIRST
    assert machine.look() == []


def test_without_settings_there_should_be_nothing():
    machine = Machine()
    machine.look()
    machine.mesh.take(Membership(), "")
    decision = machine.decide()
    assert (decision.desired, decision.complete) == (NOTHING, False)


def test_members_without_the_secret_are_no_mesh_yet():
    machine = Machine()
    machine.give(snapshot(), secret="")
    assert machine.decide().desired == NOTHING
    assert not machine.decide().complete


def test_switched_off_there_should_be_nothing():
    machine = Machine()
    machine.look()
    machine.give(snapshot(2, options=Options(enabled=False)))
    decision = machine.decide()
    assert (decision.desired, decision.complete) == (NOTHING, True)
    assert machine.mesh.statuses == {}


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"address": "fd7f:175a:b97c:5602::1"}, id="another address"),
        pytest.param({"public_key": CHARLIE_KEY}, id="another key"),
    ],
)
def test_settings_for_another_machine_change_nothing(wrong):
    machine = Machine()
    machine.look()
    own = ALPHA.member()
    values = {"address": own.address, "public_key": own.public_key} | wrong
    machine.give(snapshot(2, type(own)(index=1, node_id=own.node_id, name=own.name, **values)))
    with pytest.raises(Misfit, match="enrol it again"):
        machine.decide()


def test_a_member_that_cannot_be_read_costs_the_others_nothing():
    machine = Machine()
    machine.give(snapshot(2, ALPHA.member(), BRAVO.member(endpoints=("nonsense",)), CHARLIE.member()))
    decision = machine.decide()
    assert decision.desired.peers.keys() == {CHARLIE_KEY}
    assert any("bravo" in warning for warning in decision.warnings)


def test_a_list_without_this_machine_is_odd_once_its_join_should_have_come():
    machine = Machine()
    machine.give(snapshot(2, BRAVO.member()))
    assert machine.decide().warnings == ()
    machine.clock.pass_by(JOIN_SECONDS)
    assert any("not among" in warning for warning in machine.decide().warnings)
    machine.give(snapshot(3, ALPHA.member(), BRAVO.member()))
    assert machine.decide().warnings == ()
    machine.give(snapshot(4, BRAVO.member()))
    assert machine.decide().warnings == ()


def test_a_peer_with_our_own_key_is_left_out():
    machine = Machine()
    machine.give(snapshot(2, ALPHA.member(), replace_key(BRAVO.member(), ALPHA.keys.public_key), CHARLIE.member()))
    assert machine.decide().desired.peers.keys() == {CHARLIE_KEY}
    machine.look()
    assert machine.look() == []


def replace_key(member, key):
    return type(member)(**{name: getattr(member, name) for name in member.__struct_fields__} | {"public_key": key})


def test_endpoints_are_cycled_round_and_round():
    machine = Machine(bravo=TWO_WAYS)
    given = []
    for _ in range(4):
        machine.look()
        given.append(machine.endpoint())
        machine.clock.pass_by(TICK)
    assert given == [FIRST, SECOND, FIRST, SECOND]


def test_a_handshake_ends_the_cycling():
    machine = Machine(bravo=TWO_WAYS)
    machine.look()
    machine.clock.pass_by(1.0)
    machine.shake()
    machine.look()
    assert machine.state() is PeerState.UP
    machine.clock.pass_by(TICK)
    assert machine.look() == []
    assert machine.endpoint() == FIRST


def test_a_peer_that_roams_is_left_alone():
    machine = Machine()
    machine.look()
    machine.clock.pass_by(1.0)
    roamed = Endpoint.parse("203.0.113.9:4000")
    machine.shake(endpoint=roamed)
    machine.look()
    assert machine.look() == []
    assert machine.endpoint() == roamed
    assert machine.mesh.rows(machine.clock.now())[2].endpoint == str(roamed)


@pytest.mark.parametrize("step", [pytest.param(86400.0, id="forward"), pytest.param(-86400.0, id="back")])
def test_a_step_of_the_clock_disturbs_no_link(step):
    machine = Machine(bravo=TWO_WAYS)
    machine.look()
    machine.clock.pass_by(1.0)
    machine.shake()
    machine.look()
    machine.clock.unix += step
    for _ in range(8):
        machine.clock.pass_by(TICK)
        machine.look()
        assert machine.state() is PeerState.UP
    assert machine.endpoint() == FIRST


def test_a_restart_adopts_what_it_finds():
    """A working link through its second endpoint: the agent that starts again touches nothing."""
    machine = Machine(bravo=TWO_WAYS)
    machine.look()
    machine.clock.pass_by(20.0)
    machine.look()
    assert machine.endpoint() == SECOND
    machine.clock.pass_by(1.0)
    machine.shake()
    machine.look()
    again = Machine(bravo=TWO_WAYS, kernel=machine.kernel, clock=machine.clock)
    again.clock.pass_by(100.0)
    assert again.look() == []
    assert again.state() is PeerState.UP
    assert again.endpoint() == SECOND


def test_a_deleted_link_is_made_again_with_the_endpoints_that_worked():
    machine = Machine(bravo=TWO_WAYS)
    machine.look()
    machine.clock.pass_by(20.0)
    machine.look()
    machine.clock.pass_by(1.0)
    machine.shake()
    machine.clock.pass_by(1000.0)
    machine.shake()
    machine.look()
    machine.kernel.delete_link()
    machine.look()
    assert machine.endpoint() == SECOND
    machine.clock.pass_by(0.2)
    assert machine.look() == []
    assert machine.state() is PeerState.UNKNOWN


def test_what_the_kernel_refused_is_decided_again():
    machine = Machine(bravo=TWO_WAYS)
    machine.look()
    machine.clock.pass_by(20.0)
    refused = machine.decide()
    assert refused.desired.peers[BRAVO_KEY].endpoint == SECOND
    machine.clock.pass_by(1.0)
    machine.look()
    assert machine.endpoint() == SECOND


def test_try_again_gives_the_next_endpoint_now():
    machine = Machine(bravo=TWO_WAYS)
    machine.look()
    machine.clock.pass_by(1.0)
    machine.shake()
    machine.look()
    machine.mesh.try_again([2, 99])
    machine.look()
    assert machine.endpoint() == SECOND
    assert machine.look() == []


def test_try_again_on_a_single_endpoint_gives_it_its_time_anew():
    machine = Machine()
    machine.look()
    machine.clock.pass_by(60.0)
    machine.look()
    assert machine.state() is PeerState.DOWN
    machine.mesh.try_again([2])
    machine.look()
    assert machine.state() is PeerState.UNKNOWN


def test_a_changed_secret_changes_keys_and_no_endpoint():
    machine = Machine()
    machine.look()
    other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    machine.give(snapshot(1, *machine.members), secret=other)
    machine.look()
    assert {peer.preshared_key for peer in machine.kernel.peers.values()} == {other}
    assert machine.endpoint() == FIRST


def test_forced_routing_waits_for_the_first_handshake():
    machine = Machine()
    machine.look()
    assert machine.kernel.firewall.routed == frozenset()
    machine.clock.pass_by(1.0)
    machine.shake()
    machine.look()
    assert [str(network) for network in machine.kernel.firewall.routed] == ["192.0.2.2/32"]


def test_looks_come_soon_after_an_endpoint_was_given_and_then_ever_less_often():
    machine = Machine()
    machine.look()
    assert machine.mesh.next_look(machine.clock.now()) == FIRST_LOOK
    machine.clock.pass_by(8.0)
    assert machine.mesh.next_look(machine.clock.now()) == 4.0
    for key in (BRAVO_KEY, CHARLIE_KEY):
        machine.shake(key)
    machine.look()
    assert machine.mesh.next_look(machine.clock.now()) == TICK


def test_filters_say_which_of_a_peers_endpoints_are_tried():
    machine = Machine(bravo=TWO_WAYS, options=Options(peer_endpoint_filters=("198.51.100.0/24",)))
    machine.look()
    assert machine.endpoint() == SECOND


def test_a_thousand_members_are_decided_on_in_one_reckoning(monkeypatch):
    machine = Machine()
    reckoned = []
    monkeypatch.setattr(mesh, "peer_specs", lambda *given: reckoned.append(1) or peer_specs(*given))
    for number in range(2, 1000):
        machine.give(snapshot(number, *machine.members))
    machine.look()
    machine.look()
    assert len(reckoned) == 1
    assert machine.mesh.membership.revision.number == 999


def test_who_is_up_is_probed_unless_that_is_switched_off():
    machine = Machine()
    machine.look()
    assert machine.mesh.targets(machine.clock.now()) == {}
    machine.clock.pass_by(1)
    machine.shake()
    machine.look()
    assert machine.mesh.targets(machine.clock.now()) == {BRAVO.index: BRAVO.address}
    machine.give(snapshot(2, *machine.members, options=Options(probes=False)))
    machine.look()
    assert machine.mesh.targets(machine.clock.now()) == {}


def test_what_was_measured_is_reported_in_whole_microseconds_and_per_mille():
    machine = Machine()
    machine.look()
    measured = {BRAVO.index: (0.0123456, 0.05)}
    rows = machine.mesh.rows(machine.clock.now(), lambda index: measured.get(index, (None, None)))
    assert (rows[BRAVO.index].rtt, rows[BRAVO.index].loss) == (12346, 50)
    assert (rows[CHARLIE.index].rtt, rows[CHARLIE.index].loss) == (-1, -1)
