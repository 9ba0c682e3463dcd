"""What the service keeps of a cluster: sealed affiliates, until when, and how they change.

Pure: time is an argument, in seconds on one timeline of the caller's. Sources: spec/discovery-protocol.md §5.3, §5.5.
Two things are different from upstream, and are meant:

- Data that is sent again unchanged renews the expiry and is no change: nobody is woken. Upstream tells every watcher,
  which heals clients that dropped a live affiliate because one of its endpoints had expired; here that is not told as a
  deletion in the first place.
- An affiliate whose endpoints expired is told with those that remain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from kubespan.discovery.limits import AFFILIATES, ENDPOINTS, Exhausted


@dataclass(frozen=True, slots=True)
class SealedEndpoint:
    """One endpoint as it came, and until when it is kept."""

    data: bytes
    expires: float


@dataclass(frozen=True, slots=True)
class SealedAffiliate:
    """One affiliate as the service knows it; `data` is empty where only others spoke of its endpoints."""

    id: str
    expires: float
    data: bytes = b""
    endpoints: tuple[SealedEndpoint, ...] = ()
    """In the order in which they first came."""
    address: str = ""
    """Where its own words last came from, for people to see: watchers hear nothing of it."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change that watchers hear of: the whole affiliate as it is now, or that it is gone."""

    id: str
    affiliate: SealedAffiliate | None


@dataclass(frozen=True, slots=True)
class Update:
    """What somebody says of an affiliate: itself (`data`), or who saw it at some endpoints."""

    id: str
    data: bytes
    endpoints: tuple[bytes, ...]
    ttl: float
    """Seconds; none for what may go at the next collection."""
    address: str = ""
    """Where it came from; empty where nobody can say, or where no client did."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """Somebody wants an affiliate forgotten."""

    id: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an update: perhaps a change, perhaps a refusal, perhaps both (spec §5.3, steps 1 and 3)."""

    event: Event | None = None
    refusal: Exhausted | None = None


@dataclass(slots=True)
class ClusterState:
    """The affiliates of one cluster."""

    affiliates: dict[str, SealedAffiliate] = field(default_factory=dict)
    elsewhere: int = 0
    """How many more the cluster has that are not in here: whoever keeps them elsewhere reads only what is touched."""
    room: float = math.inf
    """How many more affiliates the whole service has room for."""

    def update(self, update: Update, now: float) -> Outcome:
        """Take in what somebody says of an affiliate."""
        before = self.affiliates.get(update.id)
        if before is None:
            if self.elsewhere + len(self.affiliates) >= AFFILIATES:
                return Outcome(refusal=Exhausted("too many affiliates in the cluster"))
            if self.room < 1:
                return Outcome(refusal=Exhausted("too many affiliates in the service"))
            self.room -= 1
        after, refusal = _merge(before or SealedAffiliate(update.id, now), update, now + update.ttl)
        self.affiliates[update.id] = after
        changed = before is None or _content(before) != _content(after)
        return Outcome(Event(update.id, after) if changed else None, refusal)

    def apply(self, operation: Update | Deletion, now: float) -> Outcome:
        """Do what is asked."""
        if isinstance(operation, Deletion):
            return Outcome(self.delete(operation.id))
        return self.update(operation, now)

    def delete(self, affiliate_id: str) -> Event | None:
        """Forget an affiliate; none where there is no such."""
        if self.affiliates.pop(affiliate_id, None) is None:
            return None
        self.room += 1
        return Event(affiliate_id, None)

    def collect(self, now: float) -> list[Event]:
        """Forget what has expired; an affiliate that lives on without some of its endpoints is told as it now is."""
        events = []
        for affiliate in list(self.affiliates.values()):
            if affiliate.expires < now:
                del self.affiliates[affiliate.id]
                events.append(Event(affiliate.id, None))
            elif any(endpoint.expires <= now for endpoint in affiliate.endpoints):
                left = tuple(endpoint for endpoint in affiliate.endpoints if endpoint.expires > now)
                self.affiliates[affiliate.id] = replace(affiliate, endpoints=left)
                events.append(Event(affiliate.id, self.affiliates[affiliate.id]))
        return events

    def take(self, event: Event) -> None:
        """Follow a change that another process made."""
        if event.affiliate is None:
            self.affiliates.pop(event.id, None)
        else:
            self.affiliates[event.id] = event.affiliate


def due(affiliate: SealedAffiliate) -> float:
    """When something of it expires next."""
    return min([affiliate.expires, *(endpoint.expires for endpoint in affiliate.endpoints)])


def _merge(before: SealedAffiliate, update: Update, expires: float) -> tuple[SealedAffiliate, Exhausted | None]:
    own = expires if update.data else before.expires  # new data may shorten what was promised before
    endpoints = {endpoint.data: endpoint for endpoint in before.endpoints}
    address = update.address if update.data else before.address
    after = replace(before, data=update.data or before.data, expires=own, address=address)
    for data in update.endpoints:
        known = endpoints.get(data)
        if known is None and len(endpoints) >= ENDPOINTS:
            refusal = Exhausted("too many endpoints in the affiliate")
            return replace(after, endpoints=tuple(endpoints.values())), refusal
        endpoints[data] = SealedEndpoint(data, max(known.expires, expires) if known else expires)
    return replace(after, endpoints=tuple(endpoints.values()), expires=max(own, expires)), None


def _content(affiliate: SealedAffiliate) -> tuple[bytes, tuple[bytes, ...]]:
    """What watchers see of it."""
    return affiliate.data, tuple(endpoint.data for endpoint in affiliate.endpoints)


def differences(before: Mapping[str, SealedAffiliate], after: Mapping[str, SealedAffiliate]) -> Iterator[Event]:
    """What somebody who was told `before` must hear to know `after`: for whoever missed events."""
    for affiliate_id in before.keys() - after.keys():
        yield Event(affiliate_id, None)
    for affiliate_id, affiliate in after.items():
        if affiliate_id not in before or _content(before[affiliate_id]) != _content(affiliate):
            yield Event(affiliate_id, affiliate)


def coalesce(events: Iterable[Event]) -> list[Event]:
    """The newest of each affiliate, in the order of the changes: what somebody must hear who heard none of them yet."""
    newest: dict[str, Event] = {}
    for event in events:
        newest.pop(event.id, None)
        newest[event.id] = event
    return list(newest.values())


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that go out as one message: affiliates as they are, or (`deleted`) the ids of those that are gone."""

    deleted: bool
    affiliates: tuple[SealedAffiliate, ...] = ()
    ids: tuple[str, ...] = ()


def batches(events: Iterable[Event], most_bytes: int) -> Iterator[Batch]:
    """Put changes together in as few messages as their order allows, none larger than `most_bytes` where avoidable."""
    live: list[SealedAffiliate] = []
    gone: list[str] = []
    size = 0
    for event in events:
        weight = _weight(event)
        turns = bool(live if event.affiliate is None else gone)
        if turns or (size and size + weight > most_bytes):
            yield Batch(bool(gone), tuple(live), tuple(gone))
            live, gone, size = [], [], 0
        if event.affiliate is None:
            gone.append(event.id)
        else:
            live.append(event.affiliate)
        size += weight
    if live or gone:
        yield Batch(bool(gone), tuple(live), tuple(gone))


def _weight(event: Event) -> int:
    """Bytes that it takes in a message, and rather some more."""
    size = 16 + len(event.id.encode())
    if event.affiliate is not None:
        size += len(event.affiliate.data) + sum(len(endpoint.data) + 2 for endpoint in event.affiliate.endpoints)
    return size
