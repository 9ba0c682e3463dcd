"""A backup as a console again, in an empty place."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from nodes import embedded, passphrase
from nodes.backups.content import Backup
from nodes.backups.crypt import Unusable
from nodes.backups.progress import Lines
from nodes.management.script import Script
from nodes.models import ApiToken, Cluster, Node, Token
from nodes.services import backups
from nodes.services.refused import Refused


class Command(Script):
    """Thin: decode, one service, encode."""

    help = (
        "Make an empty console the one of a backup, at a new epoch: agents come back by themselves and get everything "
        "anew. The file and the keys are looked at first; whatever is wrong then, nothing has changed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take where it comes from."""
        parser.add_argument("file", help="what `manage.py backup` wrote; - is standard input")
        parser.add_argument("--data", metavar="DIRECTORY", help="the console's directory, as for `run`")
        parser.add_argument(
            "--extract",
            metavar="DIRECTORY",
            type=Path,
            help="restore nothing: only put the certificate and the keys that the backup holds into this directory",
        )
        passphrase.add_option(parser)

    def handle(self, *_: Any, **options: Any) -> None:
        """Restore it."""
        word = passphrase.read(options["passphrase_file"], twice=False)
        try:
            with _open(options["file"]) as source:
                saved = Backup(source, word, Lines(self.stderr, "looked at"))
                if options["extract"]:
                    self.extract(saved, options["extract"])
                else:
                    self.restore(saved)
        except Unusable as fault:
            raise CommandError(str(fault)) from None
        except Refused as refusal:
            raise CommandError(refusal.reason) from None
        except embedded.NotPossible as reason:
            raise CommandError(str(reason)) from None
        except OSError as error:
            raise CommandError(f"{error.filename or options['file']}: {error.strerror}") from None

    def extract(self, saved: Backup, directory: Path) -> None:
        """Put the files where a person can take them from."""
        embedded.place_files(embedded.make_private(directory), saved.head.files)
        self.stdout.write(f"{', '.join(saved.head.files) or 'no file'} → {directory}")

    def restore(self, saved: Backup) -> None:
        """Do all of it, and tell what it means."""
        files, keys = _choose(saved.head.files)
        try:
            with embedded.only_one(settings.KUBESPAN_DATA) if settings.EMBEDDED else contextlib.nullcontext():
                epoch, clusters = backups.restore(
                    saved,
                    keys,
                    lambda: embedded.place_files(settings.KUBESPAN_DATA, files),
                    timezone.now(),
                    Lines(self.stderr, f"of {saved.head.rows} restored"),
                )
        except Refused as refusal:
            if refusal.code == "keys" and embedded.KEY_FILE in saved.head.files:
                raise CommandError(f"{refusal.reason} The backup holds them: --extract DIRECTORY gets them.") from None
            raise
        self.say(saved, files, epoch, clusters)

    def say(self, saved: Backup, files: Mapping[str, str], epoch: int, clusters: list[Cluster]) -> None:
        """Tell what is there, what is not as it was, and what must be done."""
        made = saved.head.made
        nodes = Node.objects.present().count()
        self.stdout.write(f"restored as of {made}: {len(clusters)} clusters, {nodes} nodes, epoch {epoch}")
        self.stdout.write("Start the console: agents come back by themselves. What happened after that time is gone:")
        self.stdout.write(
            "- machines enrolled since are unknown here, and each says so (`kubespan-agent status`): enrol them again "
            "with a new token\n"
            "- nodes removed since are members again, and nobody knows which they were: remove them once more\n"
            "- secrets rotated, tokens used or revoked, and passwords changed since are what they were before"
            f"{_listed('tokens that enrol machines now', Token)}\n"
            "- API tokens revoked, invitations withdrawn, roles and second factors taken, and webhooks deleted since "
            f"are back{_listed('API tokens that work now', ApiToken)}"
        )
        if (left := sorted(saved.head.files.keys() - files.keys())) and not settings.EMBEDDED:
            self.stdout.write(
                f"This console keeps no files of its own; the backup has {', '.join(left)} (--extract DIRECTORY gets "
                "them). Agents that pinned that certificate trust no other."
            )


def _listed(what: str, tokens: type[Token | ApiToken]) -> str:
    names = [token.name for token in tokens.objects.all() if token.worthless(timezone.now()) is None]
    return f"; {what}: {', '.join(names)}" if names else ""


def _choose(saved: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Which of the backup's files to put back, and which keys will then open stored secrets.

    The backup's own keys take the place of those that an empty console made for itself, never of the environment's.
    """
    if not settings.EMBEDDED:
        return {}, settings.KUBESPAN_KEYS
    present = {name: key for name, key in settings.KUBESPAN_KEYS.items() if name != embedded.NO_KEY}
    own = not present or embedded.keeps_keys(settings.KUBESPAN_DATA, os.environ)
    if own and embedded.KEY_FILE in saved:
        words = embedded.parse_keys(saved[embedded.KEY_FILE])["KUBESPAN_KEYS"].split(",")
        return saved, {name: key for name, _, key in (word.strip().partition(":") for word in words)}
    return {name: text for name, text in saved.items() if name != embedded.KEY_FILE}, present


@contextlib.contextmanager
def _open(name: str) -> Iterator[BinaryIO]:
    """Open the file; what comes by standard input is kept, encrypted as it is, so that it can be read twice."""
    if name != "-":
        with Path(name).open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        yield kept
