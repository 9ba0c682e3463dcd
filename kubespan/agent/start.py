"""From the state directory and the host to a running agent: what the commands put together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from ssl import SSLError

import msgspec

from kubespan.agent.enrol import Identity, Machine, parse_mac_interface
from kubespan.agent.fetch import way_to
from kubespan.agent.glance import Glance, glance
from kubespan.agent.home import find_home
from kubespan.agent.host import (
    Watch,
    choose_data_plane,
    read_addresses,
    read_hostname,
    read_interfaces,
    read_operating_system,
    watch,
)
from kubespan.agent.lead import MakeLead
from kubespan.agent.loop import Agent, Ending, Facts, Place, take_down
from kubespan.agent.mesh import Own
from kubespan.agent.netlink import LinuxKernel
from kubespan.agent.pods import read_pod_networks
from kubespan.agent.preflight.facts import Mine
from kubespan.agent.preflight.find import find
from kubespan.agent.preflight.look import look
from kubespan.agent.probe import LinkEcho
from kubespan.agent.publish import Condition
from kubespan.agent.registries.opening import open_registry
from kubespan.agent.rerouting import Session, destinations_of, read_sessions, tell
from kubespan.agent.stand_in import StandIn
from kubespan.agent.standalone import Standalone
from kubespan.agent.store import (
    AGENT,
    DISCOVERY,
    KUBESPAN_IDENTITY,
    NODE_IDENTITY,
    SETTINGS,
    STATUS,
    Discovery,
    Enrolment,
    Store,
    StoreError,
)
from kubespan.agent.userspace import UserspaceWireGuard
from kubespan.agent.whereabouts import Whereabouts
from kubespan.agent.wireguard import KernelWireGuard, is_available
from kubespan.core.cluster import ula_prefix
from kubespan.core.identity import node_address, pick_interface
from kubespan.core.membership import Membership
from kubespan.core.messages import Finding
from kubespan.core.service_endpoint import ServiceEndpoint


@dataclass(frozen=True, slots=True)
class LinuxHost:
    """The machine's names, addresses and events."""

    root: Path = Path("/")
    """Where other programs' files begin."""

    async def facts(self) -> Facts:
        """Read them. Raises KernelError."""
        pods = read_pod_networks(self.root)
        # A bridge's address in a pod network is no address of the machine's own (spec/kubespan.md §4.1).
        addresses = tuple(str(ip) for ip in await read_addresses() if not any(ip in network for network in pods))
        return Facts(read_hostname(), read_operating_system(), addresses, tuple(map(str, pods)))

    def watch(self) -> Watch:
        """Listen to the kernel from now on. Raises KernelError."""
        return watch()


async def read_machine() -> Machine:
    """Read what enrolment says of this machine. Raises KernelError."""
    facts = await LinuxHost().facts()
    mac = pick_interface(await read_interfaces())
    return Machine(facts.hostname, facts.operating_system, facts.addresses, mac)


def load(store: Store) -> tuple[Identity, Enrolment]:
    """Read who this machine is and where it enrolled; raises StoreError when it has not, or a file is missing."""
    state = store.agent()
    if state is None or state.enrolment is None:
        raise StoreError(
            f"this machine is not enrolled ({store.path(AGENT)}): run kubespan-agent enrol first, or "
            "kubespan-agent join without a console"
        )
    keys, node_id = store.keys(), store.node_id()
    if keys is None or node_id is None:
        missing = store.path(KUBESPAN_IDENTITY if keys is None else NODE_IDENTITY)
        raise StoreError(
            f"{missing} is missing: restore it from a backup, or enrol this machine again with a new token"
        )
    if node_id != state.enrolment.node_id:
        raise StoreError(f"{store.path(NODE_IDENTITY)} is not what this machine enrolled with: enrol it again")
    return Identity(keys, node_id, state), state.enrolment


def check_alone(store: Store, enrolment: Enrolment) -> None:
    """See that a machine without a console has what it needs; raises StoreError."""
    settings = store.settings(enrolment.cluster)
    if settings is None or not settings.secret:
        raise StoreError(f"{store.path(SETTINGS)} is missing, and with it the cluster secret: join again")
    services = store.discovery().services
    try:
        for service in services:
            ServiceEndpoint.parse(service.url)
    except ValueError as error:
        raise store.damaged(DISCOVERY, str(error), "join again") from None
    if not services:
        raise StoreError(f"{store.path(DISCOVERY)} names no discovery service: join again")


def own_address(identity: Identity, enrolment: Enrolment) -> IPv6Address | None:
    """The machine's KubeSpan address, reckoned anew at every start (spec/kubespan.md §1.3); none before approval."""
    if not enrolment.cluster_id:
        return None
    return node_address(ula_prefix(enrolment.cluster_id), parse_mac_interface(identity.state.mac))


async def run_agent(store: Store, data_plane: str | None, discovery: Discovery | None = None) -> Ending:
    """Mesh until told to stop or removed. Raises StoreError, TrustError and KernelError.

    `discovery` is used instead of the services that the console names, or that this machine joined by.
    """
    identity, enrolment = load(store)
    state = identity.state
    try:
        way = None if enrolment.alone else way_to(enrolment)
        own = Own(identity.keys, identity.node_id, own_address(identity, enrolment), state.listen_port)
    except (ValueError, SSLError) as error:
        raise store.damaged(AGENT, str(error)) from None
    if enrolment.alone:
        check_alone(store, enrolment)
    device = await choose_data_plane(data_plane or state.data_plane)
    place = Place(
        LinuxKernel(device),
        LinuxHost(),
        device.backend,
        state.networks,
        frozenset(state.exempt_ports or ()),
        preflight,
        LinkEcho,
    )
    opener = partial(open_registry, store)
    lead: MakeLead = partial(StandIn, open_registry=opener, given=discovery)
    if enrolment.alone:
        lead = partial(Standalone, open_registry=opener, given=discovery, name=state.name)
    return await Agent(store, enrolment, state.signing_key, own, place, home=find_home(), lead=lead).run(way)


async def preflight(mine: Mine, skew: float | None, set_back: float) -> tuple[Finding, ...]:
    """How the running agent looks at this machine. Raises KernelError."""
    facts = await look(mine, wall=time.time(), skew=skew)
    return find(replace(facts, set_back=set_back))


async def check_machine(store: Store, mine: Mine, skew: float | None = None) -> tuple[Finding, ...]:
    """Look at this machine before it is changed, or beside an agent that runs. Raises KernelError."""
    return find(await look(mine, wall=time.time(), skew=skew, state=store.directory))


def read_mine(store: Store) -> tuple[Mine, Membership | None]:
    """What this machine has of a mesh by its state directory, and its members as far as it was told them."""
    identity, enrolment = load(store)
    settings = store.settings(enrolment.cluster)
    membership = None
    if settings is not None and settings.snapshot is not None:
        membership = Membership().apply(settings.snapshot)
    return describe_mine(identity, enrolment, membership), membership


def describe_mine(identity: Identity, enrolment: Enrolment, membership: Membership | None) -> Mine:
    """What this machine has, or will have, with these members."""
    prefix = ula_prefix(enrolment.cluster_id) if enrolment.cluster_id else None
    rerouted = {} if membership is None else destinations_of(membership, identity.node_id)
    return Mine(
        listen_port=identity.state.listen_port,
        data_plane=identity.state.data_plane,
        prefix=prefix,
        destinations=rerouted,
    )


async def look_ahead(store: Store) -> Glance:
    """Ask the console for the members, and apply nothing. Raises GlanceError, StoreError, TrustError."""
    identity, enrolment = load(store)
    way = way_to(enrolment)
    glimpse = Glance(enrolment, identity.state.signing_key, time.time)
    await glance(way, glimpse, Whereabouts(way.url, store))
    return glimpse


@dataclass(frozen=True, slots=True)
class Examination:
    """What `kubespan-agent preflight` shows."""

    mine: Mine
    findings: tuple[Finding, ...]
    sessions: Sequence[Session] = ()
    rerouting: Sequence[str] = ()


async def examine(store: Store, listen_port: int | None, data_plane: str | None) -> Examination:
    """Look at this machine by what its state directory says of it; before enrolment too. Raises KernelError."""
    mine, membership = Mine(), None
    state = store.agent()
    if state is not None and state.enrolment is not None:
        mine, membership = read_mine(store)
    mine = replace(mine, listen_port=listen_port or mine.listen_port, data_plane=data_plane or mine.data_plane)
    return await _examine(store, mine, membership, _read_skew(store))


async def foresee(store: Store, membership: Membership | None, skew: float | None) -> Examination:
    """Look at this machine by what its settings would be with these members. Raises KernelError, StoreError."""
    return await _examine(store, describe_mine(*load(store), membership), membership, skew)


async def _examine(store: Store, mine: Mine, membership: Membership | None, skew: float | None) -> Examination:
    findings = await check_machine(store, mine, skew)
    if membership is None:
        return Examination(mine, findings)
    sessions = read_sessions(mine.destinations)
    return Examination(mine, findings, sessions, tell(mine.destinations, sessions, membership.options))


def _read_skew(store: Store) -> float | None:
    """What the running agent last found of the clock; none where none runs."""
    content = store.read_published(STATUS) if store.is_locked() else None
    try:
        return None if content is None else msgspec.json.decode(content, type=Condition).skew
    except msgspec.DecodeError:
        return None


async def leave(store: Store, enrolment: Enrolment) -> list[str]:
    """Take the mesh down, and forget that cluster and its console; the keys stay. Raises KernelError, StoreError.

    Says in sentences which discovery services could not be told.
    """
    untold = await take_away(store)
    store.forget_settings()
    store.forget_enrolment(enrolment)
    return untold


async def take_away(store: Store) -> list[str]:
    """Take the mesh down; a machine without a console has discovery forget it first. Raises KernelError."""
    untold = await withdraw(store)
    await take_mesh_down()
    return untold


async def withdraw(store: Store) -> list[str]:
    """Have discovery forget a machine that has published itself; says in sentences where it could not be told."""
    try:
        _, enrolment = load(store)
        settings = store.settings(enrolment.cluster)
        if not enrolment.alone or settings is None:
            return []
        registry = open_registry(store, store.discovery(), enrolment, settings.secret, lambda: None)
    except (StoreError, ValueError):
        return []  # damaged, and about to go
    return await registry.leave()


async def take_mesh_down() -> None:
    """Remove link, routes, rules and firewall table, whoever does WireGuard here, or did. Raises KernelError."""
    userspace = UserspaceWireGuard()
    in_kernel = await userspace.dump() is None and await is_available()
    await take_down(LinuxKernel(KernelWireGuard() if in_kernel else userspace))
