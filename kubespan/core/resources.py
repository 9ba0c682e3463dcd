"""What a node can be asked for by `get`: typed records, as Talos lists them (spec/kubespan.md §2).

A record says what it is (metadata) and what it holds (spec, with Talos' own keys). Its version counts effective
changes: the agent keeps the last records over restarts, and `update` compares with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from math import isinf
from typing import Any, NamedTuple, TypeVar

import msgspec

from kubespan.core.affiliate import Affiliate, members
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import SUBNET_LENGTH
from kubespan.core.options import Options
from kubespan.core.peer_spec import PeerSpec
from kubespan.core.peer_status import PeerState, PeerStatus

FILE_NAME = "resources.json"
"""Where the agent publishes its records, in its state directory, for `get` on the same machine."""

FILE_VERSION = 1

NO_TIME = "0001-01-01T00:00:00Z"
"""How Talos writes a time that never was."""

SETTLED = 1.0
"""Seconds by which two measures of the wall clock may differ before the clock counts as stepped."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """Who a record is; `created` and `updated` are RFC 3339 in whole seconds."""

    namespace: str
    type: str
    id: str
    version: int
    owner: str
    phase: str = "running"
    created: str
    updated: str


class Resource(msgspec.Struct, frozen=True):
    """A record: metadata and spec."""

    metadata: Metadata
    spec: dict[str, Any]


class Kept(msgspec.Struct, frozen=True):
    """A record as its file has it, which is a quarter of the size: only a reader needs the spec's values."""

    metadata: Metadata
    spec: msgspec.Raw


class _Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    resources: list[Resource]


class _PublishedKept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    resources: list[Kept]


Form = TypeVar("Form", _Published, _PublishedKept)


class Definition(NamedTuple):
    """A type of record, and how a table shows it."""

    type: str
    namespace: str
    owner: str
    columns: tuple[tuple[str, str], ...] = ()
    """(heading, key of the spec)."""
    extras: tuple[tuple[str, str], ...] = ()
    """Further ones, which Talos does not have; a table shows them where any of its records has the key."""

    @property
    def label(self) -> str:
        """First part of the type: `KubeSpanPeerSpecs`."""
        return self.type.partition(".")[0]

    @property
    def display_type(self) -> str:
        """Singular of the label, as tables name it: `KubeSpanPeerSpec`."""
        if self.label.endswith("ies"):
            return self.label.removesuffix("ies") + "y"
        # `Statuses` loses two letters, `Specs` and `Affiliates` one.
        return self.label.removesuffix("es") if self.label.endswith("uses") else self.label.removesuffix("s")

    def names(self) -> set[str]:
        """List every name that `get` accepts, in lower case."""
        parts = self.type.lower().split(".")
        names = {".".join(parts[: length + 1]) for length in range(len(parts))}
        names.add(self.display_type.lower())
        capitals = "".join(char for char in self.display_type if char.isupper()).lower()
        if len(capitals) > 1:
            names |= {capitals, capitals if capitals.endswith("s") else f"{capitals}s"}
        return names


CONFIGS = Definition("KubeSpanConfigs.kubespan.talos.dev", "config", "kubespan.ConfigController")
IDENTITIES = Definition(
    "KubeSpanIdentities.kubespan.talos.dev",
    "kubespan",
    "kubespan.IdentityController",
    (("Address", "address"), ("PublicKey", "publicKey")),
)
PEER_SPECS = Definition(
    "KubeSpanPeerSpecs.kubespan.talos.dev",
    "kubespan",
    "kubespan.PeerSpecController",
    (("Label", "label"), ("Endpoints", "endpoints")),
)
PEER_STATUSES = Definition(
    "KubeSpanPeerStatuses.kubespan.talos.dev",
    "kubespan",
    "kubespan.ManagerController",
    (
        ("Label", "label"),
        ("Endpoint", "endpoint"),
        ("State", "state"),
        ("Rx", "receiveBytes"),
        ("Tx", "transmitBytes"),
    ),
    (("Rtt", "rtt"), ("Loss", "loss")),
)
ENDPOINTS = Definition(
    "KubeSpanEndpoints.kubespan.talos.dev",
    "kubespan",
    "kubespan.EndpointController",
    (("Endpoint", "endpoint"), ("Affiliate ID", "affiliateID")),
)
AFFILIATES = Definition(
    "Affiliates.cluster.talos.dev",
    "cluster",
    "cluster.AffiliateMergeController",
    (("Hostname", "hostname"), ("Machine Type", "machineType"), ("Addresses", "addresses")),
)
MEMBERS = Definition(
    "Members.cluster.talos.dev",
    "cluster",
    "cluster.MemberController",
    (
        ("Hostname", "hostname"),
        ("Machine Type", "machineType"),
        ("OS", "operatingSystem"),
        ("Addresses", "addresses"),
    ),
)
NODE_IDENTITIES = Definition(
    "Identities.cluster.talos.dev", "cluster", "cluster.NodeIdentityController", (("ID", "nodeId"),)
)
INFOS = Definition(
    "Infos.cluster.talos.dev",
    "cluster",
    "cluster.InfoController",
    (("Cluster ID", "clusterId"), ("Cluster Name", "clusterName")),
)

DEFINITIONS: tuple[Definition, ...] = (
    CONFIGS,
    IDENTITIES,
    PEER_SPECS,
    PEER_STATUSES,
    ENDPOINTS,
    AFFILIATES,
    MEMBERS,
    NODE_IDENTITIES,
    INFOS,
)


def resolve(name: str) -> Definition:
    """Find the type of record that a person means; raises ValueError that lists what can be meant."""
    wanted = name.lower()
    found = [definition for definition in DEFINITIONS if wanted in definition.names()]
    if len(found) == 1:
        return found[0]
    choices = ", ".join(sorted(definition.label.lower() for definition in found or DEFINITIONS))
    problem = "may mean several resources" if found else "is no resource that a node has"
    raise ValueError(f"{name!r} {problem}; write one of {choices}")


class Record(NamedTuple):
    """What `update` is told: a record without its history."""

    definition: Definition
    id: str
    spec: dict[str, Any] | msgspec.Raw


def condense(records: Iterable[Record]) -> list[Record]:
    """Write the specs, for records that will be told again and again."""
    return [Record(kind, id_, _write(spec)) for kind, id_, spec in records]


def _write(spec: dict[str, Any] | msgspec.Raw) -> msgspec.Raw:
    return spec if isinstance(spec, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(spec))


def update(previous: Iterable[Kept], records: Iterable[Record], now: float) -> list[Kept]:
    """Give the records of now; one that changed counts a version up, one that did not stays the very same.

    `now` is Unix time in seconds.
    """
    known = {(one.metadata.type, one.metadata.namespace, one.metadata.id): one for one in previous}
    stamp = rfc3339(now, whole=True)
    return [
        _renew(known.get((kind.type, kind.namespace, id_)), kind, id_, _write(spec), stamp)
        for kind, id_, spec in records
    ]


def _renew(before: Kept | None, kind: Definition, id_: str, spec: msgspec.Raw, stamp: str) -> Kept:
    if before is not None and before.spec == spec:
        return before
    metadata = Metadata(
        namespace=kind.namespace,
        type=kind.type,
        id=id_,
        version=before.metadata.version + 1 if before else 1,
        owner=kind.owner,
        created=before.metadata.created if before else stamp,
        updated=stamp,
    )
    return Kept(metadata, spec)


def dump(resources: Sequence[Kept]) -> bytes:
    """Write records for the file that the agent publishes."""
    return msgspec.json.encode(_PublishedKept(FILE_VERSION, list(resources)))


def parse(text: bytes) -> list[Resource]:
    """Read what `dump` wrote; raises ValueError for anything else."""
    return _parse(text, _Published).resources


def parse_kept(text: bytes) -> list[Kept]:
    """Read what `dump` wrote, to go on from there; raises ValueError for anything else."""
    found = _parse(text, _PublishedKept).resources
    # What is read refers to the whole text until it is copied.
    return [Kept(one.metadata, one.spec.copy()) for one in found]


def _parse(text: bytes, form: type[Form]) -> Form:
    try:
        published = msgspec.json.decode(text, type=form)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"this is not what an agent publishes: {error}") from None
    if published.version != FILE_VERSION:
        raise ValueError(f"published in form {published.version}, but this program reads form {FILE_VERSION} only")
    return published


# Times.


def rfc3339(seconds: float, *, whole: bool = False) -> str:
    """Write Unix time in UTC, trailing zeros trimmed; what never was is Talos' zero time."""
    if isinf(seconds):
        return NO_TIME
    when = _EPOCH + timedelta(seconds=int(seconds) if whole else round(seconds, 6))
    text = when.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}Z"


def steady_offset(held: float | None, measured: float) -> float:
    """Choose how far wall clock and timeline are apart: what is held, unless the wall clock was stepped.

    Two measurements never agree to the last digit; with a new offset every time, every record would seem to change.
    """
    return measured if held is None or abs(measured - held) > SETTLED else held


# What a node knows, as records. Nothing here is secret.


def config_record(options: Options, cluster_id: str, extra_endpoints: Sequence[Endpoint] = ()) -> Record:
    """KubeSpan's options in force, without the shared secret."""
    spec: dict[str, Any] = {
        "enabled": options.enabled,
        "clusterId": cluster_id,
        "forceRouting": not options.allow_down_peer_bypass,
        "advertiseKubernetesNetworks": options.advertise_kubernetes_networks,
        "mtu": options.mtu,
        "endpointFilters": list(options.endpoint_filters),
        "harvestExtraEndpoints": options.harvest_extra_endpoints,
        "extraEndpoints": list(map(str, extra_endpoints)),
        "excludeAdvertisedNetworks": list(options.exclude_advertised_networks),
    }
    return Record(CONFIGS, "kubespan", {key: value for key, value in spec.items() if value != []})


def identity_record(address: IPv6Address, public_key: str) -> Record:
    """KubeSpan address, subnet and public key of the machine; the private key stays where it is."""
    subnet = IPv6Network((int(address), SUBNET_LENGTH), strict=False)
    return Record(
        IDENTITIES,
        "local",
        {"address": str(IPv6Interface(address)), "subnet": str(subnet), "publicKey": public_key},
    )


def node_identity_record(node_id: str) -> Record:
    """The machine's own node id."""
    return Record(NODE_IDENTITIES, "local", {"nodeId": node_id})


def info_record(cluster_id: str, cluster_name: str) -> Record:
    """The cluster that the machine belongs to."""
    return Record(INFOS, "current", {"clusterId": cluster_id, "clusterName": cluster_name})


def peer_spec_records(specs: Mapping[str, PeerSpec]) -> list[Record]:
    """What each peer should be."""
    return [
        Record(
            PEER_SPECS,
            key,
            {
                "address": str(spec.address),
                "allowedIPs": list(map(str, spec.allowed_ips)),
                "endpoints": list(map(str, spec.endpoints)),
                "label": spec.label,
            },
        )
        for key, spec in sorted(specs.items())
    ]


Measured = Mapping[str, tuple[float | None, float | None]]
"""Round trip in seconds and loss from 0 to 1, by public key; none for what is not measured."""


def peer_status_records(
    statuses: Mapping[str, PeerStatus], now: float, offset: float, measured: Measured | None = None
) -> list[Record]:
    """What each peer is. `offset` is wall clock minus timeline, as `steady_offset` keeps it.

    Round trip and loss are ours alone: they are there where they were measured, beside Talos' own keys.
    """
    return [
        Record(
            PEER_STATUSES,
            key,
            {
                "endpoint": str(status.endpoint or ""),
                "label": status.label,
                "state": str(status.state(now)),
                "receiveBytes": status.received,
                "transmitBytes": status.sent,
                "lastHandshakeTime": rfc3339(status.last_handshake + offset),
                "lastUsedEndpoint": str(status.last_used_endpoint or ""),
                "lastEndpointChange": rfc3339(status.endpoint_changed + offset),
            }
            | _measures(*(measured or {}).get(key, (None, None))),
        )
        for key, status in sorted(statuses.items())
    ]


def _measures(rtt: float | None, loss: float | None) -> dict[str, str]:
    found = {}
    if rtt is not None:
        found["rtt"] = write_milliseconds(rtt)
    if loss is not None:
        found["loss"] = f"{loss:.0%}"
    return found


def write_milliseconds(seconds: float) -> str:
    """A duration as Talos writes such ones, to three digits: `1.23ms`."""
    milliseconds = seconds * 1000
    return f"{milliseconds:.3g}ms" if milliseconds < 1000 else f"{milliseconds:.0f}ms"  # noqa: PLR2004 - three digits


def reported_status_record(
    key: str, *, label: str, state: str, endpoint: str, received: int, sent: int, handshake: float
) -> Record:
    """What a peer is by its node's report, which tells not what was tried last, and when; `handshake` is Unix time."""
    return Record(
        PEER_STATUSES,
        key,
        {
            "endpoint": endpoint,
            "label": label,
            "state": state,
            "receiveBytes": received,
            "transmitBytes": sent,
            "lastHandshakeTime": rfc3339(handshake),
        },
    )


def harvested(
    affiliates: Iterable[Affiliate], statuses: Mapping[str, PeerStatus], options: Options, now: float
) -> dict[str, tuple[str, Endpoint]]:
    """Give the endpoints at which peers are up, to tell others of: key → (node id, endpoint) (spec §5)."""
    if not options.harvest_extra_endpoints:
        return {}
    node_ids = {affiliate.public_key: affiliate.node_id for affiliate in affiliates if affiliate.public_key}
    return {
        key: (node_ids[key], status.endpoint)
        for key, status in sorted(statuses.items())
        if key in node_ids and status.endpoint is not None and status.state(now) is PeerState.UP
    }


def endpoint_records(found: Mapping[str, tuple[str, Endpoint]]) -> list[Record]:
    """What `harvested` found."""
    return [
        Record(ENDPOINTS, key, {"affiliateID": node_id, "endpoint": str(endpoint)})
        for key, (node_id, endpoint) in found.items()
    ]


def affiliate_records(affiliates: Iterable[Affiliate]) -> list[Record]:
    """Each machine as discovery knows it."""
    return [
        Record(AFFILIATES, affiliate.node_id, _affiliate_spec(affiliate))
        for affiliate in sorted(affiliates, key=lambda one: one.node_id)
    ]


def _affiliate_spec(affiliate: Affiliate) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "nodeId": affiliate.node_id,
        "addresses": list(map(str, affiliate.addresses)),
        "hostname": affiliate.hostname,
    }
    if affiliate.nodename:
        spec["nodename"] = affiliate.nodename
    spec |= {"operatingSystem": affiliate.operating_system, "machineType": affiliate.machine_type}
    kubespan = {
        "publicKey": affiliate.public_key,
        "address": str(affiliate.address or ""),
        "additionalAddresses": list(map(str, affiliate.additional_addresses)),
        "endpoints": list(map(str, affiliate.endpoints)),
        "excludeAdvertisedNetworks": list(map(str, affiliate.exclude_advertised_networks)),
    }
    if any(kubespan.values()):
        spec["kubespan"] = kubespan
    return spec | _control_plane(affiliate)


def _control_plane(affiliate: Affiliate) -> dict[str, Any]:
    return {"controlPlane": {"port": affiliate.api_server_port}} if affiliate.api_server_port else {}


def member_records(affiliates: Iterable[Affiliate]) -> list[Record]:
    """Each affiliate that has a nodename, the machine itself included (spec §4.3)."""
    return [
        Record(
            MEMBERS,
            nodename,
            {
                "nodeId": affiliate.node_id,
                "addresses": list(map(str, affiliate.addresses)),
                "hostname": affiliate.hostname,
                "machineType": affiliate.machine_type,
                "operatingSystem": affiliate.operating_system,
            }
            | _control_plane(affiliate),
        )
        for nodename, affiliate in sorted(members(affiliates).items())
    ]
