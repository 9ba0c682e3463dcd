"""What Talos files tell: every form that id and secret come in, and every way in which they cannot be used."""

import base64

import pytest

from kubespan.core.documents import LIMIT_BYTES
from kubespan.core.options import ClusterOptions
from kubespan.core.service_endpoint import PUBLIC_SERVICE
from kubespan.core.talos.configuration import Configuration, Unfit, read

ID = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo="
SECRET = "dAmFcyNmDXusqnTSkPJrsgLJ38W8oEEXGZKM0x6Orpc="
OTHER_SECRET = base64.b64encode(bytes(range(32))).decode()

LEGACY = f"""\
version: v1alpha1 # Indicates the schema used to decode the contents.
debug: false
persist: true
machine:
    type: worker
    token: 5w2flr.qqsdd2ct1gqmn7o0
    ca: {{crt: LS0tLS1CRUdJTg==, key: ""}}
    unknownToUs: [1, {{deep: 2}}]
    network:
        kubespan:
            enabled: true
            allowDownPeerBypass: true
            mtu: 1380
            filters:
                endpoints:
                    - 0.0.0.0/0
                    - '!192.168.0.0/16'
    install:
        disk: /dev/sda
cluster:
    id: {ID}
    secret: {SECRET}
    controlPlane:
        endpoint: https://192.0.2.1:6443
    discovery:
        enabled: true
        registries:
            kubernetes:
                disabled: true
            service: {{}}
"""
DOCUMENTS = f"""\
version: v1alpha1
machine:
    type: controlplane
---
apiVersion: v1alpha1
kind: DiscoveryIdentityConfig
clusterID: {ID}
clusterSecret: {SECRET}
---
apiVersion: v1alpha1
kind: DiscoveryServiceConfig
name: default
endpoint: https://discovery.talos.dev/
---
apiVersion: v1alpha1
kind: DiscoveryServiceConfig
name: own
endpoint: https://discovery.example:3000/
---
apiVersion: v1alpha1
kind: KubeSpanConfig
enabled: true
harvestExtraEndpoints: true
advertiseKubernetesNetworks: false
filters:
    excludeAdvertisedNetworks: [192.168.1.0/24]
    peerEndpoints: ['::/0']
---
apiVersion: v1alpha1
kind: KubeSpanEndpointsConfig
extraAnnouncedEndpoints: [192.0.2.9:4000]
---
apiVersion: v1alpha2
kind: SomethingOfTheFuture
cluster: {{id: not ours}}
"""
BUNDLE = f"""\
cluster:
    id: {ID}
    secret: {SECRET}
secrets:
    bootstraptoken: c4r8xq.1xw0j3p7w1t0v9g2
    secretboxencryptionsecret: zzz
trustdinfo:
    token: 5w2flr.qqsdd2ct1gqmn7o0
certs:
    etcd: {{crt: aaa, key: bbb}}
"""
OLD = """\
version: v1alpha1
machine: {type: controlplane, token: abc}
cluster:
    controlPlane: {endpoint: https://192.0.2.1:6443}
    clusterName: old
"""
WRAPPED = (
    "node: 192.0.2.1\nmetadata:\n    type: MachineConfigs.config.talos.dev\n    id: v1alpha1\nspec: |\n"
    + "".join(f"    {line}\n" for line in LEGACY.splitlines())
)
NESTED = (
    "node: 192.0.2.1\nmetadata: {type: MachineConfigs.config.talos.dev}\n"
    f"spec: {{version: v1alpha1, cluster: {{id: {ID}, secret: {SECRET}}}}}\n"
)


def one(text):
    return read([("file.yaml", text.encode())])


@pytest.mark.parametrize(
    ("text", "options", "services", "discovery"),
    [
        pytest.param(
            LEGACY,
            {
                "enabled": True,
                "mtu": 1380,
                "allow_down_peer_bypass": True,
                "endpoint_filters": ("0.0.0.0/0", "!192.168.0.0/16"),
            },
            (PUBLIC_SERVICE,),
            True,
            id="the legacy document",
        ),
        pytest.param(
            DOCUMENTS,
            {
                "enabled": True,
                "harvest_extra_endpoints": True,
                "advertise_kubernetes_networks": False,
                "exclude_advertised_networks": ("192.168.1.0/24",),
                "peer_endpoint_filters": ("::/0",),
            },
            (PUBLIC_SERVICE, "https://discovery.example:3000/"),
            True,
            id="newer documents",
        ),
        pytest.param(BUNDLE, {}, (), None, id="a secrets bundle"),
        pytest.param(f"cluster: {{id: {ID}, secret: {SECRET}}}", {}, (), None, id="no more of it than is needed"),
        pytest.param(NESTED, {}, (), None, id="talosctl get, nested"),
    ],
)
def test_what_a_file_tells(text, options, services, discovery):
    assert one(text) == Configuration(ID, SECRET, options, services, discovery)


def test_what_talosctl_prints_is_the_configuration_in_it():
    assert one(WRAPPED) == one(LEGACY)


def test_several_files_of_one_cluster_add_to_each_other():
    found = read([("secrets.yaml", BUNDLE.encode()), ("worker.yaml", LEGACY.encode()), ("old.yaml", OLD.encode())])
    assert found == one(LEGACY)


def test_a_cluster_from_before_0_12_has_neither_id_nor_secret():
    assert one(OLD) == Configuration()


@pytest.mark.parametrize(
    ("section", "services", "discovery"),
    [
        pytest.param("{enabled: false}", (), False, id="off"),
        pytest.param("{registries: {service: {}}}", (), False, id="not switched on"),
        pytest.param("{enabled: true, registries: {service: {disabled: true}}}", (), False, id="the service is off"),
        pytest.param("{enabled: true}", (PUBLIC_SERVICE,), True, id="the public one"),
        pytest.param(
            "{enabled: true, registries: {service: {endpoint: 'http://10.0.0.1:3000'}}}",
            ("http://10.0.0.1:3000",),
            True,
            id="another one",
        ),
    ],
)
def test_where_its_machines_look_for_each_other(section, services, discovery):
    found = one(f"version: v1alpha1\ncluster: {{discovery: {section}}}")
    assert (found.services, found.discovery) == (services, discovery)


def test_options_take_the_place_of_those_that_are_there():
    before = ClusterOptions(mtu=1400, harvest_extra_endpoints=True, force_from_start=True)
    after = one(LEGACY).apply(before)
    assert (after.mtu, after.harvest_extra_endpoints, after.force_from_start) == (1380, True, True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("", "no Talos document", id="nothing"),
        pytest.param("- a\n- b", "no Talos document", id="a list"),
        pytest.param("apiVersion: v1\nkind: Secret\ndata: {id: x}", "no Talos document", id="of Kubernetes"),
        pytest.param("context: x\ncontexts: {}", "no Talos document", id="a talosconfig"),
        pytest.param("version: v2\ncluster: {id: x}", "no Talos document", id="another version"),
        pytest.param("a: [", "file.yaml: It is not YAML", id="not YAML"),
        pytest.param("x" * (LIMIT_BYTES + 1), "file.yaml: It is larger", id="too large"),
        pytest.param("a: &a b\ncluster: {id: *a}", "file.yaml: Line 2 has a YAML alias", id="an alias"),
        pytest.param("cluster: {id: [a]}", "file.yaml: the cluster id is not text", id="an id of another kind"),
        pytest.param("cluster: {secret: {a: b}}", "the cluster secret is not text", id="a secret of another kind"),
        pytest.param(f"cluster: {{id: {'x' * 257}}}", "file.yaml: the cluster id may have at most 256", id="long id"),
        pytest.param("cluster: {id: a, secret: hunter2}", "file.yaml: invalid cluster secret", id="a wrong secret"),
        pytest.param(
            "cluster: {id: a, secret: aHVudGVyMg==}", "expected 32 bytes, got 7", id="a secret of the wrong length"
        ),
        pytest.param(
            f"{BUNDLE}---\n{BUNDLE.replace(ID, 'another')}",
            "file.yaml, document 1 and file.yaml, document 2 have different cluster ids",
            id="two ids",
        ),
        pytest.param(
            f"{DOCUMENTS}---\n{BUNDLE.replace(SECRET, OTHER_SECRET)}",
            "have different cluster secrets",
            id="two secrets",
        ),
        pytest.param(
            f"{LEGACY}---\napiVersion: v1alpha1\nkind: KubeSpanConfig\nmtu: 1400",
            "document 1 and file.yaml, document 2 differ in KubeSpan's mtu",
            id="two values of an option",
        ),
        pytest.param("machine: {network: {kubespan: {mtu: big}}}", "mtu is not a whole number", id="no number"),
        pytest.param("machine: {network: {kubespan: {mtu: 100}}}", "MTU must be at least 1280", id="too small"),
        pytest.param("machine: {network: {kubespan: {enabled: maybe}}}", "neither true nor false", id="no switch"),
        pytest.param(
            "machine: {network: {kubespan: {filters: {endpoints: 10.0.0.0/8}}}}", "not a list of texts", id="no list"
        ),
        pytest.param(
            "machine: {network: {kubespan: {filters: {endpoints: [/8]}}}}", 'filter is not valid: "/8"', id="no filter"
        ),
        pytest.param(
            "cluster: {discovery: {enabled: 2}}", "cluster.discovery.enabled is neither", id="discovery is no switch"
        ),
        pytest.param(
            "apiVersion: v1alpha1\nkind: DiscoveryServiceConfig\nendpoint: {a: b}", "endpoint is not text", id="no URL"
        ),
    ],
)
def test_what_cannot_be_used_is_said_where_it_is(text, sentence):
    with pytest.raises(Unfit, match=sentence):
        one(text)


@pytest.mark.parametrize(
    "text",
    [
        BUNDLE.replace(SECRET, "hunter2") + "\n",
        BUNDLE.replace(SECRET, f"{SECRET}{SECRET}"),
        f"{BUNDLE}---\n{BUNDLE.replace(SECRET, OTHER_SECRET)}",
        f"{BUNDLE}---\n{BUNDLE.replace(ID, 'another-id')}",
        BUNDLE.replace("secret:", "secret: :"),
        BUNDLE + f"cluster: {{secret: {OTHER_SECRET}}}",
    ],
)
def test_no_sentence_quotes_an_id_or_a_secret(text):
    with pytest.raises(Unfit) as fault:
        one(text)
    said = str(fault.value) + repr(fault.value)
    assert not [word for word in (ID, "another-id", SECRET, OTHER_SECRET, "hunter2", "c4r8xq") if word in said]


def test_what_was_found_does_not_show_the_secret():
    assert SECRET not in repr(one(LEGACY))


@pytest.mark.parametrize(
    "path", ["cluster", "machine", "machine.network", "machine.network.kubespan", "cluster.discovery"]
)
@pytest.mark.parametrize("value", ["[]", "text", "", "null"])
def test_what_is_no_mapping_is_looked_past(path, value):
    *above, last = path.split(".")
    text = (
        "".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(above)) + f"{'  ' * len(above)}{last}: {value}"
    )
    assert one(f"version: v1alpha1\n{text}").cluster_id == ""
