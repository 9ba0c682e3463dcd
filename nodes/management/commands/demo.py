"""A console and a real mesh of machines on this one, from nothing, and gone again at the end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from nodes import certificates, embedded
from nodes.lab import LabError
from nodes.playground import DISCOVERY_PORT, MAX_MACHINES, TLS_PORT, Mesh, RunningConsole, Site, await_true, open_site

CLUSTER = "demo"
LIMIT_SECONDS = 120.0
MIN_MACHINES = 2
ADMINISTRATOR = "admin"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Command(BaseCommand):
    """`manage.py demo`."""

    help = "Run a console and a real mesh of machines (network namespaces) on this one; Ctrl-C takes everything away."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take how many machines, and whether to end when they are meshed."""
        parser.add_argument("--nodes", type=int, default=4, help="how many machines (default: 4)")
        parser.add_argument("--until-up", action="store_true", help="end as soon as every link is up")
        parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        parser.add_argument(
            "--discovery-plain-listen", metavar="HOST:PORT", help="discovery on this machine as well, without TLS"
        )
        embedded.add_options(parser)

    def handle(self, *_: Any, **options: Any) -> None:
        """Run it; without root, say what cannot be done and run the console alone."""
        if not MIN_MACHINES <= options["nodes"] <= MAX_MACHINES:
            raise CommandError(
                f"--nodes {options['nodes']}: from {MIN_MACHINES} to {MAX_MACHINES} machines can mesh here"
            )
        if os.geteuid() != 0 and not options["until_up"]:
            self.run_console_alone(options)
            return
        for number in ENDING:
            signal.signal(number, _interrupt)
        try:
            outcome = self.run_demo(Path(settings.KUBESPAN_DATA), options)
        except (LabError, embedded.NotPossible) as error:
            raise CommandError(str(error)) from None
        if options["until_up"] and outcome is None:
            raise CommandError("ended before every link was up")
        if options["json"] and outcome:
            self.stdout.write(json.dumps(outcome))

    def run_console_alone(self, options: dict[str, Any]) -> None:
        """Run what an ordinary user can."""
        self.stderr.write(
            "The machines of the demonstration are network namespaces, which need root: run `sudo make demo` to see a "
            "mesh. Without it this is the console alone."
        )
        names = ("data", "listen", "tls_listen", "tls_name", "discovery_plain_listen")
        call_command("run", **{name: options[name] for name in names})

    def run_demo(self, data: Path, options: dict[str, Any]) -> dict[str, Any] | None:
        """Make everything, wait for the mesh, stay until the end is asked for; returns the outcome."""
        names = _names(options["nodes"])
        with contextlib.suppress(KeyboardInterrupt), open_site(names) as site, Mesh(site, data) as mesh:
            console = RunningConsole(
                data,
                listen=options["listen"],
                tls_listen=f"{site.host}:{TLS_PORT}",
                discovery=f"{site.host}:{DISCOVERY_PORT}",
                plain_discovery=options["discovery_plain_listen"] or "",
            )
            try:
                self.start_console(console)
                seconds = self.start_mesh(console, site, mesh)
                links = options["nodes"] * (options["nodes"] - 1)
                self.say(f"all {links} directed links are up, {seconds:.1f} s after the first enrolment")
                if not options["until_up"]:
                    self.say(f"look at {console.url}; Ctrl-C takes everything away")
                    signal.pause()
                return {"nodes": options["nodes"], "links": links, "up": links, "seconds": round(seconds, 1)}
            finally:
                self.say("taking everything away")
                console.stop()
        return None

    def start_console(self, console: RunningConsole) -> None:
        """Start it, with an administrator whose password is printed this once."""
        console.start()
        password = secrets.token_urlsafe(12)
        console.call(
            "createsuperuser", "--noinput", "--username", ADMINISTRATOR, "--email", "",
            env={"DJANGO_SUPERUSER_PASSWORD": password},
        )  # fmt: skip
        self.say(f"console: {console.url}  user: {ADMINISTRATOR}  password: {password}")
        self.say(f"discovery: {'  '.join(console.discovery)}")

    def start_mesh(self, console: RunningConsole, site: Site, mesh: Mesh) -> float:
        """Enrol every machine by the real command, start its agent, and wait for all links; returns seconds."""
        pin = certificates.fingerprint((console.directory / "tls" / "certificate.pem").read_bytes())
        console.call("create_cluster", CLUSTER)
        token = console.call("create_token", CLUSTER, "--uses", str(len(mesh.agents)), "--name", "demo")["token"]
        started = time.monotonic()
        for name, agent in mesh.agents.items():
            agent.enrol(console.tls_url, pin, token)
            agent.start()
            self.say(f"{name} ({site.addresses[name][0]}) has enrolled")
        missing: list[str] = []  # what the last look found: a moment later it may be another

        def is_up() -> bool:
            missing[:] = mesh.missing()
            return not missing

        links = len(mesh.agents) * (len(mesh.agents) - 1)
        try:
            await_true(is_up, LIMIT_SECONDS, "the mesh is not up")
        except LabError as error:
            raise LabError(f"{error}; missing of {links} links: {', '.join(missing)}") from None
        return time.monotonic() - started

    def say(self, text: str) -> None:
        """Print a line at once: somebody is waiting. If nobody is any more, what was begun is still ended in order."""
        with contextlib.suppress(BrokenPipeError):
            self.stdout.write(text)
            self.stdout.flush()


def _names(count: int) -> list[str]:
    return [f"node-{number}" for number in range(1, count + 1)]


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End what is going on; a second Ctrl-C does not disturb the taking away."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
