"""A console's own machine: what its port answers stays outside a tunnel that does not work."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import pytest

from kubespan.core.plan import Firewall
from tests.agent.test_preflight_machine import FOUR, mesh, mesh_of, pair, until  # noqa: F401 - pair is a fixture

pytestmark = pytest.mark.root

PORT = 8443
PATIENCE = "30"
SHORT = "2"
"""Seconds for what is not to answer."""
ECHO = f"""
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", {PORT}), Echo).serve_forever()
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])) as line:
    for question in sys.stdin:
        line.sendall(question.encode())
        print(line.recv(100).decode().strip(), flush=True)
"""


@contextmanager
def served(machine, *inside):
    """A console, as far as this is about it: it answers on its port."""
    server = machine.start(*inside, sys.executable, "-c", ECHO)
    try:
        until(lambda: str(PORT) in machine.run(*inside, "ss", "-tln"))
        yield
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def console(pair):  # noqa: F811
    with served(pair[0]):
        yield


class Visitor:
    """A connection to the console from another machine: an agent's, or a browser's."""

    def __init__(self, machine, address, port=PORT):
        command = (sys.executable, "-c", ASK, address, str(port), PATIENCE)
        self._process = machine.start(*command, stdin=-1, stdout=-1, stderr=-1)

    def ask(self, text):
        self._process.stdin.write(f"{text}\n".encode())
        self._process.stdin.flush()

    def hears(self):
        return self._process.stdout.readline().decode().strip()

    def end(self):
        self._process.kill()
        self._process.communicate()


def visit(machine, address, port=PORT, seconds=PATIENCE):
    return machine.execute(sys.executable, "-c", ASK, address, str(port), seconds, stdin="hello\n").stdout.strip()


def force(machine, *exempt):
    """Force all for the other machine into a tunnel whose other end is not there."""
    mesh(machine, 0, firewall=Firewall(1420, mesh_of(0).firewall.routed, frozenset(exempt)))


def test_a_console_stays_in_reach_only_where_its_port_is_exempt(pair, console):  # noqa: F811
    here, there = pair
    assert visit(there, FOUR[0]) == "hello"
    visitor = Visitor(there, FOUR[0])
    try:
        visitor.ask("before")
        assert visitor.hears() == "before"
        force(here, PORT)
        visitor.ask("meanwhile")
        assert visitor.hears() == "meanwhile"
    finally:
        visitor.end()
    assert visit(there, FOUR[0]) == "hello"
    force(here)
    assert visit(there, FOUR[0], seconds=SHORT) == ""


def test_other_ports_are_forced_all_the_same(pair, console):  # noqa: F811
    here, there = pair
    force(here, 443)
    assert visit(there, FOUR[0], seconds=SHORT) == ""


def test_so_does_one_in_a_container_whose_port_is_published(pair):  # noqa: F811
    """The container is another namespace behind the machine, its port published as container runtimes do it."""
    here, there = pair
    # The same laboratory ends them all: the wire is laid by hand, as the fixture has only two machines.
    here.run("ip", "netns", "add", f"{here.name}-box")
    try:
        box = f"{here.name}-box"
        here.ip(f"link add br-box type veth peer name eth0 netns {box}")
        here.ip("address add 172.30.0.1/24 dev br-box")
        here.ip("link set br-box up")
        for words in ("address add 172.30.0.2/24 dev eth0", "link set eth0 up", "link set lo up"):
            here.ip(f"-n {box} {words}")
        here.ip(f"-n {box} route add default via 172.30.0.1")
        here.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        publish = "type nat hook prerouting priority dstnat; policy accept;"
        rule = f"iifname eth0 tcp dport 443 dnat ip to 172.30.0.2:{PORT}"
        here.run("nft", "-f", "-", stdin=f"table inet publish {{ chain in {{ {publish} {rule}; }}; }}\n")
        with served(here, "ip", "netns", "exec", box):
            assert visit(there, FOUR[0], 443) == "hello"
            force(here)
            assert visit(there, FOUR[0], 443, SHORT) == ""
            force(here, 443)
            assert visit(there, FOUR[0], 443) == "hello"
    finally:
        here.run("ip", "netns", "del", f"{here.name}-box")
