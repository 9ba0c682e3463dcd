"""The discovery service: gRPC for Talos machines and agents, and its figures for Prometheus."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
from django.conf import settings
from django.core.management.base import CommandError
from django.db import OperationalError
from prometheus_client import start_http_server

from kubespan.core.endpoint import parse_network
from kubespan.discovery.metrics import Metrics
from kubespan.discovery.server import STOP_SECONDS, Manners, Service, listen, make_server
from nodes import embedded
from nodes.discovery.rate import SharedRateLimit
from nodes.discovery.registry import DatabaseRegistry
from nodes.discovery.tls import CertificateFiles
from nodes.management.script import Script
from nodes.supervisor import stop_on_signals

LISTEN = "127.0.0.1:3000"
FORGET_SECONDS = 60.0
"""Between lettings-go of clients that have been quiet."""


class Command(Script):
    """`manage.py discovery`."""

    help = "Serve the discovery protocol."

    def add_arguments(self, parser):
        parser.add_argument(
            "--listen", metavar="HOST:PORT", help=f"gRPC; by TLS where there is a certificate (default: {LISTEN})"
        )
        parser.add_argument(
            "--plain-listen", metavar="HOST:PORT", action="append", default=[], help="gRPC without TLS, besides"
        )
        parser.add_argument("--metrics", metavar="HOST:PORT", default="127.0.0.1:2122", help="Prometheus; empty: none")
        parser.add_argument("--certificate", type=Path, help="PEM; read again when it changes")
        parser.add_argument("--key", type=Path, help="its key, PEM")

    def handle(self, *args, **options):
        if (options["certificate"] is None) != (options["key"] is None):
            raise CommandError("give both --certificate and --key, or neither where a proxy in front does TLS")
        try:
            asyncio.run(self.run(options))
        except (embedded.NotPossible, OperationalError, OSError) as reason:
            raise CommandError(str(reason)) from None

    async def run(self, options: dict) -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        metrics = Metrics()
        registry = DatabaseRegistry(serve_all=settings.DISCOVERY_SERVE == "all", metrics=metrics)
        manners = Manners(
            redirect=settings.DISCOVERY_REDIRECT, trusted=tuple(map(parse_network, settings.TRUSTED_PROXIES))
        )
        limit = SharedRateLimit(manners.rate, manners.burst)
        service = Service(registry, manners, metrics=metrics, limit=limit)
        await registry.start()
        server, plain = make_server(service), options["plain_listen"]
        places = {options["listen"] or LISTEN: credentials(options)} if options["listen"] or not plain else {}
        places |= dict.fromkeys(plain)
        ports = [(address, listen(server, address, how)) for address, how in places.items()]
        await server.start()
        listener = listen_metrics(options["metrics"], service)
        for address, port in ports:
            self.stdout.write(f"discovery: {address.rpartition(':')[0]}:{port}")
        self.stdout.flush()
        forgetting = asyncio.create_task(forget_always(service))
        await stop.wait()
        forgetting.cancel()
        await server.stop(STOP_SECONDS)
        await registry.stop()
        await limit.close()
        if listener is not None:
            listener.shutdown()


def credentials(options: dict) -> grpc.ServerCredentials | None:
    """TLS by files, if any were given."""
    if options["certificate"] is None:
        return None
    return CertificateFiles(options["certificate"], options["key"]).credentials()


def listen_metrics(address: str, service: Service):
    """Serve `/metrics` from a thread of its own."""
    if not address:
        return None
    host, port = embedded.split_address(address)
    server, _ = start_http_server(port, host, service.metrics.registry)
    return server


async def forget_always(service: Service) -> None:
    """Let go of what is remembered of quiet clients, now and then."""
    while True:
        await asyncio.sleep(FORGET_SECONDS)
        service.forget_quiet_clients()
