"""What several of the agent's commands need."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from kubespan.agent.background import NotRunning, StillRunning
from kubespan.agent.enrol import EnrolError
from kubespan.agent.fetch import UpgradeError
from kubespan.agent.home import HomeError
from kubespan.agent.kernel import KernelError
from kubespan.agent.preflight.facts import Mine
from kubespan.agent.preflight.said import refuse, refusing, write_table
from kubespan.agent.store import DEFAULT_STATE_DIR, Store, StoreError
from kubespan.agent.trust import TrustError
from kubespan.agent.units import UnitError
from kubespan.core.endpoint import parse_network
from kubespan.core.messages import Finding

Result = TypeVar("Result")

state_dir_option = click.option(
    "--state-dir",
    "store",
    metavar="DIRECTORY",
    default=lambda: os.environ.get("KUBESPAN_STATE_DIR", DEFAULT_STATE_DIR),
    show_default=DEFAULT_STATE_DIR,
    callback=lambda _context, _parameter, value: Store(Path(value)),
    help="Where identity and settings are kept; or KUBESPAN_STATE_DIR.",
)


def parse_networks(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Read networks in CIDR form, for an option that may be given several times."""
    try:
        return tuple(str(parse_network(value)) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def read_file(path: str, what: str) -> str:
    """Read a file; - is standard input. Raises click.UsageError, which quotes nothing of it."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeError) as error:
        raise click.UsageError(f"cannot read the {what} from {path}: {getattr(error, 'strerror', error)}") from None


def check_first(store: Store, mine: Mine, ignore: tuple[str, ...]) -> tuple[Finding, ...]:
    """Say what is found on this machine, and end where that would stop the mesh: nothing has been changed so far."""
    found: tuple[Finding, ...] = or_fail(lambda: asyncio.run(load_start().check_machine(store, mine)))
    say_found(found)
    if blocking := refusing(found, ignore):
        raise click.ClickException(refuse(blocking))
    return found


def say_found(found: Sequence[Finding]) -> None:
    """Write findings, if there are any, where they are in nobody's way."""
    if found:
        click.echo(write_table(found), nl=False, err=True)


def load_start() -> Any:
    """The part that touches the kernel, whose libraries take longer to load than `get` to answer."""
    from kubespan.agent import start  # noqa: PLC0415 - see above

    return start


def or_fail(act: Callable[[], Result]) -> Result:
    """Do it, or end with a sentence and exit status 1."""
    try:
        return act()
    except (
        EnrolError,
        HomeError,
        KernelError,
        NotRunning,
        StillRunning,
        StoreError,
        TrustError,
        UnitError,
        UpgradeError,
    ) as error:
        raise click.ClickException(str(error)) from None
