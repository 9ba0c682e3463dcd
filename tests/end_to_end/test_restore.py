"""A console's machine is lost; its backup becomes a console elsewhere, and the mesh has not noticed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from nodes.certificates import fingerprint
from nodes.playground import TLS_PORT, Mesh, await_true, open_site
from tests.consoles import PreparedConsole
from tests.end_to_end.conftest import World
from tests.end_to_end.pinger import no_ping_lost
from tests.ports import free_port
from tests.postgresql import PostgreSQL, find_programs

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("end_to_end"), pytest.mark.timeout(900)]

MEMBERS = ("alpha", "bravo")
LATE, GONE = "charlie", "delta"
"""One that enrols after the backup, and one that is removed after it."""
PASSPHRASE = {"KUBESPAN_BACKUP_PASSPHRASE": "a passphrase of tests"}
SECONDS = 90.0


@contextmanager
def small_world(directory: Path) -> Iterator[World]:
    """A console and machines of its own: it will be destroyed."""
    with open_site([*MEMBERS, LATE, GONE]) as site, Mesh(site, directory) as mesh:
        (directory / "console").mkdir()
        console = PreparedConsole(
            directory / "console", listen=f"127.0.0.1:{free_port()}", tls_listen=f"{site.host}:{TLS_PORT}"
        )
        try:
            console.start()
            pin = fingerprint((console.directory / "tls" / "certificate.pem").read_bytes())
            console.call("create_cluster", "office")
            yield World(site, mesh, console, pin)
        finally:
            console.stop()


@contextmanager
def empty_database(kind: str) -> Iterator[dict[str, str]]:
    """Where the restored console keeps its rows, as its environment says it."""
    programs = find_programs()
    if kind == "SQLite" or programs is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="kubespan-postgresql-") as directory:
        server = PostgreSQL(programs, Path(directory))
        server.make()
        server.start()
        yield {"DATABASE_URL": server.url}
        server.stop()


def join(world: World, *names: str) -> None:
    token = world.console.call("create_token", "office", "--uses", str(len(names)))["token"]
    for name in names:
        world.agent(name).enrol(world.console.tls_url, world.pin, token)
        world.agent(name).start()


def nodes(world: World) -> dict[str, dict]:
    return {node["name"]: node for node in world.console.call("list_nodes", "office")["nodes"]}


def back(world: World, *names: str) -> bool:
    """Whether these are connected, and have applied all that there is."""
    found = nodes(world)
    return all(found[name]["reporting"] and found[name]["behind"] == 0 for name in names)


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_agents_return_to_a_restored_console_and_nobody_enrols_again(tmp_path: Path, kind: str) -> None:
    if kind == "PostgreSQL" and find_programs() is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install -y --no-install-recommends postgresql")
    with small_world(tmp_path) as world, ExitStack() as stack:
        console, file = world.console, str(tmp_path / "backup")
        join(world, *MEMBERS, GONE)
        world.await_up(*MEMBERS, GONE)
        stack.enter_context(no_ping_lost([(world.machine("alpha"), world.agent("bravo").address())], tmp_path))
        enrolled = {name: (world.agent(name).state / "agent.yaml").read_bytes() for name in MEMBERS}

        console.call("backup", file, env=PASSPHRASE)  # while it runs
        before = console.call("list_nodes", "office")["revision"]
        join(world, LATE)
        world.await_up(*MEMBERS, LATE)
        console.call("remove_node", "office", GONE)
        removed = world.agent(GONE).process
        assert removed is not None
        removed.wait(SECONDS)

        console.kill()
        shutil.rmtree(console.directory)
        console.env |= stack.enter_context(empty_database(kind))
        console.call("restore", file, env=PASSPHRASE)
        console.start()
        await_true(lambda: back(world, *MEMBERS), SECONDS, "the agents are not back")
        assert fingerprint((console.directory / "tls" / "certificate.pem").read_bytes()) == world.pin
        after = console.call("list_nodes", "office")["revision"]
        assert int(after.partition(".")[0]) > int(before.partition(".")[0])
        assert {name: (world.agent(name).state / "agent.yaml").read_bytes() for name in MEMBERS} == enrolled
        world.await_up(*MEMBERS)

        # Who enrolled since is told so, and how to come back.
        assert LATE not in nodes(world)
        sentence = "This console knows no such node in such a cluster; enrol it."
        await_true(lambda: sentence in world.agent(LATE).call("status").stdout, SECONDS, "the sentence is not there")
        world.agent(LATE).stop()
        join(world, LATE)
        world.await_up(*MEMBERS, LATE)
        # Who was removed since is a member again, until it is removed once more; its agent forgot all that it knew.
        assert nodes(world)[GONE]["status"] == "approved"
        console.call("remove_node", "office", GONE)
        assert GONE not in nodes(world)
