"""Records: their names, their versions, their fields; and that no secret is among them."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import Endpoint
from kubespan.core.options import Options
from kubespan.core.peer_spec import PeerSpec
from kubespan.core.peer_status import NEVER, PeerStatus
from kubespan.core.resources import (
    AFFILIATES,
    DEFINITIONS,
    ENDPOINTS,
    MEMBERS,
    PEER_STATUSES,
    Record,
    affiliate_records,
    config_record,
    dump,
    endpoint_records,
    harvested,
    identity_record,
    info_record,
    member_records,
    node_identity_record,
    parse,
    parse_kept,
    peer_spec_records,
    peer_status_records,
    resolve,
    rfc3339,
    steady_offset,
    update,
)

KEY = "NzW8oeIH5rJyY5lefD9WRoHWWRr/Q6DwsDjMX+xKjT4="
ADDRESS = "fd7f:175a:b97c:5602:2c1a:b6ff:fe53:8169"
NOW = 1_000.0
OFFSET = 1_767_322_000.0
ENDPOINT = Endpoint.parse("172.20.0.3:51820")
UP = PeerStatus("worker-1", ENDPOINT, ENDPOINT, 20.0, 900.0, True, 15043220, 17869488)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        pytest.param("KubeSpanPeerSpecs.kubespan.talos.dev", "KubeSpanPeerSpecs", id="full type"),
        pytest.param("kubespanpeerspecs", "KubeSpanPeerSpecs", id="plural"),
        pytest.param("kubespanpeerspecs.kubespan", "KubeSpanPeerSpecs", id="with a part of the suffix"),
        pytest.param("kubespanpeerspecs.kubespan.talos", "KubeSpanPeerSpecs", id="with more of it"),
        pytest.param("kubespanpeerspec", "KubeSpanPeerSpecs", id="singular"),
        pytest.param("kubespanpeerstatus", "KubeSpanPeerStatuses", id="singular of statuses"),
        pytest.param("kubespanidentity", "KubeSpanIdentities", id="singular of identities"),
        pytest.param("ksi", "KubeSpanIdentities", id="abbreviation"),
        pytest.param("ksis", "KubeSpanIdentities", id="abbreviation's plural"),
        pytest.param("kse", "KubeSpanEndpoints", id="endpoints"),
        pytest.param("kses", "KubeSpanEndpoints", id="endpoints' plural"),
        pytest.param("ksc", "KubeSpanConfigs", id="configs"),
        pytest.param("kscs", "KubeSpanConfigs", id="configs' plural"),
        pytest.param("affiliate", "Affiliates", id="affiliate"),
        pytest.param("members", "Members", id="members"),
        pytest.param("identities", "Identities", id="the node's, not KubeSpan's"),
    ],
)
def test_resolve(name, label):
    assert resolve(name).label == label


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param(
            "ksps",
            "'ksps' may mean several resources; write one of kubespanpeerspecs, kubespanpeerstatuses",
            id="ambiguous",
        ),
        pytest.param("pods", "'pods' is no resource that a node has; write one of affiliates, ", id="unknown"),
        pytest.param("a", "'a' is no resource", id="one capital is no abbreviation"),
        pytest.param("", "'' is no resource", id="empty"),
    ],
)
def test_resolve_says_what_can_be_meant(name, sentence):
    with pytest.raises(ValueError) as caught:
        resolve(name)
    assert str(caught.value).startswith(sentence)


def test_every_type_is_named_once():
    assert len({definition.type for definition in DEFINITIONS}) == len(DEFINITIONS)
    assert [definition.display_type for definition in DEFINITIONS] == [
        "KubeSpanConfig",
        "KubeSpanIdentity",
        "KubeSpanPeerSpec",
        "KubeSpanPeerStatus",
        "KubeSpanEndpoint",
        "Affiliate",
        "Member",
        "Identity",
        "Info",
    ]


def test_version_counts_effective_changes():
    first = update([], [Record(MEMBERS, "one", {"hostname": "a"}), Record(MEMBERS, "two", {})], 100.0)
    same = update(first, [Record(MEMBERS, "one", {"hostname": "a"}), Record(MEMBERS, "two", {})], 200.0)
    changed = update(same, [Record(MEMBERS, "one", {"hostname": "b"}), Record(MEMBERS, "two", {})], 300.0)
    assert [one.metadata.version for one in first] == [1, 1]
    assert same == first
    assert [one.metadata.version for one in changed] == [2, 1]
    assert changed[0].metadata.created == "1970-01-01T00:01:40Z"
    assert changed[0].metadata.updated == "1970-01-01T00:05:00Z"


def test_version_goes_on_after_a_restart():
    before = update([], [Record(MEMBERS, "one", {"hostname": "a"})], 100.0)
    after = update(parse_kept(dump(before)), [Record(MEMBERS, "one", {"hostname": "b"})], 200.0)
    assert after[0].metadata.version == 2


def test_what_is_gone_is_gone_and_begins_anew():
    before = update([], [Record(MEMBERS, "one", {})], 100.0)
    assert update(before, [], 200.0) == []
    assert update(update(before, [], 200.0), [Record(MEMBERS, "one", {})], 300.0)[0].metadata.version == 1


def test_the_same_id_in_two_types_is_two_records():
    records = [Record(PEER_STATUSES, KEY, {"a": 1}), Record(ENDPOINTS, KEY, {"a": 2})]
    assert update(update([], records, 1.0), records, 2.0) == update([], records, 1.0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param(b"", "not what an agent publishes", id="empty"),
        pytest.param(b'{"version":1,"resources":[{"me', "not what an agent publishes", id="half a file"),
        pytest.param(b'{"version":2,"resources":[]}', "published in form 2", id="of a later release"),
        pytest.param(b'{"version":1,"resources":[],"more":1}', "not what an agent publishes", id="unknown field"),
    ],
)
def test_a_bad_file_is_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        parse(text)


@pytest.mark.parametrize(
    ("seconds", "whole", "text"),
    [
        pytest.param(1767323045.5, False, "2026-01-02T03:04:05.5Z", id="zeros trimmed"),
        pytest.param(1767323350.123456, False, "2026-01-02T03:09:10.123456Z", id="fractions"),
        pytest.param(1767323045.0, False, "2026-01-02T03:04:05Z", id="none"),
        pytest.param(1767323045.999, True, "2026-01-02T03:04:05Z", id="whole seconds"),
        pytest.param(NEVER, False, "0001-01-01T00:00:00Z", id="never"),
        pytest.param(0.0, False, "1970-01-01T00:00:00Z", id="the beginning"),
    ],
)
def test_rfc3339(seconds, whole, text):
    assert rfc3339(seconds, whole=whole) == text


@pytest.mark.parametrize(
    ("held", "measured", "chosen"),
    [
        pytest.param(None, 5.0, 5.0, id="first"),
        pytest.param(5.0, 5.3, 5.0, id="noise"),
        pytest.param(5.0, 3605.0, 3605.0, id="a step"),
    ],
)
def test_steady_offset(held, measured, chosen):
    assert steady_offset(held, measured) == chosen


def test_peer_status_record():
    assert peer_status_records({KEY: UP}, NOW, OFFSET) == [
        Record(
            PEER_STATUSES,
            KEY,
            {
                "endpoint": "172.20.0.3:51820",
                "label": "worker-1",
                "state": "up",
                "receiveBytes": 15043220,
                "transmitBytes": 17869488,
                "lastHandshakeTime": rfc3339(OFFSET + 900),
                "lastUsedEndpoint": "172.20.0.3:51820",
                "lastEndpointChange": rfc3339(OFFSET + 20),
            },
        )
    ]


@pytest.mark.parametrize(
    ("measured", "extras"),
    [
        pytest.param((None, None), {}, id="not measured"),
        pytest.param((0.0012345, None), {"rtt": "1.23ms"}, id="no loss yet"),
        pytest.param((None, 1.0), {"loss": "100%"}, id="nothing came back"),
        pytest.param((1.2345, 0.05), {"rtt": "1234ms", "loss": "5%"}, id="slow and lossy"),
    ],
)
def test_what_was_measured_stands_beside_what_talos_has(measured, extras):
    [(_, _, plain)] = peer_status_records({KEY: UP}, NOW, OFFSET)
    [(_, _, spec)] = peer_status_records({KEY: UP}, NOW, OFFSET, {KEY: measured})
    assert spec == plain | extras


def test_what_never_was_is_empty_or_zero():
    [(_, _, spec)] = peer_status_records({KEY: PeerStatus("worker-1")}, NOW, OFFSET)
    assert spec["endpoint"] == spec["lastUsedEndpoint"] == ""
    assert spec["lastHandshakeTime"] == spec["lastEndpointChange"] == "0001-01-01T00:00:00Z"
    assert spec["state"] == "unknown"


def test_peer_spec_record():
    spec = PeerSpec(KEY, ip_address(ADDRESS), (ip_network("10.244.3.0/24"),), (ENDPOINT,), "worker-1")
    [(_, id_, fields)] = peer_spec_records({KEY: spec})
    assert id_ == KEY
    assert fields == {
        "address": ADDRESS,
        "allowedIPs": ["10.244.3.0/24"],
        "endpoints": ["172.20.0.3:51820"],
        "label": "worker-1",
    }


def test_identity_records_hold_what_is_public():
    assert identity_record(ip_address(ADDRESS), KEY).spec == {
        "address": f"{ADDRESS}/128",
        "subnet": "fd7f:175a:b97c:5602::/64",
        "publicKey": KEY,
    }
    assert node_identity_record("n").spec == {"nodeId": "n"}


def test_config_record_has_no_secret_and_no_empty_lists():
    assert config_record(Options(allow_down_peer_bypass=True), "test-cluster-id", [ENDPOINT]).spec == {
        "enabled": True,
        "clusterId": "test-cluster-id",
        "forceRouting": False,
        "advertiseKubernetesNetworks": False,
        "mtu": 1420,
        "harvestExtraEndpoints": False,
        "extraEndpoints": ["172.20.0.3:51820"],
    }


MACHINE = Affiliate(
    node_id="n",
    addresses=(ip_address("192.168.3.4"),),
    hostname="one.example.org",
    nodename="one",
    machine_type="controlplane",
    operating_system="Talos (v1.13)",
    public_key=KEY,
    address=ip_address(ADDRESS),
    additional_addresses=(ip_interface("10.244.3.1/24"),),
    api_server_port=6443,
)


def test_affiliate_record():
    assert affiliate_records([MACHINE])[0].spec == {
        "nodeId": "n",
        "addresses": ["192.168.3.4"],
        "hostname": "one.example.org",
        "nodename": "one",
        "operatingSystem": "Talos (v1.13)",
        "machineType": "controlplane",
        "kubespan": {
            "publicKey": KEY,
            "address": ADDRESS,
            "additionalAddresses": ["10.244.3.1/24"],
            "endpoints": [],
            "excludeAdvertisedNetworks": [],
        },
        "controlPlane": {"port": 6443},
    }


def test_an_affiliate_leaves_out_what_it_has_not():
    assert affiliate_records([Affiliate("n")])[0].spec.keys() == {
        "nodeId",
        "addresses",
        "hostname",
        "operatingSystem",
        "machineType",
    }


def test_members_are_named_by_nodename():
    [record] = member_records([MACHINE, Affiliate("nameless")])
    assert record.id == "one"
    assert record.spec.keys() == {
        "nodeId",
        "addresses",
        "hostname",
        "machineType",
        "operatingSystem",
        "controlPlane",
    }


HARVEST = Options(harvest_extra_endpoints=True)


@pytest.mark.parametrize(
    ("options", "status", "affiliates", "found"),
    [
        pytest.param(HARVEST, UP, [MACHINE], {KEY: ("n", ENDPOINT)}, id="up and known"),
        pytest.param(HARVEST, PeerStatus(endpoint=ENDPOINT), [MACHINE], {}, id="unknown"),
        pytest.param(HARVEST, UP, [], {}, id="up, but no affiliate"),
        pytest.param(Options(), UP, [MACHINE], {}, id="not asked for"),
        pytest.param(HARVEST, PeerStatus(last_handshake=900.0), [MACHINE], {}, id="up without an endpoint"),
    ],
)
def test_harvested(options, status, affiliates, found):
    assert harvested(affiliates, {KEY: status}, options, NOW) == found


def test_endpoint_record():
    assert endpoint_records({KEY: ("n", ENDPOINT)}) == [
        Record(ENDPOINTS, KEY, {"affiliateID": "n", "endpoint": "172.20.0.3:51820"})
    ]


def test_columns_are_keys_of_the_specs():
    records = [
        *affiliate_records([MACHINE]),
        *member_records([MACHINE]),
        *endpoint_records({KEY: ("n", ENDPOINT)}),
        *peer_status_records({KEY: UP}, NOW, OFFSET),
        *peer_spec_records({KEY: PeerSpec(KEY, ip_address(ADDRESS))}),
        identity_record(ip_address(ADDRESS), KEY),
        node_identity_record("n"),
        info_record("test-cluster-id", "office"),
    ]
    assert AFFILIATES.columns
    for definition, _, spec in records:
        assert {key for _, key in definition.columns} <= spec.keys()
