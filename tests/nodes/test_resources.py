"""The KubeSpan resources of clusters and nodes: what a machine's own `get` would list, as far as the console knows."""

import pytest
import yaml
from django.db import connection
from django.test.utils import CaptureQueriesContext

from kubespan.core.affiliate import from_members
from kubespan.core.peer_spec import peer_specs
from kubespan.core.resources import AFFILIATES, ENDPOINTS, IDENTITIES, MEMBERS, PEER_SPECS, PEER_STATUSES
from nodes import resources
from nodes.models import Candidate, Node
from nodes.services import nodes as services
from nodes.services import revisions
from tests.big import Live, make_mesh
from tests.factories import NOW, Machine, enrol, make_cluster

pytestmark = pytest.mark.django_db


@pytest.fixture
def mesh():
    """Twenty nodes, three of which wait, that all report."""
    made = make_mesh(20, talos=0, now=NOW)
    Live(made, NOW.timestamp()).write()
    return made


def ids(found):
    return [one.id for one in found[:]]


def test_a_clusters_affiliates_and_members_are_those_that_are_approved(mesh):
    members = resources.of_cluster(mesh.cluster, MEMBERS)
    assert ids(members) == sorted(node.name for node in mesh.members)
    affiliates = resources.of_cluster(mesh.cluster, AFFILIATES)
    assert ids(affiliates) == sorted(node.node_id for node in mesh.members)
    (first,) = [one for one in affiliates[:] if one.id == mesh.members[0].node_id]
    assert first.record.spec["kubespan"]["publicKey"] == mesh.members[0].public_key


def test_a_clusters_identities_say_whose_they_are_and_have_no_private_key(mesh):
    found = resources.of_cluster(mesh.cluster, IDENTITIES)[:]
    assert {one.node for one in found} == {node.name for node in mesh.members}
    assert all(set(one.record.spec) == {"address", "subnet", "publicKey"} for one in found)


def test_a_clusters_endpoints_are_those_that_neighbours_saw(mesh):
    node = mesh.members[0]
    Candidate.objects.create(node=node, endpoint="198.51.100.9:4500", source="harvested", order=9, seen=NOW)
    (one,) = resources.of_cluster(mesh.cluster, ENDPOINTS)[:]
    assert one.record.spec == {"affiliateID": node.node_id, "endpoint": "198.51.100.9:4500"}


def test_a_node_has_all_others_as_peers_and_says_how_they_are(mesh):
    node = next(one for one in mesh.members if one.session)
    others = {one.public_key for one in mesh.members} - {node.public_key}
    assert set(ids(resources.of_node(node, PEER_SPECS))) == others
    statuses = {one.id: one.record.spec for one in resources.of_node(node, PEER_STATUSES)[:]}
    assert set(statuses) == others
    peer = next(one for one in mesh.members if one != node)
    said = statuses[peer.public_key]
    assert (said["label"], said["endpoint"]) == (peer.name, f"{peer.peer_address}:51820")
    assert said["state"] in {"up", "unknown", "down"}
    assert ids(resources.of_node(node, IDENTITIES)) == ["local"]


@pytest.mark.parametrize("harvest", [False, True])
def test_a_node_tells_where_it_sees_peers_that_are_up_where_that_is_wanted(mesh, harvest):
    mesh.cluster.options = {**mesh.cluster.options, "harvest_extra_endpoints": harvest}
    mesh.cluster.save()
    node = next(one for one in mesh.members if one.session)
    node.refresh_from_db()
    up = [one for one in resources.of_node(node, PEER_STATUSES)[:] if one.record.spec["state"] == "up"]
    found = resources.of_node(node, ENDPOINTS)
    assert ids(found) == (ids(up) if harvest else [])


def test_a_page_of_peer_specs_is_what_all_of_them_would_be():
    """Whoever claims an address of theirs decides what they are left with, on whatever page he is."""
    mesh = make_mesh(30, talos=0, now=NOW)
    one, other, third, node = mesh.members[:4]
    one.addresses, other.networks, third.addresses = ["10.9.0.1"], ["10.9.0.0/24"], ["10.9.0.1", "10.9.0.7"]
    Node.objects.bulk_update([one, other, third], ["addresses", "networks"])
    found = resources.of_node(node, PEER_SPECS)
    whole = from_members(revisions.read_snapshot(mesh.cluster.pk).members)[0]
    specs = peer_specs(whole, node.node_id).specs
    assert [found[at : at + 1][0].record.spec["allowedIPs"] for at in range(len(found))] == [
        list(map(str, specs[key].allowed_ips)) for key in sorted(specs)
    ]


def test_who_is_not_let_in_knows_of_nobody():
    cluster = make_cluster()
    enrol(cluster)
    node = enrol(cluster, Machine("waits"), approval_required=True)
    assert [len(resources.of_node(node, kind)) for kind in (IDENTITIES, PEER_SPECS, MEMBERS)] == [1, 0, 0]
    removed = enrol(cluster, Machine("goes"))
    services.remove_node("tests", removed, "goes", NOW)
    removed.refresh_from_db()
    assert len(resources.of_node(removed, MEMBERS)) == 0


def test_where_kubespan_is_off_nobody_has_peers():
    cluster = make_cluster(enabled=False)
    enrol(cluster)
    assert len(resources.of_node(enrol(cluster), PEER_SPECS)) == 0


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", MEMBERS),
        ("affiliates", AFFILIATES),
        ("KubeSpanEndpoint", ENDPOINTS),
        ("kubespanpeerstatuses", None),
        ("secrets", None),
    ],
)
def test_a_resource_is_named_as_get_takes_it(name, found):
    assert resources.choose(name, resources.OF_CLUSTER) == found


# The pages.


def test_a_clusters_page_has_tables_and_yaml_page_by_page(admin_client):
    mesh = make_mesh(60, now=NOW)
    address = f"/clusters/{mesh.cluster.uuid}/resources/"
    page = admin_client.get(address)
    assert (page.context["resource"], len(page.context["rows"])) == ("members", 25)
    page = admin_client.get(f"{address}?resource=affiliates&view=yaml&page=3")
    documents = list(yaml.safe_load_all(page.context["text"]))
    assert [one["metadata"]["id"] for one in documents] == sorted(node.node_id for node in mesh.members)[50:]
    assert documents[0]["metadata"]["type"] == "Affiliates.cluster.talos.dev"
    assert "1–25 of" not in page.text
    found = admin_client.get(f"{address}?q={mesh.members[7].name}")
    assert [one.id for one in found.context["rows"]] == [mesh.members[7].name]
    assert "Nothing matches" in admin_client.get(f"{address}?q=nobody").text
    assert admin_client.get(f"{address}?resource=secrets").status_code == 404


def test_a_nodes_page_says_how_its_peers_are(admin_client, mesh):
    node = next(one for one in mesh.members if one.session)
    page = admin_client.get(f"/nodes/{node.pk}/resources/")
    assert page.context["resource"] == "kubespanpeerstatuses"
    assert len(page.context["rows"]) == len(mesh.members) - 1
    page = admin_client.get(f"/nodes/{node.pk}/resources/?resource=kubespanidentities&view=yaml")
    assert yaml.safe_load(page.context["text"])["spec"]["publicKey"] == node.public_key


def test_a_nodes_page_says_that_its_report_cannot_be_read(admin_client, mesh, valkey):
    node = next(one for one in mesh.members if one.session)
    admin_client.get("/")
    valkey.stop()
    page = admin_client.get(f"/nodes/{node.pk}/resources/")
    assert "cannot be read just now" in page.text
    assert admin_client.get(f"/nodes/{node.pk}/resources/?resource=members").status_code == 200


@pytest.mark.parametrize("resource", [kind.label.lower() for kind in resources.OF_NODE])
def test_pages_ask_the_database_as_often_whatever_the_size(admin_client, resource):
    asked = []
    for size in (10, 60):
        mesh = make_mesh(size, name=f"of {size}", seed=size, now=NOW)
        Live(mesh, NOW.timestamp()).write()
        with CaptureQueriesContext(connection) as queries:
            admin_client.get(f"/nodes/{mesh.members[0].pk}/resources/?resource={resource}&view=yaml")
        asked.append(len(queries))
    assert asked[0] == asked[1]
