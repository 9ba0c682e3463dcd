"""What Talos files tell of a cluster: machine configurations and secrets bundles (spec/kubespan.md §1.1, §3).

Read are the cluster's id and secret, KubeSpan's options, and where its machines look for each other; by the legacy
v1alpha1 document as well as by the newer ones. Whatever else is in a file is looked past. Sentences say in which file
and document a fault is, and quote neither id nor secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kubespan.core.cluster import check_cluster_id, parse_cluster_secret
from kubespan.core.documents import Unreadable, parse_documents
from kubespan.core.options import ClusterOptions
from kubespan.core.service_endpoint import PUBLIC_SERVICE

API_VERSION = "v1alpha1"
RESOURCE_TYPE = "MachineConfigs.config.talos.dev"
"""What `talosctl get machineconfig -o yaml` wraps a configuration in."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_SWITCH = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "on"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "off"), False),
}


class Unfit(ValueError):
    """The files cannot be used; the sentence says which and why, and what to do."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What was found; nothing else of the files is kept."""

    cluster_id: str = ""
    secret: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    """KubeSpan's, by the names that ClusterOptions has, where the files say something."""
    services: tuple[str, ...] = ()
    """Where its machines look for each other now, as URLs."""
    discovery: bool | None = None
    """Whether they do; none where the files say nothing of it."""

    def apply(self, options: ClusterOptions) -> ClusterOptions:
        """These options with what the files say in their place."""
        return msgspec.structs.replace(options, **self.options)


@dataclass(frozen=True, slots=True)
class _Document:
    """One document, and where it is."""

    content: Mapping[str, Any]
    place: str


def read(files: Sequence[tuple[str, bytes]]) -> Configuration:
    """Read files, given by name and content, which together are of one cluster. Raises Unfit."""
    documents = [document for name, data in files for document in _documents(name, data)]
    known = [document for document in documents if _is_talos(document.content)]
    if not known:
        raise Unfit(
            "There is no Talos document in it: expected a machine configuration, as talosctl gen config or talosctl "
            "get machineconfig writes it, or a secrets bundle of talosctl gen secrets."
        )
    options = _agree(_options(known))
    _check_options(options)
    services, discovery = _services(known)
    cluster_id, secret = _identity(known)
    return Configuration(cluster_id, secret, options, services, discovery)


def _documents(name: str, data: bytes) -> Iterator[_Document]:
    try:
        found = parse_documents(data)
        contents = [inner for content in found for inner in _unwrap(content)]
    except Unreadable as error:
        raise Unfit(f"{name}: {error}") from None
    for number, content in enumerate(contents, start=1):
        if isinstance(content, Mapping):
            yield _Document(content, f"{name}, document {number}" if len(contents) > 1 else name)


def _unwrap(content: Any) -> list[Any]:
    """The configuration inside of what `talosctl get` prints; anything else is itself."""
    if isinstance(content, Mapping) and _at(content, "metadata", "type") == RESOURCE_TYPE:
        spec = content.get("spec")
        return parse_documents(spec.encode()) if isinstance(spec, str) else [spec]
    return [content]


def _is_talos(content: Mapping[str, Any]) -> bool:
    if "kind" in content:
        return content.get("apiVersion") == API_VERSION
    # The legacy document, or a secrets bundle: that has no version.
    return content.get("version", API_VERSION) == API_VERSION and bool({"cluster", "machine"} & content.keys())


def _at(content: Any, *path: str) -> Any:
    """What is at a path; none where something on the way is missing, or no mapping."""
    for name in path:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def _text(value: Any, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unfit(f"{what} is not text.")
    return "" if value in _NULL else value


def _flag(value: Any, what: str) -> bool | None:
    text = _text(value, what)
    if text and text not in _SWITCH:
        raise Unfit(f"{what} is neither true nor false.")
    return _SWITCH[text] if text else None


def _number(value: Any, what: str) -> int | None:
    text = _text(value, what)
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004 - nine digits are enough for anything here
        raise Unfit(f"{what} is not a whole number.")
    return int(text) if text else None


def _list(value: Any, what: str) -> tuple[str, ...] | None:
    if value is None or value == "":
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise Unfit(f"{what} is not a list of texts.")
    return tuple(value)


# --------------------------------------------------------------------------------------------------- id and secret


def _identity(documents: Iterable[_Document]) -> tuple[str, str]:
    ids: list[tuple[str, str]] = []
    secrets: list[tuple[str, str]] = []
    for document in documents:
        content, place = document.content, document.place
        if content.get("kind") == "DiscoveryIdentityConfig":
            pair = (content.get("clusterID"), content.get("clusterSecret"))
        elif "kind" in content:
            continue
        else:
            pair = (_at(content, "cluster", "id"), _at(content, "cluster", "secret"))
        for found, value, what in zip((ids, secrets), pair, ("cluster id", "cluster secret"), strict=True):
            if text := _text(value, f"{place}: the {what}"):
                found.append((text, place))
    return _the_one(ids, "cluster id", check_cluster_id), _the_one(secrets, "cluster secret", parse_cluster_secret)


def _the_one(found: list[tuple[str, str]], what: str, check: Callable[[str], object]) -> str:
    """The one value there is, checked; empty for none. Two are of two clusters, and neither is quoted."""
    if not found:
        return ""
    value, place = found[0]
    for other, elsewhere in found:
        if other != value:
            raise Unfit(f"{place} and {elsewhere} have different {what}s: give the files of one cluster alone.")
    try:
        check(value)
    except ValueError as error:
        raise Unfit(f"{place}: {error}.") from None
    return value


# -------------------------------------------------------------------------------------------------------- options

_READERS: Mapping[str, tuple[tuple[str, ...], Callable[[Any, str], Any]]] = {
    "enabled": (("enabled",), _flag),
    "mtu": (("mtu",), _number),
    "allow_down_peer_bypass": (("allowDownPeerBypass",), _flag),
    "harvest_extra_endpoints": (("harvestExtraEndpoints",), _flag),
    "advertise_kubernetes_networks": (("advertiseKubernetesNetworks",), _flag),
    "endpoint_filters": (("filters", "endpoints"), _list),
    "peer_endpoint_filters": (("filters", "peerEndpoints"), _list),
    "exclude_advertised_networks": (("filters", "excludeAdvertisedNetworks"), _list),
}
"""KubeSpan's options (spec/kubespan.md §3.1, §3.3): ours, theirs, and how each is read. `extraAnnouncedEndpoints` of
another document are one machine's own, and no option of a cluster."""


def _options(documents: Iterable[_Document]) -> Iterator[tuple[str, str, Any, str]]:
    """Each option that a document sets: our name, its name there, value, place."""
    for document in documents:
        if document.content.get("kind") == "KubeSpanConfig":
            section: Any = document.content
        elif "kind" in document.content:
            continue
        else:
            section = _at(document.content, "machine", "network", "kubespan")
        for name, (path, parse) in _READERS.items():
            theirs = ".".join(path)
            value = parse(_at(section, *path), f"{document.place}: KubeSpan's {theirs}")
            if value is not None:
                yield name, theirs, value, document.place


def _agree(found: Iterable[tuple[str, str, Any, str]]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    places: dict[str, str] = {}
    for name, theirs, value, place in found:
        if name in options and options[name] != value:
            raise Unfit(
                f"{places[name]} and {place} differ in KubeSpan's {theirs}, which is one for a cluster here: give one "
                "of them, and set the option afterwards."
            )
        options[name], places[name] = value, place
    return options


def _check_options(options: Mapping[str, Any]) -> None:
    try:
        ClusterOptions(**options).check()
    except ValueError as error:
        raise Unfit(f"{error}.") from None


# ------------------------------------------------------------------------------------------------------ discovery


def _services(documents: Iterable[_Document]) -> tuple[tuple[str, ...], bool | None]:
    """Where machines look for each other, and whether they do."""
    services: dict[str, None] = {}
    discovery: bool | None = None
    for document in documents:
        content, place = document.content, document.place
        if content.get("kind") == "DiscoveryServiceConfig":
            url: str | None = _text(content.get("endpoint"), f"{place}: the endpoint")
        elif "kind" in content or _at(content, "cluster", "discovery") is None:
            continue
        else:
            url = _legacy_service(_at(content, "cluster", "discovery"), place)
        if url:
            services[url] = None
        discovery = bool(url) or bool(discovery)
    return tuple(services), discovery


def _legacy_service(section: Any, place: str) -> str | None:
    """The service of a `.cluster.discovery`; none where it is off."""
    service = _at(section, "registries", "service")
    enabled = _flag(_at(section, "enabled"), f"{place}: cluster.discovery.enabled")
    disabled = _flag(_at(service, "disabled"), f"{place}: cluster.discovery.registries.service.disabled")
    if not enabled or disabled:
        return None
    return _text(_at(service, "endpoint"), f"{place}: the discovery endpoint") or PUBLIC_SERVICE
