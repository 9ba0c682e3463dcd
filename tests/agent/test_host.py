"""What is read of a host, on a host made for it."""

from __future__ import annotations

import asyncio
import os
import signal
from ipaddress import ip_address
from pathlib import Path

import pytest

from kubespan.agent import host
from kubespan.agent.host import choose_data_plane, read_addresses, read_interfaces, watch
from kubespan.agent.kernel import KernelError
from kubespan.agent.netlink import create_link, delete_link
from kubespan.agent.userspace import UserspaceWireGuard
from kubespan.agent.wireguard import is_available
from kubespan.core.identity import pick_interface
from kubespan.core.messages import FRAME_BASE, MAX_TEXT, Claim, dump
from nodes.lab import LabError
from tests.namespaces import Lab

NEWS_SECONDS = 20
LEFTOVER = f"left{os.getpid()}"


@pytest.fixture
def machine():
    with Lab() as lab:
        machine = lab.machine("one")
        machine.ip("link add eth0 type veth peer name end0")
        machine.ip("link add br0 type bridge")
        for name in ("eth0", "end0"):
            machine.ip(f"link set {name} up")
        yield machine


@pytest.mark.root
def test_interfaces_have_their_kind(machine):
    machine.ip("link set eth0 address 02:42:ac:11:00:02")
    found = {interface.name: interface for interface in machine.call(read_interfaces)}
    assert found["lo"][1:] == ("loopback", "", bytes(6))
    assert found["eth0"][1:] == ("ether", "veth", bytes.fromhex("0242ac110002"))
    assert found["br0"][1:3] == ("ether", "bridge")
    assert pick_interface(found.values()) is None


ADDRESSES = {
    "192.0.2.10/24 dev eth0": True,
    "192.0.2.9/24 dev eth0": True,
    "2001:db8::1/64 dev eth0 nodad": True,
    "10.0.0.1/32 dev lo": True,
    "10.0.0.2/32 dev lo scope link": False,
    "10.0.0.3/32 dev lo scope host": False,
    "169.254.1.1/16 dev eth0": False,
    "fe80::1/64 dev eth0 nodad": False,
    "127.0.0.2/8 dev lo": False,
    "192.0.2.77/24 dev br0": False,
}
"""Whether others may reach the machine by it; br0 is down."""


@pytest.mark.root
def test_addresses_that_others_may_reach(machine):
    for words in ADDRESSES:
        machine.ip(f"address add {words}")
    found = [str(address) for address in machine.call(read_addresses)]
    assert found == ["10.0.0.1", "192.0.2.9", "192.0.2.10", "2001:db8::1"]
    assert set(found) == {words.partition("/")[0] for words, reachable in ADDRESSES.items() if reachable}


@pytest.mark.root
def test_very_many_addresses_still_fit_into_a_frame(machine):
    lines = (f"address add 2001:db8:1111:2222:3333:4444:5555:{number:x}/64 dev eth0 nodad" for number in range(500))
    machine.run("ip", "-batch", "-", stdin="\n".join(lines))
    addresses = tuple(map(str, machine.call(read_addresses)))
    claim = Claim(
        hostname="h" * MAX_TEXT, operating_system="o" * MAX_TEXT, agent_version="1", backend="kernel",
        listen_port=1, addresses=addresses,
    )  # fmt: skip
    assert len(dump(claim)) < FRAME_BASE


@pytest.mark.root
def test_an_address_that_is_still_tried_is_not_told(machine):
    machine.run("sysctl", "-qw", "net.ipv6.conf.eth0.dad_transmits=100")
    machine.ip("address add 2001:db8::2/64 dev eth0")
    assert machine.call(read_addresses) == []


@pytest.mark.root
def test_an_interface_that_is_down_has_no_address_to_tell(machine):
    machine.ip("address add 192.0.2.10/24 dev eth0")
    assert machine.call(read_addresses) == [ip_address("192.0.2.10")]
    machine.ip("link set eth0 down")
    assert machine.call(read_addresses) == []


NEWS = {
    "address add 192.0.2.1/24 dev eth0": "address",
    "-6 address add 2001:db8::1/64 dev eth0": "address",
    "link set br0 mtu 1400": "link",
    "route add 198.51.100.0/24 dev eth0 table 180": "route",
    "-6 route add 2001:db8:1::/64 dev eth0 table 180": "route",
    "rule add fwmark 1 lookup 180": "rule",
    "-6 rule add fwmark 1 lookup 180": "rule",
}


async def hear(news, kind):
    """What is told until this is; the machine's own links may be coming up meanwhile."""
    told = [await anext(news)]
    while kind not in told[-1]:
        told.append(await anext(news))
    return told


@pytest.mark.root
@pytest.mark.parametrize(("words", "kind"), NEWS.items(), ids=NEWS.keys())
def test_the_kernel_s_news_arrive(machine, words, kind):
    async def listen():
        news = watch()
        machine.ip(words)
        try:
            await asyncio.wait_for(hear(news, kind), NEWS_SECONDS)
        finally:
            news.close()

    machine.call(listen)


@pytest.mark.root
def test_many_events_are_one_step_and_others_routes_none(machine):
    async def listen():
        news = watch()
        try:
            for number in range(20):
                machine.ip(f"route add 198.51.{number}.0/24 dev eth0 table 180")
            told = await asyncio.wait_for(hear(news, "route"), NEWS_SECONDS)
            for number in range(20):
                machine.ip(f"route add 198.51.{number}.0/24 dev eth0")
            machine.ip("rule add fwmark 1 lookup 180")
            return told + await asyncio.wait_for(hear(news, "rule"), NEWS_SECONDS)
        finally:
            news.close()

    told = [step - {"link", "address"} for step in machine.call(listen)]
    assert [step for step in told if step] == [{"route"}, {"rule"}]


@pytest.mark.root
def test_lost_events_may_have_been_anything(machine, monkeypatch):
    monkeypatch.setattr(host, "BUFFER_BYTES", 0)

    async def listen():
        news = watch()
        try:
            for number in range(40):
                machine.ip(f"route add 198.51.{number}.0/24 dev eth0 table 180")
            return await asyncio.wait_for(anext(news), NEWS_SECONDS)
        finally:
            news.close()

    assert machine.call(listen) == {"link", "address", "route", "rule"}


async def test_a_cancelled_watch_is_closed():
    news = watch()
    waiting = asyncio.create_task(anext(news))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(StopAsyncIteration):
        await anext(news)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', "Debian GNU/Linux 12 (bookworm)"),
        pytest.param("PRETTY_NAME=Alpine\n", "Alpine"),
        pytest.param("nonsense\n", "Linux"),
    ],
    ids=["quoted", "bare", "no name"],
)
def test_the_operating_system(tmp_path, monkeypatch, text, expected):
    (tmp_path / "os-release").write_text(text)
    monkeypatch.setattr(host, "OS_RELEASE", (tmp_path / "absent", tmp_path / "os-release"))
    assert host.read_operating_system() == expected


def test_the_machine_has_a_name():
    assert host.read_hostname()


async def test_an_unknown_data_plane_is_refused():
    with pytest.raises(ValueError, match="'fast' is no data plane: choose one of auto, kernel, userspace"):
        await choose_data_plane("fast")


@pytest.mark.root
def test_the_data_plane_is_what_the_machine_has(machine):
    has_kernel = machine.call(is_available)
    assert machine.call(choose_data_plane).backend == ("kernel" if has_kernel else "userspace")
    assert machine.call(lambda: choose_data_plane("userspace")).backend == "userspace"
    if has_kernel:
        assert machine.call(lambda: choose_data_plane("kernel")).backend == "kernel"
    else:
        with pytest.raises(KernelError, match=r"this kernel has no WireGuard; .*--data-plane userspace"):
            machine.call(lambda: choose_data_plane("kernel"))


@pytest.mark.root
def test_a_running_process_is_adopted_by_whoever_looks_next(machine):
    machine.call(UserspaceWireGuard().create)
    assert machine.call(choose_data_plane).backend == "userspace"


@pytest.mark.root
def test_a_machine_with_no_wireguard_at_all_is_told_so(machine, monkeypatch):
    if machine.call(is_available):
        pytest.skip("this kernel has WireGuard")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(KernelError, match="this machine has no WireGuard; install wireguard-go"):
            machine.call(choose_data_plane)
        with pytest.raises(KernelError, match="wireguard-go is not installed"):
            machine.call(lambda: choose_data_plane("userspace"))


@pytest.mark.root
def test_a_link_that_cannot_be_made_is_a_sentence(machine):
    if machine.call(is_available):
        pytest.skip("this kernel has WireGuard")
    with pytest.raises(KernelError, match=r"making the interface kubespan: .*--data-plane userspace"):
        machine.call(lambda: create_link("kubespan", kind="wireguard"))


@pytest.mark.root
def test_deleting_no_link_is_no_error(machine):
    machine.call(lambda: delete_link("kubespan"))


@pytest.mark.root
def test_a_lab_leaves_nothing_behind():
    with Lab(LEFTOVER) as lab:
        one = lab.machine("one")
        lab.bridge("switch", [(one, ["192.0.2.1/24", "2001:db8::1/64"])])
        sleeper = one.start("sleep", "600")
    assert sleeper.wait() == -signal.SIGTERM
    assert not list(Path("/run/netns").glob(f"{LEFTOVER}-*"))
    assert not list(Path("/run").glob(f"kubespan-lab-{LEFTOVER}*"))


@pytest.mark.root
def test_a_lab_that_cannot_be_made_says_why_and_leaves_nothing_behind(tmp_path, monkeypatch):
    failing = tmp_path / "unshare"  # as where the root directory is no mount
    failing.write_text('#!/bin/sh\necho "no propagation" >&2\nexit 1\n')
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(LabError, match="no propagation"), Lab(LEFTOVER) as lab:
        lab.machine("one")
    assert not list(Path("/run/netns").glob(f"{LEFTOVER}-*"))
    assert not list(Path("/run").glob(f"kubespan-lab-{LEFTOVER}*"))
