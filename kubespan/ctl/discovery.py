"""`kubespanctl discovery`: is a discovery service there?"""

from __future__ import annotations

from pathlib import Path

import click

from kubespan.core.service_endpoint import ServiceEndpoint
from kubespan.core.talos.configuration import Unfit, read
from kubespan.discovery.probe import probe


@click.group()
def discovery() -> None:
    """Look at a discovery service."""


@discovery.command("test")
@click.argument("url")
@click.option(
    "--roots", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Certificates to trust, PEM."
)
@click.option(
    "--with-secrets",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A secrets bundle or machine configuration, for whether its cluster is served.",
)
def test_service(url: str, roots: Path | None, with_secrets: Path | None) -> None:
    """Say in one line whether a machine here would find the service at URL, such as https://discovery.example:3000."""
    try:
        endpoint = ServiceEndpoint.parse(url)
        cluster_id = read([(str(with_secrets), with_secrets.read_bytes())]).cluster_id if with_secrets else ""
        trusted = roots.read_bytes() if roots else None
    except (Unfit, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    found = probe(endpoint, cluster_id, trusted)
    if not found.fine:
        raise click.ClickException(found.sentence)
    click.echo(found.sentence)
