"""`kubespan-agent join`, and the same by the environment for `kubespan-agent run`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TypeVar

import click
import msgspec

from kubespan.agent.cli import (
    check_first,
    load_start,
    or_fail,
    parse_networks,
    read_file,
    state_dir_option,
)
from kubespan.agent.join import JoinWish, join, refuse_second_cluster
from kubespan.agent.kernel import DATA_PLANES
from kubespan.agent.preflight.facts import Mine
from kubespan.agent.store import Discovery, DiscoveryService, Store
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import LISTEN_PORT, MAX_PORT
from kubespan.core.options import DEFAULT_MTU, Options
from kubespan.core.service_endpoint import ServiceEndpoint

CLUSTER_ID, CLUSTER_SECRET, SECRETS_FILE = "KUBESPAN_CLUSTER_ID", "KUBESPAN_CLUSTER_SECRET", "KUBESPAN_SECRETS_FILE"
DISCOVERY = "KUBESPAN_DISCOVERY"
CA_FILE = "KUBESPAN_DISCOVERY_CA_FILE"
SECRET_VARIABLES = (CLUSTER_ID, CLUSTER_SECRET)
"""Taken out of the environment once they are read: programs that the agent starts have no use for them."""
VARIABLES = (CLUSTER_ID, CLUSTER_SECRET, f"{CLUSTER_ID}_FILE", f"{CLUSTER_SECRET}_FILE", SECRETS_FILE)
"""One of them says that a cluster is to be joined."""


Decorated = TypeVar("Decorated", bound=Callable[..., Any] | click.Command)


class _Cluster(msgspec.Struct, frozen=True):
    id: str
    secret: str

    def __repr__(self) -> str:
        return "_Cluster(…)"


class _Bundle(msgspec.Struct, frozen=True):
    """What of a secrets bundle is meant: `kubespanctl gen secrets` writes it, and so does `talosctl gen secrets`."""

    cluster: _Cluster


def _option(*names: str, variable: str, **other: Any) -> Callable[[Decorated], Decorated]:
    return click.option(*names, envvar=variable, show_envvar=True, **other)


@click.command("join", short_help="Join a cluster without a console.")
@_option(
    "--secrets-file", variable=SECRETS_FILE, metavar="FILE",
    help="Cluster id and secret as `kubespanctl gen secrets` writes them; - is standard input.",
)  # fmt: skip
@_option(
    "--cluster-id-file", variable=f"{CLUSTER_ID}_FILE", metavar="FILE",
    help=f"The id alone; or {CLUSTER_ID} has the id itself.",
)  # fmt: skip
@_option(
    "--secret-file", variable=f"{CLUSTER_SECRET}_FILE", metavar="FILE",
    help=f"The secret alone; - is standard input; or {CLUSTER_SECRET} has the secret itself.",
)  # fmt: skip
@_option(
    "--discovery", "urls", variable=DISCOVERY, multiple=True, metavar="URL",
    help="A discovery service, such as https://discovery.example:3000.",
)  # fmt: skip
@_option("--ca-file", variable=CA_FILE, metavar="FILE", help="Trust these certificates (PEM) for it, and no others.")
@_option("--name", variable="KUBESPAN_NODE_NAME", default="", help="The machine's name; the host name by default.")
@_option(
    "--listen-port", variable="KUBESPAN_LISTEN_PORT", default=LISTEN_PORT, show_default=True,
    type=click.IntRange(1, MAX_PORT), help="UDP port.",
)  # fmt: skip
@_option(
    "--data-plane", variable="KUBESPAN_DATA_PLANE", default="auto", show_default=True, type=click.Choice(DATA_PLANES),
    help="Who does WireGuard.",
)  # fmt: skip
@_option(
    "--advertise", "networks", variable="KUBESPAN_ADVERTISE", multiple=True, callback=parse_networks, metavar="CIDR",
    help="A network behind this machine.",
)  # fmt: skip
@_option(
    "--extra-endpoint", "extra_endpoints", variable="KUBESPAN_EXTRA_ENDPOINTS", multiple=True, metavar="ADDRESS:PORT",
    help="Where this machine is reached besides, such as a forwarded port.",
)  # fmt: skip
@_option(
    "--exempt-port", "exempt_ports", variable="KUBESPAN_EXEMPT_PORTS", multiple=True, type=click.IntRange(1, MAX_PORT),
    metavar="PORT", help="A TCP port of this machine whose connections stay outside the tunnel.",
)  # fmt: skip
@_option("--mtu", variable="KUBESPAN_MTU", default=DEFAULT_MTU, show_default=True, type=int, help="Of the link.")
@_option(
    "--endpoint-filter", "endpoint_filters", variable="KUBESPAN_ENDPOINT_FILTERS", multiple=True, metavar="[!]CIDR",
    help="Which of its addresses this machine offers, in order.",
)  # fmt: skip
@_option(
    "--peer-endpoint-filter", "peer_endpoint_filters", variable="KUBESPAN_PEER_ENDPOINT_FILTERS", multiple=True,
    metavar="[!]CIDR", help="Which of its peers' endpoints it tries, in order.",
)  # fmt: skip
@_option(
    "--exclude", "exclude_advertised_networks", variable="KUBESPAN_EXCLUDE", multiple=True, callback=parse_networks,
    metavar="CIDR", help="A network that others are not to route to this machine.",
)  # fmt: skip
@_option(
    "--advertise-kubernetes-networks",
    variable="KUBESPAN_ADVERTISE_KUBERNETES_NETWORKS",
    is_flag=True,
    help="Have others route to the pod networks of the node of Kubernetes that this machine is.",
)
@_option(
    "--harvest-extra-endpoints", variable="KUBESPAN_HARVEST_EXTRA_ENDPOINTS", is_flag=True,
    help="Tell others at which endpoints its peers are seen from here.",
)  # fmt: skip
@_option(
    "--allow-down-peer-bypass", variable="KUBESPAN_ALLOW_DOWN_PEER_BYPASS", is_flag=True,
    help="Let traffic to a peer that is not up go as it did before, unencrypted.",
)  # fmt: skip
@_option(
    "--force-from-start", variable="KUBESPAN_FORCE_FROM_START", is_flag=True,
    help="Force traffic into the tunnel even before a peer's first handshake, as KubeSpan does.",
)  # fmt: skip
@click.option(
    "--ignore", multiple=True, metavar="CODE", help="Join in spite of what preflight finds, or of `all` that it finds."
)
@click.option("--unchecked", is_flag=True, help="Join although no discovery service can be asked now.")
@state_dir_option
def join_command(store: Store, *, ignore: tuple[str, ...], unchecked: bool, **given: Any) -> None:
    """Join a cluster without a console: with whatever machines its discovery service lists.

    May be repeated, to change any of it. Cluster id and secret come from files, from standard input or from the
    environment, where `kubespan-agent run` takes all of this too.
    """
    wish = _make_wish(**given)
    for odd in or_fail(wish.check):
        click.secho(f"WARNING: {odd}", fg="red", err=True)
    or_fail(lambda: refuse_second_cluster(store, wish))
    prefix = ula_prefix(wish.cluster_id)
    check_first(store, Mine(listen_port=wish.listen_port, data_plane=wish.data_plane, prefix=prefix), ignore)
    machine = asyncio.run(load_start().read_machine())
    from kubespan.agent.around import look_around  # noqa: PLC0415 - it takes longer to load than `get` to answer

    around = or_fail(lambda: asyncio.run(look_around(store, wish, machine)))
    if around.faults and not unchecked:
        raise click.ClickException(f"{'; '.join(around.faults)}; to join all the same, add --unchecked")
    running = store.is_locked()
    enrolment = or_fail(lambda: join(store, wish, machine))
    click.echo(f"joined; this machine's address is {enrolment.address}")
    for line in (*around.faults, *around.tell(wish.options)):
        click.echo(line)
    if running:
        click.echo("next: systemctl restart kubespan-agent, for the one that runs goes by what it read at its start")
    else:
        click.echo("next: kubespan-agent install (a service of systemd), or kubespan-agent run")


def _make_wish(
    *,
    secrets_file: str | None,
    cluster_id_file: str | None,
    secret_file: str | None,
    urls: tuple[str, ...],
    ca_file: str | None,
    **other: Any,
) -> JoinWish:
    """Put together what was given, the files read. Raises click.UsageError."""
    if secrets_file is not None:
        cluster_id, secret = _read_bundle(secrets_file)
    else:
        cluster_id = _read_one(cluster_id_file, CLUSTER_ID, "cluster id", "--cluster-id-file").rstrip("\r\n")
        secret = _read_one(secret_file, CLUSTER_SECRET, "cluster secret", "--secret-file").strip()
    switches = {name: other.pop(name) for name in Options.__struct_fields__ if name in other}
    return JoinWish(cluster_id, secret, _services(urls, ca_file), options=Options(**switches), **other)


def _services(urls: tuple[str, ...], ca_file: str | None) -> tuple[DiscoveryService, ...]:
    roots = "" if ca_file is None else read_file(ca_file, "certificates")
    return tuple(DiscoveryService(url=url, roots=roots) for url in urls)


def _read_bundle(path: str) -> tuple[str, str]:
    try:
        cluster = msgspec.yaml.decode(read_file(path, "cluster id and secret"), type=_Bundle).cluster
    except msgspec.DecodeError:
        # Nothing of it is quoted: it holds secrets.
        raise click.UsageError(f"{path} has no cluster with id and secret, as kubespanctl gen secrets writes") from None
    return cluster.id, cluster.secret


def _read_one(path: str | None, variable: str, what: str, option: str) -> str:
    if path is not None:
        return read_file(path, what)
    if not os.environ.get(variable):
        raise click.UsageError(f"there is no {what}: give it by {option}, {variable} or --secrets-file")
    return os.environ[variable]


# By the environment.


def join_by_environment(store: Store, environment: MutableMapping[str, str]) -> None:
    """Join as the environment says, if it does; nobody is asked. Raises EnrolError, StoreError and click.UsageError."""
    if not any(environment.get(name) for name in VARIABLES):
        return
    with join_command.make_context("run", [], default_map={}) as context:
        given = {name: context.params[name] for name in context.params if name not in {"store", "ignore", "unchecked"}}
    wish = _make_wish(**given)
    for name in SECRET_VARIABLES:
        environment.pop(name, None)
    for odd in wish.check():
        click.secho(f"WARNING: {odd}", fg="red", err=True)
    join(store, wish, asyncio.run(load_start().read_machine()))


def discovery_of(environment: Mapping[str, str]) -> Discovery | None:
    """The discovery services that the environment names, for a machine that needs to be told of nothing else.

    Raises click.UsageError.
    """
    urls = tuple(environment.get(DISCOVERY, "").split())
    for url in urls:
        try:
            ServiceEndpoint.parse(url)
        except ValueError as error:
            raise click.UsageError(f"{DISCOVERY}: {error}") from None
    return Discovery(services=_services(urls, environment.get(CA_FILE))) if urls else None
