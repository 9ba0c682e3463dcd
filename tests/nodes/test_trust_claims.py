"""Addresses and networks that a liar claims: by its socket, before its approval, in pieces; and what pages show."""

from __future__ import annotations

import json
import re
from html import unescape
from ipaddress import ip_network

import pytest
from django.urls import reverse
from django.utils import timezone

from kubespan.core.messages import Claim, ClaimRefused
from nodes.agents.rows import in_thread
from nodes.models import Node
from nodes.services import nodes, revisions
from tests import players
from tests.factories import NOW, Machine, enrol, make_cluster


def claim(addresses=(), networks=()):
    return Claim(
        hostname="liar",
        operating_system="",
        agent_version="",
        backend="kernel",
        listen_port=51820,
        addresses=addresses,
        networks=networks,
    )


def told_to_all(cluster):
    """Each member's addresses and networks, as every other machine is told them."""
    members = json.loads(revisions.frame(cluster.pk, None).bytes)["members"]
    return {member["name"]: [*member.get("addresses", ()), *member.get("networks", ())] for member in members}


@pytest.mark.django_db(transaction=True)
async def test_what_a_member_claims_over_its_connection_is_refused_to_its_face_and_told_nobody(console, settings):
    settings.KUBESPAN_URL = settings.KUBESPAN_AGENT_URL = "https://192.0.2.80:8443"
    cluster, (liar, victim), _ = await in_thread(players.make_cluster)
    victims = await console.connect(victim)
    await victims.say(claim(addresses=("10.0.0.1",)))
    await players.until(lambda: Node.objects.filter(pk=victim.node.pk, addresses=["10.0.0.1"]).exists())
    player = await console.connect(liar)
    stolen = ("10.0.0.1", victim.node.address, "192.0.2.80", "127.0.0.1", "169.254.169.254", "0.0.0.0")
    routes = ("0.0.0.0/0", "::/0", "10.0.0.0/24", "192.0.2.80/32", f"{victim.node.address}/128")
    await player.say(claim(("10.0.0.2", *stolen), ("10.20.0.0/16", *routes)))
    while not isinstance(heard := await player.receive(), ClaimRefused):
        pass
    reasons = {refused.claim: refused.reason for refused in heard.refused}

    assert reasons.keys() == {*stolen, *routes}
    assert victim.name in reasons["10.0.0.1"]
    assert "console" in reasons["192.0.2.80"]
    assert "default route" in reasons["0.0.0.0/0"]
    told = await in_thread(told_to_all, cluster)
    assert told == {liar.name: ["10.0.0.2"], victim.name: ["10.0.0.1"]}


@pytest.mark.django_db
def test_one_that_waits_keeps_nobody_from_an_address():
    """What it claims counts for nothing until it is let in, and is judged then."""
    cluster = make_cluster()
    liar = enrol(cluster, Machine("liar", addresses=("10.0.0.1",), networks=("10.8.0.0/16",)), approval_required=True)
    member = enrol(cluster, Machine("member", addresses=("10.0.0.1", "10.8.0.1")))
    assert member.addresses == ["10.0.0.1", "10.8.0.1"]

    nodes.approve_node("tests", liar, NOW)
    liar.refresh_from_db()
    assert (liar.addresses, liar.claimed_networks, liar.networks) == ([], [], [])
    assert told_to_all(cluster)["liar"] == []


@pytest.mark.django_db
def test_two_sites_with_equal_private_addresses_keep_what_came_first_and_the_page_names_the_other(client, admin_user):
    cluster = make_cluster(now=timezone.now())
    enrol(cluster, Machine("berlin", addresses=("192.168.1.10", "10.1.0.1")), now=timezone.now())
    late = enrol(cluster, Machine("paris", addresses=("192.168.1.10", "10.2.0.1")), now=timezone.now())

    assert told_to_all(cluster) == {"berlin": ["192.168.1.10", "10.1.0.1"], "paris": ["10.2.0.1"]}
    client.force_login(admin_user)
    text = re.sub(r"\s+", " ", unescape(client.get(reverse("node-endpoints", args=[late.pk])).content.decode()))
    assert "Not believed" in text
    assert "192.168.1.10 is an address of berlin already" in text


@pytest.mark.django_db
def test_a_default_route_in_pieces_is_routed_nowhere_either():
    """Two halves are refused, and smaller pieces wait for a yes as all networks do."""
    cluster = make_cluster()
    halves = ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]
    pieces = [str(piece) for piece in ip_network("0.0.0.0/0").subnets(new_prefix=6)]
    node = enrol(cluster, Machine("liar", networks=(*halves, *pieces)))

    assert told_to_all(cluster) == {"liar": []}
    assert set(halves) <= {refused["claim"] for refused in node.refused_claims}
    assert node.networks == []


@pytest.mark.django_db
def test_what_a_liar_writes_is_shown_and_does_nothing(client, admin_user):
    cluster = make_cluster(now=timezone.now())
    nasty = "<script>alert(1)</script>"
    node = enrol(cluster, Machine("liar", addresses=(nasty,), networks=(nasty,)), now=timezone.now())
    client.force_login(admin_user)
    page = client.get(reverse("node-endpoints", args=[node.pk])).content.decode()

    assert nasty not in page
    assert nasty in unescape(page)
