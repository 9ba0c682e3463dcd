"""Judging a machine's claims beside what the members have, of whom only those are read that matter."""

from __future__ import annotations

import socket
from functools import partial
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from kubespan.core.endpoint import Endpoint
from kubespan.core.messages import Claim
from nodes.services import claims, nodes
from tests.factories import NOW, PEER, Machine, enrol, fill, make_cluster

pytestmark = pytest.mark.django_db

CLAIMS = (
    "10.0.0.1",  # a member's own
    "10.0.0.10",  # of which a member's is the beginning
    "10.0.0.",
    "2001:db8::1",
    "2001:DB8:0::1",  # the same, as somebody else writes it
    "2001:db8::11",
    "198.51.100.9",  # where a member is seen
    "198.51.100.90",
    "203.0.113.5",  # what an operator set
    "203.0.113.50",
    "2001:db8:5::5",
    "192.168.7.1",  # in a network that a member advertises
    "192.168.8.1",
    "127.0.0.1",
    "%",
    "_",
    "fdae:41e4:649b:9303::1",
)

TAKEN = {
    "10.0.0.1": "first already",
    "198.51.100.9": "first is reached at",
    "203.0.113.5": "second is reached at",
    "192.168.7.1": "which second advertises",
}
"""By what of whom each of these is refused."""

DISGUISES = (
    pytest.param("{}\u200b", id="a space of no width"),
    pytest.param("\u200b{}", id="before it"),
    pytest.param("{}\0", id="a NUL"),
    pytest.param("::ffff:{}", id="IPv4-mapped"),
)


@pytest.fixture
def cluster():
    """Some members, with something of each kind."""
    made = make_cluster()
    enrol(made, Machine("first", addresses=("10.0.0.1", "2001:db8::1")), peer=ip_address("198.51.100.9"))
    second = enrol(made, Machine("second", networks=("192.168.7.0/24",)), peer=ip_address("198.51.100.10"))
    nodes.set_node_options(
        "tests",
        second,
        extra_endpoints=["203.0.113.5:51820", str(Endpoint.parse("[2001:db8:5::5]:51820"))],
        advertised_networks=["192.168.7.0/24"],
        excluded_networks=[],
        now=NOW,
    )
    fill(made, 20)
    return made


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_judged_beside_few_is_judged_as_beside_all(cluster, claim):
    assert beside_few(cluster, claim) == beside_all(cluster, claim)


def beside_few(cluster, *addresses):
    return judge(addresses, partial(claims.read_neighbours, cluster, None))


def beside_all(cluster, *addresses):
    return judge(addresses, lambda _touching: claims.read_neighbours(cluster, None))


def judge(addresses, read):
    return claims.judge(addresses, [], own="fdae:41e4:649b:9303::2", peer=PEER, read=read)


def crowd(address):
    """It, behind as many others as may be claimed at all, which are one."""
    return ("192.0.2.99",) * claims.CLAIMS_LIMIT + (address,)


def claim(addresses):
    said = {"hostname": "liar", "operating_system": "", "agent_version": "", "backend": "kernel", "listen_port": 51820}
    return Claim(**said, addresses=addresses)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_another_members_address_is_refused_however_it_is_written(cluster, disguise):
    stolen = tuple(map(disguise.format, TAKEN))
    verdict = beside_few(cluster, *stolen)
    assert verdict == beside_all(cluster, *stolen)
    assert verdict.addresses == []
    assert all(reason in refused["reason"] for reason, refused in zip(TAKEN.values(), verdict.refused, strict=True)), (
        verdict.refused
    )


@pytest.mark.parametrize("address", TAKEN)
def test_another_members_address_is_refused_behind_any_number_of_equal_ones(cluster, address):
    verdict = beside_few(cluster, *crowd(address))
    assert verdict == beside_all(cluster, *crowd(address))
    assert verdict.addresses == ["192.0.2.99"]


@pytest.mark.parametrize("addresses", [("10.0.0.1\u200b",), ("10.0.0.1\0",), crowd("10.0.0.1")])
def test_a_liar_takes_no_members_address(cluster, addresses):
    """Neither as it enrols nor later, and who has it keeps it."""
    newcomer = enrol(cluster, Machine("newcomer", addresses=addresses))
    member = enrol(cluster, Machine("member"))
    nodes.record_claim(member.pk, claim(addresses), PEER, NOW)
    member.refresh_from_db()
    for liar in (newcomer, member):
        assert "10.0.0.1" not in liar.addresses
        assert "10.0.0.1" in [refused["claim"] for refused in liar.refused_claims]

    first = cluster.nodes.get(name="first")
    nodes.record_claim(first.pk, claim(("10.0.0.1", "10.0.0.77")), PEER, NOW)
    first.refresh_from_db()
    assert first.addresses == ["10.0.0.1", "10.0.0.77"]


def test_only_members_that_matter_are_read(cluster):
    few = claims.read_neighbours(cluster, None, ["10.0.0.1"])
    assert few.addresses.keys() == {"10.0.0.1", "2001:db8::1"} | {
        node.address for node in cluster.nodes.filter(name__in=("first", "second"))
    }
    assert few.endpoints == {"10.0.0.1": "first"}
    assert few.networks == [(ip_network("192.168.7.0/24"), "second")]
    assert len(claims.read_neighbours(cluster, None).addresses) > 20


def test_a_machine_with_networks_is_judged_beside_all(cluster):
    node = enrol(cluster, Machine("wide", networks=("10.0.0.0/24",)), now=NOW)
    assert "first" in node.refused_claims[0]["reason"]


@pytest.mark.parametrize("networks", [(), ("10.9.0.0/16",)])
def test_what_a_member_says_to_have_seen_keeps_nobody_from_an_address(networks):
    """A liar sees others where a third one really is; what these say of themselves still counts."""
    made = make_cluster(harvest_extra_endpoints=True, approved_networks=("10.9.0.0/16",))
    enrol(made, Machine("liar"))
    other = enrol(made, Machine("other"), peer=ip_address("198.51.100.9"))
    owner = enrol(made, Machine("owner"))
    seen = [(0, other.index, Endpoint.parse(text)) for text in ("10.0.0.7:51820", "10.9.0.1:51820")]
    assert nodes.record_harvest(made.pk, seen, NOW) == 2

    said = claim(("10.0.0.7", "198.51.100.9"))
    nodes.record_claim(owner.pk, msgspec.structs.replace(said, networks=networks), PEER, NOW)
    owner.refresh_from_db()
    assert owner.addresses == ["10.0.0.7"]
    assert [*owner.ruled_networks] == [*networks]
    assert [refused["claim"] for refused in owner.refused_claims] == ["198.51.100.9"]


@pytest.fixture
def resolver(monkeypatch, settings):
    """The console's name leads where this says, asked anew at each call; without an answer, none comes."""
    settings.KUBESPAN_URL = settings.KUBESPAN_AGENT_URL = "https://console.example"
    answers = []

    def look_up(*_, **__):
        if not answers:
            raise socket.gaierror(socket.EAI_AGAIN, "no name server")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in answers]

    def answer(*addresses):
        answers[:] = addresses
        claims._resolve.cache_clear()

    monkeypatch.setattr(claims.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(claims, "_last_resolved", {})
    yield answer
    claims._resolve.cache_clear()


def test_while_no_name_server_answers_the_consoles_address_is_what_it_was(cluster, resolver, caplog):
    resolver("192.0.2.80")
    assert beside_few(cluster, "192.0.2.80").addresses == []
    resolver()
    assert beside_few(cluster, "192.0.2.80").addresses == []
    assert "the console's own name was not found" in caplog.text


def test_the_consoles_address_is_taken_back_once_its_name_is_found(cluster, resolver):
    """From whoever claimed it before any name server answered this process."""
    resolver()
    liar = enrol(cluster, Machine("liar", addresses=("192.0.2.80",)))
    said = claim(("192.0.2.80",))
    nodes.record_claim(liar.pk, said, PEER, NOW)
    assert nodes.settle_claims([(liar.pk, said, PEER)]) == []
    liar.refresh_from_db()
    assert liar.addresses == ["192.0.2.80"]

    resolver("192.0.2.80")
    assert nodes.settle_claims([(liar.pk, said, PEER)]) == [liar.pk]
    assert nodes.record_claim(liar.pk, said, PEER, NOW)
    liar.refresh_from_db()
    assert (liar.addresses, [refused["claim"] for refused in liar.refused_claims]) == ([], ["192.0.2.80"])
