"""What the service counts, by the names that upstream's has (spec/discovery-protocol.md §5.9)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kubespan.discovery.address import UNKNOWN

HANDLING_BUCKETS = (0.01, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds."""

RELEASES = 100
"""Of clients, that are counted apart: what a client says it is, it may make up, and each is kept for good."""

_CALL = ("grpc_type", "grpc_service", "grpc_method")


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._hellos = self._counter(
            "discovery_server_hello_requests", "Hellos by the release that clients say they are", "client_version"
        )
        self._hellos.labels(UNKNOWN)
        self._releases = {UNKNOWN}
        self.clusters = self._gauge("discovery_state_clusters", "Clusters that are kept")
        self.affiliates = self._gauge("discovery_state_affiliates", "Affiliates that are kept")
        self.endpoints = self._gauge("discovery_state_endpoints", "Endpoints that are kept")
        self.subscriptions = self._gauge("discovery_state_subscriptions", "Watches that are open")
        self.collections = self._counter("discovery_state_gc_runs", "Collections of what has expired")
        self.collected_clusters = self._counter("discovery_state_gc_clusters", "Clusters that were collected")
        self.collected_affiliates = self._counter("discovery_state_gc_affiliates", "Affiliates that expired")
        self.started = self._counter("grpc_server_started", "Calls that began", *_CALL)
        self.handled = self._counter("grpc_server_handled", "Calls that ended", *_CALL, "grpc_code")
        self.received = self._counter("grpc_server_msg_received", "Messages that came", *_CALL)
        self.sent = self._counter("grpc_server_msg_sent", "Messages that went", *_CALL)
        self.handling = Histogram(
            "grpc_server_handling_seconds",
            "How long calls took",
            _CALL,
            buckets=HANDLING_BUCKETS,
            registry=self.registry,
        )

    def count_hello(self, release: str) -> None:
        """Count a hello of a client of this release."""
        if len(self._releases) < RELEASES:
            self._releases.add(release)
        self._hellos.labels(release if release in self._releases else UNKNOWN).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)
