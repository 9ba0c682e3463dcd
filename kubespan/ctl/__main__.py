"""`kubespanctl`: ask the agent of this machine, and make what a cluster needs."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import click

import kubespan
from kubespan.core.resources import resolve
from kubespan.ctl.discovery import discovery
from kubespan.ctl.generate import gen_config, make_bundle
from kubespan.ctl.output import FORMS, Form, render
from kubespan.ctl.published import read_published

STATE_DIR = "/var/lib/kubespan-agent"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look at a machine's mesh or a discovery service, and make what a new cluster needs."""


@main.command()
@click.argument("resource")
@click.argument("id_", metavar="[ID]", required=False)
@click.option("-o", "--output", "form", type=click.Choice(FORMS), default="table", show_default=True, help="Form.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: os.environ.get("KUBESPAN_STATE_DIR", STATE_DIR),
    show_default=STATE_DIR,
    help="Where the agent keeps its state; or KUBESPAN_STATE_DIR.",
)
def get(resource: str, id_: str | None, form: Form, state_dir: Path) -> None:
    """Show what the agent of this machine knows, for example `get kubespanpeerstatuses`."""
    try:
        definition = resolve(resource)
        published = read_published(state_dir)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if published.warning:
        click.echo(published.warning, err=True)
    of_type = [one for one in published.resources if one.metadata.type == definition.type]
    found = [one for one in of_type if id_ is None or one.metadata.id == id_]
    if id_ is not None and not found:
        raise click.ClickException(f"there is no {definition.display_type} {id_!r} on this machine")
    click.echo(render(found, definition, form, platform.node()), nl=False)


@main.group()
def gen() -> None:
    """Make what a new cluster needs."""


@gen.command("secrets")
def gen_secrets() -> None:
    """Print a new cluster id and cluster secret, in the form of Talos' secrets bundle."""
    click.echo(make_bundle(), nl=False)


gen.add_command(gen_config)
main.add_command(discovery)


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(kubespan.__version__)


if __name__ == "__main__":
    main()
