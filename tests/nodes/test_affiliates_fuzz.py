"""Whatever a machine with the cluster's secret says of itself: the console follows, and the good beside it is taken."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import KeyPair
from kubespan.discovery.limits import DATA_BYTES, ID_BYTES, TTL_SECONDS
from kubespan.discovery.proto import affiliate_pb2
from kubespan.discovery.sealing import dump_affiliate, seal_endpoint
from kubespan.discovery.state import Deletion, Update
from nodes.models import Node
from nodes.services import discovery
from tests.factories import NOW, Machine, enrol
from tests.fuzzing import affiliates, seal_blocks, sealed_endpoints
from tests.nodes.test_affiliates import Talos

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = [KeyPair.make(bytes([number]) * 32).public_key for number in range(100, 104)]


@pytest.fixture
def talos(valkey):
    return Talos(harvest_extra_endpoints=True)


def say(talos, affiliate_id, plain, endpoints=()):
    """Publish any bytes, sealed with the cluster's secret."""
    data = bytes(12) + AESGCM(talos.secret).encrypt(bytes(12), plain, None)
    discovery.apply(talos.row, [Update(affiliate_id, data, tuple(endpoints), TTL_SECONDS)], talos.at)


def test_whatever_a_machine_says_of_itself_the_console_follows(talos):
    prefix = int(ula_prefix(talos.cluster.cluster_id).network_address)
    addresses = st.integers(1, 4).map(lambda number: ip_address(prefix + number).packed)
    ours = enrol(talos.cluster, Machine(addresses=("10.9.0.1",)))
    its_own = dump_affiliate(Affiliate(ours.node_id))
    talos.say(talos.machine(endpoints=()), endpoints=["192.0.2.1:51820"])
    talos.follow()
    talos.approve()

    @settings(deadline=None, max_examples=60)
    @given(
        affiliates,
        st.none() | st.tuples(st.sampled_from(KEYS), addresses),
        st.sampled_from([False, False, True]).flatmap(lambda other: st.binary(max_size=300) if other else st.none()),
        st.lists(sealed_endpoints(talos.secret), max_size=6),
    )
    def check(message, kubespan, instead, endpoints):
        Node.objects.pending().delete()
        if kubespan is not None:  # one that could be a node
            message.kubespan.public_key, message.kubespan.address = kubespan
        plain = message.SerializeToString() if instead is None else instead
        affiliate_id = message.node_id if 0 < len(message.node_id.encode()) <= ID_BYTES else "x"
        if len(plain) > DATA_BYTES - 28 or "\0" in affiliate_id:
            return  # discovery takes none of it
        say(talos, affiliate_id, plain, [one for one in endpoints if 0 < len(one) <= 32])
        say(talos, ours.node_id, instead or its_own, [one for one in endpoints if 0 < len(one) <= 32])
        talos.follow()
        nodes = {node.node_id: node for node in talos.cluster.nodes.present()}
        assert nodes["talos-1"].status == Node.Status.APPROVED
        assert nodes["talos-1"].announced_endpoints == ["192.0.2.1:51820"]
        assert nodes[ours.node_id].kind == Node.Kind.LINUX
        for node in nodes.values():
            assert node.name
            assert node.name.isprintable()
            assert node.node_id.isprintable()
            assert node.hostname.isprintable()
            assert node.operating_system.isprintable()
            for candidate in node.candidates.all():
                assert str(Endpoint.parse(candidate.endpoint)) == candidate.endpoint
        discovery.apply(talos.row, [Deletion(affiliate_id)], talos.at)

    check()


def test_the_same_endpoint_twice_is_one(talos):
    """ECB has no tag: who knows no secret appends a block, and has another sealing of the same."""
    sealed = seal_endpoint(Endpoint.parse("192.0.2.9:51820"), talos.secret)
    twice = (sealed, sealed + bytes(16))
    ours = enrol(talos.cluster, Machine(addresses=("10.9.0.1",)))
    say(talos, "talos-1", dump_affiliate(talos.machine()), twice)
    say(talos, ours.node_id, dump_affiliate(Affiliate(ours.node_id)), twice)
    talos.follow()
    assert Node.objects.get(node_id="talos-1").announced_endpoints == ["192.0.2.9:51820"]
    assert "192.0.2.9:51820" in ours.candidates.values_list("endpoint", flat=True)


def test_an_endpoint_that_hides_in_another_family_is_what_it_is(talos):
    hidden = [affiliate_pb2.Endpoint(ip=ip_address(f"::ffff:{text}").packed, port=51820).SerializeToString() for text in
              ("127.0.0.1", "192.0.2.9")]  # fmt: skip
    sealed = [seal_blocks(bytes([len(raw)]) + raw, talos.secret) for raw in hidden]
    say(talos, "talos-1", dump_affiliate(talos.machine()), sealed)
    talos.follow()
    assert Node.objects.get().announced_endpoints == ["192.0.2.9:51820"]


@pytest.mark.parametrize("node_id", ["\u202eabc", "a\x1b[31m", "a\nb", " "])
def test_a_machine_whose_id_cannot_be_shown_is_no_node(talos, node_id):
    say(talos, node_id, dump_affiliate(talos.machine(node_id=node_id)))
    talos.follow()
    assert not Node.objects.exists()


@pytest.mark.parametrize(
    ("nodename", "hostname", "expected"),
    [
        pytest.param("\u202e", "host", "host", id="nothing of the name can be shown"),
        pytest.param("", "\0", "talos-1", id="nothing of either"),
        pytest.param("a\u202eb", "", "ab", id="some of it"),
    ],
)
def test_names_can_be_shown(talos, nodename, hostname, expected):
    say(talos, "talos-1", dump_affiliate(talos.machine(nodename=nodename, hostname=hostname)))
    talos.follow()
    assert Node.objects.get().name == expected


def test_many_of_one_name_are_told_apart(talos):
    for number in range(1, 4):
        machine = replace(talos.machine(number, node_id=f"one-beginning-{number}"), nodename="same")
        say(talos, machine.node_id, dump_affiliate(machine))
    talos.follow(NOW)
    assert len(set(Node.objects.values_list("name", flat=True))) == 3
