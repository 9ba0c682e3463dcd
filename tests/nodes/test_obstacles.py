"""What nodes' preflights find: kept, told to pages, shown with the remedy."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from kubespan.core.messages import Finding
from nodes.models import Node, Obstacle
from nodes.services import nodes as services
from nodes.services.obstacles import MOST, record_findings
from nodes.views import attention
from tests.factories import NOW, enrol, fill, make_cluster, make_user

pytestmark = pytest.mark.django_db

STRICT = Finding(code="rp-filter", text="The kernel drops what comes.", remedy="sysctl -w a=0 && echo '<b>'")
CLOCK = Finding(code="clock-skew", text="The clock is off.", remedy="timedatectl set-ntp true")


@pytest.fixture
def cluster():
    return make_cluster("homelab", now=timezone.now())


@pytest.fixture
def node(cluster):
    return fill(cluster, 1)[0]


@pytest.fixture
def page(client):
    """Alice's browser."""
    client.force_login(make_user("alice", "administrator", password="correct horse"))
    return client


def codes(node):
    return list(node.obstacles.values_list("code", flat=True))


def test_the_last_word_counts_and_each_has_its_age(node):
    record_findings(node.pk, [STRICT, CLOCK], NOW)
    assert codes(node) == ["rp-filter", "clock-skew"]
    later = NOW + timedelta(hours=1)
    worse = Finding(code="port-taken", text="UDP port 51820 is taken.", remedy="kill 1")
    record_findings(node.pk, [worse, STRICT], later)
    assert list(node.obstacles.values_list("code", "since")) == [("port-taken", later), ("rp-filter", NOW)]
    record_findings(node.pk, [], later)
    assert codes(node) == []


def test_the_same_words_again_change_nothing(node):
    record_findings(node.pk, [STRICT, STRICT], NOW)
    record_findings(node.pk, [STRICT, STRICT], NOW + timedelta(hours=1))
    node.refresh_from_db()
    assert node.obstacles_at == NOW


def test_pages_hear_of_a_difference(node, monkeypatch, django_capture_on_commit_callbacks):
    heard = []
    monkeypatch.setattr("nodes.announce.announce", lambda *told, **fields: heard.append((*told, fields)))
    with django_capture_on_commit_callbacks(execute=True):
        record_findings(node.pk, [STRICT], NOW)
        record_findings(node.pk, [STRICT], NOW)
    assert heard == [(node.cluster_id, "node.changed", {"node": node.pk})]


def test_only_members_are_listened_to(cluster, node):
    """Who waits for approval could put any command before an operator's eyes."""
    pending = enrol(cluster, approval_required=True)
    record_findings(pending.pk, [STRICT], NOW)
    services.remove_node(None, node, node.name, NOW)
    record_findings(node.pk, [STRICT], NOW)
    record_findings(0, [STRICT], NOW)
    assert not Obstacle.objects.exists()


def test_what_a_machine_makes_up_is_bounded_and_printable(node):
    odd = Finding(code="c" * 100, text="a\x00b\n" + "x" * 5000, remedy="r" * 9000)
    record_findings(node.pk, [odd] * 2 + [Finding(code=str(n), text="", remedy="") for n in range(2 * MOST)], NOW)
    first = node.obstacles.first()
    assert (len(first.code), first.text[:3], len(first.text), len(first.remedy)) == (64, "abx", 1000, 4000)
    assert node.obstacles.count() == MOST - 1  # the same one twice is one


def test_the_node_page_shows_each_with_its_remedy(page, node):
    record_findings(node.pk, [STRICT, CLOCK], NOW)
    content = page.get(node.get_absolute_url()).content.decode()
    assert "Findings (2)" in content
    assert 'data-copy="sysctl -w a=0 &amp;&amp; echo &#x27;&lt;b&gt;&#x27;"' in content
    assert content.index("stops traffic") < content.index("warning</span>")
    record_findings(node.pk, [], NOW)
    assert "Findings (" not in page.get(node.get_absolute_url()).content.decode()


def test_the_cluster_page_counts_the_machines(page, cluster):
    address = reverse("cluster-nodes", args=[cluster.uuid])
    first, second, third = fill(cluster, 3)
    assert "with findings" not in page.get(address).content.decode()
    record_findings(first.pk, [CLOCK], NOW)
    record_findings(third.pk, [STRICT, CLOCK], NOW)
    content = page.get(address).content.decode()
    assert "2 machines with findings" in content
    assert "keeps traffic out of the mesh" in content
    note = content[content.index('id="hindered"') :]
    assert note.index(third.name) < note.index(first.name)
    assert second.name not in note[: note.index("</div>")]


def test_attention_has_them_with_what_stops_the_mesh_before_the_rest(cluster):
    first, second = fill(cluster, 2)
    record_findings(first.pk, [CLOCK], NOW)
    record_findings(second.pk, [STRICT, CLOCK], NOW)
    nodes = Node.objects.filter(cluster=cluster).order_by("pk")
    for node in nodes:
        node.session, node.applied_epoch, node.applied_number = "s", 1, cluster.revision
    found = attention.collect(nodes, {cluster.pk: cluster}, {}, Obstacle.objects.order_by("node", "place"))
    assert [f"{entry.subject.name} {entry.tone} {entry.text}" for entry in found if "preflight" in entry.text] == [
        "bulk-1 bad preflight: the kernel drops what comes (and 1 more finding)",
        "bulk-0 warn preflight: the clock is off",
    ]
