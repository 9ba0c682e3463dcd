"""Joining a cluster without a console: what the operator gives is checked and kept, and this machine gets its keys.

Safe to repeat at any point, and the way to change any of it: keys are made once, members that are known stay.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from kubespan.agent.enrol import EnrolError, Identity, Machine, make_identity, parse_mac_interface, state_option
from kubespan.agent.store import ENROLLING, Discovery, DiscoveryService, Enrolment, Settings, Store
from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import check_cluster_id, parse_cluster_secret, ula_prefix
from kubespan.core.endpoint import LISTEN_PORT, Endpoint
from kubespan.core.identity import node_address
from kubespan.core.listed import find_doubles
from kubespan.core.messages import MAX_TEXT, Revision, Snapshot
from kubespan.core.options import Options
from kubespan.core.rotation import Secrets
from kubespan.core.service_endpoint import ServiceEndpoint

GENERATION = 1
"""Of the cluster secret; only a console counts them."""


PLAIN = (
    "what is said to {} can be listened to on the way: who does learns the cluster id, and can delete there what "
    "machines publish, but neither read it nor be one of them"
)


class JoinError(EnrolError):
    """This machine did not join; the sentence says why, and nothing was changed."""


@dataclass(frozen=True, slots=True)
class JoinWish:
    """What the operator asked for."""

    cluster_id: str = field(repr=False)
    secret: str = field(repr=False)
    services: tuple[DiscoveryService, ...]
    name: str = ""
    listen_port: int = LISTEN_PORT
    data_plane: str = "auto"
    networks: tuple[str, ...] = ()
    exempt_ports: tuple[int, ...] = ()
    options: Options = field(default_factory=Options)
    extra_endpoints: tuple[str, ...] = ()

    @property
    def discovery(self) -> Discovery:
        """What is kept of the discovery services."""
        return Discovery(services=self.services, extra_endpoints=self.extra_endpoints)

    def check(self) -> list[str]:
        """Say what is odd about it. Raises JoinError with the first thing that cannot be."""
        try:
            odd = check_cluster_id(self.cluster_id)
            parse_cluster_secret(self.secret)
            self.options.check()
            for endpoint in self.extra_endpoints:
                Endpoint.parse(endpoint)
            for service in self.services:
                odd += _check_service(service)
        except ValueError as error:
            raise JoinError(str(error)) from None
        if not self.services:
            raise JoinError("a discovery service is required: --discovery https://discovery.example")
        if len(self.name) > MAX_TEXT or not self.name.isprintable():
            raise JoinError(f"a name has at most {MAX_TEXT} characters, all of which can be seen")
        return odd


def _check_service(service: DiscoveryService) -> list[str]:
    endpoint = ServiceEndpoint.parse(service.url)
    if endpoint.insecure:
        return [PLAIN.format(endpoint.target)]
    if service.roots:
        try:
            ssl.create_default_context(cadata=service.roots)
        except ssl.SSLError:
            raise ValueError("the file of trusted certificates holds none in PEM form") from None
    return []


def refuse_second_cluster(store: Store, wish: JoinWish) -> None:
    """One cluster a machine: another one is left first, on purpose. Raises JoinError."""
    state = store.agent()
    present = None if state is None else state.enrolment
    if present is None or (present.alone and present.cluster_id == wish.cluster_id):
        return
    where = "of another cluster" if present.alone else f"enrolled at the console {present.url}"
    raise JoinError(
        f"this machine is {where}, and a machine is of one cluster only. To leave that one: "
        f"kubespan-agent leave{state_option(store)}; then join again"
    )


def refuse_doubles(own: Affiliate, others: Iterable[Affiliate]) -> None:
    """Refuse to take the name or the address of a machine that is there already. Raises JoinError."""
    if doubles := find_doubles(own, others):
        raise JoinError("; ".join(doubles))


def join(store: Store, wish: JoinWish, machine: Machine) -> Enrolment:
    """Keep it all, and make what keys are missing. Raises JoinError and StoreError."""
    with store.lock(ENROLLING):
        refuse_second_cluster(store, wish)
        identity = make_identity(store, machine.mac)
        enrolment = describe(wish, identity)
        store.save_settings(_settings(store, wish))
        store.save_discovery(wish.discovery)
        # Last, for it says that the others are there.
        store.save_agent(
            msgspec.structs.replace(
                identity.state,
                name=wish.name,
                listen_port=wish.listen_port,
                data_plane=wish.data_plane,
                networks=wish.networks,
                exempt_ports=wish.exempt_ports or msgspec.UNSET,
                enrolment=enrolment,
            )
        )
    return enrolment


def describe(wish: JoinWish, identity: Identity) -> Enrolment:
    """This machine's place in the cluster."""
    address = node_address(ula_prefix(wish.cluster_id), parse_mac_interface(identity.state.mac))
    return Enrolment(
        url="",
        cluster=wish.cluster_id,
        console_key="",
        node_id=identity.node_id,
        cluster_id=wish.cluster_id,
        address=str(address),
    )


def _settings(store: Store, wish: JoinWish) -> Settings:
    """The secret and the options as they are wanted, and the members as far as they are known."""
    before = store.settings(wish.cluster_id)
    known = None if before is None else before.snapshot
    snapshot = Snapshot(
        revision=Revision(0, 1) if known is None else Revision(0, known.revision.number + 1),
        secret_generation=GENERATION,
        options=wish.options,
        members=() if known is None else known.members,
    )
    return Settings.of(wish.cluster_id, Secrets(generation=GENERATION, secret=wish.secret), snapshot)
