"""`kubespan-agent enrol`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import click

from kubespan.agent.cli import (
    check_first,
    load_start,
    or_fail,
    parse_networks,
    read_file,
    say_found,
    state_dir_option,
)
from kubespan.agent.enrol import Wish, enrol
from kubespan.agent.kernel import DATA_PLANES
from kubespan.agent.preflight.facts import Mine
from kubespan.agent.preflight.said import refuse, refusing
from kubespan.agent.store import Store
from kubespan.agent.trust import TrustError, parse_pin
from kubespan.core.endpoint import LISTEN_PORT, MAX_PORT
from kubespan.core.messages import EnrolReply, Finding

TOKEN_VARIABLE = "KUBESPAN_TOKEN"  # noqa: S105 - the variable's name


def _pin(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return parse_pin(value) if value else ""
    except TrustError as error:
        raise click.BadParameter(str(error)) from None


@click.command("enrol", short_help="Join the cluster of a console.")
@click.argument("url")
@click.option("--token-file", metavar="FILE", help="File with the token; - is standard input, which is the default.")
@click.option("--token", metavar="TOKEN", help="The token itself; only with --token-on-command-line.")
@click.option("--token-on-command-line", is_flag=True, help="Accept that others on this machine may read the token.")
@click.option(
    "--pin", default="", callback=_pin, metavar="sha256:HEX", help="Fingerprint of the console's certificate."
)
@click.option(
    "--insecure-http", is_flag=True, help="Allow plain HTTP over a network. Everybody on the way sees the token."
)
@click.option("--name", default="", help="The node's name; the host name by default.")
@click.option(
    "--listen-port", default=LISTEN_PORT, show_default=True, type=click.IntRange(1, MAX_PORT), help="UDP port."
)
@click.option(
    "--data-plane", default="auto", show_default=True, type=click.Choice(DATA_PLANES), help="Who does WireGuard."
)
@click.option(
    "--advertise",
    "networks",
    multiple=True,
    callback=parse_networks,
    metavar="CIDR",
    help="A network behind this machine.",
)
@click.option(
    "--exempt-port",
    "exempt_ports",
    multiple=True,
    type=click.IntRange(1, MAX_PORT),
    metavar="PORT",
    help="A TCP port of this machine whose connections stay outside the tunnel; a console's own on it does by itself.",
)
@click.option(
    "--ignore", multiple=True, metavar="CODE", help="Enrol in spite of what preflight finds, or of `all` that it finds."
)
@state_dir_option
def enrol_command(
    url: str,
    token_file: str | None,
    token: str | None,
    *,
    token_on_command_line: bool,
    pin: str,
    insecure_http: bool,
    name: str,
    listen_port: int,
    data_plane: str,
    networks: tuple[str, ...],
    exempt_ports: tuple[int, ...],
    ignore: tuple[str, ...],
    store: Store,
) -> None:
    """Join the cluster whose console is at URL; may be repeated.

    The token comes from --token-file, from KUBESPAN_TOKEN, or from standard input.
    """
    if insecure_http:
        click.secho("WARNING: plain HTTP: everybody on the way to the console can read the token.", fg="red", err=True)
    wish = Wish(
        url=url,
        token=_read_token(token_file, token, on_command_line=token_on_command_line),
        pin=pin,
        insecure_http=insecure_http,
        name=name,
        listen_port=listen_port,
        data_plane=data_plane,
        networks=networks,
        exempt_ports=exempt_ports,
    )
    said = check_first(store, Mine(listen_port=listen_port, data_plane=data_plane), ignore)
    reply = or_fail(lambda: enrol(store, wish, asyncio.run(load_start().read_machine())))
    running = store.is_locked()
    _tell(reply, networks=networks)
    if reply.status == "pending":
        click.echo(
            "what its approval reroutes is not known yet: the agent says it in its log when it is let in, and "
            "kubespan-agent preflight from then on"
        )
    elif not running:  # a second connection would take the place of the agent's; it has said this when it was let in
        _tell_what_joining_does(store, said, ignore)
    if running:
        click.echo("next: systemctl restart kubespan-agent, for the one that runs goes by what it read at its start")
    else:
        click.echo("next: kubespan-agent install (a service of systemd), or kubespan-agent run")


def _tell_what_joining_does(store: Store, said: Sequence[Finding], ignore: tuple[str, ...]) -> None:
    """Say what joining reroutes and whose connections it moves, and what here is in its members' way.

    Nothing of it has happened yet; ends where a finding that only the cluster brings about would stop the mesh.
    """
    membership, skew = None, None
    try:
        glimpse = or_fail(lambda: asyncio.run(load_start().look_ahead(store)))
        membership, skew = glimpse.membership, glimpse.skew
    except click.ClickException as error:
        click.echo(f"what joining reroutes is not known: {error.message}; kubespan-agent preflight says it later")
    foreseen = or_fail(lambda: asyncio.run(load_start().foresee(store, membership, skew)))
    for line in foreseen.rerouting:
        click.echo(line)
    say_found([finding for finding in foreseen.findings if finding not in said])
    if blocking := refusing(foreseen.findings, ignore):
        raise click.ClickException(refuse(blocking, "enrolled, and nothing else was changed"))


def _read_token(file: str | None, token: str | None, *, on_command_line: bool) -> str:
    if token is not None:
        if not on_command_line:
            raise click.UsageError(
                "a token in the list of arguments can be read by everybody on this machine: use --token-file, "
                f"{TOKEN_VARIABLE} or standard input, or add --token-on-command-line"
            )
        text = token
    elif file not in {None, "-"}:
        text = read_file(str(file), "token")
    elif file is None and TOKEN_VARIABLE in os.environ:
        text = os.environ[TOKEN_VARIABLE]
    elif sys.stdin.isatty():
        text = click.prompt("Token", hide_input=True, err=True)
    else:
        text = sys.stdin.readline()
    if not text.strip():
        raise click.UsageError(f"there is no token: give it by --token-file, {TOKEN_VARIABLE} or standard input")
    return text.strip()


def _tell(reply: EnrolReply, *, networks: Sequence[str]) -> None:
    if reply.cluster_name:
        click.echo(f"enrolled in cluster {reply.cluster_name}; this machine's address is {reply.address}")
    else:
        click.echo("the console knows this machine now")
    for refused in reply.refused:
        click.echo(f"not believed: {refused.claim}: {refused.reason}", err=True)
    if reply.status == "pending":
        click.echo(
            "an operator must approve it at the console before it meshes; until then it learns nothing of its cluster"
        )
    refused_claims = {refused.claim for refused in reply.refused}
    if waiting := [network for network in networks if network not in refused_claims]:
        click.echo(f"waiting for an operator's yes before others route to them: {', '.join(waiting)}")
