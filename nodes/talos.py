"""Where this console tells Talos machines that discovery is, and whether that can work."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import structlog
from django.conf import settings
from django.core.cache import cache

from kubespan.core.service_endpoint import ServiceEndpoint
from kubespan.core.talos.eras import USUAL, Era, Release, find_era
from kubespan.core.talos.patches import Patch, Wish, make_patch
from kubespan.core.talos.roots import parse_roots
from kubespan_web.env import is_loopback
from nodes.models import Cluster, Node

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 3
"""Between two tests of the service: each is a connection or two of ours."""


def read_roots() -> str:
    """The certificates that machines must trust for the service, PEM; empty where they know its certificate anyway."""
    path = settings.DISCOVERY_ROOTS
    if not path or endpoint().insecure:
        return ""
    try:
        return parse_roots(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        log.warning("what machines must trust cannot be read", error=str(error))
        return ""


def endpoint() -> ServiceEndpoint:
    """Where the service is, for whoever connects."""
    return ServiceEndpoint.parse(settings.DISCOVERY_URL)


def write_patch(
    cluster: Cluster,
    era: Era,
    *,
    kubespan: bool,
    beside: bool,
    legacy: bool,
    identity: tuple[str, str] | None = None,
) -> Patch:
    """The patch that brings machines of these releases here; with id and secret only where these are given."""
    options = cluster.kubespan.for_machines() if kubespan else None
    wish = Wish(settings.DISCOVERY_URL, read_roots(), identity, options, beside=beside, legacy=legacy)
    return make_patch(wish, era)


def guess_era(cluster: Cluster) -> Era:
    """The era of the oldest release that a Talos machine of the cluster says it runs."""
    systems = cluster.nodes.present().filter(kind=Node.Kind.TALOS).values_list("operating_system", flat=True)
    releases = []
    for system in set(systems):
        try:
            releases.append(Release.parse(system))
        except ValueError:
            continue
    return find_era(min(releases)) if releases else USUAL


def find_obstacles(cluster: Cluster) -> list[str]:
    """Why machines might not find each other there, in sentences; what only a connection can tell, it does not know."""
    where = endpoint()
    found = []
    if not cluster.kubespan.discovery:
        found.append("The discovery service does not serve this cluster: switch it on under Options.")
    if is_loopback(where.host):
        found.append(
            f"{where.target} can be reached from this machine alone. Have discovery listen on an address that Talos "
            "machines reach (manage.py run --tls-listen … --discovery-listen …), or name its front by DISCOVERY_URL."
        )
    elif _is_unspecified(where.host):
        found.append(f"{where.host} is no address that a machine can connect to: set DISCOVERY_URL.")
    elif where.insecure:
        found.append(
            "The connection is plain: whoever is on the way sees the cluster id, and who knows it may write and delete "
            "there. Use it within a network that you trust alone."
        )
    if settings.DISCOVERY_ROOTS and not where.insecure and not read_roots():
        found.append(f"The certificates that machines must trust cannot be read: {settings.DISCOVERY_ROOTS}.")
    return found


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def may_test() -> bool:
    """Whether the last test is a moment ago; while Redis is away nobody knows, and it may."""
    return bool(cache.add("discovery-test", 1, PAUSE_SECONDS))
