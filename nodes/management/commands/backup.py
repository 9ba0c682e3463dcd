"""The whole console as one encrypted file."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from nodes import embedded, passphrase
from nodes.backups.content import Head
from nodes.backups.progress import Lines
from nodes.management.script import Script
from nodes.services import backups
from nodes.services.refused import Refused


class Command(Script):
    """Thin: decode, one service, encode."""

    help = (
        "Write this console, which may go on running, to one file encrypted with a passphrase: its database, its "
        "certificate, and its keys where it keeps them itself. Restore it with `manage.py restore`."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take where it goes."""
        parser.add_argument("file", help="the file, which is replaced whole; - is standard output")
        parser.add_argument("--data", metavar="DIRECTORY", help="the console's directory, as for `run`")
        passphrase.add_option(parser)

    def handle(self, *_: Any, **options: Any) -> None:
        """Write it."""
        word = passphrase.read(options["passphrase_file"], twice=True)
        files = embedded.read_files(settings.KUBESPAN_DATA, os.environ) if settings.EMBEDDED else {}

        def write(target: BinaryIO) -> Head:
            return backups.backup(target, word, files, timezone.now(), Lines(self.stderr))

        try:
            head = _to_stdout(write) if options["file"] == "-" else _to_file(Path(options["file"]), write)
        except Refused as refusal:
            raise CommandError(refusal.reason) from None
        except OSError as error:
            raise CommandError(f"cannot write {options['file']}: {error.strerror}") from None
        self.say(head)

    def say(self, head: Head) -> None:
        """Tell what is in it, and what is not."""
        self.stderr.write(f"backup of {head.rows} rows and {len(head.files)} files, as of {head.made}")
        if embedded.KEY_FILE not in head.files:
            names = ", ".join(settings.KUBESPAN_KEYS)
            self.stderr.write(
                f"KUBESPAN_KEYS ({names}) and KUBESPAN_SECRET_KEY come from the environment and are not in it: keep "
                "them apart from it. Without these keys nobody opens the cluster secrets that it holds."
            )


def _to_stdout(write: Callable[[BinaryIO], Head]) -> Head:
    if sys.stdout.isatty():
        raise CommandError("a backup is no text for a terminal: name a file, or send it elsewhere")
    head = write(sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return head


def _to_file(path: Path, write: Callable[[BinaryIO], Head]) -> Head:
    """Write beside its place and rename: who looks finds the old file or the new one, never half of one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            head = write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return head
