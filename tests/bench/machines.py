"""Talos machines at a discovery service, as far as it sees them: many connections in one process, each with a watch.

Each has a connection of its own, and an address of its own as a proxy in front of the service would tell it
(X-Forwarded-For), since the service counts by address. It runs apart (tests.apart); it is asked to

- `open` so many machines at an address, under a name (`side`);
- have them `watch` a cluster anew, until each has the first message;
- `publish` the first so many of them, evenly within so many seconds, until every watcher has heard of all of them;
- `broadcast` as many by the reference: what it is sent is the messages that watchers are to hear;
- `refresh` what was published last, so many times a second for so long: the same bytes, of which nobody hears.

There are two sides, `ours` and `bare`. Times are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

import grpc.aio

from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import LISTEN_PORT, Endpoint
from kubespan.core.identity import KeyPair, encode_node_id
from kubespan.discovery import service
from kubespan.discovery.limits import TTL_SECONDS
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.sealing import NONCE_BYTES, seal_affiliate, seal_endpoint
from tests.apart import allow_files, answer_lines

OURS, BARE = "ours", "bare"
CALL_SECONDS = 60.0
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
FIRST_ADDRESS = IPv4Address("198.18.0.1")  # of those that are meant for benchmarks (RFC 2544)


@lru_cache(maxsize=4096)
def read_ids(message: bytes) -> frozenset[str]:
    """Whom a message speaks of; read once for all who hear the same."""
    return frozenset(one.id for one in proto.WatchResponse.FromString(message).affiliates)


class Machine:
    """One machine's connection, and what its watch is still to hear."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        self.metadata = (("x-forwarded-for", str(FIRST_ADDRESS + number)),)
        self.missing: set[str] | None = None
        self.messages = 0
        self._channel = grpc.aio.insecure_channel(crowd.address, options=OWN_CONNECTION)
        self._watch = self._channel.unary_stream(service.WATCH)
        self._update = self._channel.unary_unary(service.AFFILIATE_UPDATE)
        self._refresh = self._channel.unary_unary(service.AFFILIATE_UPDATE if crowd.side == OURS else service.HELLO)
        self._listening: asyncio.Task | None = None

    def watch(self, cluster: str) -> None:
        """Watch anew."""
        if self._listening:
            self._listening.cancel()
        self.missing = None
        self._listening = asyncio.create_task(self._listen(proto.WatchRequest(cluster_id=cluster)))

    async def _listen(self, request: proto.WatchRequest) -> None:
        call = self._watch(request.SerializeToString(), metadata=self.metadata)
        try:
            async for message in call:
                self._take(message)
        except grpc.aio.AioRpcError as error:
            self.crowd.lost.append(f"{error.code().name}: {error.details()}")

    def _take(self, message: bytes) -> None:
        if self.missing is None:
            self.missing = set()
            self.crowd.one_ready()
            return
        self.messages += 1
        self.crowd.heard_bytes += len(message)
        if self.missing:
            self.missing -= read_ids(message)
            if not self.missing:
                self.crowd.one_ready()

    async def update(self, request: bytes) -> None:
        """Say something new."""
        await self._update(request, metadata=self.metadata, timeout=CALL_SECONDS)

    async def refresh(self, request: bytes) -> None:
        """Say the same again; the reference, which cannot know that, has a call of which nobody hears."""
        await self._refresh(request, metadata=self.metadata, timeout=CALL_SECONDS)


@dataclass
class Crowd:
    """All machines at one address."""

    side: str
    address: str
    machines: list[Machine] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    said: list[bytes] = field(default_factory=list)
    """What the machines said last, each of itself."""

    def __post_init__(self) -> None:
        self.cluster = ""
        self.secret = b""
        self.heard_bytes = 0
        self._waiting = 0
        self._all = asyncio.Event()
        self._last = 0.0

    def one_ready(self) -> None:
        """Somebody has all that they are to hear."""
        self._waiting -= 1
        if self._waiting == 0:
            self._last = time.monotonic()
            self._all.set()

    def wait_for(self, count: int) -> None:
        """From now on count those who have all."""
        self._waiting = count
        self._all.clear()

    async def ready(self, seconds: float) -> float:
        """When the last of them had all; raises TimeoutError, RuntimeError."""
        try:
            async with asyncio.timeout(seconds):
                await self._all.wait()
        except TimeoutError:
            raise TimeoutError(f"{self._waiting} of {len(self.machines)} still wait; {self.lost[:3]}") from None
        if self.lost:
            raise RuntimeError(f"watches ended: {self.lost[:3]}")
        return self._last

    def expect(self, ids: Iterable[str]) -> None:
        """Every watcher is to hear of these."""
        self.wait_for(len(self.machines))
        self.heard_bytes = 0
        wanted = frozenset(ids)
        for machine in self.machines:
            machine.missing, machine.messages = set(wanted), 0

    def seal(self, count: int) -> list[proto.Affiliate]:
        """So many machines, as they announce themselves, with new nonces."""
        sealed = [
            proto.Affiliate(
                id=affiliate.node_id,
                data=seal_affiliate(affiliate, self.secret, os.urandom(NONCE_BYTES)),
                endpoints=[seal_endpoint(one, self.secret) for one in endpoints],
            )
            for affiliate, endpoints in (describe(self.cluster, number) for number in range(count))
        ]
        self.said = [self.request(one) for one in sealed]
        return sealed

    def request(self, sealed: proto.Affiliate) -> bytes:
        """What a machine says of itself."""
        request = proto.AffiliateUpdateRequest(
            cluster_id=self.cluster,
            affiliate_id=sealed.id,
            affiliate_data=sealed.data,
            affiliate_endpoints=sealed.endpoints,
        )
        request.ttl.seconds = TTL_SECONDS
        return request.SerializeToString()

    async def tell(
        self, sealed: list[proto.Affiliate], said: list[bytes], within: float, seconds: float, begin: float = 0.0
    ) -> dict:
        """Say it, until all have heard of these."""
        self.expect(one.id for one in sealed)
        calls = (machine.update(one) for machine, one in zip(self.machines, said, strict=False))
        started = time.monotonic()
        answered = await at_pace(calls, len(said), within, begin)
        heard = await self.ready(seconds)
        messages = [machine.messages for machine in self.machines]
        return {
            "answered": answered - started,
            "heard": heard - started,
            "messages": max(messages),
            "bytes": round(self.heard_bytes / len(messages)),
        }


@lru_cache(maxsize=8192)
def describe(cluster: str, number: int) -> tuple[Affiliate, tuple[Endpoint, ...]]:
    """A control plane's or worker's words, of the size that they have."""
    seed = number.to_bytes(32)
    low, high = number % 250 + 1, number // 250
    addresses = ip_address(f"10.5.{high}.{low}"), ip_address(f"2001:db8::{high + 1:x}:{low:x}")
    affiliate = Affiliate(
        node_id=encode_node_id(seed),
        addresses=addresses,
        hostname=f"talos-{number:04}.example",
        nodename=f"talos-{number:04}",
        machine_type="worker",
        operating_system="Talos (v1.9.0)",
        public_key=KeyPair.make(seed).public_key,
        address=IPv6Address(int(ula_prefix(cluster).network_address) + number + 1),
        additional_addresses=(ip_interface(f"10.244.{number % 250}.0/24"),),
    )
    return affiliate, tuple(Endpoint(address, LISTEN_PORT) for address in addresses)


async def at_pace(calls: Iterable, count: int, within: float, begin: float = 0.0) -> float:
    """Begin so many calls evenly within so many seconds, the first after `begin`; when all had ended."""
    started = time.monotonic() + begin
    tasks = []
    for number, call in enumerate(calls):
        wait = started + number * within / count - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(call))
    await asyncio.gather(*tasks)
    return time.monotonic()


class Load:
    """What can be asked for."""

    def __init__(self) -> None:
        self.crowds: dict[str, Crowd] = {}

    async def do_open(self, side: str, address: str, count: int) -> dict:
        """So many machines for a service."""
        self.crowds[side] = crowd = Crowd(side, address)
        crowd.machines = [Machine(crowd, number) for number in range(count)]
        return {}

    async def do_watch(self, side: str, cluster: str, secret: str, seconds: float = CALL_SECONDS) -> dict:
        """Have all of them watch a cluster."""
        crowd = self.crowds[side]
        crowd.cluster, crowd.secret = cluster, base64.b64decode(secret)
        crowd.wait_for(len(crowd.machines))
        started = time.monotonic()
        for machine in crowd.machines:
            machine.watch(cluster)
        return {"seconds": await crowd.ready(seconds) - started}

    async def do_publish(self, count: int, within: float, seconds: float = CALL_SECONDS) -> dict:
        """Publish machines by our service, until all have heard of all."""
        crowd = self.crowds[OURS]
        sealed = crowd.seal(count)
        return await crowd.tell(sealed, crowd.said, within, seconds)

    async def do_broadcast(self, count: int, within: float, messages: int, seconds: float = CALL_SECONDS) -> dict:
        """Broadcast as many by the reference, each part once the last of it would have come."""
        crowd = self.crowds[BARE]
        sealed = crowd.seal(count)
        parts = [sealed[count * part // messages : count * (part + 1) // messages] for part in range(messages)]
        frames = [proto.WatchResponse(affiliates=part).SerializeToString() for part in parts]
        return await crowd.tell(sealed, frames, within, seconds, begin=within / messages)

    async def do_refresh(self, side: str, pace: float, seconds: float) -> dict:
        """Say again what was said last, so many times a second, one machine after another."""
        crowd = self.crowds[side]
        before = sum(machine.messages for machine in crowd.machines)
        count = round(pace * seconds)
        said = itertools.islice(itertools.cycle(zip(crowd.machines, crowd.said, strict=False)), count)
        await at_pace((machine.refresh(request) for machine, request in said), count, seconds)
        return {"count": count, "woken": sum(machine.messages for machine in crowd.machines) - before}


async def main() -> None:
    """Serve until standard input ends."""
    await answer_lines(Load())


if __name__ == "__main__":
    allow_files()
    asyncio.run(main())
