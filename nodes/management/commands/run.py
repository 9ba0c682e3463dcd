"""The whole console on one machine, from nothing: database, Redis, web, worker and timetable."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import redis.asyncio
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.utils import timezone

from kubespan_web.env import is_loopback
from nodes import certificates, embedded
from nodes.supervisor import Child, stop_on_signals, supervise

AGENT_MESSAGE_LIMIT = 4 * 1024 * 1024
"""Uvicorn's limit for any WebSocket message, in bytes: what 16,000 members can need; whoever comes may make a process
hold so much. The limit by the size of a cluster is nodes.agents' own; the Dockerfile says the same."""

MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Has the C library give back what a thousand snapshots took for a moment, 13 KiB for each agent;
the Dockerfile says the same. A heap for each thread serves nobody where one runs at a time."""


class Command(BaseCommand):
    """`manage.py run`."""

    help = "Run the whole console on this machine: database, Redis, web, worker, timetable."

    def add_arguments(self, parser):
        embedded.add_options(parser)
        parser.add_argument(
            "--discovery-listen",
            metavar="HOST:PORT",
            help="the discovery service too: by the console's own certificate where there is --tls-listen, else plain",
        )
        parser.add_argument(
            "--discovery-plain-listen", metavar="HOST:PORT", help="the same without TLS, besides; loopback only"
        )

    def handle(self, *args, **options):
        data = settings.KUBESPAN_DATA
        try:
            if connection.vendor == "sqlite":
                embedded.check_local(data, embedded.read_mounts())
            with embedded.only_one(data):
                asyncio.run(self.run(data, options))
        except (embedded.NotPossible, TimeoutError) as reason:
            raise CommandError(str(reason)) from None

    async def run(self, data: Path, options: dict) -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        children = [*listeners(data, options), worker(), beat()]
        await asyncio.to_thread(prepare_rows)
        if connection.vendor == "sqlite":
            await asyncio.to_thread(note_boot, data, read_boot_id())
        await asyncio.to_thread(self.greet, options)
        await supervise(valkey(data), children, stop)

    def greet(self, options: dict) -> None:
        """Tell where the console is, and how its first administrator gets in."""
        self.stdout.write(f"console: {settings.KUBESPAN_URL}  (data in {settings.KUBESPAN_DATA}; Ctrl-C ends it)")
        call_command("first_code", stdout=self.stdout)
        self.stdout.flush()


def prepare_rows() -> None:
    """Bring the database and the static files up to date."""
    call_command("migrate", interactive=False, verbosity=0)
    if not settings.DEBUG:
        call_command("collectstatic", interactive=False, verbosity=0)


def read_boot_id() -> str:
    """What this machine's kernel calls its present run."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def note_boot(data: Path, boot: str) -> None:
    """Begin a new epoch where this machine was started anew since the last time.

    SQLite loses its last commits when the power goes (`synchronous=NORMAL`). Agents may hold their revisions, whose
    numbers would be given again.
    """
    from nodes.services import revisions  # noqa: PLC0415 - benchmarks read this file before there are models

    kept = data / "boot-id"
    if kept.exists() and kept.read_text() != boot:
        revisions.start_epoch_after_boot(None, timezone.now())
    kept.write_text(boot)


def listeners(data: Path, options: dict) -> list[Child]:
    """The web processes: plain HTTP on loopback and, if asked for, HTTPS by a certificate of the console's own."""
    host, port = embedded.split_address(options["listen"])
    if not is_loopback(host):
        raise embedded.NotPossible(f"--listen {options['listen']}: plain HTTP is for loopback only; use --tls-listen")
    check_free("--listen", host, port)
    found = [web("web", host, port)]
    own = None
    if options["tls_listen"]:
        host, port = embedded.split_address(options["tls_listen"])
        check_free("--tls-listen", host, port)
        own = certificates.ensure(data, [host, *options["tls_name"]], timezone.now())
        files = ["--ssl-certfile", str(own.certificate), "--ssl-keyfile", str(own.key)]
        found.append(web("web over TLS", host, port, *files))
    offered, plain = options.get("discovery_listen"), options.get("discovery_plain_listen")
    if offered or plain:
        plainly = {"--discovery-plain-listen": plain} | ({} if own else {"--discovery-listen": offered})
        found.append(discovery(offered if own else None, plainly, own))
    return found


def discovery(secure: str | None, plain: Mapping[str, str | None], own: certificates.Certificate | None) -> Child:
    """The discovery service, by TLS and without; the latter only where nobody else can listen in, as with web pages.

    `plain` has places by the options that named them.
    """
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "discovery", "--metrics", ""]
    if secure and own:
        check_free("--discovery-listen", *embedded.split_address(secure))
        command += ["--listen", secure, "--certificate", str(own.certificate), "--key", str(own.key)]
    for option, place in plain.items():
        if not place:
            continue
        host, port = embedded.split_address(place)
        if not is_loopback(host):
            raise embedded.NotPossible(f"discovery on {place}: plain is for loopback only; use --tls-listen as well")
        check_free(option, host, port)
        command += ["--plain-listen", place]
    return Child("discovery", command)


def web(name: str, host: str, port: int, *more: str) -> Child:
    """A web process; forwarded headers are the application's business (TRUSTED_PROXIES), not the server's."""
    command = [sys.executable, "-m", "uvicorn", "kubespan_web.asgi:application", "--host", host, "--port", str(port)]
    command += ["--no-proxy-headers", "--no-server-header", "--no-access-log", "--timeout-graceful-shutdown", "5"]
    command += ["--ws", "websockets-sansio", "--ws-per-message-deflate", "false"]
    command += ["--ws-max-size", str(AGENT_MESSAGE_LIMIT), "--lifespan", "on", "--log-level", "warning"]
    return Child(name, [*command, *more], environ=MEMORY)


def check_free(option: str, host: str, port: int) -> None:
    """Raise NotPossible when an address cannot be listened on, before anything was started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"cannot listen on {host} port {port}: {error.strerror}"
            remedy = f"name another by {option}, with make as ARGS='{option} HOST:PORT'"
            raise embedded.NotPossible(f"{reason}; {remedy}") from None


def worker() -> Child:
    """Runs the tasks; alone on its machine it need not look for other workers."""
    return celery("worker", "--pool", "threads", "--without-mingle", "--without-gossip")


def beat() -> Child:
    """Keeps the timetable."""
    return celery("beat", "--pidfile=")


def celery(name: str, *options: str) -> Child:
    """A process of Celery's, without its banner."""
    return Child(name, [sys.executable, "-m", "celery", "--quiet", "-A", "kubespan_web", name, *options])


def valkey(data: Path) -> Child | None:
    """The private Redis, unless the environment named another."""
    if settings.REDIS_URL != f"unix://{embedded.socket_path(data)}":
        return None
    return Child(
        "valkey", embedded.valkey_command(data), ready=answers, environ={"LC_ALL": os.environ.get("LC_ALL", "C")}
    )


async def answers() -> bool:
    """Whether Redis answers."""
    async with redis.asyncio.Redis.from_url(settings.REDIS_URL) as client:
        try:
            return bool(await client.ping())  # type: ignore[misc]  # annotated for both kinds of client
        except redis.RedisError:
            return False
