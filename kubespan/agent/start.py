"""From the state directory and the host to a running agent: what the commands put together."""

from __future__ import annotations

from ipaddress import IPv6Address
from ssl import SSLError

from kubespan.agent.enrol import Identity, Machine, parse_mac_interface
from kubespan.agent.fetch import way_to
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
from kubespan.agent.loop import Agent, Ending, Facts, Place, take_down
from kubespan.agent.mesh import Own
from kubespan.agent.netlink import LinuxKernel
from kubespan.agent.store import AGENT, KUBESPAN_IDENTITY, NODE_IDENTITY, Enrolment, Store, StoreError
from kubespan.agent.userspace import UserspaceWireGuard
from kubespan.agent.wireguard import KernelWireGuard, is_available
from kubespan.core.cluster import ula_prefix
from kubespan.core.identity import node_address, pick_interface


class LinuxHost:
    """The machine's names, addresses and events."""

    async def facts(self) -> Facts:
        """Read them. Raises KernelError."""
        addresses = tuple(map(str, await read_addresses()))
        return Facts(read_hostname(), read_operating_system(), addresses)

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
        raise StoreError(f"this machine is not enrolled ({store.path(AGENT)}): run kubespan-agent enrol first")
    keys, node_id = store.keys(), store.node_id()
    if keys is None or node_id is None:
        missing = store.path(KUBESPAN_IDENTITY if keys is None else NODE_IDENTITY)
        raise StoreError(
            f"{missing} is missing: restore it from a backup, or enrol this machine again with a new token"
        )
    if node_id != state.enrolment.node_id:
        raise StoreError(f"{store.path(NODE_IDENTITY)} is not what this machine enrolled with: enrol it again")
    return Identity(keys, node_id, state), state.enrolment


def own_address(identity: Identity, enrolment: Enrolment) -> IPv6Address | None:
    """The machine's KubeSpan address, reckoned anew at every start (spec/kubespan.md §1.3); none before approval."""
    if not enrolment.cluster_id:
        return None
    return node_address(ula_prefix(enrolment.cluster_id), parse_mac_interface(identity.state.mac))


async def run_agent(store: Store, data_plane: str | None) -> Ending:
    """Mesh until told to stop or removed. Raises StoreError, TrustError and KernelError."""
    identity, enrolment = load(store)
    state = identity.state
    try:
        way = way_to(enrolment)
        own = Own(identity.keys, identity.node_id, own_address(identity, enrolment), state.listen_port)
    except (ValueError, SSLError) as error:
        raise store.damaged(AGENT, str(error)) from None
    device = await choose_data_plane(data_plane or state.data_plane)
    place = Place(LinuxKernel(device), LinuxHost(), device.backend, state.networks)
    return await Agent(store, enrolment, state.signing_key, own, place, home=find_home()).run(way)


async def take_mesh_down() -> None:
    """Remove link, routes, rules and firewall table, whoever does WireGuard here, or did. Raises KernelError."""
    userspace = UserspaceWireGuard()
    in_kernel = await userspace.dump() is None and await is_available()
    await take_down(LinuxKernel(KernelWireGuard() if in_kernel else userspace))
