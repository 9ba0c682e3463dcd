"""A machine's side of the discovery protocol (spec/discovery-protocol.md §6): publish itself, know the others.

What is published is sealed once, when it is set; renewals send the same bytes. The first message of a watch replaces
all that is known. Whatever goes wrong ends a connection, and the next one begins after a back-off.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import structlog

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import MAX_PORT, Endpoint, IPAddress, parse_address
from kubespan.discovery import service
from kubespan.discovery.calls import ALPN, CallError, Connection, Dial, connect, make_context
from kubespan.discovery.limits import AFFILIATES, ENDPOINTS, TTL_SECONDS
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
NOT_YET = "not connected yet"
PUSH_SECONDS = 30.0
"""For all updates of one push together."""

BACKOFF_FIRST = 0.5
BACKOFF_GROWTH = 1.5
BACKOFF_MOST = 60.0
BACKOFF_SPREAD = 0.5
"""Seconds, and the part by which a wait may be shorter or longer."""

DEFEND_SECONDS = 15.0
"""Until this machine publishes itself again where somebody has deleted it or written over it, who may go on with it."""

ANSWER = "an answer of the service"
SHORTEST_PING = 10.0
"""Seconds; else a tenth of the time to live."""


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
    pinned: ssl.SSLContext | None = field(default=None, repr=False)
    """What to check the service by instead."""

    def split(self) -> tuple[str, int]:
        """Host and port. Raises ValueError, for a service may have sent us there."""
        host, colon, port = self.endpoint.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) <= MAX_PORT):
            raise ValueError(f"{self.endpoint[:64]!r} is not host:port")
        return host.strip("[]"), int(port)

    def tls(self) -> ssl.SSLContext | None:
        """By what TLS to connect; none for plain HTTP/2."""
        if self.insecure:
            return None
        if self.pinned is None:
            return make_context(self.roots)
        self.pinned.set_alpn_protocols([ALPN])
        return self.pinned


@dataclass(slots=True)
class Known:
    """What the watch has told of the others, opened."""

    own_id: str
    secret: bytes = field(repr=False)
    affiliates: dict[str, Affiliate] = field(default_factory=dict)
    """By the id under which each is published, which is the `node_id` inside, that cannot be forged."""
    strange: set[str] = field(default_factory=set)
    """Ids whose data another secret sealed, or somebody changed."""
    own: bytes = b""
    """What is listed under this machine's own id; nothing where somebody has deleted it."""
    damaged: set[str] = field(default_factory=set)
    """Ids whose data, or an endpoint of which, cannot be; and those under which another's data was replayed."""

    @property
    def wrong_secret(self) -> bool:
        """Whether the secret is another one than the cluster's: not one affiliate opens, and some are strange."""
        return bool(self.strange) and not self.affiliates

    def take(self, response: proto.WatchResponse, *, first: bool) -> None:
        """Take a message of the watch; what cannot be read is left out, and noted."""
        if first:
            self.own = b""
            self.affiliates.clear()
            self.strange.clear()
            self.damaged.clear()
        for sealed in response.affiliates:
            if sealed.id == self.own_id:
                self.own = b"" if response.deleted else sealed.data
                continue
            if response.deleted:
                self.affiliates.pop(sealed.id, None)
                self._clear(sealed.id)
            elif sealed.data and self._has_room(sealed.id):
                self._open(sealed)

    def _has_room(self, affiliate_id: str) -> bool:
        """Whether a service may list this one too: one that lists ever more must not fill this machine's memory."""
        listed = (self.affiliates, self.strange, self.damaged)
        return any(affiliate_id in one for one in listed) or sum(map(len, listed)) < AFFILIATES

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
        if affiliate.node_id != sealed.id:
            self.damaged.add(sealed.id)
            return
        self.affiliates[sealed.id] = replace(affiliate, endpoints=tuple(self._endpoints(sealed)))

    def _endpoints(self, sealed: proto.Affiliate) -> Iterable[Endpoint]:
        for data in sealed.endpoints[:ENDPOINTS]:
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
        dial: Dial | None = None,
        explain: Callable[[OSError], str] = str,
        defend: float = DEFEND_SECONDS,
    ) -> None:
        self.known = Known(affiliate_id, secret)
        self.public_address: IPAddress | None = None
        """Where the service saw the last connection come from."""
        self.fault = NOT_YET
        """Why there is no watch; empty while there is one."""
        self._place = place
        self._sent_to: Place | None = None
        """Where the service has sent us, until somebody there has answered."""
        self._cluster_id = cluster_id
        self._affiliate_id = affiliate_id
        self._secret = secret
        self._version = version
        self._news = news
        self._ttl = ttl
        self._chance = chance
        self._dial = dial
        self._explain = explain
        self._patience = defend
        self._publication: _Publication | None = None
        self._published: tuple[Affiliate, tuple[Endpoint, ...], dict[str, tuple[Endpoint, ...]]] | None = None
        self._withdrawn = False
        self._changed = asyncio.Event()
        self._contested = asyncio.Event()
        self._attempt = 0

    @property
    def endpoint(self) -> str:
        """Where the service is now: a service may send its clients elsewhere for good."""
        return (self._sent_to or self._place).endpoint

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
            except (CallError, OSError, ValueError) as error:
                self._failed(self._sentence(error))
            except Exception as error:
                log.exception("talking to the discovery service failed")
                self._failed(f"a fault of this program: {type(error).__name__}")
            else:
                self._left("the service ended the watch")

    async def leave(self) -> None:
        """Have this machine forgotten now, by a connection of its own. Raises CallError, OSError and ValueError."""
        async with self._connect() as connection:
            await self._delete(connection)

    def _failed(self, fault: str) -> None:
        self._left(fault)
        self._sent_to = None  # the one that sent us there is asked again

    def _left(self, fault: str) -> None:
        if fault != self.fault:
            log.warning("no connection to the discovery service", endpoint=self.endpoint, reason=fault)
            self.fault = fault
            self._news()

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return "the service does not answer in time"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the service shows a certificate that is not trusted: {error.verify_message}"
        return self._explain(error) if isinstance(error, OSError) else str(error)

    def _seal(self, affiliate: Affiliate) -> bytes:
        return seal_affiliate(affiliate, self._secret, os.urandom(NONCE_BYTES))

    def _seal_endpoints(self, endpoints: Iterable[Endpoint]) -> tuple[bytes, ...]:
        return tuple(seal_endpoint(endpoint, self._secret) for endpoint in endpoints)

    async def _connection(self) -> None:
        """One connection: hello, and a watch with pushes beside it."""
        async with self._connect() as connection:
            if await self._hello(connection):
                return
            work = (self._listen(connection), self._push_always(connection), self._defend())
            tasks = [asyncio.create_task(part) for part in work]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()

    def _connect(self) -> AbstractAsyncContextManager[Connection]:
        place = self._sent_to or self._place
        host, port = place.split()
        ping_every = max(SHORTEST_PING, self._ttl / 10)
        return connect(host, port, tls=place.tls(), ping_every=ping_every, dial=self._dial, seconds=HELLO_SECONDS)

    async def _hello(self, connection: Connection) -> bool:
        """Say hello; whether the service sends us elsewhere."""
        request = proto.HelloRequest(cluster_id=self._cluster_id, client_version=self._version)
        answer = await connection.call(service.HELLO, request.SerializeToString(), HELLO_SECONDS)
        response = service.read(proto.HelloResponse.FromString, answer, ANSWER)
        if response.redirect.endpoint:
            elsewhere = replace(self._place, endpoint=response.redirect.endpoint)
            elsewhere.split()
            log.info("the discovery service sends us elsewhere", endpoint=elsewhere.endpoint)
            self._sent_to = elsewhere
            return True
        if self._sent_to is not None:
            self._place, self._sent_to = self._sent_to, None  # for good
        self.public_address = _read_address(response.client_ip)
        return False

    async def _listen(self, connection: Connection) -> None:
        first = True
        request = proto.WatchRequest(cluster_id=self._cluster_id).SerializeToString()
        async with aclosing(connection.stream(service.WATCH, request)) as answers:
            async for answer in answers:
                self.known.take(service.read(proto.WatchResponse.FromString, answer, ANSWER), first=first)
                first = False
                if self._is_contested():
                    self._contested.set()
                self.fault = ""
                self._news()

    def _is_contested(self) -> bool:
        return self._publication is not None and self.known.own != self._publication.data

    async def _defend(self) -> None:
        """Publish anew what somebody else has done away with; what only has not come back to us yet, has by then."""
        while True:
            await self._contested.wait()
            await asyncio.sleep(self._patience)
            self._contested.clear()
            if self._is_contested():
                self._changed.set()

    async def _push_always(self, connection: Connection) -> None:
        while True:
            self._changed.clear()
            async with asyncio.timeout(PUSH_SECONDS):
                await self._push(connection)
            self._attempt = 0
            try:
                async with asyncio.timeout(self._ttl / 2):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _push(self, connection: Connection) -> None:
        if self._withdrawn:
            await self._delete(connection)
        if (publication := self._publication) is None:
            return
        own = self._update(self._affiliate_id, publication.endpoints)
        own.affiliate_data = publication.data
        updates = [own, *(self._update(one, endpoints) for one, endpoints in publication.others)]
        for update in updates:
            await connection.call(service.AFFILIATE_UPDATE, update.SerializeToString(), PUSH_SECONDS)

    async def _delete(self, connection: Connection) -> None:
        request = proto.AffiliateDeleteRequest(cluster_id=self._cluster_id, affiliate_id=self._affiliate_id)
        await connection.call(service.AFFILIATE_DELETE, request.SerializeToString(), PUSH_SECONDS)

    def _update(self, affiliate_id: str, endpoints: tuple[bytes, ...]) -> proto.AffiliateUpdateRequest:
        request = proto.AffiliateUpdateRequest(
            cluster_id=self._cluster_id, affiliate_id=affiliate_id, affiliate_endpoints=endpoints
        )
        request.ttl.FromNanoseconds(int(self._ttl * 1_000_000_000))
        return request


def _read_address(raw: bytes) -> IPAddress | None:
    """An address of 4 or 16 bytes; anything else is none (spec §7, 5)."""
    return parse_address(str(ip_address(raw))) if len(raw) in {4, 16} else None
