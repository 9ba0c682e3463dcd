"""From what is kept of discovery services to a registry of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kubespan.agent.fetch import way_to
from kubespan.agent.store import Discovery, DiscoveryService, Enrolment, Store
from kubespan.core.service_endpoint import ServiceEndpoint

if TYPE_CHECKING:
    from kubespan.agent.registries.service import ServiceRegistry, Where


def open_registry(
    store: Store, discovery: Discovery, enrolment: Enrolment, secret: str, news: Callable[[], None]
) -> ServiceRegistry:
    """The discovery services of a machine in its cluster. Raises ValueError where they cannot be."""
    from kubespan.agent.registries.service import ServiceRegistry  # noqa: PLC0415 - gRPC, only for who uses it

    return ServiceRegistry(
        [_where(service, enrolment) for service in discovery.services],
        cluster_id=enrolment.cluster_id,
        node_id=enrolment.node_id,
        secret=secret,
        news=news,
        memory=store,
    )


def _where(service: DiscoveryService, enrolment: Enrolment) -> Where:
    """A service, and how it is known: one on the console's host has the console's certificate."""
    from kubespan.agent.registries.service import Where  # noqa: PLC0415

    endpoint = ServiceEndpoint.parse(service.url)
    if service.roots or enrolment.alone or not enrolment.certificate or endpoint.insecure:
        return Where(endpoint, service.roots.encode() or None)
    way = way_to(enrolment)
    return Where(endpoint, pinned=way.tls if endpoint.host == way.url.host else None)
