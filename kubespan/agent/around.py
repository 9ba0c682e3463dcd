"""A look at discovery before a machine joins: who is there, whether the secret is theirs, and what joining reroutes."""

from __future__ import annotations

from dataclasses import dataclass

from kubespan.agent.enrol import Machine, parse_mac_interface
from kubespan.agent.join import JoinError, JoinWish, refuse_doubles
from kubespan.agent.registries.opening import open_registry
from kubespan.agent.rerouting import destinations, read_sessions, tell
from kubespan.agent.store import Enrolment, Store
from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import AddressFilter
from kubespan.core.identity import interface_id, node_address
from kubespan.core.listed import tidy
from kubespan.core.options import Options
from kubespan.core.peer_spec import peer_specs


@dataclass(frozen=True, slots=True)
class Around:
    """What a machine that is about to join a cluster without a console finds there."""

    faults: tuple[str, ...]
    """Which discovery services cannot be asked, and why."""
    others: tuple[Affiliate, ...]
    """The machines that are listed."""
    node_id: str

    def tell(self, options: Options) -> list[str]:
        """Say in lines who is there, what joining them reroutes, and which connections that moves."""
        if self.faults and not self.others:
            return [
                "who is there, and what joining them reroutes, is not known: kubespan-agent preflight says it later"
            ]
        filters = [AddressFilter.parse(text) for text in options.peer_endpoint_filters]
        rerouted = destinations(peer_specs(self.others, self.node_id, filters).specs.values())
        listed = f"{len(self.others)} other machine{'' if len(self.others) == 1 else 's'} listed"
        return [listed, *tell(rerouted, read_sessions(rerouted), options)]


async def look_around(store: Store, wish: JoinWish, machine: Machine) -> Around:
    """Ask the discovery services who is there, and publish nothing.

    Raises JoinError where the cluster secret is another one, or somebody has this machine's name or address.
    """
    node_id, state = store.node_id() or "", store.agent()
    mac = parse_mac_interface(state.mac) if state is not None else machine.mac and interface_id(machine.mac)
    prefix = ula_prefix(wish.cluster_id)
    enrolment = Enrolment(url="", cluster="", console_key="", node_id=node_id, cluster_id=wish.cluster_id)
    registry = open_registry(store, wish.discovery, enrolment, wish.secret, lambda: None)
    await registry.ask()
    if registry.fault:
        raise JoinError(registry.fault)
    listed = (tidy(one, prefix) for one in (registry.listed() or {}).values())
    others = tuple(one for one in listed if one is not None and one.node_id != node_id)
    own = Affiliate(node_id, nodename=wish.name or machine.hostname, address=node_address(prefix, mac) if mac else None)
    refuse_doubles(own, others)
    faults = (
        f"the discovery service {one.place} cannot be asked: {one.fault}" for one in registry.standings if one.fault
    )
    return Around(tuple(faults), others, node_id)
