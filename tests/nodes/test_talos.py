"""Talos clusters on the pages: imported from files, their patches, and the test of the service; with real rows."""

from __future__ import annotations

import base64
import logging
import re
from html import unescape
from io import StringIO

import pytest
import redis
import yaml
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from kubespan.core.documents import LIMIT_BYTES
from kubespan.core.options import ClusterOptions
from kubespan.core.talos.configuration import read
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.server import Manners, Service, serve
from nodes import certificates, talos
from nodes.counters import read_counters
from nodes.models import Audit, Cluster, Node
from nodes.uploads import InMemory
from tests.factories import NOW, enrol, make_cluster, make_user
from tests.talos_files import CA_KEY, CONFIGURATION, ID, SECRET, TOKEN

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
OTHER_SECRET = base64.b64encode(bytes(range(32))).decode()
BUNDLE = f"cluster: {{id: {ID}, secret: {SECRET}}}\nsecrets: {{bootstraptoken: {TOKEN}}}\n"
OLD = "version: v1alpha1\nmachine: {type: worker}\ncluster: {clusterName: old}\n"


@pytest.fixture
def alice():
    return get_user_model().objects.create_superuser("alice", password=PASSWORD)


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture
def cluster():
    return make_cluster("homelab", now=timezone.now())


def file(text=CONFIGURATION, name="controlplane.yaml"):
    return SimpleUploadedFile(name, text if isinstance(text, bytes) else text.encode())


def send(page, *files, **typed):
    form = {
        "name": "talos",
        "enabled": "on",
        "discovery": "on",
        "probes": "on",
        "routing": "after-handshake",
        "mtu": 1420,
        "take_options": "on",
    } | typed
    return page.post("/clusters/import/", form | {"configuration": list(files)}, follow=True)


def faults(response):
    """What was wrong, by field."""
    return dict(response.context["form"].errors) if response.context and "form" in response.context else {}


def read_text(response):
    return re.sub(r"\s+", " ", unescape(response.content.decode()))


# ------------------------------------------------------------------------------------------------------------- import


def test_an_import_from_a_machine_configuration(page):
    response = send(page, file())
    cluster = Cluster.objects.get()
    assert response.redirect_chain == [(f"/clusters/{cluster.uuid}/talos/", 302)]
    assert (cluster.cluster_id, cluster.secret.reveal()) == (ID, SECRET)
    assert cluster.kubespan == ClusterOptions(mtu=1380, allow_down_peer_bypass=True)
    said = read_text(response)
    assert "KubeSpan's options were taken from the files: enabled, mtu, allow down peer bypass." in said
    assert "Its machines look for each other at https://discovery.talos.dev/ now." in said
    assert Audit.objects.get(verb="cluster.created").details == {"imported": True}


def test_its_options_may_be_left(page):
    send(page, file(), take_options="", mtu=1400)
    assert Cluster.objects.get().kubespan == ClusterOptions(mtu=1400)


def test_several_files_of_one_cluster(page):
    said = read_text(send(page, file(BUNDLE, "secrets.yaml"), file(OLD, "worker.yaml")))
    assert Cluster.objects.get().secret.reveal() == SECRET
    assert "The files do not switch KubeSpan on" in said


def test_a_file_and_what_it_lacks_typed(page):
    send(page, file(f"cluster: {{id: {ID}}}"), secret=SECRET)
    assert Cluster.objects.get().secret.reveal() == SECRET


def test_the_same_typed_as_in_the_file_is_no_fault(page):
    send(page, file(), cluster_id=ID, secret=SECRET)
    assert Cluster.objects.exists()


def test_nothing_of_a_file_is_kept_or_shown_but_what_is_meant(page, caplog):
    with caplog.at_level(logging.DEBUG):
        shown = send(page, file()).content.decode()
        shown += send(page, file(CONFIGURATION + "  broken: [")).content.decode()
        shown += send(page, file(CONFIGURATION.replace(SECRET, "c2hvcnQ="))).content.decode()
    rows = StringIO()
    call_command("dumpdata", stdout=rows)
    store = redis.Redis.from_url(django_settings.REDIS_URL)
    kept = "".join(repr((key, store.dump(key))) for key in store.scan_iter())
    store.close()
    for place in (shown, rows.getvalue(), kept, caplog.text):
        assert [word for word in (TOKEN, CA_KEY, SECRET, "c2hvcnQ=") if word in place] == []


@pytest.mark.parametrize(
    ("files", "typed", "field", "words"),
    [
        pytest.param([], {}, "cluster_id", "This field is required.", id="nothing at all"),
        pytest.param([], {"cluster_id": ID}, "secret", "This field is required.", id="an id alone"),
        pytest.param([file(OLD)], {}, "configuration", "clusters from before Talos 0.12 have none", id="before 0.12"),
        pytest.param(
            [file(f"cluster: {{id: {ID}}}")], {}, "configuration", "no cluster secret in them", id="no secret"
        ),
        pytest.param([file("x: [")], {}, "configuration", "controlplane.yaml: It is not YAML", id="not YAML"),
        pytest.param([file("")], {}, "configuration", "no Talos document", id="an empty file"),
        pytest.param([file("a: &a b\nc: *a")], {}, "configuration", "YAML alias", id="an alias"),
        pytest.param([file(b"\xff\x00")], {}, "configuration", "not UTF-8", id="no text"),
        pytest.param([file("a" * (LIMIT_BYTES + 1))], {}, "configuration", "larger than 1,024 KiB", id="too large"),
        pytest.param(
            [file(CONFIGURATION.replace(SECRET, "c2hvcnQ="))],
            {},
            "configuration",
            "expected 32 bytes",
            id="wrong secret",
        ),
        pytest.param(
            [file(), file(BUNDLE.replace(SECRET, OTHER_SECRET), "b.yaml")],
            {},
            "configuration",
            "controlplane.yaml and b.yaml have different cluster secrets",
            id="two clusters' files",
        ),
        pytest.param([file()], {"cluster_id": "another"}, "cluster_id", "another cluster id than this", id="other id"),
        pytest.param(
            [file()], {"secret": OTHER_SECRET}, "secret", "another cluster secret than this", id="other secret"
        ),
        pytest.param([file()], {"name": ""}, "name", "required", id="no name"),
    ],
)
def test_what_is_wrong_is_said_at_the_field_and_nothing_made(page, files, typed, field, words):
    for one in files:
        one.seek(0)
    response = send(page, *files, **typed)
    assert response.status_code == 400
    assert words in unescape(" ".join(map(str, faults(response)[field])))
    assert not [word for word in (SECRET, OTHER_SECRET, "c2hvcnQ=") if word in response.content.decode()]
    assert not Cluster.objects.exists()
    assert read_counters().get(f"page.{field.replace('_', '-')}") == 1


def test_of_a_file_no_more_than_the_limit_is_kept():
    """In memory: the settings know no other handler, so none is on a disk."""
    assert django_settings.FILE_UPLOAD_HANDLERS == ["nodes.uploads.InMemory"]
    most = django_settings.DATA_UPLOAD_MAX_NUMBER_FILES * LIMIT_BYTES + django_settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    assert most <= django_settings.FILE_UPLOAD_MAX_MEMORY_SIZE, "a request that may be accepted is not spooled"
    handler = InMemory()
    handler.new_file("configuration", "a.yaml", "text/plain", 0)
    for start in range(0, 3 * LIMIT_BYTES, LIMIT_BYTES - 7):
        assert handler.receive_data_chunk(b"a" * (LIMIT_BYTES - 7), start) is None
    kept = handler.file_complete(3 * LIMIT_BYTES)
    assert (kept.size, kept.file.getbuffer().nbytes) == (3 * LIMIT_BYTES, LIMIT_BYTES)


def test_too_many_files_are_refused(page):
    assert send(page, *[file() for _ in range(4)]).status_code == 400
    assert not Cluster.objects.exists()


# -------------------------------------------------------------------------------------------------------------- patches


def address(cluster, name="cluster-talos"):
    return reverse(name, args=[cluster.uuid])


def shown_patch(response):
    return list(
        yaml.safe_load_all(
            unescape(re.search(r'id="patch-text"[^>]*>(.*?)</pre>', response.content.decode(), re.DOTALL)[1])
        )
    )


def test_the_tab_shows_a_patch_and_how_to_apply_it(page, cluster, settings):
    settings.DISCOVERY_URL = "https://discovery.example:3000/"
    response = page.get(address(cluster))
    assert shown_patch(response) == [
        {
            "cluster": {
                "discovery": {
                    "enabled": True,
                    "registries": {"service": {"disabled": False, "endpoint": "https://discovery.example:3000/"}},
                }
            }
        }
    ]
    said = read_text(response)
    assert "patch machineconfig --mode=no-reboot --patch-file talos-1.14-upgraded.yaml" in said
    assert "Every Talos since 0.12" in said
    assert "no-store" in response.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("release=1.14", ["DiscoveryServiceConfig"]),
        ("release=1.14&beside=on", ["DiscoveryServiceConfig", "DiscoveryServiceConfig"]),
        ("release=1.13&kubespan=on", [None, "KubeSpanConfig"]),
        ("release=1.13&kubespan=on&legacy=on", [None]),
        ("release=1.8&beside=on", [None]),
        ("release=0.12", None),
        ("release=9.9", [None]),
        ("release=1.14&beside=perhaps&legacy=on", [None, "DiscoveryServiceConfig", "DiscoveryServiceConfig"]),
    ],
)
def test_each_choice_has_its_patch_without_a_script(page, cluster, query, kinds):
    shown = shown_patch(page.get(f"{address(cluster)}?{query}"))
    if kinds is None:
        assert [one["path"] for one in shown[0]] == ["/cluster/discovery"]
    else:
        assert [one.get("kind") for one in shown] == kinds
    got = page.get(f"{address(cluster, 'cluster-talos-patch')}?{query}")
    assert list(yaml.safe_load_all(got.content)) == shown
    assert re.fullmatch(
        r'attachment; filename="talos-[0-9.]+[0-9](-upgraded)?\.(yaml|json)"', got["Content-Disposition"]
    )


def test_kubespans_options_are_the_clusters(page):
    cluster = make_cluster("other", mtu=1300, allow_down_peer_bypass=True, now=timezone.now())
    shown = shown_patch(page.get(f"{address(cluster)}?release=1.8&kubespan=on"))
    assert shown[0]["machine"]["network"]["kubespan"] == {
        "enabled": True,
        "advertiseKubernetesNetworks": False,
        "allowDownPeerBypass": True,
        "harvestExtraEndpoints": False,
        "mtu": 1300,
    }


def test_the_era_of_the_oldest_machine_comes_first(page, cluster):
    for system in ("Talos (v1.13.2)", "Talos (v1.9.1)", "who knows"):
        Node.objects.filter(pk=enrol(cluster, now=timezone.now()).pk).update(
            kind=Node.Kind.TALOS, operating_system=system
        )
    assert talos.guess_era(cluster).name == "1.8 to 1.12"
    assert "Patch for Talos 1.8 to 1.12" in read_text(page.get(address(cluster)))


def test_the_consoles_own_certificate_is_in_the_patch(page, cluster, settings, tmp_path):
    own = certificates.ensure(tmp_path, ["discovery.example"], NOW)
    settings.DISCOVERY_URL, settings.DISCOVERY_ROOTS = "https://discovery.example:3000/", str(own.certificate)
    shown = shown_patch(page.get(f"{address(cluster)}?release=1.8"))
    assert shown[1]["kind"] == "TrustedRootsConfig"
    assert shown[1]["certificates"] == own.certificate.read_text()
    both = tmp_path / "both.pem"
    both.write_bytes(own.key.read_bytes() + own.certificate.read_bytes())
    settings.DISCOVERY_ROOTS = str(both)
    assert shown_patch(page.get(f"{address(cluster)}?release=1.8")) == shown, "a key beside it stays where it is"
    assert "Machines reboot for it" in read_text(page.get(f"{address(cluster)}?release=1.7"))
    settings.DISCOVERY_URL = "http://discovery.example:3000/"
    assert len(shown_patch(page.get(f"{address(cluster)}?release=1.8"))) == 1


@pytest.mark.parametrize(
    ("url", "roots", "words"),
    [
        ("http://127.0.0.1:3000/", "", "can be reached from this machine alone"),
        ("https://0.0.0.0:3000/", "", "no address that a machine can connect to"),
        ("http://10.0.0.1:3000/", "", "The connection is plain"),
        ("https://d.example:3000/", "/nowhere.pem", "cannot be read: /nowhere.pem"),
        ("https://d.example:3000/", "", None),
        ("https://[2001:db8::1]:3000/", "", None),
    ],
)
def test_why_machines_might_not_find_it_is_said(page, cluster, settings, url, roots, words):
    settings.DISCOVERY_URL, settings.DISCOVERY_ROOTS = url, roots
    found = talos.find_obstacles(cluster)
    assert len(found) == (words is not None)
    if words:
        assert words in found[0]
        assert words in read_text(page.get(address(cluster)))


def test_a_cluster_that_discovery_does_not_serve(page, settings):
    settings.DISCOVERY_URL = "https://d.example:3000/"
    cluster = make_cluster("alone", discovery=False, now=timezone.now())
    assert "does not serve this cluster: switch it on under Options" in read_text(page.get(address(cluster)))


def identities(response):
    text = unescape(re.search(r'id="revealed-text"[^>]*>(.*?)</pre>', response.content.decode(), re.DOTALL)[1])
    found = read([("patch", text.encode())])
    return found.cluster_id, found.secret


def confirm(page):
    assert page.post("/account/confirm/", {"password": PASSWORD}).status_code == 302


def test_id_and_secret_are_in_it_for_whoever_confirms_who_they_are(page, cluster):
    wanted = (cluster.cluster_id, cluster.secret.reveal())
    assert cluster.secret.reveal() not in page.get(address(cluster)).content.decode()
    asked = page.post(address(cluster), {"release": "1.14"})
    assert asked.headers["Location"].startswith("/account/confirm/?next=")
    assert "That is not your password" in read_text(page.post("/account/confirm/", {"password": "guess"}))
    assert not Audit.objects.filter(verb="cluster.patch-shown").exists()
    confirm(page)
    for release in ("1.14", "1.8"):
        response = page.post(address(cluster), {"release": release})
        assert identities(response) == wanted
        assert "no-store" in response.headers["Cache-Control"]
    rows = Audit.objects.filter(verb="cluster.patch-shown").order_by("pk")
    assert [(row.actor_name, row.details) for row in rows] == [
        ("alice", {"release": "1.14"}),
        ("alice", {"release": "1.8 to 1.12"}),
    ]
    activity = page.get(reverse("cluster-activity", args=[cluster.uuid]) + "?kind=audit")
    assert "took a Talos patch with id and secret of cluster homelab" in re.sub("<[^>]+>", "", read_text(activity))


def test_it_is_downloaded_with_both_as_well(page, cluster):
    confirm(page)
    response = page.post(address(cluster), {"release": "1.14", "download": ""})
    assert response["Content-Disposition"] == 'attachment; filename="talos-1.14.yaml"'
    assert "no-store" in response.headers["Cache-Control"]
    found = read([("patch", response.content)])
    assert (found.cluster_id, found.secret) == (cluster.cluster_id, cluster.secret.reveal())
    assert Audit.objects.filter(verb="cluster.patch-shown").count() == 1


def test_a_secret_whose_key_is_gone_is_refused(page, cluster, settings):
    settings.KUBESPAN_KEYS = {"newer": "B" * 43 + "="}
    confirm(page)
    response = page.post(address(cluster), {"release": "1.14"})
    assert response.status_code == 503
    assert "'tests'" in unescape(read_text(response))


# ------------------------------------------------------------------------------------------------------ test from here


@pytest.fixture
def _rested():
    """As if nobody had tested just now."""
    cache.delete("discovery-test")


@pytest.mark.usefixtures("_rested")
def test_a_service_that_is_not_there(page, cluster, settings, unused_tcp_port):
    settings.DISCOVERY_URL = f"http://127.0.0.1:{unused_tcp_port}/"
    response = page.post(address(cluster, "cluster-talos-test"))
    assert response.status_code == 200
    assert f"nothing listens at 127.0.0.1 port {unused_tcp_port}" in read_text(response)
    assert "Patch for Talos" in read_text(response), "without a script it is the page"


@pytest.mark.usefixtures("_rested")
def test_the_next_test_waits_a_moment_and_a_fragment_is_one(page, cluster, settings, unused_tcp_port, monkeypatch):
    monkeypatch.setattr(talos, "PAUSE_SECONDS", 3600)
    settings.DISCOVERY_URL = f"http://127.0.0.1:{unused_tcp_port}/"
    first = page.post(address(cluster, "cluster-talos-test"), headers={"HX-Request": "true"})
    assert "nothing listens" in read_text(first)
    assert "<html" not in first.content.decode()
    assert page.post(address(cluster, "cluster-talos-test")).status_code == 429
    again = page.post(address(cluster, "cluster-talos-test"), headers={"HX-Request": "true"})
    assert (again.status_code, "a moment ago" in read_text(again)) == (200, True)
    assert "nothing listens" not in read_text(again)


@pytest.mark.usefixtures("_rested")
@pytest.mark.django_db(transaction=True)
async def test_a_service_that_is_there(alice, async_client, settings):
    await sync_to_async(async_client.force_login)(alice)
    cluster = await sync_to_async(make_cluster)("homelab")
    server, port = await serve(Service(MemoryRegistry(gather=0.01), Manners()), "127.0.0.1:0")
    settings.DISCOVERY_URL = f"http://127.0.0.1:{port}/"
    try:
        response = await async_client.post(address(cluster, "cluster-talos-test"))
    finally:
        await server.stop(None)
    assert "All is well: it sees us at 127.0.0.1; 0 machines are listed there." in read_text(response)


def test_only_operators_test(client, cluster, settings):
    """And nobody makes the console connect anywhere else: what is sent names no address."""
    client.force_login(make_user("bob", "viewer"))
    assert client.post(address(cluster, "cluster-talos-test")).status_code == 403


def test_while_redis_is_away_it_may(valkey):
    valkey.stop()
    assert talos.may_test()
