"""A rotation of the cluster secret as machines live it: no packet is lost, and who misses the switch is out of it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nodes.playground import await_true
from tests.end_to_end.conftest import NAMES, SPARE, World
from tests.end_to_end.pinger import no_ping_lost
from tests.end_to_end.test_mesh import ring

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("end_to_end"), pytest.mark.timeout(500)]

SECONDS = 60.0
REKEY_SECONDS = 240.0
"""WireGuard renews a session that passes traffic 120 s after its handshake (and 180 s after it, it is over); an agent
looks at it every 30 s."""
INITIATION = 148
"""Bytes of the first message of a handshake."""

CUT_CONSOLE = """
table ip console {{
  chain leaving {{ type filter hook output priority -10; ip daddr {host} drop; }}
  chain arriving {{ type filter hook input priority -10; ip saddr {host} drop; }}
}}
"""


def rotate(world: World, *arguments: str) -> dict[str, Any]:
    """Run the command."""
    return world.console.call("rotate_secret", "office", *arguments)


def start(world: World) -> int:
    """Hand out a new secret; its generation."""
    return int(rotate(world, "start")["rotation"]["generation"])


def unready(world: World) -> list[tuple[str, str]]:
    """Who is not ready, and why."""
    return [(node["name"], node["standing"]) for node in rotate(world)["nodes"] if node["standing"] != "ready"]


def statuses(world: World, name: str) -> dict[str, dict[str, Any]]:
    """What a machine last published of its peers, by their names."""
    return {str(one.spec["label"]): dict(one.spec) for one in world.agent(name).resources("kubespanpeerstatuses")}


def handshake(status: dict[str, Any]) -> float:
    """When the last handshake was, in Unix time; 0 for never."""
    text = status.get("lastHandshakeTime") or ""
    return datetime.fromisoformat(text).timestamp() if text and not text.startswith("0001") else 0.0


def secret_file(world: World, name: str) -> dict[str, Any]:
    """What a machine keeps."""
    return dict(json.loads((world.agent(name).state / "settings.json").read_bytes()))


def test_the_secret_is_rotated_without_a_lost_ping(world: World, tmp_path: Path) -> None:
    """From the hand-out until every session has been renewed with the new secret, on every link."""
    before = {name: secret_file(world, name)["secret"] for name in NAMES}
    endpoints = {name: {peer: one["endpoint"] for peer, one in statuses(world, name).items()} for name in NAMES}
    with no_ping_lost(ring(world), tmp_path):
        generation = start(world)
        await_true(lambda: not unready(world), SECONDS, "not everybody has it")
        assert {name: secret_file(world, name)["secret"] for name in NAMES} == before
        switched = time.time()
        rotate(world, "switch", "--generation", str(generation))
        await_true(lambda: not rotate(world)["not_yet_switched"], SECONDS, "not everybody has switched")
        took = time.time() - switched
        down: set[tuple[str, str, str]] = set()

        def renewed() -> bool:
            seen = {name: statuses(world, name) for name in NAMES}
            links = [(here, there, seen[here][there]) for here, there in itertools.permutations(NAMES, 2)]
            down.update((here, there, one["state"]) for here, there, one in links if one["state"] != "up")
            return all(handshake(one) > switched for _, _, one in links)

        await_true(renewed, REKEY_SECONDS, "not every session was renewed")
    print(f"switched within {took:.1f} s, every session renewed within {time.time() - switched:.0f} s")
    assert down == set()
    assert {name: {p: one["endpoint"] for p, one in statuses(world, name).items()} for name in NAMES} == endpoints
    after = [secret_file(world, name) for name in NAMES]
    assert {kept["secretGeneration"] for kept in after} == {generation}
    assert not {kept["secret"] for kept in after} & set(before.values())
    assert all("others" not in kept for kept in after)


def program(pid: int) -> str:
    """A process' name; empty where it has just ended, as what an agent runs for a moment does."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def end_wireguard(world: World, name: str) -> float:
    """Kill a machine's wireguard-go: its sessions are gone, and its agent begins anew; when that was, in Unix time."""
    machine = world.machine(name)
    found = [pid for pid in machine.processes() if program(pid) == "wireguard-go"]
    ended = time.time()
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    assert found
    return ended


def test_who_misses_the_switch_is_out_until_it_returns_and_then_at_once_in(world: World) -> None:
    """It knows the old secret alone, and everybody still has it as a peer: no handshake, neither way.

    As a removed machine would be, to a member that has switched and not heard of the removal.
    """
    spare = world.agent(SPARE)
    shutil.rmtree(spare.state, ignore_errors=True)  # a machine that was removed would wait for an operator
    spare.enrol(world.console.tls_url, world.pin, world.console.call("create_token", "office")["token"])
    spare.start()
    world.await_up(*NAMES, SPARE)
    spare.kill()
    machine = world.machine(SPARE)
    machine.run("nft", "-f", "-", stdin=CUT_CONSOLE.format(host=world.site.host))
    spare.start()

    def meets_anew(since: float) -> bool:
        return all(handshake(statuses(world, SPARE).get(name, {})) > since for name in NAMES)

    ended = end_wireguard(world, SPARE)
    await_true(lambda: meets_anew(ended), SECONDS * 2, "without a console, and with the same secret, it does not mesh")

    generation = start(world)
    await_true(lambda: unready(world) == [(SPARE, "away")], SECONDS, "the others have not got it")
    assert rotate(world)["nodes"][0]["name"] == SPARE
    rotate(world, "switch", "--generation", str(generation))
    await_true(lambda: rotate(world)["not_yet_switched"] == [SPARE], SECONDS, "the others have not switched")

    ended = end_wireguard(world, SPARE)

    def has_tried() -> bool:
        peers = [statuses(world, SPARE).get(name, {}) for name in NAMES]
        begun_anew = all(not 0 < handshake(peer) < ended for peer in peers)  # else this was published before
        return begun_anew and all(int(peer.get("transmitBytes", 0)) >= 2 * INITIATION for peer in peers)

    await_true(has_tried, SECONDS, "it does not even try")
    for name in NAMES:
        assert handshake(statuses(world, SPARE)[name]) == 0.0
        assert handshake(statuses(world, name)[SPARE]) < ended
        assert SPARE in statuses(world, name)
    ping = machine.execute("ping", "-n", "-c", "3", "-W", "2", world.agent("alpha").address())
    assert ping.returncode != 0, ping.stdout

    machine.run("nft", "delete", "table", "ip", "console")
    returned = time.time()
    await_true(lambda: meets_anew(returned), SECONDS * 2, "it does not mesh again")
    print(f"meshing again {time.time() - returned:.1f} s after the console could be reached")
    assert secret_file(world, SPARE)["secretGeneration"] == generation
    world.console.call("remove_node", "office", SPARE)
    assert spare.process is not None
    assert spare.process.wait(SECONDS) != 0
