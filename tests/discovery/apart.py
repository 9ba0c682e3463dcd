"""A discovery service in a thread of its own, for tests of other processes; it forgets all when it is stopped."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

import grpc

from kubespan.core.affiliate import Affiliate
from kubespan.discovery.limits import TTL_SECONDS
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.sealing import NONCE_BYTES, seal_affiliate, seal_endpoint
from kubespan.discovery.server import Manners, Service, serve
from kubespan.discovery.state import Update

SECONDS = 30.0


class ServiceApart:
    """Serves while the block lasts, but for when it is stopped in between; then on the same port."""

    def __init__(
        self, host: str = "127.0.0.1", credentials: Callable[[], grpc.ServerCredentials] | None = None
    ) -> None:
        self.host = host
        self.port = 0
        self._credentials = credentials
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="discovery")
        self._server: Any = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self._credentials else 'http'}://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self) -> None:
        """Serve, knowing nobody."""
        self._do(self._start())

    def stop(self) -> None:
        """Go, and forget everybody."""
        self._do(self._stop())

    def names(self, cluster_id: str) -> set[str]:
        """Who is listed, by id."""
        return {one.id for one in self._do(self._registry.list(cluster_id))}

    def put(self, cluster_id: str, secret: bytes, affiliate: Affiliate, under: str = "") -> None:
        """Write what somebody may say, also under another id."""
        data = seal_affiliate(affiliate, secret, os.urandom(NONCE_BYTES))
        endpoints = tuple(seal_endpoint(endpoint, secret) for endpoint in affiliate.endpoints)
        update = Update(under or affiliate.node_id, data, endpoints, TTL_SECONDS)
        self._do(self._registry.update(cluster_id, update))

    def delete(self, cluster_id: str, affiliate_id: str) -> None:
        """Delete, as whoever knows the cluster id may."""
        self._do(self._registry.delete(cluster_id, affiliate_id))

    async def _start(self) -> None:
        self._registry = MemoryRegistry(gather=0.01)
        service = Service(self._registry, Manners(rate=1e6, burst=10**6))
        credentials = self._credentials() if self._credentials else None
        self._server, self.port = await serve(service, f"{self.host}:{self.port}", credentials)

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)
