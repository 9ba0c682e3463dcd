"""Enrolment says what it reroutes, and whose open connections that moves, before any of it happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import IPv6Network
from pathlib import Path

import pytest

from nodes.playground import AGENT, await_true
from tests.agent.test_preflight_machine import second_wireguard
from tests.end_to_end.conftest import SPARE, World

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("end_to_end"), pytest.mark.timeout(400)]

SECONDS = 30.0
SHELL = """
import socket, sys
server = socket.create_server(("0.0.0.0", 22))
line, _ = server.accept()
line.sendall(b"welcome")
sys.stdin.read()
"""
GUEST = """
import socket, sys
line = socket.create_connection((sys.argv[1], 22))
print(line.recv(10).decode(), flush=True)
sys.stdin.read()
"""


def test_enrolment_says_what_it_reroutes(world: World, tmp_path: Path) -> None:
    """A member is in a shell on the machine that joins; nothing of the machine's network is changed by enrolling."""
    spare, alpha = world.machine(SPARE), world.machine("alpha")
    own, theirs = str(world.site.addresses[SPARE][0]), str(world.site.addresses["alpha"][0])
    environment = {"PATH": os.environ["PATH"], "KUBESPAN_STATE_DIR": str(tmp_path / "state")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = spare.start(sys.executable, "-c", SHELL, **pipes)
    await_true(lambda: ":22" in spare.run("ss", "-tln"), SECONDS, "nobody listens")
    guest = alpha.start(sys.executable, "-c", GUEST, own, **pipes)
    try:
        assert guest.stdout.readline() == b"welcome\n"
        before = spare.run("ip", "rule") + spare.run("nft", "list", "ruleset")
        token = world.console.call("create_token", "office")["token"]
        words = ("enrol", world.console.tls_url, "--pin", world.pin, "--name", "foxtrot")
        joined = spare.execute(AGENT, *words, stdin=token, env=environment)
        assert joined.returncode == 0, joined.stderr
        assert "once the peer's first handshake is there" in joined.stdout
        assert f"  {theirs}/32 (alpha)" in joined.stdout
        (line,) = [line for line in joined.stdout.splitlines() if line.startswith("  SSH ")]
        assert line.startswith(f"  SSH {theirs}:")
        assert f"(alpha) ↔ {own}:22" in line
        assert spare.run("ip", "rule") + spare.run("nft", "list", "ruleset") == before
    finally:
        for process in (guest, server):
            process.kill()
            process.communicate()
        if "foxtrot" in {node["name"] for node in world.console.call("list_nodes", "office")["nodes"]}:
            world.console.call("remove_node", "office", "foxtrot")


def test_what_overlaps_with_the_members_is_said_before_what_is_next(world: World, tmp_path: Path) -> None:
    """Neither is known before the console names the cluster; the one that would stop the mesh ends it there."""
    spare = world.machine(SPARE)
    theirs = world.site.addresses["alpha"][0]
    address = world.console.call("list_nodes", "office")["nodes"][0]["address"]
    taken = IPv6Network((address, 64), strict=False)[9]
    environment = {"PATH": os.environ["PATH"], "KUBESPAN_STATE_DIR": str(tmp_path / "state")}
    token = world.console.call("create_token", "office")["token"]
    words = ("enrol", world.console.tls_url, "--pin", world.pin, "--name", "hotel")
    second_wireguard(spare, f"{theirs}/32", port=4000)
    spare.ip("link add dummy0 type bridge")
    spare.ip(f"address add {taken}/64 dev dummy0 nodad")
    try:
        stopped = spare.execute(AGENT, *words, stdin=token, env=environment)
        assert stopped.returncode == 1
        assert "enrolled, and nothing else was changed: what is marked ERROR above" in stopped.stderr
        assert f"ERROR    address-overlap: The interface dummy0 has {taken}" in stopped.stderr
        assert f"WARNING  wireguard-overlap: The WireGuard interface wg0 has ranges for {theirs}/32" in stopped.stderr
        assert "next: " not in stopped.stdout
        ignoring = spare.execute(AGENT, *words, "--ignore", "address-overlap", stdin=token, env=environment)
        assert (ignoring.returncode, "next: " in ignoring.stdout) == (0, True)
        spare.ip("link delete dummy0")
        joined = spare.execute(AGENT, *words, stdin=token, env=environment)
        assert (joined.returncode, "next: " in joined.stdout) == (0, True)
        assert "WARNING  wireguard-overlap" in joined.stderr
    finally:
        spare.ip("link delete wg0")
        spare.execute("ip", "link", "delete", "dummy0")
        if "hotel" in {node["name"] for node in world.console.call("list_nodes", "office")["nodes"]}:
            world.console.call("remove_node", "office", "hotel")


def test_a_pending_machine_is_told_where_it_will_be_said(world: World, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "KUBESPAN_STATE_DIR": str(tmp_path / "state")}
    token = world.console.call("create_token", "office", "--approval-required")["token"]
    words = ("enrol", world.console.tls_url, "--pin", world.pin, "--name", "golf")
    joined = world.machine(SPARE).execute(AGENT, *words, stdin=token, env=environment)
    assert joined.returncode == 0, joined.stderr
    assert "kubespan-agent preflight from then on" in joined.stdout
    document = json.loads(world.machine(SPARE).execute(AGENT, "preflight", "-o", "json", env=environment).stdout)
    assert document == {"findings": [], "rerouted": [], "sessions": []}
    world.console.call("remove_node", "office", "golf")
