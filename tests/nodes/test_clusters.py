"""Clusters: made and imported, their options, their secret, their end."""

from __future__ import annotations

import json

import msgspec
import pytest

from kubespan.core.cluster import parse_cluster_secret
from kubespan.core.messages import Revision
from kubespan.core.options import ClusterOptions, Options
from nodes.models import Audit, Change, Cluster
from nodes.services import clusters, revisions
from nodes.services.refused import Refused
from tests.factories import NOW, Machine, cluster_identity, enrol, make_cluster, make_user

pytestmark = pytest.mark.django_db


def test_a_new_cluster_has_an_id_and_a_secret_of_its_own():
    one, warnings = clusters.create_cluster("tests", name="production", now=NOW)
    other = make_cluster()

    assert warnings == []
    assert len(parse_cluster_secret(one.secret.reveal())) == 32
    assert one.secret != other.secret
    assert one.cluster_id != other.cluster_id
    assert Cluster.objects.get(name="production").secret.reveal() == one.secret.reveal()


def test_an_imported_id_is_kept_to_the_letter_and_an_odd_one_only_warned_of():
    _, secret = cluster_identity()
    cluster, warnings = clusters.create_cluster("tests", name="old", cluster_id=" Überall ", secret=secret, now=NOW)

    cluster.refresh_from_db()
    assert cluster.cluster_id == " Überall "
    assert cluster.secret.reveal() == secret
    assert len(warnings) == 2
    assert Audit.objects.get(verb="cluster.created").details == {"imported": True}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"name": ""}, "name", id="no name"),
        pytest.param({"name": "a" * 64}, "name", id="name too long"),
        pytest.param({"name": "<b>"}, "name", id="name with signs"),
        pytest.param({"secret": "c2hvcnQ="}, "secret", id="secret of the wrong length"),
        pytest.param({"secret": "*" * 44}, "secret", id="secret of another alphabet"),
        pytest.param({"secret": ""}, "identity", id="id without secret"),
        pytest.param({"cluster_id": ""}, "identity", id="secret without id"),
        pytest.param({"cluster_id": "x" * 257}, "cluster-id", id="id too long"),
        pytest.param({"cluster_id": "a\x00b"}, "cluster-id", id="id that no database keeps"),
        pytest.param({"options": ClusterOptions(mtu=1000)}, "options", id="options out of range"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_made(changes, code):
    cluster_id, secret = cluster_identity()
    asked = {"name": "import", "cluster_id": cluster_id, "secret": secret} | changes
    with pytest.raises(Refused) as refused:
        clusters.create_cluster("tests", **asked, now=NOW)

    assert refused.value.code == code
    assert secret not in refused.value.reason
    assert not Cluster.objects.exists()
    assert not Audit.objects.exists()


@pytest.mark.parametrize(("repeat", "code"), [("name", "duplicate-name"), ("cluster_id", "duplicate-id")])
def test_an_equal_name_or_id_is_refused_with_the_remedy(repeat, code):
    first = make_cluster()
    cluster_id, secret = cluster_identity()
    asked = {"name": "another", "cluster_id": cluster_id} | {repeat: getattr(first, repeat)}
    with pytest.raises(Refused) as refused:
        clusters.create_cluster("tests", **asked, secret=secret, now=NOW)

    assert (refused.value.code, refused.value.status) == (code, 409)
    assert first.name in refused.value.reason


def test_the_secret_shows_itself_to_nobody_unasked():
    cluster = make_cluster()
    secret = cluster.secret.reveal()
    stored = Cluster.objects.values_list("secret", flat=True).get()

    shown = [repr(cluster), str(cluster.secret), repr(cluster.secret), repr(vars(cluster)), f"{stored}"]
    assert not any(secret in text for text in shown)
    assert not any(secret in str(row.details) for row in Audit.objects.all())


def test_each_look_at_the_secret_is_an_audit_row():
    user = make_user("alice", "administrator")
    cluster = make_cluster()

    assert clusters.reveal_secret(user, cluster, NOW) == cluster.secret.reveal()
    row = Audit.objects.get(verb="cluster.secret-shown")
    assert (row.actor, row.actor_name, row.cluster, row.details) == (user, "alice", cluster, {})


def test_a_secret_whose_key_is_gone_is_refused_by_the_keys_name(settings):
    cluster = make_cluster()
    settings.KUBESPAN_KEYS = {"newer": "B" * 43 + "="}
    with pytest.raises(Refused, match="'tests'") as refused:
        clusters.reveal_secret("tests", cluster, NOW)

    assert refused.value.status == 503
    assert not Audit.objects.filter(verb="cluster.secret-shown").exists()


def test_options_become_a_revision_once():
    cluster = make_cluster()

    assert clusters.set_options("tests", cluster, ClusterOptions(mtu=1380), NOW) == Revision(cluster.epoch, 1)
    assert clusters.set_options("tests", cluster, ClusterOptions(mtu=1380), NOW) is None
    cluster.refresh_from_db()
    assert cluster.kubespan == ClusterOptions(mtu=1380)
    assert Audit.objects.get(verb="cluster.options-set").details == {"changes": {"mtu": [1420, 1380]}}


def test_wrong_options_change_nothing():
    cluster = make_cluster()
    with pytest.raises(Refused, match="/8"):
        clusters.set_options("tests", cluster, ClusterOptions(endpoint_filters=("/8",)), NOW)

    cluster.refresh_from_db()
    assert (cluster.kubespan, cluster.revision) == (ClusterOptions(), 0)


def test_an_endpoint_filter_changes_the_members_that_it_touches_and_no_other():
    cluster = make_cluster()
    touched = enrol(cluster, Machine(addresses=("10.0.0.5", "192.0.2.5")))
    enrol(cluster, Machine(addresses=("192.0.2.6",)))
    before = Cluster.objects.get().revision
    clusters.set_options("tests", cluster, ClusterOptions(endpoint_filters=("192.0.2.0/24", "198.51.100.0/24")), NOW)

    kinds = list(Change.objects.filter(number__gt=before).values_list("kind", "index"))
    assert kinds == [("options", None), ("member", touched.index)]
    listed = list(touched.candidates.values_list("endpoint", "source"))
    assert listed == [("192.0.2.5:51820", "local"), ("198.51.100.7:51820", "observed")]


def test_an_exclusion_changes_every_member():
    cluster = make_cluster()
    nodes = [enrol(cluster), enrol(cluster)]
    before = Cluster.objects.get().revision
    clusters.set_options("tests", cluster, ClusterOptions(exclude_advertised_networks=("10.9.0.0/16",)), NOW)

    changed = Change.objects.filter(number__gt=before, kind="member")
    assert sorted(changed.values_list("index", flat=True)) == [node.index for node in nodes]


def test_a_clusters_endpoints_are_every_members():
    cluster = make_cluster()
    one, two = enrol(cluster, Machine(addresses=("10.0.0.5",))), enrol(cluster)
    before = Cluster.objects.get().revision
    options = ClusterOptions(extra_endpoints=("192.0.2.1:7",))
    clusters.set_options("tests", cluster, options, NOW)

    changed = Change.objects.filter(number__gt=before, kind="member").values_list("index", flat=True)
    assert sorted(changed) == [one.index, two.index]
    late = enrol(cluster)
    for node in (one, two, late):
        assert ("192.0.2.1:7", "configured") in node.candidates.values_list("endpoint", "source")
    # They belong to nobody: the machine that has the address itself may say so.
    assert enrol(cluster, Machine(addresses=("192.0.2.1",))).addresses == ["192.0.2.1"]

    clusters.set_options("tests", cluster, ClusterOptions(), NOW)
    assert not late.candidates.filter(endpoint="192.0.2.1:7").exists()


def test_what_the_console_acts_on_itself_does_not_travel():
    """Machines of the protocol version before know no such options, and refuse what they do not know."""
    cluster = make_cluster(extra_endpoints=("192.0.2.1:7",), approved_networks=("10.0.0.0/8",))
    enrol(cluster)
    options = json.loads(revisions.frame(cluster.pk, None).bytes)["options"]
    assert msgspec.convert(options, Options) == Options()


def test_setting_options_costs_the_same_for_many_members(django_assert_num_queries, django_assert_max_num_queries):
    few, many = make_cluster(), make_cluster()
    for cluster, count in ((few, 10), (many, 100)):
        for number in range(count):
            enrol(cluster, Machine(addresses=(f"10.0.{number}.1", f"192.0.2.{number}")))
    filtered = ClusterOptions(endpoint_filters=("10.0.0.0/8",))
    with django_assert_max_num_queries(20) as captured:
        clusters.set_options("tests", few, filtered, NOW)
    with django_assert_num_queries(len(captured)):
        clusters.set_options("tests", many, filtered, NOW)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"mtu": 1380}, "MTU becomes 1380", id="mtu"),
        pytest.param({"enabled": False}, "switched off", id="off"),
        pytest.param({"allow_down_peer_bypass": True}, "around the tunnel, unencrypted", id="bypass"),
        pytest.param({"force_from_start": True}, "before the first handshake", id="forced"),
        pytest.param({"harvest_extra_endpoints": True}, "shared with all others", id="harvest"),
        pytest.param({"advertise_kubernetes_networks": True}, "pod networks", id="kubernetes"),
        pytest.param({"discovery": False}, "serves this cluster no longer", id="without discovery"),
        pytest.param({"endpoint_filters": ("10.0.0.0/8", "!10.1.0.0/16")}, "10.0.0.0/8, !10.1.0.0/16", id="filters"),
        pytest.param({"peer_endpoint_filters": ("10.0.0.0/8",)}, "try only", id="peer filters"),
        pytest.param({"exclude_advertised_networks": ("10.0.0.0/8",)}, "stays out", id="exclusions"),
        pytest.param({"extra_endpoints": ("192.0.2.1:9",)}, "also tried at 192.0.2.1:9", id="endpoints"),
        pytest.param({"approved_networks": ("10.0.0.0/8",)}, "without a further yes", id="approved networks"),
    ],
)
def test_a_preview_says_what_would_change_and_whom_it_touches(options, words):
    cluster = make_cluster()
    enrol(cluster)
    sentences = clusters.preview_options(cluster, ClusterOptions(**options))

    assert len(sentences) == 2
    assert words in sentences[0]
    assert sentences[1] == "1 machine will be told at once."
    # and back again
    clusters.set_options("tests", cluster, ClusterOptions(**options), NOW)
    cluster.refresh_from_db()
    assert clusters.preview_options(cluster, ClusterOptions())[0] != sentences[0]


def test_a_preview_of_the_same_options_is_empty():
    assert clusters.preview_options(make_cluster(), ClusterOptions()) == []


def test_deletion_asks_for_the_name_and_leaves_an_audit_row():
    cluster = make_cluster("production")
    enrol(cluster)
    with pytest.raises(Refused) as refused:
        clusters.delete_cluster("tests", cluster, "Production", NOW)
    assert refused.value.code == "name-mismatch"
    assert Cluster.objects.exists()

    clusters.delete_cluster("tests", cluster, "production", NOW)
    assert not Cluster.objects.exists()
    row = Audit.objects.get(verb="cluster.deleted")
    assert (row.target, row.cluster, row.details) == ("production", None, {"nodes": 1})
