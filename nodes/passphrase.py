"""A passphrase from a file, the environment, or a person: never from the command line, which everybody can read."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from django.core.management.base import CommandError

from kubespan_web.env import env

VARIABLE = "KUBESPAN_BACKUP_PASSPHRASE"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Declare where it may come from."""
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help=f"file with the passphrase; else {VARIABLE}, or {VARIABLE}_FILE, or a question on the terminal",
    )


def read(file: str | None, *, twice: bool) -> str:
    """Get it; `twice` asks a person again, for what is locked by a slip of the finger stays locked."""
    if file:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise CommandError(f"cannot read the passphrase from {file}: {error.strerror}") from None
    if given := env(VARIABLE, ""):
        return given
    if not sys.stderr.isatty():
        raise CommandError(f"no passphrase: give it by --passphrase-file or {VARIABLE}, or run this on a terminal")
    passphrase = getpass.getpass("Passphrase of the backup: ")
    if twice and getpass.getpass("Once more: ") != passphrase:
        raise CommandError("the two are not the same")
    return passphrase
