"""A machine's side of the discovery protocol (spec/discovery-protocol.md §6): publish itself, know the others.

What is published is sealed once, when it is set; renewals send the same bytes. The first message of a watch replaces
all that is known. Whatever goes wrong ends a connection, and the next one begins after a back-off.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import Endpoint, IPAddress, parse_address
from kubespan.discovery import service
from kubespan.discovery.limits import TTL_SECONDS
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.sealing import (
    NONCE_BYTES,
    Damaged,
    NotAuthentic,
    open_affiliate,
    open_endpoint,
    seal_affiliate,
    seal_endpoint,
)

log = structlog.get_logger()

HELLO_SECONDS = 10.0
PUSH_SECONDS = 30.0
"""For all updates of one push together."""

BACKOFF_FIRST = 0.5
BACKOFF_GROWTH = 1.5
BACKOFF_MOST = 60.0
BACKOFF_SPREAD = 0.5
"""Seconds, and the part by which a wait may be shorter or longer."""

SHORTEST_PING = 10.0
PING_TIMEOUT = 20.0
MESSAGE_BYTES = 8 * 1024 * 1024
"""A snapshot has some 4.3 MB at most; other services send it whole."""


def backoff(attempt: int, chance: float) -> float:
    """Seconds to wait before the connection after so many failures in a row; `chance` from 0 to 1."""
    wait = min(BACKOFF_MOST, BACKOFF_FIRST * BACKOFF_GROWTH ** min(attempt, 32))
    return wait * (1 + BACKOFF_SPREAD * (2 * chance - 1))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a discovery service is."""

    endpoint: str
    """`host:port`, an IPv6 host in brackets."""
    insecure: bool = False
    """Plain HTTP/2: for an endpoint whose address begins with `http://`."""
    roots: bytes | None = None
    """The certificates to trust, PEM; the machine's own where there are none."""


@dataclass(slots=True)
class Known:
    """What the watch has told of the others, opened."""

    own_id: str
    secret: bytes = field(repr=False)
    affiliates: dict[str, Affiliate] = field(default_factory=dict)
    """By the id under which each is published; who it is, `node_id` inside says, which cannot be forged."""
    strange: set[str] = field(default_factory=set)
    """Ids whose data another secret sealed, or somebody changed."""
    damaged: set[str] = field(default_factory=set)
    """Ids whose data, or an endpoint of which, cannot be."""

    @property
    def wrong_secret(self) -> bool:
        """Whether the secret is another one than the cluster's: not one affiliate opens, and some are strange."""
        return bool(self.strange) and not self.affiliates

    def take(self, response: proto.WatchResponse, *, first: bool) -> None:
        """Take a message of the watch; what cannot be read is left out, and noted."""
        if first:
            self.affiliates.clear()
            self.strange.clear()
            self.damaged.clear()
        for sealed in response.affiliates:
            if sealed.id == self.own_id:
                continue
            if response.deleted:
                self.affiliates.pop(sealed.id, None)
                self._clear(sealed.id)
            elif sealed.data:
                self._open(sealed)

    def _open(self, sealed: proto.Affiliate) -> None:
        self._clear(sealed.id)
        try:
            affiliate = open_affiliate(sealed.data, self.secret)
        except NotAuthentic:
            self.strange.add(sealed.id)
            return
        except Damaged:
            self.damaged.add(sealed.id)
            return
        self.affiliates[sealed.id] = replace(affiliate, endpoints=tuple(self._endpoints(sealed)))

    def _endpoints(self, sealed: proto.Affiliate) -> Iterable[Endpoint]:
        for data in sealed.endpoints:
            try:
                yield open_endpoint(data, self.secret)
            except Damaged:
                self.damaged.add(sealed.id)

    def _clear(self, affiliate_id: str) -> None:
        self.strange.discard(affiliate_id)
        self.damaged.discard(affiliate_id)


@dataclass(frozen=True, slots=True)
class _Publication:
    """What is pushed, sealed: own data and endpoints, and where others were seen."""

    data: bytes
    endpoints: tuple[bytes, ...]
    others: tuple[tuple[str, tuple[bytes, ...]], ...]


class Client:
    """One machine at one discovery service."""

    def __init__(
        self,
        place: Place,
        *,
        cluster_id: str,
        affiliate_id: str,
        secret: bytes,
        version: str,
        news: Callable[[], None],
        ttl: float = TTL_SECONDS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.known = Known(affiliate_id, secret)
        self.public_address: IPAddress | None = None
        """Where the service saw the last connection come from."""
        self.fault = "not connected yet"
        """Why there is no watch; empty while there is one."""
        self._place = place
        self._cluster_id = cluster_id
        self._affiliate_id = affiliate_id
        self._secret = secret
        self._version = version
        self._news = news
        self._ttl = ttl
        self._chance = chance
        self._publication: _Publication | None = None
        self._published: tuple[Affiliate, tuple[Endpoint, ...], dict[str, tuple[Endpoint, ...]]] | None = None
        self._withdrawn = False
        self._changed = asyncio.Event()
        self._attempt = 0

    @property
    def endpoint(self) -> str:
        """Where the service is now: a service may send its clients elsewhere for good."""
        return self._place.endpoint

    def publish(
        self,
        affiliate: Affiliate,
        endpoints: Sequence[Endpoint],
        others: Mapping[str, Sequence[Endpoint]] | None = None,
    ) -> None:
        """Publish this machine, and where it saw others (by their ids); the same again is nothing new."""
        wanted = affiliate, tuple(endpoints), {one: tuple(seen) for one, seen in (others or {}).items()}
        if wanted == self._published:
            return
        before, self._published, self._withdrawn = self._published, wanted, False
        same = before is not None and before[0] == affiliate and self._publication is not None
        # A new nonce for new words, and for new words only.
        data = self._publication.data if same and self._publication else self._seal(affiliate)
        seen = tuple((one, self._seal_endpoints(at)) for one, at in sorted(wanted[2].items()) if at)
        self._publication = _Publication(data, self._seal_endpoints(endpoints), seen)
        self._changed.set()

    def withdraw(self) -> None:
        """Have this machine forgotten; each renewal says so again until something is published."""
        self._publication = self._published = None
        self._withdrawn = True
        self._changed.set()

    async def run(self) -> None:
        """Be connected whenever possible, for ever; ends only by cancellation."""
        while True:
            await asyncio.sleep(backoff(self._attempt, self._chance()))
            self._attempt += 1
            try:
                await self._connection()
            except grpc.aio.AioRpcError as error:
                self._left(f"{error.details()} ({error.code().name})")
            except (OSError, TimeoutError, ValueError) as error:
                self._left(str(error) or "it does not answer in time")
            else:
                self._left("the service ended the watch")

    def _left(self, fault: str) -> None:
        if fault != self.fault:
            log.warning("no connection to the discovery service", endpoint=self.endpoint, reason=fault)
        self.fault = fault

    def _seal(self, affiliate: Affiliate) -> bytes:
        return seal_affiliate(affiliate, self._secret, os.urandom(NONCE_BYTES))

    def _seal_endpoints(self, endpoints: Iterable[Endpoint]) -> tuple[bytes, ...]:
        return tuple(seal_endpoint(endpoint, self._secret) for endpoint in endpoints)

    async def _connection(self) -> None:
        """One connection: hello, and a watch with pushes beside it."""
        async with self._channel() as channel:
            calls = _Calls(channel)
            if await self._hello(calls):
                return
            watch = calls.watch(proto.WatchRequest(cluster_id=self._cluster_id))
            tasks = [asyncio.create_task(self._listen(watch)), asyncio.create_task(self._push_always(calls))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                watch.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[grpc.aio.Channel]:
        place = self._place
        options = (
            ("grpc.keepalive_time_ms", int(1000 * max(SHORTEST_PING, self._ttl / 10))),
            ("grpc.keepalive_timeout_ms", int(1000 * PING_TIMEOUT)),
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
        )
        if place.insecure:
            channel = grpc.aio.insecure_channel(place.endpoint, options=options)
        else:
            roots = place.roots if place.roots is not None else system_roots()
            channel = grpc.aio.secure_channel(place.endpoint, grpc.ssl_channel_credentials(roots), options=options)
        async with channel:
            yield channel

    async def _hello(self, calls: _Calls) -> bool:
        """Say hello; whether the service sends us elsewhere."""
        request = proto.HelloRequest(cluster_id=self._cluster_id, client_version=self._version)
        response = await calls.hello(request, timeout=HELLO_SECONDS)
        if response.redirect.endpoint:
            log.info("the discovery service sends us elsewhere", endpoint=response.redirect.endpoint)
            self._place = replace(self._place, endpoint=response.redirect.endpoint)
            return True
        self.public_address = _read_address(response.client_ip)
        return False

    async def _listen(self, watch: Any) -> None:
        first = True
        async for response in watch:
            self.known.take(response, first=first)
            first = False
            self.fault = ""
            self._news()

    async def _push_always(self, calls: _Calls) -> None:
        while True:
            self._changed.clear()
            async with asyncio.timeout(PUSH_SECONDS):
                await self._push(calls)
            self._attempt = 0
            try:
                async with asyncio.timeout(self._ttl / 2):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _push(self, calls: _Calls) -> None:
        if self._withdrawn:
            await calls.delete(
                proto.AffiliateDeleteRequest(cluster_id=self._cluster_id, affiliate_id=self._affiliate_id)
            )
        if (publication := self._publication) is None:
            return
        own = self._update(self._affiliate_id, publication.endpoints)
        own.affiliate_data = publication.data
        await calls.update(own)
        for affiliate_id, endpoints in publication.others:
            await calls.update(self._update(affiliate_id, endpoints))

    def _update(self, affiliate_id: str, endpoints: tuple[bytes, ...]) -> proto.AffiliateUpdateRequest:
        request = proto.AffiliateUpdateRequest(
            cluster_id=self._cluster_id, affiliate_id=affiliate_id, affiliate_endpoints=endpoints
        )
        request.ttl.FromNanoseconds(int(self._ttl * 1_000_000_000))
        return request


class _Calls:
    """The service's calls on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.hello = channel.unary_unary(
            service.HELLO, proto.HelloRequest.SerializeToString, proto.HelloResponse.FromString
        )
        self.update = channel.unary_unary(
            service.AFFILIATE_UPDATE,
            proto.AffiliateUpdateRequest.SerializeToString,
            proto.AffiliateUpdateResponse.FromString,
        )
        self.delete = channel.unary_unary(
            service.AFFILIATE_DELETE,
            proto.AffiliateDeleteRequest.SerializeToString,
            proto.AffiliateDeleteResponse.FromString,
        )
        self.watch = channel.unary_stream(
            service.WATCH, proto.WatchRequest.SerializeToString, proto.WatchResponse.FromString
        )


def _read_address(raw: bytes) -> IPAddress | None:
    """An address of 4 or 16 bytes; anything else is none (spec §7, 5)."""
    return parse_address(str(ip_address(raw))) if len(raw) in {4, 16} else None


def system_roots() -> bytes | None:
    """The certificates that this machine trusts, PEM; gRPC's own list where the machine has no file of them."""
    paths = ssl.get_default_verify_paths()
    file = paths.cafile or paths.openssl_cafile
    try:
        return Path(file).read_bytes()
    except OSError:
        return None
