"""The real process on a machine of its own: what a service manager, a kill and an operator do to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from kubespan.agent.store import RESOURCES, Settings
from kubespan.core.options import Options
from kubespan.core.resources import CONFIGS, parse
from tests.agent.console_double import ALPHA, BRAVO, CHARLIE, CLUSTER, SECRET, Bench, snapshot
from tests.namespaces import Lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.xdist_group("namespaces"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
    pytest.mark.skipif(shutil.which("wireguard-go") is None, reason="needs wireguard-go"),
]

AGENT = str(Path(sys.executable).with_name("kubespan-agent"))
PATIENCE = 60.0


def until(condition):
    """Wait for something in another process, which nothing announces."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


class Node:
    """A machine with an enrolled agent, settings in its store, and no console to be had."""

    def __init__(self, lab, directory):
        self.machine = lab.machine("alpha")
        self.bench = Bench(directory / "state")
        self.bench.store.save_settings(
            Settings(cluster=CLUSTER, secret=SECRET, secret_generation=1, snapshot=snapshot())
        )
        self.options = ("--state-dir", str(directory / "state"))
        self.process = None

    def start(self):
        published = self.bench.store.path("resources.json")
        before = published.stat().st_mtime_ns if published.exists() else 0
        self.process = self.machine.start(AGENT, "run", "--data-plane", "userspace", *self.options)
        until(lambda: self.process.poll() is None and published.exists() and published.stat().st_mtime_ns > before)

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def link(self):
        return self.machine.run("ip", "-j", "link", "show", "kubespan", check=False).strip()

    def peers(self):
        # A server that has only just started does not answer yet.
        return set(self.machine.run("wg", "show", "kubespan", "peers", check=False).split())

    def servers(self):
        return {pid for pid in self.machine.processes() if _name(pid).startswith("wireguard-go")}

    def everything(self):
        """All that the agent looks after, with the handles that tell a rule from one made anew."""
        looks = (
            "wg show kubespan dump", "ip -d addr show kubespan", "ip route show table all",
            "ip -6 route show table 180", "ip rule", "ip -6 rule", "nft -a list ruleset",
        )  # fmt: skip
        return [self.servers(), *(_steady(self.machine.run(*look.split())) for look in looks)]

    def call(self, *words, check=True):
        return self.machine.run(AGENT, *words, *self.options, check=check)


@pytest.fixture
def node(tmp_path):
    with Lab() as lab:
        node = Node(lab, tmp_path)
        yield node
        if node.process is not None:
            node.end(signal.SIGKILL)


def test_a_machine_meshes_from_its_store_and_keeps_the_mesh_over_stop_kill_and_start(node):
    node.start()
    before = node.everything()
    assert len(node.servers()) == 1
    assert node.peers() == {BRAVO.keys.public_key, CHARLIE.keys.public_key}
    assert node.end(signal.SIGTERM) == 0
    assert node.everything() == before
    node.start()
    assert node.everything() == before
    assert node.end(signal.SIGKILL) == -signal.SIGKILL
    assert node.everything() == before
    node.start()
    assert node.everything() == before
    assert node.end(signal.SIGTERM) == 0


def test_down_needs_no_wireguard_to_take_away_what_is_left(node):
    node.start()
    node.end(signal.SIGTERM)
    (server,) = node.servers()
    os.kill(server, signal.SIGKILL)
    until(lambda: not node.servers())
    result = node.machine.execute("/usr/bin/env", "PATH=/nowhere", AGENT, "down", *node.options)
    assert (result.returncode, result.stderr) == (0, "")
    assert "32500" not in node.machine.run("ip", "rule")
    assert "kubespan" not in node.machine.run("nft", "list", "tables")


def test_down_takes_everything_away_and_run_brings_it_back(node):
    node.start()
    assert "stop it first" in _output(node, "down")
    node.end(signal.SIGTERM)
    assert "out of the mesh" in node.call("down")
    assert (node.link(), node.servers()) == ("", set())
    assert "32500" not in node.machine.run("ip", "rule")
    assert "kubespan" not in node.machine.run("nft", "list", "tables")
    assert node.bench.store.keys() == ALPHA.keys
    node.start()
    assert node.link() != ""
    node.end(signal.SIGTERM)


def test_what_somebody_else_removes_is_back_at_once(node):
    node.start()
    node.machine.ip("rule del priority 32500")
    until(lambda: "32500" in node.machine.run("ip", "rule"))
    node.machine.ip("link del kubespan")
    until(lambda: node.link() != "" and len(node.peers()) == 2)
    node.end(signal.SIGTERM)


def test_a_server_that_dies_is_started_again(node):
    node.start()
    (server,) = node.servers()
    os.kill(server, signal.SIGKILL)
    until(lambda: node.servers() not in (set(), {server}) and len(node.peers()) == 2)
    node.end(signal.SIGTERM)


def test_get_and_status_answer_beside_the_running_agent(node):
    node.start()
    status = _output(node, "status")
    assert "running" in status
    assert "not connected" in status
    identity = json.loads(node.call("get", "kubespanidentities", "-o", "json"))
    assert identity["spec"]["address"] == f"{ALPHA.address}/128"
    node.end(signal.SIGTERM)


def test_get_says_what_is_no_longer_so_and_versions_go_on_afterwards(node):
    node.start()
    node.end(signal.SIGKILL)
    published = node.bench.store.read_published(RESOURCES)
    killed = node.machine.execute(AGENT, "get", "kubespanpeerspecs", *node.options)
    assert (killed.returncode, killed.stderr.startswith("the agent does not run; as of 20")) == (0, True)
    assert "bravo" in killed.stdout

    # Another option, and the record of it counts on, also over the time in which there was no mesh.
    before = {one.metadata.type: one.metadata for one in parse(published)}[CONFIGS.type]
    store = node.bench.store
    store.save_settings(replace(store.settings(CLUSTER), snapshot=snapshot(2, options=Options(mtu=1300))))
    node.call("down")
    down = node.machine.execute(AGENT, "get", "kubespanpeerspecs", *node.options)
    assert (down.returncode, down.stdout) == (1, "")
    assert "is kubespan-agent running here" in down.stderr
    node.start()
    after = json.loads(node.call("get", "kubespanconfigs", "-o", "json"))["metadata"]
    assert (after["version"], after["created"]) == (before.version + 1, before.created)
    node.end(signal.SIGTERM)


def _steady(text):
    """Without the last columns of a dump of WireGuard: handshake, counters and keepalive of a peer."""
    return sorted(line.split("\t")[:4] for line in text.splitlines())


def _name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it ended meanwhile


def _output(node, *words):
    command = " ".join([AGENT, *words, *node.options])
    return node.machine.run("sh", "-c", f"{command} 2>&1", check=False)
