"""What the protocol's implementers have stumbled over (spec/discovery-protocol.md §7), where no other test has it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from kubespan.discovery.client import Known
from kubespan.discovery.limits import TTL_SECONDS
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.sealing import NONCE_BYTES, dump_affiliate, parse_affiliate
from tests.discovery.test_client import AT, AT_TOO, PATIENCE, SECRET, Machine, listening, machine, machines, sealed

UNKNOWN_FIELD = b"\xf8\x7f\x01"
"""Of number 2047, which no message has yet."""


class Noting(MemoryRegistry):
    """Notes what is pushed."""

    def __init__(self):
        super().__init__(gather=0.0)
        self.pushed = asyncio.Queue()

    async def update(self, cluster_id, update):
        await super().update(cluster_id, update)
        self.pushed.put_nowait(update)

    async def next(self):
        async with asyncio.timeout(PATIENCE):
            return await self.pushed.get()


async def test_new_words_have_a_new_nonce_and_old_words_go_in_the_bytes_that_they_had():
    registry = Noting()
    async with listening(registry) as port, machines(Machine(port, "one")) as (one,):
        one.client.publish(machine("one"), [AT])
        first = await registry.next()
        one.client.publish(machine("one"), [AT_TOO])
        moved = await registry.next()
        assert moved.data == first.data
        one.client.publish(replace(machine("one"), hostname="new"), [AT])
        renamed = await registry.next()
        one.client.publish(machine("one"), [AT])
        again = await registry.next()
        nonces = {update.data[:NONCE_BYTES] for update in (first, renamed, again)}
        assert len(nonces) == 3


async def test_each_push_is_good_for_exactly_as_long_as_a_service_takes():
    registry = Noting()
    async with listening(registry) as port, machines(Machine(port, "one", ttl=TTL_SECONDS)) as (one,):
        one.client.publish(machine("one"), [AT], {"two": [AT_TOO]})
        own, other = await registry.next(), await registry.next()
        assert (own.ttl, other.ttl) == (1800.0, 1800.0)
        assert (own.id, bool(own.data)) == ("one", True)
        assert (other.id, other.data, len(other.endpoints)) == ("two", b"", 1)  # of others only where they were seen


async def test_a_machine_alone_is_connected_with_the_first_message_though_it_is_empty():
    async with listening() as port, machines(Machine(port, "one")) as (one,):
        await one.until(lambda client: client.fault == "")
        assert one.client.known.affiliates == {}


def test_ones_own_words_are_nobody_elses():
    known = Known("me", SECRET)
    known.take(proto.WatchResponse(affiliates=[sealed("me"), sealed("one")]), first=True)
    known.take(proto.WatchResponse(affiliates=[sealed("me")]), first=False)
    known.take(proto.WatchResponse(affiliates=[proto.Affiliate(id="me")], deleted=True), first=False)
    assert sorted(known.affiliates) == ["one"]


def test_words_of_later_releases_are_passed_over():
    known = Known("me", SECRET)
    raw = proto.WatchResponse(affiliates=[sealed("one")]).SerializeToString() + UNKNOWN_FIELD
    known.take(proto.WatchResponse.FromString(raw), first=True)
    assert sorted(known.affiliates) == ["one"]
    assert parse_affiliate(dump_affiliate(machine("one")) + UNKNOWN_FIELD) == machine("one")
