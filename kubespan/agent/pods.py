"""Which pod networks this machine has as a node of Kubernetes, by what its network plugin wrote down here.

KubeSpan takes them from the node's `podCIDRs` at the API server (spec/kubespan.md §3.1). This agent has no account
there, and reads where plugins that follow `podCIDRs` keep them: flannel's file, which k3s has too, and the ranges of
`host-local` in the CNI configuration. A plugin with accounts of its own (Calico, Cilium) leaves nothing to read; such
networks are named by `kubespan-agent enrol --advertise`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from kubespan.core.endpoint import IPNetwork, parse_interface

KUBELET = "var/lib/kubelet"
"""There on every node of Kubernetes: a CNI configuration alone may be another program's."""
FLANNEL = "run/flannel/subnet.env"
FLANNEL_NAMES = ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")
CNI = ("etc/cni/net.d", "var/lib/rancher/k3s/agent/etc/cni/net.d")
CNI_SUFFIXES = frozenset({".conf", ".conflist", ".json"})
MOST_NETWORKS = 8
MOST_BYTES = 1 << 20
"""Of one file: the largest is a few kB."""


def read_pod_networks(root: Path) -> tuple[IPNetwork, ...]:
    """The machine's pod networks; none where it is no node of Kubernetes, or nothing here tells."""
    if not (root / KUBELET).is_dir():
        return ()
    found = parse_flannel(_read(root / FLANNEL)) or next(
        (networks for file in _cni_files(root) if (networks := parse_cni(_read(file)))), ()
    )
    return found[:MOST_NETWORKS]


def parse_flannel(text: str) -> tuple[IPNetwork, ...]:
    """What flannel says of this node, not of the whole cluster."""
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    return _networks(values.get(name, "") for name in FLANNEL_NAMES)


def parse_cni(text: str) -> tuple[IPNetwork, ...]:
    """The ranges of `host-local` in a CNI configuration, of one plugin or of a list."""
    try:
        configuration = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return _networks(_subnets(configuration))


def _subnets(configuration: Any) -> Iterator[object]:
    plugins = _of(configuration, "plugins", list) or [configuration]
    for plugin in plugins:
        ipam = _of(plugin, "ipam", dict)
        if ipam is None or ipam.get("type") != "host-local":
            continue
        yield ipam.get("subnet")
        for ranges in _of(ipam, "ranges", list) or ():
            yield from (_of(one, "subnet", str) for one in (ranges if isinstance(ranges, list) else ()))


def _of(holder: Any, name: str, kind: type) -> Any:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, kind) else None


def _networks(texts: Iterable[object]) -> tuple[IPNetwork, ...]:
    found = []
    for text in texts:
        try:
            found.append(parse_interface(text).network if isinstance(text, str) else None)
        except ValueError:
            continue
    return tuple(dict.fromkeys(network for network in found if network is not None))


def _cni_files(root: Path) -> list[Path]:
    """The first in the order of names is the one that is used."""
    found: list[Path] = []
    for directory in CNI:
        with suppress(OSError):
            found += sorted((root / directory).iterdir())
    return [file for file in found if file.suffix in CNI_SUFFIXES]


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MOST_BYTES)
    except OSError:
        return ""
