"""Talos' own library reads what we write, and we what it writes.

It is of 1.13, the newest that can be had: it takes the forms of all releases but the documents of 1.14, which are
compared with the specification alone (tests/core/talos).
"""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from kubespan.core.cluster import check_cluster_id
from kubespan.core.options import Options
from kubespan.core.service_endpoint import PUBLIC_SERVICE
from kubespan.core.talos.configuration import read
from kubespan.core.talos.eras import ERAS, Release, find_era
from kubespan.core.talos.patches import Wish, make_patch
from nodes import certificates
from tests import golang

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000), pytest.mark.xdist_group("interop")]

SERVICE = "https://console.example:3000/"
ID = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo="
SECRET = base64.b64encode(bytes(range(32))).decode()
OPTIONS = Options(mtu=1380, allow_down_peer_bypass=True, endpoint_filters=("0.0.0.0/0", "!10.0.0.0/8"))
MERGED = [str(era.first) for era in ERAS if Release(1, 2) <= era.first <= Release(1, 13)]


@pytest.fixture(scope="module")
def talos(tmp_path_factory):
    """The program, as a function of its arguments."""
    program = golang.build(Path(__file__).parent / "talos", tmp_path_factory.mktemp("go") / "configuration")

    def run(*arguments, fails=False):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    own = certificates.ensure(tmp_path_factory.mktemp("tls"), ["console.example"], datetime.now(UTC))
    return own.certificate.read_text()


@pytest.fixture
def patched(talos, tmp_path):
    """A configuration of a release with a patch, by document, as Talos then has it."""

    def apply(configuration, text, *, fails=False):
        (tmp_path / "configuration").write_text(configuration)
        (tmp_path / "patch").write_text(text)
        return talos("patch", tmp_path / "configuration", tmp_path / "patch", fails=fails)

    return apply


def by_kind(text):
    documents = [one for one in yaml.safe_load_all(text) if one]
    return {one.get("kind", "v1alpha1"): one for one in documents}


@pytest.mark.parametrize("release", MERGED)
@pytest.mark.parametrize("kubespan", [False, True], ids=["plain", "KubeSpan is on"])
def test_a_patch_of_each_era_is_taken_and_changes_what_it_is_to(talos, patched, root, release, kubespan):
    before = talos("generate", f"v{release}", *(["kubespan"] if kubespan else []))
    patch = make_patch(Wish(SERVICE, root, (ID, SECRET), OPTIONS), find_era(Release.parse(release)))
    after = patched(before, patch.text)
    found = read([("after", after.encode())])
    assert (found.cluster_id, found.secret, found.services) == (ID, SECRET, (SERVICE,))
    assert found.options["enabled"] is True
    assert found.options["allow_down_peer_bypass"] is True
    if release != "1.2":
        assert (found.options["mtu"], found.options["endpoint_filters"]) == (1380, OPTIONS.endpoint_filters)
    documents = by_kind(after)
    if find_era(Release.parse(release)).has(Release(1, 8)):
        assert documents["TrustedRootsConfig"]["certificates"] == root
    else:
        (file,) = documents["v1alpha1"]["machine"]["files"]
        assert (file["content"], file["path"], file["op"]) == (root, "/etc/ssl/certs/ca-certificates", "append")
        assert file["permissions"] in {0o644, "0o644"}


@pytest.mark.parametrize("release", MERGED)
def test_all_else_stays(talos, patched, release):
    before = talos("generate", f"v{release}")
    after = patched(before, make_patch(Wish(SERVICE), find_era(Release.parse(release))).text)
    # Talos writes it anew, and leaves out what says nothing: so it is compared with one that a patch left as it was.
    was, is_now = by_kind(patched(before, "cluster: {clusterName: test}")), by_kind(after)
    assert is_now.keys() == was.keys()
    service = is_now["v1alpha1"]["cluster"]["discovery"]["registries"].pop("service")
    assert service == {"disabled": False, "endpoint": SERVICE}
    was["v1alpha1"]["cluster"]["discovery"]["registries"].pop("service")
    assert is_now == was


def test_an_upgraded_configuration_keeps_its_form(talos, patched):
    """Made by 1.12 with KubeSpan on; the library, of 1.13, has the document too, and refuses one beside the other."""
    before = talos("generate", "v1.12", "kubespan")
    era = find_era(Release(1, 13))
    after = patched(before, make_patch(Wish(SERVICE, options=OPTIONS, legacy=True), era).text)
    assert by_kind(after)["v1alpha1"]["machine"]["network"]["kubespan"]["mtu"] == 1380
    refused = patched(before, make_patch(Wish(SERVICE, options=OPTIONS), era).text, fails=True)
    assert "kubespan is already configured in v1alpha1" in refused


@pytest.mark.parametrize("has", [True, False])
def test_the_legacy_section_goes_where_documents_take_its_place(talos, patched, has):
    """As the patch beside the public service for an upgraded 1.14 has it; where there is none, nothing is amiss."""
    before = talos("generate", "v1.12")
    if not has:
        made = list(yaml.safe_load_all(before))
        made[0]["cluster"].pop("discovery")
        before = yaml.safe_dump_all(made)
    patch = make_patch(Wish(SERVICE, beside=True, legacy=True), find_era(Release(1, 14)))
    first = patch.text.split("---\n")[0]
    assert "$patch: delete" in first
    assert "discovery" not in by_kind(patched(before, first))["v1alpha1"]["cluster"]


def test_a_patch_of_operations_is_taken(talos, patched):
    """Before 1.2; `machine.network` is in every configuration of that time."""
    before = talos("generate", "v1.1", "kubespan")
    after = patched(before, make_patch(Wish(SERVICE, identity=(ID, SECRET), options=OPTIONS), ERAS[0]).text)
    found = read([("after", after.encode())])
    assert (found.cluster_id, found.secret, found.services) == (ID, SECRET, (SERVICE,))


@pytest.mark.parametrize("release", ["1.1", "1.9", "1.13"])
@pytest.mark.parametrize("kubespan", [False, True], ids=["plain", "KubeSpan is on"])
def test_we_read_what_talosctl_generates(talos, release, kubespan):
    found = read([("controlplane.yaml", talos("generate", f"v{release}", *(["kubespan"] * kubespan)).encode())])
    assert check_cluster_id(found.cluster_id) == []
    assert len(base64.b64decode(found.secret)) == 32
    assert (found.services, found.discovery) == ((PUBLIC_SERVICE,), True)
    assert found.options.get("enabled", False) is kubespan


def test_we_read_a_secrets_bundle(talos):
    text = talos("secrets", "v1.13")
    found = read([("secrets.yaml", text.encode())])
    assert (found.cluster_id, found.secret) == tuple(yaml.safe_load(text)["cluster"].values())
