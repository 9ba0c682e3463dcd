"""The programs that others configure networks with: installed for the test alone, over this machine's own files.

Needs a Debian whose archive can be reached; else all of it is skipped, aloud.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.agent.test_preflight_machine import FOUR, SIX, examine, mend, mesh, mesh_of, one, pings, until
from tests.namespaces import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

PACKAGES = ("ufw", "firewalld", "network-manager", "iptables")
LAYERS = """
set -e
for folder in usr etc var; do
  mkdir -p {layers}/$folder/upper {layers}/$folder/work
  mount -t overlay overlay -o lowerdir=/$folder,upperdir={layers}/$folder/upper,workdir={layers}/$folder/work /$folder
done
"""
PRIVATE = """
set -e
for folder in lock dbus NetworkManager firewalld systemd; do
  mkdir -p /run/$folder
  mount -t tmpfs tmpfs /run/$folder
done
mount --bind /sys /sys && mount -o remount,bind,ro /sys
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two machines on a wire; over the first one's files lies a layer in which the programs are installed."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get: these are tried with Debian's packages")
    layers = tmp_path_factory.mktemp("layers")
    with Lab() as lab:
        here, there = lab.machine("here"), lab.machine("there")
        lab.join(here, there, names=("eth0", "eth0"), addresses=tuple(f"{address}/24" for address in FOUR))
        for machine, address in zip((here, there), SIX, strict=True):
            machine.ip(f"address add {address}/64 dev eth0 nodad")
        here.run("sh", "-c", f"mount -t tmpfs tmpfs {layers}\n{LAYERS.format(layers=layers)}\n{PRIVATE}")
        install(here, f"apt-get install -y --no-install-recommends {' '.join(PACKAGES)}")
        yield here, there


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def install(machine, command):
    """Run a command that installs into the machine's layer; only its mounts are entered: the archive is out there."""
    done = subprocess.run(
        ["nsenter", f"--mount={machine.mounts}", "--", "sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        pytest.skip(f"Debian's packages cannot be had: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def machine(machines):
    return machines[0]


@contextmanager
def running(machine, *command):
    """Run a daemon of the machine in the foreground during the block."""
    process = machine.start(*command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def bus(machine):
    """The machine's own system bus."""
    with running(machine, "dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog"):
        until(lambda: machine.execute("test", "-S", "/run/dbus/system_bus_socket").returncode == 0)
        yield


def silent_peer():
    """The other one as it is known to a machine that never calls it first."""
    (peer,) = mesh_of(0).peers.values()
    return {peer.public_key: replace(peer, endpoint=None, keepalive=0)}


def handshakes_with(machine):
    return machine.run("wg", "show", "kubespan", "latest-handshakes").split()[1] != "0"


def take_down(machines):
    for machine in machines:
        machine.execute("ip", "link", "del", "kubespan")
        machine.execute("nft", "delete", "table", "inet", "kubespan")


def test_ufw(machines):
    here, there = machines
    here.run("ufw", "--force", "enable")
    try:
        mesh(here, 0, peers=silent_peer())
        mesh(there, 1)
        found = one(examine(here), "firewall")
        assert (found.text.startswith("The firewall ufw"), found.remedy) == (True, "ufw allow 51820/udp")
        assert not handshakes_with(here)
        mend(here, found)
        assert examine(here) == ()
        until(lambda: handshakes_with(here))
    finally:
        here.run("ufw", "--force", "disable")
        here.run("nft", "flush", "ruleset")
        take_down(machines)


def test_iptables(machines):
    here, there = machines
    here.run("sh", "-c", "iptables -P INPUT DROP; iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
    try:
        mesh(here, 0, peers=silent_peer())
        mesh(there, 1)
        found = one(examine(here), "firewall")
        assert found.remedy.startswith("iptables -I INPUT -p udp --dport 51820 -j ACCEPT  #")
        mend(here, found)
        assert examine(here) == ()
        until(lambda: handshakes_with(here))
    finally:
        here.run("nft", "flush", "ruleset")
        take_down(machines)


def test_firewalld(machines, bus):
    """Its ports, and its reverse path filter, which drops the IPv6 addresses of peers."""
    here, there = machines
    with running(here, "firewalld", "--nofork", "--nopid"):
        until(lambda: here.execute("firewall-cmd", "--state").returncode == 0)
        try:
            mesh(here, 0, peers=silent_peer())
            mesh(there, 1)
            found = examine(here)
            assert sorted(finding.code for finding in found) == ["firewall", "rp-filter-rule"]
            mend(here, one(found, "firewall"))
            until(lambda: handshakes_with(here))
            until(lambda: pings(there, FOUR[0]))
            assert not pings(there, SIX[0])
            mend(here, one(examine(here), "rp-filter-rule"))
            assert examine(here) == ()
            until(lambda: pings(there, SIX[0]))
        finally:
            take_down(machines)


def test_network_manager(machine, bus):
    with running(machine, "NetworkManager", "--no-daemon"):
        until(lambda: machine.execute("nmcli", "general", "status").returncode == 0)
        mesh(machine, 0)
        try:
            found = one(examine(machine), "network-manager")
            mend(machine, found)
            assert examine(machine) == ()
            state = ("nmcli", "-g", "GENERAL.STATE", "device", "show", "kubespan")
            until(lambda: "unmanaged" in machine.run(*state))
            assert "kubespan" in machine.run("NetworkManager", "--print-config")
        finally:
            take_down([machine])


NETWORKD = "/lib/systemd/systemd-networkd"


def test_systemd_networkd(machine, bus, tmp_path):
    """The real one, without systemd: what restarts it is a script of the test's."""
    if machine.execute("test", "-x", NETWORKD).returncode:
        pytest.skip("no systemd-networkd on this machine")
    machine.run("sh", "-c", "mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /etc/systemd/network")
    machine.run("chown", "-R", "systemd-network:systemd-network", "/run/systemd/netif")
    machine.run("sh", "-c", "printf '[Match]\\nName=*\\n' > /etc/systemd/network/10-all.network")
    machine.run("sh", "-c", "printf '#!/bin/sh\\necho \"$@\" >> /run/systemd/asked\\n' > /usr/bin/systemctl")
    log = tmp_path / "networkd.log"
    with log.open("wb") as output:
        networkd = machine.start(
            NETWORKD, stdout=output, stderr=output, env={"SYSTEMD_LOG_LEVEL": "debug", "PATH": PATH}
        )
    try:
        mesh(machine, 0)
        until(lambda: "kubespan: Configuring with /etc/systemd/network/10-all.network" in log.read_text())
        found = examine(machine)
        assert [finding.code for finding in found] == ["networkd-link", "networkd"]
        for finding in found:
            mend(machine, finding)
        assert examine(machine) == ()
        assert machine.run("cat", "/run/systemd/asked") == "try-restart systemd-networkd\n"
        until(lambda: "unmanaged" in machine.run("networkctl", "--no-pager", "list", "kubespan"))
    finally:
        networkd.terminate()
        networkd.wait()
        take_down([machine])


def test_a_machine_without_nft(machine):
    """Last, for it takes a program away that the others need; the remedy brings it back."""
    machine.run("dpkg", "--purge", "--force-depends", "nftables")
    found = one(examine(machine), "nft-missing")
    assert found.remedy == "apt-get install -y nftables"
    install(machine, found.remedy)
    assert examine(machine) == ()


def test_a_machine_without_wireguard(machine):
    machine.run("dpkg", "--purge", "--force-depends", "wireguard-go")
    found = one(examine(machine, data_plane="userspace"), "wireguard-missing")
    assert found.remedy == "apt-get install -y wireguard-go"
    install(machine, found.remedy)
    assert examine(machine, data_plane="userspace") == ()
