"""The gRPC end of the discovery service (spec/discovery-protocol.md §5): decode, ask the registry, encode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from kubespan.core.endpoint import IPNetwork
from kubespan.discovery import limits
from kubespan.discovery.address import client_address, version_label
from kubespan.discovery.limiter import OwnRateLimit, RateLimit
from kubespan.discovery.limits import Exhausted, InvalidRequest
from kubespan.discovery.metrics import Metrics
from kubespan.discovery.patience import Patience
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.registry import NotServed, Registry, Unavailable
from kubespan.discovery.service import SERVER_OPTIONS, SERVICE, Unreadable, read
from kubespan.discovery.state import Update
from kubespan.discovery.watchers import Watcher, describe

SEND_SECONDS = 20.0
"""For a watcher to take one message; one that is stuck must begin anew, and is never waited for by others."""

STOP_SECONDS = 5.0
"""For calls to end when the service does."""

NOT_SERVED = "this service does not serve this cluster: create or import it at its console first"
REQUEST = "the request"
LOST = "subscription canceled: lost update"
TOO_OFTEN = "rate limit exceeds request timeout"

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")


@dataclass(frozen=True, slots=True)
class Manners:
    """How the service behaves towards its clients."""

    redirect: str = ""
    """`host:port` to which every client is sent, for good; empty for none."""
    report_address: bool = True
    """Whether clients are told the address that they come from; it becomes an endpoint of theirs."""
    trusted: Collection[IPNetwork] = ()
    """Proxies whose forwarded headers are believed."""
    rate: float = limits.RATE
    burst: int = limits.BURST


class Service:
    """The five calls."""

    def __init__(
        self,
        registry: Registry,
        manners: Manners | None = None,
        now: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
        limit: RateLimit | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self._registry = registry
        self._manners = manners or Manners()
        self._now = now
        self._limit = limit or OwnRateLimit(self._manners.rate, self._manners.burst, now)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The calls, for a server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Hello": self._unary("Hello", self.hello, proto.HelloRequest.FromString),
                "AffiliateUpdate": self._unary(
                    "AffiliateUpdate", self.affiliate_update, proto.AffiliateUpdateRequest.FromString
                ),
                "AffiliateDelete": self._unary(
                    "AffiliateDelete", self.affiliate_delete, proto.AffiliateDeleteRequest.FromString
                ),
                "List": self._unary("List", self.list, proto.ListRequest.FromString),
                # Its answers are bytes already.
                "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
            },
        )

    def forget_quiet_clients(self) -> None:
        """Let go of what is remembered of clients that have not asked for a while."""
        self._limit.forget_quiet()

    async def hello(self, request: proto.HelloRequest, context: Context) -> proto.HelloResponse:
        """Say where the client comes from, and perhaps where it should go."""
        self.metrics.count_hello(version_label(request.client_version))
        limits.check_cluster_id(request.cluster_id)
        response = proto.HelloResponse()
        address = self._address(context) if self._manners.report_address else None
        if address is not None:
            response.client_ip = address.packed
        if self._manners.redirect:
            response.redirect.endpoint = self._manners.redirect
        return response

    async def affiliate_update(
        self, request: proto.AffiliateUpdateRequest, context: Context
    ) -> proto.AffiliateUpdateResponse:
        """Take in what somebody says of an affiliate."""
        limits.check_cluster_id(request.cluster_id)
        limits.check_affiliate_id(request.affiliate_id)
        # Below nought it would be a date that nobody can write.
        ttl = max(0, request.ttl.seconds * 1_000_000_000 + request.ttl.nanos)
        limits.check_contents(request.affiliate_data, request.affiliate_endpoints, ttl)
        update = Update(
            request.affiliate_id,
            request.affiliate_data,
            tuple(request.affiliate_endpoints),
            ttl / 1_000_000_000,
            str(self._address(context) or ""),
        )
        await self._registry.update(request.cluster_id, update)
        return proto.AffiliateUpdateResponse()

    async def affiliate_delete(
        self, request: proto.AffiliateDeleteRequest, _context: Context
    ) -> proto.AffiliateDeleteResponse:
        """Forget an affiliate."""
        limits.check_cluster_id(request.cluster_id)
        limits.check_affiliate_id(request.affiliate_id)
        await self._registry.delete(request.cluster_id, request.affiliate_id)
        return proto.AffiliateDeleteResponse()

    async def list(self, request: proto.ListRequest, _context: Context) -> proto.ListResponse:
        """Show all affiliates."""
        limits.check_cluster_id(request.cluster_id)
        affiliates = await self._registry.list(request.cluster_id)
        return proto.ListResponse(affiliates=map(describe, affiliates))

    async def watch(self, raw: bytes, context: Context) -> None:
        """Show all affiliates, and then every change, for as long as the client likes."""
        async with self._call("Watch", "server_stream", context):
            request = read(proto.WatchRequest.FromString, raw, REQUEST)
            limits.check_cluster_id(request.cluster_id)
            async with self._registry.watch(request.cluster_id) as watcher:
                with self.metrics.subscriptions.track_inprogress():
                    await self._send(watcher, context)
            await context.abort(grpc.StatusCode.ABORTED, LOST)

    async def _send(self, watcher: Watcher, context: Context) -> None:
        """Send what a watcher is to hear until it has lost its place, or takes a message too slowly."""
        sent = self.metrics.sent.labels("server_stream", SERVICE, "Watch")
        with Patience(SEND_SECONDS) as patience:
            while (message := await watcher.take()) is not None:
                patience.begin()
                sent.inc()  # before it is: whoever has it may end the call before `write` comes back
                await context.write(message)
                patience.end()

    # Requests are read within the call: grpcio would before anybody waits or counts, and log each that is broken.

    def _unary(
        self, name: str, act: Callable[[Request, Context], Awaitable[Message]], parse: Callable[[bytes], Request]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def answer(raw: bytes, context: Context) -> bytes:
            async with self._call(name, "unary", context):
                response = (await act(read(parse, raw, REQUEST), context)).SerializeToString()
                self.metrics.sent.labels("unary", SERVICE, name).inc()
            return response

        return grpc.unary_unary_rpc_method_handler(answer)

    @asynccontextmanager
    async def _call(self, name: str, kind: str, context: Context) -> AsyncIterator[None]:
        """What surrounds each call: waiting where one asks too often, counting, and the words for what went wrong."""
        await self._wait(context)
        labels = (kind, SERVICE, name)
        self.metrics.started.labels(*labels).inc()
        self.metrics.received.labels(*labels).inc()
        started = self._now()
        try:
            yield
        except (Unreadable, InvalidRequest) as error:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Exhausted as error:
            await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except NotServed:
            await _abort(context, grpc.StatusCode.NOT_FOUND, NOT_SERVED)
        except Unavailable:
            await _abort(context, grpc.StatusCode.UNAVAILABLE, "try again later")
        finally:
            self.metrics.handling.labels(*labels).observe(self._now() - started)
            self.metrics.handled.labels(*labels, _code(context)).inc()

    async def _wait(self, context: Context) -> None:
        address = self._address(context)
        if address is None:
            return
        patience = context.time_remaining()
        wait = await self._limit.reserve(address.packed, patience)
        if wait is None:
            await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_OFTEN)
        try:
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            await self._limit.restore(address.packed)
            raise

    def _address(self, context: Context) -> Any:
        return client_address(context.peer(), context.invocation_metadata() or (), self._manners.trusted)


async def _abort(context: Context, code: grpc.StatusCode, words: str) -> NoReturn:
    await context.abort(code, words)
    raise AssertionError  # for the type checker: abort raises


def _code(context: Context) -> str:
    """The code as the field's metrics write it, such as `InvalidArgument`."""
    code = context.code()
    name = code.name if isinstance(code, grpc.StatusCode) else "OK"
    return name if name == "OK" else "".join(part.capitalize() for part in name.split("_"))


async def serve(
    service: Service, address: str, credentials: grpc.ServerCredentials | None = None
) -> tuple[grpc.aio.Server, int]:
    """Start a server for the service on `host:port`; gives it and the port that it got. Raises OSError."""
    server = make_server(service)
    port = listen(server, address, credentials)
    await server.start()
    return server, port


def make_server(service: Service) -> grpc.aio.Server:
    """A server for the service, which has yet to listen and to be started."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((service.handlers(),))
    return server


def listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Have it listen on `host:port` as well, plain without credentials; gives the port. Raises OSError."""
    try:
        return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from None
