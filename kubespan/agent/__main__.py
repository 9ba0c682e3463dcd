"""`kubespan-agent`: one machine's part in a mesh."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import msgspec

from kubespan import __version__
from kubespan.agent.allocation import spare_memory
from kubespan.agent.background import LOG, start
from kubespan.agent.cli import load_start, or_fail, state_dir_option
from kubespan.agent.enrol import EnrolError
from kubespan.agent.enrol_command import enrol_command
from kubespan.agent.fetch import UpgradeError, ask_release, fetch, way_to
from kubespan.agent.home import Home, default_directory, find_home, start_again
from kubespan.agent.join_command import discovery_of, join_by_environment, join_command
from kubespan.agent.kernel import DATA_PLANES, KernelError
from kubespan.agent.logs import set_up_logs
from kubespan.agent.preflight.said import refusing, write_json, write_table
from kubespan.agent.publish import Condition
from kubespan.agent.registries import Standing
from kubespan.agent.store import (
    DEFAULT_STATE_DIR,
    ENROLLING,
    STATUS,
    Busy,
    Damaged,
    Enrolment,
    Store,
    StoreError,
)
from kubespan.agent.trust import TrustError
from kubespan.agent.uninstall import uninstall
from kubespan.agent.units import EXIT_REMOVED, EXIT_SETUP, FINAL_STATUSES, RUNNING, install
from kubespan.core.endpoint import MAX_PORT
from kubespan.core.messages import Upgrade
from kubespan.core.release import may_follow
from kubespan.core.resources import PEER_STATUSES, Resource, resolve, rfc3339
from kubespan.ctl.output import FORMS, Form, render
from kubespan.ctl.published import Published, read_published


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Mesh this machine with the others of its cluster, by WireGuard."""
    set_up_logs()


main.add_command(enrol_command)
main.add_command(join_command)


@main.command(short_help="Mesh until stopped.")
@click.option("--data-plane", type=click.Choice(DATA_PLANES), help="Instead of the one chosen at enrolment.")
@state_dir_option
def run(store: Store, data_plane: str | None) -> None:
    """Mesh until stopped; the mesh stays afterwards.

    A machine that nobody has enrolled joins first as the environment says: KUBESPAN_CLUSTER_ID, KUBESPAN_CLUSTER_SECRET
    (or either with _FILE, or KUBESPAN_SECRETS_FILE), KUBESPAN_DISCOVERY, and what else `join --help` lists.
    """
    spare_memory()
    running = load_start()
    try:
        with store.lock():
            join_by_environment(store, os.environ)
            ending = asyncio.run(running.run_agent(store, data_plane, discovery_of(os.environ)))
    except Busy as error:
        raise click.ClickException(str(error)) from None
    except (EnrolError, StoreError, TrustError, click.UsageError) as error:
        if isinstance(error, Damaged):
            or_fail(partial(store.count_damage, str(error)))
        click.echo(f"Error: {error.format_message() if isinstance(error, click.UsageError) else error}", err=True)
        sys.exit(EXIT_SETUP)
    except KernelError as error:
        raise click.ClickException(str(error)) from None
    if ending is running.Ending.REPLACED and (home := find_home()) is not None:
        start_again(home, sys.argv[1:])
    sys.exit(EXIT_REMOVED if ending is running.Ending.REMOVED else 0)


@main.command(short_help="Take the mesh away from this machine.")
@state_dir_option
def down(store: Store) -> None:
    """Take the mesh away from this machine; identity and settings stay, and `run` brings it back."""

    def take_down() -> None:
        with store.lock():
            asyncio.run(load_start().take_mesh_down())
            store.retract()

    or_fail(take_down)
    click.echo("this machine is out of the mesh")


@main.command(short_help="Leave the cluster; the keys stay.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_dir_option
def leave(store: Store, *, yes: bool) -> None:
    """Take the mesh away, and forget cluster and console; this machine's keys stay, and it may enrol anywhere."""
    enrolment = _enrolled(store)
    if not yes:
        whose = "" if enrolment.alone else f" {enrolment.cluster_name or enrolment.cluster} of {enrolment.url}"
        click.confirm(f"leave the cluster{whose}?", abort=True)

    def take_leave() -> list[str]:
        with store.lock(), store.lock(ENROLLING):
            if _enrolled(store) != enrolment:
                raise click.ClickException("this machine has enrolled anew meanwhile: nothing was changed")
            return asyncio.run(load_start().leave(store, enrolment))

    for untold in or_fail(take_leave):
        click.echo(f"{untold}; others forget this machine by themselves within half an hour", err=True)
    click.echo(f"this machine is of no cluster{'' if enrolment.alone else f'; remove its node at {enrolment.url} too'}")


@main.command(short_help="Look for what would keep the mesh from working here.")
@click.option("-o", "--output", "form", type=click.Choice(("table", "json")), default="table", show_default=True)
@click.option("--listen-port", type=click.IntRange(1, MAX_PORT), help="UDP port; by default the one of the enrolment.")
@click.option("--data-plane", type=click.Choice(DATA_PLANES), help="By default the one of the enrolment.")
@state_dir_option
def preflight(store: Store, form: str, listen_port: int | None, data_plane: str | None) -> None:
    """Look for what would keep the mesh from working here, and say the command that mends it.

    Exit status 1 where something stops the mesh, or a part of it. Changes nothing, and may be run at any time.
    """
    examination = or_fail(lambda: asyncio.run(load_start().examine(store, listen_port, data_plane)))
    if form == "json":
        rerouted = [f"{network} ({name})" for network, name in examination.mine.destinations.items()]
        click.echo(write_json(examination.findings, rerouted, map(str, examination.sessions)), nl=False)
    else:
        click.echo(write_table(examination.findings), nl=False)
        for line in examination.rerouting:
            click.echo(line)
    sys.exit(1 if refusing(examination.findings) else 0)


@main.command(short_help="Say how this machine is doing.")
@state_dir_option
def status(store: Store) -> None:
    """Say how this machine is doing; exit status 1 unless it is enrolled, running and without fault."""
    if (damage := or_fail(store.damage)) is not None:
        click.echo(f"starts    {damage.starts} came to nothing for a damaged file: {damage.last}")
    enrolment = _enrolled(store)
    if enrolment.cluster_id:
        name = f"{enrolment.cluster_name} " if enrolment.cluster_name else ""
        click.echo(f"cluster   {name}({enrolment.cluster_id})")
        click.echo(f"address   {enrolment.address}")
    else:
        click.echo("cluster   not told before an operator approves this machine")
    click.echo(f"key       {_public_key(store)}")
    click.echo(f"console   {enrolment.url or 'none: whoever discovery lists is a member'}")
    content = or_fail(lambda: store.read_published(STATUS))
    if content is None or not or_fail(store.is_locked):
        raise click.ClickException("the agent does not run: systemctl start kubespan-agent, or kubespan-agent run")
    condition = or_fail(lambda: _parse_condition(content))
    if not enrolment.alone:
        connection = "connected" if condition.connected else "not connected"
        click.echo(f"          {connection}{f': {condition.console}' if condition.console else ''}")
    for standing in condition.discovery:
        click.echo(f"discovery {standing.place} {_describe(standing)}")
    if condition.unusable:
        click.echo(f"          {condition.unusable} of its frames could not be used since the agent's start")
    click.echo(f"agent     running, process {condition.process}, {condition.backend} WireGuard")
    if not enrolment.alone:
        click.echo(f"revision  {condition.revision or 'none yet'}")
    resources = _published(store).resources
    click.echo(f"peers     {_count_peers(resources)}")
    if measured := _describe_measured(resources):
        click.echo(f"          {measured}")
    if condition.fault:
        raise click.ClickException(condition.fault)


def _enrolled(store: Store) -> Enrolment:
    state = or_fail(store.agent)
    if state is None or state.enrolment is None:
        raise click.ClickException(
            "this machine is not enrolled: run kubespan-agent enrol first, or kubespan-agent join without a console"
        )
    return state.enrolment


def _describe(standing: Standing) -> str:
    since = f"since {rfc3339(standing.since, whole=True)}"
    return f"not connected {since}: {standing.fault}" if standing.fault else f"connected {since}"


def _public_key(store: Store) -> str:
    """What an operator compares before they approve this machine."""
    keys = or_fail(store.keys)
    return "missing" if keys is None else keys.public_key


def _parse_condition(content: bytes) -> Condition:
    try:
        return msgspec.json.decode(content, type=Condition)
    except msgspec.DecodeError:
        raise StoreError(f"{STATUS} is not what this release publishes; restart the agent") from None


def _count_peers(resources: list[Resource]) -> str:
    states = Counter(one.spec["state"] for one in resources if one.metadata.type == PEER_STATUSES.type)
    return ", ".join(f"{number} {state}" for state, number in sorted(states.items(), reverse=True)) or "none"


def _describe_measured(resources: list[Resource]) -> str:
    """The worst round trip and the worst loss, and whose; empty where nothing is measured."""
    specs = [one.spec for one in resources if one.metadata.type == PEER_STATUSES.type]
    found = []
    for what, key, unit in (("round trip", "rtt", "ms"), ("loss", "loss", "%")):
        values = [(float(spec[key].removesuffix(unit)), spec[key], spec["label"]) for spec in specs if key in spec]
        if values:
            _, worst, label = max(values)
            found.append(f"{what} {worst}" + (f" at most ({label})" if len(values) > 1 else ""))
    return ", ".join(found)


@main.command(short_help="Show what the agent knows.")
@click.argument("resource")
@click.option("-o", "--output", "form", type=click.Choice(FORMS), default="table", show_default=True, help="Form.")
@state_dir_option
def get(resource: str, form: Form, store: Store) -> None:
    """Show what the agent knows, for example `get kubespanpeerstatuses`."""
    try:
        definition = resolve(resource)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    published = _published(store)
    if published.warning:
        click.echo(published.warning, err=True)
    of_type = [one for one in published.resources if one.metadata.type == definition.type]
    click.echo(render(of_type, definition, form, platform.node()), nl=False)


def _published(store: Store) -> Published:
    try:
        return read_published(store.directory)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


@main.command("install", short_help="Make the agent a service of systemd.")
@click.option("--background", is_flag=True, help="Where systemd does not run, start the agent until the next boot.")
@state_dir_option
def install_command(store: Store, *, background: bool) -> None:
    """Make the agent a service of systemd: written, enabled and started."""
    _enrolled(store)
    home = find_home()
    command = [str(Path(sys.argv[0]).resolve() if home is None else home.launcher), "run"]
    if str(store.directory) != DEFAULT_STATE_DIR:
        command += ["--state-dir", str(store.directory.resolve())]
    if background and not RUNNING.is_dir():
        _start_in_background(store, command)
        return
    path = or_fail(lambda: install(command))
    click.echo(f"wrote {path}; the service is enabled and started")


def _start_in_background(store: Store, command: Sequence[str]) -> None:
    if (home := find_home()) is not None:
        # The launcher of one that is on trial must not start it once more beside ours.
        or_fail(home.confirm)
    or_fail(lambda: start(store, command))
    click.echo(f"systemd does not run here: the agent was started in the background, and writes to {LOG}")
    click.echo(
        f"next: let your own service manager run `{' '.join(command)}` at each boot, "
        f"and not start it again after exit status {' or '.join(map(str, FINAL_STATUSES))}"
    )


@main.command(short_help="Become the agent that the console hands out.")
@state_dir_option
def upgrade(store: Store) -> None:
    """Become the agent that the console hands out; the mesh goes on meanwhile.

    If it does not reach the console within ninety seconds, the present one comes back by itself.
    """
    home = _own_home()
    enrolment = _enrolled(store)
    if enrolment.alone:
        raise click.ClickException("this machine has no console that hands out agents")

    def replace() -> str:
        way = way_to(enrolment)
        release = ask_release(way)
        if not may_follow(release.version, __version__):
            raise UpgradeError(f"the console hands out {release.version}, and this is {__version__}: nothing to do")
        fetch(home, way, Upgrade(version=release.version, sha256=release.sha256, size=release.size))
        home.stage(release.sha256, release.version)
        return release.version

    version = or_fail(replace)
    process = or_fail(store.holder)
    if process is None:
        click.echo(f"{version} is in place; the agent does not run: systemctl start kubespan-agent")
        return
    os.kill(process, signal.SIGHUP)
    click.echo(f"{version} is in place, and takes over; waiting until it is connected to the console")
    while home.on_trial():
        time.sleep(0.2)
    if (failure := home.failure()) is not None:
        raise click.ClickException(f"{failure.version} was put away again: {failure.reason}")
    click.echo("it is connected")


@main.command("fetch", hidden=True)
@click.argument("version")
@click.argument("sha256")
@click.argument("size", type=click.IntRange(0))
@state_dir_option
def fetch_command(version: str, sha256: str, size: int, store: Store) -> None:
    """Get an agent from the console and see that it starts; the running agent puts it in place."""
    home = _own_home()
    enrolment = _enrolled(store)
    or_fail(lambda: fetch(home, way_to(enrolment), Upgrade(version=version, sha256=sha256, size=size)))


@main.command(hidden=True)
def settle() -> None:
    """Put this archive in place on a machine; the install script enrols it next, or an operator has it join."""
    archive = os.environ.get("KUBESPAN_AGENT_ARCHIVE")
    if archive is None:
        raise click.ClickException("only the archive that a console hands out can be put in place")
    home = Home(default_directory())
    or_fail(lambda: home.settle(Path(archive)))
    click.echo(f"kubespan-agent {__version__} is in {home.directory}")


@main.command("uninstall", short_help="Take the agent and its mesh away, and leave nothing behind.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_dir_option
def uninstall_command(store: Store, *, yes: bool) -> None:
    """Take service, process, mesh, identity and the agent's own files away.

    The machine's keys go too: if it is to come back, it is another node. May be repeated where it was broken off.
    """
    if os.geteuid() != 0:
        raise click.ClickException("this needs root")
    home = Home(default_directory())
    click.echo(f"takes away: the mesh, {store.directory} with this machine's keys, {home.directory}, and the service")
    if not yes:
        click.confirm("go on?", abort=True)
    enrolment = _enrolment_to_mention(store)
    # Loaded before the files go that it is loaded from.
    take_down = partial(load_start().take_away, store)

    def take_away() -> None:
        for what in uninstall(store, home, take_down):
            click.echo(f"gone: {what}")

    or_fail(take_away)
    if find_home() is None:
        click.echo("this agent was not installed by the console's line: its program is where it was put")
    if enrolment is not None and not enrolment.alone:
        click.echo(f"remove this node on its console too, {enrolment.url}: until then others keep it as a peer")


def _enrolment_to_mention(store: Store) -> Enrolment | None:
    try:
        state = store.agent()
    except StoreError:
        return None  # damaged, and about to go
    return None if state is None else state.enrolment


def _own_home() -> Home:
    home = find_home()
    if home is None:
        raise click.ClickException(
            "this agent was not installed by the console's line: upgrade it the way that it was installed"
        )
    return home


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


if __name__ == "__main__":
    main()
