"""`kubespanctl gen config`: cluster id and secret, and the patches that give them to Talos machines; offline."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click

from kubespan.core.cluster import KEY_BYTES, make_cluster_id, make_cluster_secret
from kubespan.core.documents import dump_yaml
from kubespan.core.options import Options
from kubespan.core.service_endpoint import PUBLIC_SERVICE, ServiceEndpoint
from kubespan.core.talos.configuration import Unfit, read
from kubespan.core.talos.eras import ERAS, Era, Release, find_era
from kubespan.core.talos.patches import Wish, has_forms, make_patch
from kubespan.core.talos.roots import parse_roots

SECRETS_FILE = "secrets.yaml"


def make_bundle() -> str:
    """A new cluster id and cluster secret, in the form of Talos' secrets bundle."""
    made = (make_cluster_id(secrets.token_bytes(KEY_BYTES)), make_cluster_secret(secrets.token_bytes(KEY_BYTES)))
    return dump_bundle(*made)


def dump_bundle(cluster_id: str, secret: str) -> str:
    """Write the part of a secrets bundle that is the cluster's own."""
    return dump_yaml({"cluster": {"id": cluster_id, "secret": secret}})


@click.command("config")
@click.option("--with-kubespan", is_flag=True, help="Have the patches switch KubeSpan on.")
@click.option(
    "--with-secrets", type=click.Path(path_type=Path, dir_okay=False), help="Take id and secret from this file."
)
@click.option("--discovery", "url", default=PUBLIC_SERVICE, show_default=True, help="Where machines find each other.")
@click.option("--roots", type=click.Path(path_type=Path, dir_okay=False), help="Certificates to trust for it, PEM.")
@click.option("--release", help="Talos' release, such as 1.9; without it patches for all are written.")
@click.option(
    "-o", "--output", "directory", type=click.Path(path_type=Path, file_okay=False), default=".", help="Where to write."
)
@click.option("--force", is_flag=True, help="Write over files that are there.")
def gen_config(
    *,
    with_kubespan: bool,
    with_secrets: Path | None,
    url: str,
    roots: Path | None,
    release: str | None,
    directory: Path,
    force: bool,
) -> None:
    """Write a new cluster's id and secret, and patches for Talos machines, into files for your eyes alone."""
    try:
        check_service(url)
        eras = ERAS if release is None else (find_era(Release.parse(release)),)
        bundle = _read(with_secrets).decode() if with_secrets else make_bundle()
        found = read([(str(with_secrets or SECRETS_FILE), bundle.encode())])
        certificates = _read_roots(roots) if roots else ""
    except UnicodeDecodeError:
        raise click.ClickException("a file is not UTF-8 text") from None
    except (Unfit, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if not (found.cluster_id and found.secret):
        raise click.ClickException(f"{with_secrets} has not both a cluster id and a cluster secret")
    wish = Wish(url, certificates, (found.cluster_id, found.secret), Options() if with_kubespan else None)
    files = {} if with_secrets else {SECRETS_FILE: bundle}
    files |= dict(_patches(wish, eras))
    for path in write_files(directory, files, force=force):
        click.echo(path)


def check_service(url: str) -> None:
    """Raise ValueError for a URL that not every release takes in its configuration."""
    ServiceEndpoint.parse(url)
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or parts.path.strip("/") or parts.query:
        raise ValueError("not all releases take such an endpoint: write https://HOST[:PORT] or http://HOST[:PORT]")


def _patches(wish: Wish, eras: tuple[Era, ...]) -> Iterator[tuple[str, str]]:
    """Each era's, and where configurations may have either form, that of either."""
    for era in eras:
        for legacy in (False, True) if has_forms(era) else (False,):
            made = Wish(wish.service, wish.roots, wish.identity, wish.options, legacy=legacy)
            patch = make_patch(made, era)
            yield patch.file, patch.text


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None


def _read_roots(path: Path) -> str:
    try:
        return parse_roots(_read(path))
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from None


def write_files(directory: Path, files: Mapping[str, str], *, force: bool) -> list[Path]:
    """Write files that hold secrets: each whole or not at all, for its owner alone; none where one is there already."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = [name for name in files if os.path.lexists(directory / name)]
        if there and not force:
            raise click.ClickException(f"{directory / there[0]} is there already; --force writes over it")
        for name, text in files.items():
            _write(directory / name, text)
    except OSError as error:
        raise click.ClickException(f"{directory}: {error.strerror}") from None
    return [directory / name for name in files]


def _write(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
