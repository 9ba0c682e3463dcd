"""What `get` prints, letter by letter."""

import json

import msgspec
import pytest
import yaml

from kubespan.core.documents import dump_yaml
from kubespan.core.endpoint import Endpoint
from kubespan.core.peer_status import PeerStatus
from kubespan.core.resources import (
    PEER_SPECS,
    PEER_STATUSES,
    Metadata,
    Record,
    Resource,
    dump,
    parse,
    peer_status_records,
    update,
)
from kubespan.ctl.output import render

KEY = "NzW8oeIH5rJyY5lefD9WRoHWWRr/Q6DwsDjMX+xKjT4="
ENDPOINT = Endpoint.parse("172.20.0.3:51820")
STATUS = PeerStatus("worker-1", ENDPOINT, ENDPOINT, 20.5, 325.123456, True, 15043220, 17869488)


def known(records):
    """Records as a node publishes them and `get` reads them."""
    return parse(dump(update([], records, 1767323045.0)))


STATUSES = known(peer_status_records({KEY: STATUS}, 350.0, 1767323025.0))
SPECS = known(
    [
        Record(PEER_SPECS, "a", {"label": "one", "endpoints": ["172.20.0.3:51820", "[fd00::1]:51820"]}),
        Record(PEER_SPECS, "bb", {"endpoints": []}),
    ]
)


def test_yaml():
    assert render(STATUSES, PEER_STATUSES, "yaml", "172.20.0.2") == (
        "node: 172.20.0.2\n"
        "metadata:\n"
        "    namespace: kubespan\n"
        "    type: KubeSpanPeerStatuses.kubespan.talos.dev\n"
        f"    id: {KEY}\n"
        "    version: 1\n"
        "    owner: kubespan.ManagerController\n"
        "    phase: running\n"
        "    created: 2026-01-02T03:04:05Z\n"
        "    updated: 2026-01-02T03:04:05Z\n"
        "spec:\n"
        "    endpoint: 172.20.0.3:51820\n"
        "    label: worker-1\n"
        "    state: up\n"
        "    receiveBytes: 15043220\n"
        "    transmitBytes: 17869488\n"
        "    lastHandshakeTime: 2026-01-02T03:09:10.123456Z\n"
        "    lastUsedEndpoint: 172.20.0.3:51820\n"
        "    lastEndpointChange: 2026-01-02T03:04:05.5Z\n"
    )


def test_yaml_documents_are_separated_and_lists_are_indented():
    text = render(SPECS, PEER_SPECS, "yaml", "n")
    first, second = text.split("---\n")
    assert first.endswith("    endpoints:\n        - 172.20.0.3:51820\n        - '[fd00::1]:51820'\n"), first
    assert second.endswith("    endpoints: []\n")


def test_an_unset_owner_is_there_but_blank():
    metadata = Metadata(namespace="n", type="t", id="i", version=1, owner="", created="c", updated="u")
    assert "\n    owner:\n" in render([Resource(metadata, {})], PEER_SPECS, "yaml", "n")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param("", '""', id="empty"),
        pytest.param("true", '"true"', id="a word that means something"),
        pytest.param("12345", '"12345"', id="a number"),
        pytest.param("12:30:45", '"12:30:45"', id="a number to the base of 60"),
        pytest.param("fd7f:175a:b97c:5602::/64", "fd7f:175a:b97c:5602::/64", id="a network"),
        pytest.param("::1", "::1", id="an address"),
        pytest.param("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", id="a time"),
        pytest.param("Talos (v1.13)", "Talos (v1.13)", id="words"),
        pytest.param("a: b", "'a: b'", id="what looks like a key"),
        pytest.param(5, "5", id="an integer"),
        pytest.param(True, "true", id="a truth"),
    ],
)
def test_yaml_values(value, text):
    assert dump_yaml({"key": value}) == f"key: {text}\n"


@pytest.mark.parametrize("value", ["yes", "1e3", "0x20", "null", "~", "=", "- a", "#", "a #b", " a", "ü", "a" * 500])
def test_yaml_texts_come_back_as_texts(value):
    assert yaml.safe_load(dump_yaml({"key": [value, value]})) == {"key": [value, value]}


def test_table():
    assert render(SPECS, PEER_SPECS, "table", "172.20.0.2") == (
        "NODE         NAMESPACE   TYPE               ID   VERSION   LABEL   ENDPOINTS\n"
        '172.20.0.2   kubespan    KubeSpanPeerSpec   a    1         one     ["172.20.0.3:51820","[fd00::1]:51820"]\n'
        "172.20.0.2   kubespan    KubeSpanPeerSpec   bb   1                 []\n"
    )


def test_a_table_of_nothing_is_its_headings():
    text = render([], PEER_STATUSES, "table", "n")
    assert text == "NODE   NAMESPACE   TYPE   ID   VERSION   LABEL   ENDPOINT   STATE   RX   TX\n"


def test_what_talos_does_not_have_is_a_column_only_where_there_is_some():
    first, second = STATUSES[0], msgspec.structs.replace(STATUSES[0], spec=STATUSES[0].spec | {"rtt": "1.2ms"})
    assert "RTT" not in render([first], PEER_STATUSES, "table", "n")
    headings, *rows = render([first, second], PEER_STATUSES, "table", "n").splitlines()
    assert headings.endswith("   TX         RTT")
    assert [row.endswith("1.2ms") for row in rows] == [False, True]


def test_json_documents_follow_one_another():
    text = render(SPECS, PEER_SPECS, "json", "n")
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(text)
    second, _ = decoder.raw_decode(text[end:].lstrip())
    assert (first["metadata"]["id"], second["metadata"]["id"]) == ("a", "bb")
    assert list(first) == ["node", "metadata", "spec"]


def test_nothing_as_yaml_or_json_is_nothing():
    assert render([], PEER_SPECS, "yaml", "n") == render([], PEER_SPECS, "json", "n") == ""
