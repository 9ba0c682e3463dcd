"""The patch that points Talos machines at a discovery service, for each era of releases (spec/kubespan.md §3).

A patch holds what it is to change, and nothing else. Newer releases have documents for what was in the v1alpha1
configuration, and refuse one beside the other. An upgrade leaves a configuration as it is, so for these releases it
matters whether a configuration still has the legacy form; a patch of the wrong form is refused as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubespan.core.documents import Mode, dump_documents
from kubespan.core.options import Options
from kubespan.core.service_endpoint import PUBLIC_SERVICE
from kubespan.core.talos.configuration import API_VERSION
from kubespan.core.talos.eras import (
    DISCOVERY_DOCUMENTS,
    KUBESPAN_DOCUMENT,
    MODES,
    OPTIONS,
    STRATEGIC_MERGE,
    TRUSTED_ROOTS,
    Era,
)

OURS = "kubespan-web"
"""What documents of a name of ours are called."""
GENERATED = "default"
"""How Talos names the service of a generated configuration since 1.14; ours takes its place."""
NODES = "NODES"
"""Stands for machines' addresses in commands."""

_DELETE = {"$patch": "delete"}
HARVEST = "harvest_extra_endpoints"
"""Releases without it do it always."""

_CA_FILE = "/etc/ssl/certs/ca-certificates"

_THEIRS: Mapping[str, str] = {
    "enabled": "enabled",
    "advertise_kubernetes_networks": "advertiseKubernetesNetworks",
    "allow_down_peer_bypass": "allowDownPeerBypass",
    "harvest_extra_endpoints": "harvestExtraEndpoints",
    "mtu": "mtu",
}
_FILTERS: Mapping[str, str] = {
    "endpoint_filters": "endpoints",
    "exclude_advertised_networks": "excludeAdvertisedNetworks",
    "peer_endpoint_filters": "peerEndpoints",
}

NO_ROOT = (
    "These releases take a certificate by no patch of this kind, and the service's is one that they do not know. Give "
    "it one that they know, or upgrade the machines first."
)
ROOT_REBOOTS = (
    "These releases take the certificate up with a reboot alone: patch one machine after the other, and each once."
)
FORCED = (
    "Talos always forces traffic for a peer into the tunnel, from before their first handshake: a machine that "
    "WireGuard does not reach is cut off from them."
)
ADDED = "Filters are added to those that a machine has already, and take none of them away."
HARVESTED = "These releases always harvest endpoints."
OTHERS_STAY = f"A discovery service that a machine knows by another name than “{GENERATED}” stays beside this one."


@dataclass(frozen=True, slots=True)
class Wish:
    """What a patch shall bring about."""

    service: str
    """Where discovery is, as a URL without a path."""
    roots: str = ""
    """Certificates to trust, PEM, where the service's is not one that machines know; empty for none."""
    identity: tuple[str, str] | None = field(default=None, repr=False)
    """Cluster id and secret, for machines that do not have them."""
    options: Options | None = None
    """KubeSpan's, to be set with it; none leaves KubeSpan as it is."""
    beside: bool = False
    """Keep the public service as well, where several are possible."""
    legacy: bool = False
    """Whether the machines' configurations were made before the documents, of releases that know these."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch, and what to know of it."""

    text: str = field(repr=False)
    file: str
    """The name of a file for it; commands have it."""
    reboots: bool
    notes: tuple[str, ...]
    """What it does not or cannot do, in sentences."""
    commands: tuple[str, ...]
    """How to apply it, and how to look at what came of it."""


def has_forms(era: Era) -> bool:
    """Whether configurations of these releases may have the legacy form or that of documents."""
    return era.has(KUBESPAN_DOCUMENT)


def make_patch(wish: Wish, era: Era) -> Patch:
    """Make the patch for the releases of an era."""
    merges = era.has(STRATEGIC_MERGE)
    form = "-upgraded" if wish.legacy and has_forms(era) else ""
    file = f"talos-{era.first}{form}.{'yaml' if merges else 'json'}"
    text = dump_documents(_documents(wish, era)) if merges else json.dumps(list(_operations(wish)), indent=2) + "\n"
    reboots = merges and bool(wish.roots) and not era.has(TRUSTED_ROOTS)
    return Patch(text, file, reboots, tuple(_notes(wish, era)), _commands(era, file, reboots=reboots))


def _commands(era: Era, file: str, *, reboots: bool) -> tuple[str, ...]:
    at_once = "--mode=no-reboot" if era.has(MODES) else "--immediate"
    how = "--mode=reboot" if reboots else at_once
    return (
        f"talosctl --nodes {NODES} patch machineconfig {how} --patch-file {file}",
        f"talosctl --nodes {NODES} get members",
    )


def _notes(wish: Wish, era: Era) -> Iterator[str]:
    if wish.roots and not era.has(STRATEGIC_MERGE):
        yield NO_ROOT
    elif wish.roots and not era.has(TRUSTED_ROOTS):
        yield ROOT_REBOOTS
    if _by_documents(wish, era):
        yield OTHERS_STAY
    if wish.options is not None:
        yield from _notes_on_options(wish.options, _known(wish, era))


def _notes_on_options(options: Options, known: Collection[str]) -> Iterator[str]:
    if options.enabled and not options.allow_down_peer_bypass and not options.force_from_start:
        yield FORCED
    plain = Options()
    lacking = [
        theirs
        for name, theirs in {**_THEIRS, **_FILTERS}.items()
        if name not in {*known, HARVEST} and getattr(options, name) != getattr(plain, name)
    ]
    if HARVEST not in known and not options.harvest_extra_endpoints:
        yield HARVESTED
    if lacking:
        yield f"Not in this patch, because not all these releases have it: KubeSpan's {', '.join(lacking)}."
    if any(getattr(options, name) for name in _FILTERS if name in known):
        yield ADDED


# ---------------------------------------------------------------------------------------- JSON patches, before 1.2


def _operations(wish: Wish) -> Iterator[dict[str, Any]]:
    """Each puts a whole value in its place, whether there was one or not."""
    if wish.identity is not None:
        for name, value in zip(("id", "secret"), wish.identity, strict=True):
            yield _add(f"/cluster/{name}", value)
    yield _add("/cluster/discovery", {"enabled": True, "registries": {"service": {"endpoint": wish.service}}})
    if wish.options is not None:
        yield _add("/machine/network/kubespan", {"enabled": wish.options.enabled})


def _add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


# ------------------------------------------------------------------------------------- documents to merge, since 1.2


def _by_documents(wish: Wish, era: Era) -> bool:
    """Whether the discovery service is named by a document; the legacy form has room for one service alone."""
    return era.has(DISCOVERY_DOCUMENTS) and (wish.beside or not wish.legacy)


def _kubespan_by_document(wish: Wish, era: Era) -> bool:
    return era.has(KUBESPAN_DOCUMENT) and not wish.legacy


def _known(wish: Wish, era: Era) -> list[str]:
    """Which of KubeSpan's options there are."""
    known = [name for name, since in OPTIONS.items() if era.has(since)]
    # The legacy form has not got what is newer than the document.
    return known if _kubespan_by_document(wish, era) else [name for name in known if OPTIONS[name] <= KUBESPAN_DOCUMENT]


def _documents(wish: Wish, era: Era) -> Iterator[dict[str, Any]]:
    legacy = {"machine": dict(_machine(wish, era)), "cluster": dict(_cluster(wish, era))}
    if sections := {name: section for name, section in legacy.items() if section}:
        yield sections
    if _by_documents(wish, era):
        yield from _services(wish)
    if wish.identity is not None and era.has(DISCOVERY_DOCUMENTS) and not wish.legacy:
        cluster_id, secret = wish.identity
        yield _document("DiscoveryIdentityConfig", clusterID=cluster_id, clusterSecret=secret)
    if wish.roots and era.has(TRUSTED_ROOTS):
        yield _document("TrustedRootsConfig", name=OURS, certificates=wish.roots)
    if wish.options is not None and _kubespan_by_document(wish, era):
        yield _document("KubeSpanConfig", **_kubespan(wish.options, _known(wish, era)))


def _document(kind: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, **fields}


def _services(wish: Wish) -> Iterator[dict[str, Any]]:
    if wish.beside:
        yield _document("DiscoveryServiceConfig", name=GENERATED, endpoint=PUBLIC_SERVICE)
    yield _document("DiscoveryServiceConfig", name=OURS if wish.beside else GENERATED, endpoint=wish.service)


def _cluster(wish: Wish, era: Era) -> Iterator[tuple[str, Any]]:
    if era.has(DISCOVERY_DOCUMENTS) and not wish.legacy:
        return
    if wish.identity is not None:
        yield from zip(("id", "secret"), wish.identity, strict=True)
    if _by_documents(wish, era):
        yield "discovery", _DELETE  # its mere presence excludes the documents
        return
    registries: dict[str, Any] = {"service": {"disabled": False, "endpoint": wish.service}}
    if wish.identity is not None:
        # A configuration without an id has no such section either, and this registry is off in those that Talos makes.
        registries = {"kubernetes": {"disabled": True}, **registries}
    yield "discovery", {"enabled": True, "registries": registries}


def _machine(wish: Wish, era: Era) -> Iterator[tuple[str, Any]]:
    if wish.options is not None and not _kubespan_by_document(wish, era):
        yield "network", {"kubespan": _kubespan(wish.options, _known(wish, era))}
    if wish.roots and not era.has(TRUSTED_ROOTS):
        yield "files", [{"content": wish.roots, "permissions": Mode(0o644), "path": _CA_FILE, "op": "append"}]


def _kubespan(options: Options, known: Collection[str]) -> dict[str, Any]:
    """What there is of the options; the switches always, lists where there is something in them."""
    section: dict[str, Any] = {theirs: getattr(options, name) for name, theirs in _THEIRS.items() if name in known}
    filters = {
        theirs: list(getattr(options, name))
        for name, theirs in _FILTERS.items()
        if name in known and getattr(options, name)
    }
    return section | ({"filters": filters} if filters else {})
