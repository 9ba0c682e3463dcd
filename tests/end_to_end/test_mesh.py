"""The mesh as its machines live it: real console, real agents, real WireGuard, packets across."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubespan.core.peer_status import TICK
from nodes.lab import Machine, background
from nodes.playground import await_true
from tests.answers import await_answer
from tests.end_to_end.conftest import NAMES, SPARE, World
from tests.end_to_end.pinger import await_more, no_ping_lost

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("end_to_end"), pytest.mark.timeout(400)]

PAIRS = list(itertools.permutations(NAMES, 2))
SECONDS = 60.0


def ring(world: World) -> Iterator[tuple[Machine, str]]:
    """Who pings whom: the next one of the ring of machines, by KubeSpan and by node address."""
    for here, there in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True):
        for address in (world.agent(there).address(), str(world.site.addresses[there][0])):
            yield world.machine(here), address


@pytest.mark.parametrize(("here", "there"), PAIRS, ids=[f"{a} to {b}" for a, b in PAIRS])
def test_every_pair_pings_by_kubespan_address_and_by_node_address(world: World, here: str, there: str) -> None:
    for address in (world.agent(there).address(), *map(str, world.site.addresses[there])):
        await_answer(world.machine(here), address)


def test_the_underlay_carries_wireguard_only(world: World, tmp_path: Path) -> None:
    members = " or ".join(f"host {address}" for name in NAMES for address in world.site.addresses[name])
    discovery = "arp or (icmp6 and ip6[40] >= 133 and ip6[40] <= 136)"
    console = f"host {world.site.host}"
    expression = f"({members}) and not ({discovery}) and not ({console}) and not (igmp or ip6 multicast)"
    capture = tmp_path / "capture"
    # -U and -l: what was seen is in the file at once, so nothing is missed when tcpdump is ended.
    tcpdump = world.site.switch.inside("tcpdump", "-i", "br0", "-n", "-l", "-U", expression)
    with background(tcpdump, capture):
        await_true(lambda: "listening on" in capture.read_text(), SECONDS, "tcpdump does not listen")
        for here, there in PAIRS:
            for address in (world.agent(there).address(), *map(str, world.site.addresses[there])):
                await_answer(world.machine(here), address)
        await_true(lambda: len(packets(capture)) >= 2 * len(PAIRS), SECONDS, "tcpdump sees nothing")
    foreign = [line for line in packets(capture) if not re.search(r"[.:]51820: UDP|\.51820 > ", line)]
    assert foreign == []


def packets(capture: Path) -> list[str]:
    """The lines of tcpdump that are packets."""
    return [line for line in capture.read_text().splitlines() if re.match(r"\d\d:\d\d:\d\d", line)]


def test_a_killed_agent_returns_without_a_lost_ping(world: World, tmp_path: Path) -> None:
    agent = world.agent("alpha")
    with no_ping_lost(ring(world), tmp_path):
        agent.kill()
        published = agent.state / "resources.json"
        written = published.stat().st_mtime_ns
        agent.start()
        await_true(lambda: published.stat().st_mtime_ns > written, SECONDS, "no pass after the start")
        world.await_up("alpha", "bravo")


def test_a_politely_stopped_agent_leaves_the_mesh(world: World, tmp_path: Path) -> None:
    agent = world.agent("bravo")
    with no_ping_lost(ring(world), tmp_path) as pingers:
        agent.stop()
        await_more(pingers, 20, "no answers")
        agent.start()
        world.await_up("alpha", "bravo")


def test_a_killed_console_returns_without_a_lost_ping(world: World, tmp_path: Path) -> None:
    with no_ping_lost(ring(world), tmp_path):
        world.console.kill()
        world.console.start()
        await_true(lambda: world.connected() >= set(NAMES), SECONDS, "the agents are not back")


def test_a_killed_redis_returns_without_a_lost_ping(world: World, tmp_path: Path) -> None:
    with no_ping_lost(ring(world), tmp_path):
        world.console.kill_redis()
        await_true(world.console.ready, SECONDS, "the console is not ready again")
        await_true(lambda: world.connected() >= set(NAMES), SECONDS, "the agents are not back")


def test_a_removed_node_is_cut_off(world: World, tmp_path: Path) -> None:
    token = world.console.call("create_token", "office")["token"]
    spare = world.agent(SPARE)
    began = time.monotonic()
    spare.enrol(world.console.tls_url, world.pin, token)
    spare.start()
    await_true(lambda: spare.links().keys() >= set(NAMES), SECONDS, "it knows nobody")
    started = time.monotonic() - began
    world.await_up(*NAMES, SPARE)
    address, key = spare.address(), world.machine(SPARE).run("wg", "show", "kubespan", "public-key").strip()
    assert [name for name in NAMES if key in peers(world, name)] == NAMES
    with no_ping_lost(ring(world), tmp_path):
        began = time.monotonic()
        world.console.call("remove_node", "office", SPARE)
        await_true(lambda: not any(key in peers(world, name) for name in NAMES), SECONDS, "not cut off")
        gone = time.monotonic() - began
    # By a word to each of them, and not at the look that each takes every half a minute anyway. What serves as the
    # measure waits for no such look either, and takes the longer, the busier this host is; which may also pause.
    assert gone < max(2 * started, TICK / 2)
    assert world.machine("alpha").execute("ping", "-n", "-c", "1", "-W", "2", address).returncode != 0
    assert spare.process is not None
    assert spare.process.wait(SECONDS) != 0
    assert world.machine(SPARE).execute("ip", "link", "show", "kubespan").returncode != 0


def peers(world: World, name: str) -> list[str]:
    """The public keys that a machine's WireGuard has."""
    return world.machine(name).run("wg", "show", "kubespan", "peers").split()
