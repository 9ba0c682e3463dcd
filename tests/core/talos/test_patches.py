"""The patch for every era: letter by letter where it differs, and read back by our own reader."""

import base64
import json

import pytest
import yaml

from kubespan.core.documents import dump_documents, parse_documents
from kubespan.core.options import Options
from kubespan.core.service_endpoint import PUBLIC_SERVICE
from kubespan.core.talos.configuration import read
from kubespan.core.talos.eras import ERAS, KUBESPAN_DOCUMENT, STRATEGIC_MERGE, Release, find_era
from kubespan.core.talos.patches import Wish, make_patch

SERVICE = "https://console.example:3000/"
ROOT = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
ID = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo="
SECRET = base64.b64encode(bytes(range(32))).decode()
OPTIONS = Options(
    mtu=1380,
    allow_down_peer_bypass=True,
    endpoint_filters=("0.0.0.0/0",),
    exclude_advertised_networks=("10.1.0.0/16",),
    peer_endpoint_filters=("::/0",),
)

SERVICE_REGISTRY = {"disabled": False, "endpoint": SERVICE}
LEGACY = {"cluster": {"discovery": {"enabled": True, "registries": {"service": SERVICE_REGISTRY}}}}
LEGACY_IDENTITY = {
    "cluster": {
        "id": ID,
        "secret": SECRET,
        "discovery": {
            "enabled": True,
            "registries": {"kubernetes": {"disabled": True}, "service": SERVICE_REGISTRY},
        },
    }
}
FILE = {"content": ROOT, "permissions": 0o644, "path": "/etc/ssl/certs/ca-certificates", "op": "append"}
SWITCHES = {"enabled": True, "advertiseKubernetesNetworks": False, "allowDownPeerBypass": True}
ALL = SWITCHES | {"harvestExtraEndpoints": False, "mtu": 1380}
FILTERS = {"endpoints": ["0.0.0.0/0"]}
FILTERS_13 = FILTERS | {"excludeAdvertisedNetworks": ["10.1.0.0/16"]}


def document(kind, **fields):
    return {"apiVersion": "v1alpha1", "kind": kind, **fields}


def service(name, endpoint=SERVICE):
    return document("DiscoveryServiceConfig", name=name, endpoint=endpoint)


TRUST = document("TrustedRootsConfig", name="kubespan-web", certificates=ROOT)


def kubespan(section):
    return {"machine": {"network": {"kubespan": section}}}


def make(release, **wish):
    return make_patch(Wish(SERVICE, **wish), find_era(Release.parse(release)))


def load(patch):
    return list(yaml.safe_load_all(patch.text))


@pytest.mark.parametrize(
    ("release", "wish", "expected"),
    [
        pytest.param("1.2", {}, [LEGACY], id="1.2"),
        pytest.param("1.12", {}, [LEGACY], id="1.12"),
        pytest.param("1.13", {}, [LEGACY], id="1.13"),
        pytest.param("1.13", {"beside": True}, [LEGACY], id="1.13 has room for one service"),
        pytest.param("1.14", {}, [service("default")], id="1.14"),
        pytest.param(
            "1.14", {"beside": True}, [service("default", PUBLIC_SERVICE), service("kubespan-web")], id="1.14 beside"
        ),
        pytest.param("1.14", {"legacy": True}, [LEGACY], id="upgraded to 1.14"),
        pytest.param(
            "1.14",
            {"legacy": True, "beside": True},
            [
                {"cluster": {"discovery": {"$patch": "delete"}}},
                service("default", PUBLIC_SERVICE),
                service("kubespan-web"),
            ],
            id="upgraded to 1.14 beside",
        ),
        pytest.param("1.2", {"roots": ROOT}, [{"machine": {"files": [FILE]}} | LEGACY], id="a root in a file"),
        pytest.param("1.8", {"roots": ROOT}, [LEGACY, TRUST], id="a root in a document"),
        pytest.param("1.14", {"roots": ROOT}, [service("default"), TRUST], id="documents alone"),
        pytest.param("1.2", {"identity": (ID, SECRET)}, [LEGACY_IDENTITY], id="identity"),
        pytest.param(
            "1.14", {"identity": (ID, SECRET), "legacy": True}, [LEGACY_IDENTITY], id="identity, upgraded to 1.14"
        ),
        pytest.param(
            "1.14",
            {"identity": (ID, SECRET)},
            [service("default"), document("DiscoveryIdentityConfig", clusterID=ID, clusterSecret=SECRET)],
            id="identity in a document",
        ),
        pytest.param("1.2", {"options": OPTIONS}, [kubespan(SWITCHES) | LEGACY], id="KubeSpan in 1.2"),
        pytest.param(
            "1.5", {"options": OPTIONS}, [kubespan(SWITCHES | {"mtu": 1380, "filters": FILTERS}) | LEGACY], id="in 1.5"
        ),
        pytest.param("1.7", {"options": OPTIONS}, [kubespan(ALL | {"filters": FILTERS}) | LEGACY], id="in 1.7"),
        pytest.param(
            "1.13",
            {"options": OPTIONS},
            [LEGACY, document("KubeSpanConfig", **ALL, filters=FILTERS_13)],
            id="in a document since 1.13",
        ),
        pytest.param(
            "1.13",
            {"options": OPTIONS, "legacy": True},
            [kubespan(ALL | {"filters": FILTERS_13}) | LEGACY],
            id="upgraded to 1.13",
        ),
        pytest.param(
            "1.15",
            {"options": OPTIONS},
            [service("default"), document("KubeSpanConfig", **ALL, filters=FILTERS_13 | {"peerEndpoints": ["::/0"]})],
            id="what 1.15 has besides",
        ),
        pytest.param(
            "1.15",
            {"options": OPTIONS, "legacy": True},
            [kubespan(ALL | {"filters": FILTERS_13}) | LEGACY],
            id="which the legacy form has not",
        ),
        pytest.param(
            "1.8",
            {"options": Options(enabled=False)},
            [
                kubespan(
                    ALL | {"enabled": False, "allowDownPeerBypass": False, "mtu": 1420},
                )
                | LEGACY
            ],
            id="KubeSpan is off",
        ),
    ],
)
def test_just_the_intended_keys(release, wish, expected):
    assert load(make(release, **wish)) == expected


@pytest.mark.parametrize("release", ["0.12", "1.1"])
def test_before_1_2_patches_are_operations(release):
    patch = make(release, identity=(ID, SECRET), options=OPTIONS, roots=ROOT, legacy=True, beside=True)
    assert json.loads(patch.text) == [
        {"op": "add", "path": "/cluster/id", "value": ID},
        {"op": "add", "path": "/cluster/secret", "value": SECRET},
        {
            "op": "add",
            "path": "/cluster/discovery",
            "value": {"enabled": True, "registries": {"service": {"endpoint": SERVICE}}},
        },
        {"op": "add", "path": "/machine/network/kubespan", "value": {"enabled": True}},
    ]


@pytest.mark.parametrize(
    ("release", "wish", "command"),
    [
        ("0.14", {}, "--immediate --patch-file talos-0.12.json"),
        ("1.0", {}, "--mode=no-reboot --patch-file talos-1.0.json"),
        ("1.6", {}, "--mode=no-reboot --patch-file talos-1.5.yaml"),
        ("1.6", {"roots": ROOT}, "--mode=reboot --patch-file talos-1.5.yaml"),
        ("1.8", {"roots": ROOT, "legacy": True}, "--mode=no-reboot --patch-file talos-1.8.yaml"),
        ("1.14", {"roots": ROOT}, "--mode=no-reboot --patch-file talos-1.14.yaml"),
        ("1.14", {"legacy": True}, "--mode=no-reboot --patch-file talos-1.14-upgraded.yaml"),
    ],
)
def test_the_command(release, wish, command):
    patch = make(release, **wish)
    assert patch.commands[0] == f"talosctl --nodes NODES patch machineconfig {command}"
    assert patch.reboots == ("--mode=reboot" in command)


@pytest.mark.parametrize(
    ("release", "wish", "words"),
    [
        ("1.1", {"roots": ROOT}, ["a certificate by no patch"]),
        ("1.7", {"roots": ROOT}, ["with a reboot alone"]),
        ("1.8", {"roots": ROOT}, []),
        ("1.14", {}, ["by another name than"]),
        ("1.14", {"legacy": True}, []),
        ("1.8", {"options": Options()}, ["forces traffic"]),
        ("1.8", {"options": Options(enabled=False)}, []),
        ("1.8", {"options": Options(force_from_start=True)}, []),
        ("1.6", {"options": Options(allow_down_peer_bypass=True)}, ["always harvest"]),
        ("1.6", {"options": Options(force_from_start=True, harvest_extra_endpoints=True)}, []),
        (
            "1.2",
            {"options": Options(force_from_start=True, harvest_extra_endpoints=True, mtu=1300)},
            ["KubeSpan's mtu."],
        ),
        (
            "1.14",
            {"options": OPTIONS, "legacy": True},
            ["KubeSpan's peerEndpoints.", "Filters are added"],
        ),
    ],
)
def test_what_it_does_not_do_is_said(release, wish, words):
    notes = make(release, **wish).notes
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


def everything():
    for era in ERAS:
        for legacy in (False, True) if era.has(KUBESPAN_DOCUMENT) else (False,):
            for beside in (False, True):
                yield pytest.param(era, legacy, beside, id=f"{era.name}{' legacy' * legacy}{' beside' * beside}")


@pytest.mark.parametrize(("era", "legacy", "beside"), list(everything()))
def test_our_own_reader_reads_each_back(era, legacy, beside):
    patch = make_patch(Wish(SERVICE, ROOT, (ID, SECRET), OPTIONS, beside, legacy), era)
    text = patch.text
    if not era.has(STRATEGIC_MERGE):
        text = dump_documents([{"version": "v1alpha1"} | apply(json.loads(text))])
    found = read([(patch.file, text.encode())])
    assert (found.cluster_id, found.secret, found.options["enabled"]) == (ID, SECRET, True)
    assert found.services[-1] == SERVICE
    assert len(found.services) == 1 + (beside and era.name.startswith(("1.14", "1.15")))
    assert all(isinstance(one, dict) for one in parse_documents(text.encode()))


def apply(operations):
    """What the operations make of nothing."""
    made = {}
    for operation in operations:
        *above, last = operation["path"].split("/")[1:]
        place = made
        for name in above:
            place = place.setdefault(name, {})
        place[last] = operation["value"]
    return made


def test_neither_shows_the_secret():
    wish = Wish(SERVICE, identity=(ID, SECRET))
    assert SECRET not in repr(wish) + repr(make_patch(wish, ERAS[-1]))
