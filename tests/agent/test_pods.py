"""Pod networks by what network plugins write down: their very files, and what cannot be."""

from __future__ import annotations

import json

import pytest

from kubespan.agent.host import read_addresses
from kubespan.agent.pods import parse_cni, parse_flannel, read_pod_networks
from kubespan.agent.start import LinuxHost

FLANNEL = """FLANNEL_NETWORK=10.42.0.0/16
FLANNEL_SUBNET=10.42.3.1/24
FLANNEL_IPV6_NETWORK=fd42::/56
FLANNEL_IPV6_SUBNET=fd42:0:0:3::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""


def cni(**ipam):
    return json.dumps({"name": "kindnet", "plugins": [{"type": "ptp", "ipam": ipam}, {"type": "portmap"}]})


def texts(networks):
    return [str(network) for network in networks]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(FLANNEL, ["10.42.3.0/24", "fd42:0:0:3::/64"], id="both families"),
        pytest.param("FLANNEL_SUBNET=nonsense\n", [], id="nonsense"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_flannel(text, expected):
    assert texts(parse_flannel(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            cni(type="host-local", ranges=[[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]]),
            ["10.244.1.0/24", "fd00:10:244:1::/64"],
            id="ranges",
        ),
        pytest.param(cni(type="host-local", subnet="10.244.2.0/24"), ["10.244.2.0/24"], id="one subnet"),
        pytest.param(
            json.dumps({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.244.5.0/24"}}),
            ["10.244.5.0/24"],
            id="one plugin",
        ),
        pytest.param(cni(type="host-local", subnet="usePodCidr"), [], id="left to the plugin"),
        pytest.param(cni(type="calico-ipam", subnet="10.244.2.0/24"), [], id="accounts of its own"),
        pytest.param(cni(type="host-local", ranges=[{"subnet": "10.244.2.0/24"}, 7]), [], id="another form"),
        pytest.param('{"plugins": [1, {"ipam": 2}]}', [], id="no objects"),
        pytest.param("[" * 100_000, [], id="too deep"),
        pytest.param("not json", [], id="no JSON"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_cni(text, expected):
    assert texts(parse_cni(text)) == expected


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_only_a_node_of_kubernetes_has_any(tmp_path):
    write(tmp_path, "etc/cni/net.d/87-podman.conflist", cni(type="host-local", subnet="10.88.0.0/16"))
    assert read_pod_networks(tmp_path) == ()
    (tmp_path / "var/lib/kubelet").mkdir(parents=True)
    assert texts(read_pod_networks(tmp_path)) == ["10.88.0.0/16"]


def test_the_first_file_that_tells_counts_and_flannels_before_all(tmp_path):
    (tmp_path / "var/lib/kubelet").mkdir(parents=True)
    assert read_pod_networks(tmp_path) == ()
    written = {"20-b.conf": "10.2.0.0/24", "10-a.conflist": "10.1.0.0/24", "05-c.conf.bak": "10.3.0.0/24"}
    for name, subnet in written.items():
        write(tmp_path, f"etc/cni/net.d/{name}", cni(type="host-local", subnet=subnet))
    assert texts(read_pod_networks(tmp_path)) == ["10.1.0.0/24"]
    write(tmp_path, "run/flannel/subnet.env", FLANNEL)
    assert texts(read_pod_networks(tmp_path)) == ["10.42.3.0/24", "fd42:0:0:3::/64"]


async def test_an_address_within_a_pod_network_is_none_of_the_machines_own(tmp_path):
    found = [str(address) for address in await read_addresses()]
    if not found:
        pytest.skip("this machine has no address")
    first, *others = found
    (tmp_path / "var/lib/kubelet").mkdir(parents=True)
    write(tmp_path, "run/flannel/subnet.env", f"FLANNEL_SUBNET={first}\n")
    facts = await LinuxHost(tmp_path).facts()
    assert (facts.addresses, len(facts.pod_networks)) == (tuple(others), 1)
    assert (await LinuxHost(tmp_path / "elsewhere").facts()).addresses == (first, *others)
