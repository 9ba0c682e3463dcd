"""The settings of a machine that has no console: its members are whoever discovery lists.

It publishes itself and, where the option is on, at which endpoints it sees others. What it has learnt is kept like a
console's settings, so it starts and meshes with no discovery service either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv6Address, ip_interface

from kubespan.agent.clock import Clock
from kubespan.agent.held import Held
from kubespan.agent.registries import Open, Registry, Standing
from kubespan.agent.store import Discovery
from kubespan.agent.talk import Talk
from kubespan.core.affiliate import Affiliate, advertise_endpoints, from_members, is_observable, to_member
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import AddressFilter, Endpoint, IPAddress, parse_address
from kubespan.core.listed import Entry, Reading, find_doubles, follow
from kubespan.core.messages import Claim, Member, Revision, Snapshot
from kubespan.core.options import Options
from kubespan.core.peer_status import PeerState
from kubespan.core.resources import harvested

OWN_INDEX = 0


class Standalone:
    """A `Lead`: discovery says who the members are."""

    def __init__(
        self, held: Held, talk: Talk, clock: Clock, *, open_registry: Open, name: str, given: Discovery | None = None
    ) -> None:
        self.warnings: tuple[str, ...] = ()
        self._held = held
        self._talk = talk
        self._clock = clock
        self._open = open_registry
        self._name = name
        self._given = given
        self._registry: Registry
        self._entries: dict[str, Entry] = {}
        self._last_index = OWN_INDEX
        self._members: dict[str, tuple[Affiliate, Member]] = {}
        """What was made of each entry last, by node id."""
        self._reading = Reading(ula_prefix(held.enrolment.cluster_id))

    def begin(self) -> None:
        """Take up who was a member when the agent last ran."""
        held = self._held
        self._registry = self._open(
            self._given or held.discovery, held.enrolment, held.settings.secret, self._talk.news.set
        )
        members = {
            member.node_id: member for index, member in held.mesh.membership.members.items() if index != OWN_INDEX
        }
        before, _ = from_members(members.values())
        self._entries = {affiliate.node_id: Entry(affiliate) for affiliate in before}
        self._members = {affiliate.node_id: (affiliate, members[affiliate.node_id]) for affiliate in before}
        self._last_index = max((member.index for member in members.values()), default=OWN_INDEX)

    async def run(self) -> None:
        """Talk to discovery, for ever."""
        await self._registry.run()

    def look(self) -> None:
        """Follow what is listed, and publish what is to be known of this machine; before each look at it."""
        claim, now = self._talk.claim, self._clock.now()
        if claim is None:
            return  # what it would have to say of itself cannot be read yet
        self._follow(now)
        own = self._describe(claim)
        others = [entry.affiliate for entry in self._entries.values()]
        self.warnings = tuple(find_doubles(own, others))
        self._members = {one.node_id: (one, self._member(one)) for one in others}
        self._take([to_member(own, OWN_INDEX), *(member for _, member in self._members.values())])
        self._registry.publish(own, self._harvest(now))

    def _follow(self, now: float) -> None:
        listed = self._registry.listed()
        if listed is None:
            return
        found = self._reading.read(listed.values())
        found.pop(self._held.mesh.own.node_id, None)
        self._entries = follow(self._entries, found, self._heard(now), now)

    def _heard(self, now: float) -> Collection[str]:
        statuses = self._held.mesh.statuses
        return {key for key, status in statuses.items() if status.state(now) is PeerState.UP}

    def _member(self, affiliate: Affiliate) -> Member:
        known = self._members.get(affiliate.node_id)
        if known is None:
            self._last_index += 1
            return to_member(affiliate, self._last_index)
        before, member = known
        return member if before is affiliate else to_member(affiliate, member.index)

    def _take(self, members: Sequence[Member]) -> None:
        present = self._held.mesh.membership
        if {member.index: member for member in members} == present.members:
            return
        number = 0 if present.revision is None else present.revision.number
        news = Snapshot(
            revision=Revision(0, number + 1),
            secret_generation=present.secret_generation,
            options=present.options,
            members=tuple(sorted(members, key=lambda member: member.index)),
        )
        self._held.take_membership(news)

    def _describe(self, claim: Claim) -> Affiliate:
        own = self._held.mesh.own
        return describe(
            claim,
            self._options,
            node_id=own.node_id,
            name=self._name,
            public_key=own.keys.public_key,
            address=own.address,
            public_addresses=tuple(filter(is_observable, self._registry.public_addresses)),
            extra=tuple(map(Endpoint.parse, self._held.discovery.extra_endpoints)),
        )

    def _harvest(self, now: float) -> Mapping[str, tuple[Endpoint, ...]]:
        mesh = self._held.mesh
        found = harvested(mesh.affiliates, mesh.statuses, self._options, now)
        return {node_id: (endpoint,) for node_id, endpoint in found.values()}

    @property
    def _options(self) -> Options:
        return self._held.mesh.membership.options

    @property
    def fault(self) -> str:
        """Why what is listed is of no use; empty when it is."""
        return self._registry.fault

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How it stands with each discovery service."""
        return self._registry.standings

    @property
    def exempt(self) -> frozenset[int]:
        """TCP ports of discovery services on this very machine."""
        return self._registry.exempt


def describe(
    claim: Claim,
    options: Options,
    *,
    node_id: str,
    name: str,
    public_key: str,
    address: IPv6Address | None,
    public_addresses: Collection[IPAddress] = (),
    extra: Collection[Endpoint] = (),
) -> Affiliate:
    """This machine as others are to know it: always a worker (spec/kubespan.md §4.1)."""
    addresses = tuple(map(parse_address, claim.addresses))
    return Affiliate(
        node_id=node_id,
        addresses=addresses,
        hostname=claim.hostname,
        nodename=name or claim.hostname,
        machine_type="worker",
        operating_system=claim.operating_system,
        public_key=public_key,
        address=address,
        additional_addresses=tuple(map(ip_interface, claim.networks)),
        exclude_advertised_networks=tuple(map(ip_interface, options.exclude_advertised_networks)),
        endpoints=tuple(
            advertise_endpoints(
                addresses,
                own=address,
                public_addresses=tuple(public_addresses),
                filters=[AddressFilter.parse(text) for text in options.endpoint_filters],
                extra=tuple(extra),
                port=claim.listen_port,
            )
        ),
    )
