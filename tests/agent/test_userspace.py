"""wireguard-go: what it is told, what it answers, and who outlives whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from base64 import b64encode
from ipaddress import IPv6Address, ip_network
from pathlib import Path

import pytest

from kubespan.agent import userspace
from kubespan.agent.kernel import Device, KernelError
from kubespan.agent.netlink import LinuxKernel
from kubespan.agent.userspace import UserspaceWireGuard, decode_device, encode_device, encode_peers, encode_removals
from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import KeyPair
from kubespan.core.peer_spec import peer_specs
from kubespan.core.plan import Link, Peer, PeerCounters
from tests.namespaces import Lab

KEY, OTHER = "11" * 32, "22" * 32
SECRET = "33" * 32
LINK = Link(mtu=1420, listen_port=51820, private_key=KeyPair.make(bytes(range(32))).private_key)


def base64(hexadecimal):
    return b64encode(bytes.fromhex(hexadecimal)).decode()


PEER = Peer(
    public_key=base64(KEY),
    preshared_key=base64(SECRET),
    endpoint=Endpoint.parse("[2001:db8::1]:51820"),
    allowed_ips=(ip_network("10.0.0.0/8"), ip_network("fd00::1/128")),
)


def test_a_peer_is_written_line_by_line():
    assert encode_peers([PEER]).split("\n") == [
        f"public_key={KEY}",
        f"preshared_key={SECRET}",
        "endpoint=[2001:db8::1]:51820",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.0/8",
        "allowed_ip=fd00::1/128",
    ]


def test_no_endpoint_and_no_secret():
    bare = Peer(public_key=base64(KEY), preshared_key="", endpoint=None, allowed_ips=())
    assert encode_peers([bare]).split("\n")[1:3] == [f"preshared_key={'00' * 32}", "persistent_keepalive_interval=25"]


def test_a_removal_is_written():
    assert encode_removals([base64(KEY), base64(OTHER)]) == (
        f"public_key={KEY}\nremove=true\npublic_key={OTHER}\nremove=true"
    )


@pytest.mark.parametrize(
    ("present", "names"),
    [
        pytest.param(Device(LINK.private_key, 51820, 0x20), [], id="nothing differs"),
        pytest.param(Device(LINK.private_key, 1, 0x20), ["listen_port"], id="another port"),
        pytest.param(Device("", 0, 0), ["private_key", "fwmark", "listen_port"], id="a new device"),
    ],
)
def test_only_what_differs_of_the_device_is_set(present, names):
    assert [line.partition("=")[0] for line in encode_device(LINK, present).splitlines()] == names


def test_an_answer_is_read():
    answer = f"""private_key={OTHER}
listen_port=51820
fwmark=32
public_key={KEY}
preshared_key={SECRET}
protocol_version=1
endpoint=[2001:db8::1]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
tx_bytes=8
rx_bytes=7
persistent_keepalive_interval=25
allowed_ip=10.0.0.0/8
allowed_ip=fd00::1/128
public_key={OTHER}
preshared_key={"00" * 32}
protocol_version=1
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=0
"""
    device = decode_device(answer)
    assert (device.private_key, device.listen_port, device.fwmark) == (base64(OTHER), 51820, 32)
    assert device.peers[PEER.public_key] == PEER
    assert device.counters[PEER.public_key] == PeerCounters(last_handshake=1_700_000_000.5, received=7, sent=8)
    assert device.peers[base64(OTHER)] == Peer(base64(OTHER), "", None, (), keepalive=0)
    assert device.counters[base64(OTHER)] == PeerCounters()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("192.0.2.1:51820", "192.0.2.1:51820", id="IPv4"),
        pytest.param("[::ffff:192.0.2.1]:51820", "192.0.2.1:51820", id="IPv4 on a dual socket"),
        pytest.param("[fe80::1%eth0]:51820", "[fe80::1]:51820", id="link-local, whose interface is dropped"),
    ],
)
def test_an_endpoint_of_an_answer(text, expected):
    assert str(userspace._parse_endpoint(text)) == expected


def test_what_is_read_again_is_the_same_object():
    """A thousand peers are looked at all day, and their networks are large objects."""
    answer = f"private_key={OTHER}\n" + encode_peers([PEER]) + "\n"
    first, second = (decode_device(answer).peers[PEER.public_key] for _ in range(2))
    assert first == PEER
    assert first.endpoint is second.endpoint
    assert all(one is other for one, other in zip(first.allowed_ips, second.allowed_ips, strict=True))
    # What was decided of the peer's own words is known by the same objects.
    addresses = (IPv6Address("fd00::1"),)
    (spec,) = peer_specs(
        [Affiliate("n", addresses, public_key=PEER.public_key, address=addresses[0])], "own"
    ).specs.values()
    assert spec.allowed_ips[0] is first.allowed_ips[1]


def test_under_systemd_it_has_a_scope_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(userspace, "SYSTEMD", tmp_path)
    scope, plain = userspace._commands("kubespan")
    assert scope[:2] == ["systemd-run", "--scope"]
    assert scope[-2:] == plain == ["wireguard-go", "kubespan"]
    monkeypatch.setattr(userspace, "SYSTEMD", tmp_path / "absent")
    assert userspace._commands("kubespan") == [plain]


async def answered_by(tmp_path, monkeypatch, answer, ask):
    """Ask a socket that answers everything with the same words."""
    monkeypatch.setattr(userspace, "SOCKETS", tmp_path)

    async def serve(reader, writer):
        await reader.read()
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "kubespan.sock"):
        return await ask(UserspaceWireGuard())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"errno=-22\n\n", "setting peers: Invalid argument", id="a wrong line"),
        pytest.param(b"errno=-98\n\n", "another program holds WireGuard's UDP port", id="port in use"),
        pytest.param(b"", "setting peers: wireguard-go broke off", id="no answer at all"),
    ],
)
async def test_a_refusal_is_a_sentence_without_keys(tmp_path, monkeypatch, answer, reason):
    with pytest.raises(KernelError) as raised:
        await answered_by(tmp_path, monkeypatch, answer, lambda device: device.set_peers([PEER]))
    assert reason in str(raised.value)
    assert SECRET not in str(raised.value)


async def test_who_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(userspace, "SOCKETS", tmp_path)
    monkeypatch.setattr(userspace, "ANSWER_SECONDS", 0.01)
    let_go, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader, writer):
        await let_go.wait()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with await asyncio.start_unix_server(serve, tmp_path / "kubespan.sock"):
        with pytest.raises(KernelError, match=r"does not answer .* end that process"):
            await UserspaceWireGuard().dump()
        let_go.set()
        await closed.wait()


async def test_no_socket_is_no_device(tmp_path, monkeypatch):
    monkeypatch.setattr(userspace, "SOCKETS", tmp_path)
    assert await UserspaceWireGuard().dump() is None
    with pytest.raises(KernelError, match="has vanished"):
        await UserspaceWireGuard().set_peers([PEER])
    await UserspaceWireGuard().set_peers([])


@pytest.fixture
def machine():
    with Lab() as lab:
        yield lab.machine("one")


def start(machine):
    """Start it, and return its process id."""
    machine.call(UserspaceWireGuard().create)
    (pid,) = machine.processes()
    return pid


async def vanish():
    """Wait until the interface is gone, as an agent hears of it."""
    device = UserspaceWireGuard()
    while await device.dump() is not None:
        await asyncio.sleep(0.01)


@pytest.mark.root
def test_it_has_a_session_and_standard_streams_of_its_own(machine):
    pid = start(machine)
    assert os.getsid(pid) not in {os.getsid(0), 0}
    assert os.getpgid(pid) != os.getpgid(0)
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"wireguard-go\0kubespan\0"


@pytest.mark.root
def test_it_outlives_whoever_started_it_and_is_adopted(machine):
    """The starter is killed with its whole session, as a terminal or a service's end would do."""
    program = "import asyncio; from kubespan.agent.userspace import *; d = UserspaceWireGuard(); "
    program += f"asyncio.run(d.create()); asyncio.run(d.configure({LINK!r})); print('up', flush=True); input()"
    program = program.replace("Link(", "__import__('kubespan.core.plan').core.plan.Link(private_key='', ")
    with machine.start(
        sys.executable,
        "-c",
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        text=True,
    ) as starter:
        assert starter.stdout.readline() == "up\n"
        os.killpg(starter.pid, signal.SIGKILL)
    (pid,) = machine.processes()
    adopted = machine.call(UserspaceWireGuard().dump)
    assert adopted.listen_port == 51820
    assert machine.processes() == [pid]


@pytest.mark.root
def test_a_killed_process_leaves_no_link_and_another_starts(machine):
    os.kill(start(machine), signal.SIGKILL)
    machine.call(vanish)
    assert machine.call(LinuxKernel(UserspaceWireGuard()).observe).link is None
    assert start(machine)
    assert machine.call(UserspaceWireGuard().dump) is not None


@pytest.mark.root
def test_a_deleted_link_ends_the_process(machine):
    start(machine)
    machine.ip("link del kubespan")
    machine.call(vanish)
    assert machine.call(UserspaceWireGuard().dump) is None


@pytest.mark.root
def test_delete_ends_the_process_and_is_no_error_twice(machine):
    start(machine)
    machine.call(UserspaceWireGuard().delete)
    assert machine.call(UserspaceWireGuard().dump) is None
    machine.call(UserspaceWireGuard().delete)


@pytest.mark.root
def test_a_wrong_line_is_reported_and_the_next_look_tells_what_is(machine):
    start(machine)

    async def mistake():
        device = UserspaceWireGuard()
        with contextlib.suppress(KernelError):
            await device._set("setting peers", f"public_key={KEY}\nallowed_ip=10.0.0.0/8\nnonsense=1")
        return await device.dump()

    assert set(machine.call(mistake).peers) == {base64(KEY)}


@pytest.mark.root
def test_a_machine_without_the_program_is_told_so(machine, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(KernelError, match=r"wireguard-go is not installed; install the package wireguard-go"):
            machine.call(UserspaceWireGuard().create)


@pytest.mark.root
def test_a_refused_scope_is_done_without(machine, monkeypatch, tmp_path):
    """There is no systemd in a namespace made here: systemd-run fails, or is not even there."""
    monkeypatch.setattr(userspace, "SYSTEMD", tmp_path)
    assert start(machine)


@pytest.mark.root
def test_why_it_did_not_start_is_in_the_error(machine):
    machine.run("mount", "--bind", "/dev/null", "/dev/net/tun")
    with pytest.raises(KernelError, match=r"wireguard-go did not start: .*Failed to create TUN device"):
        machine.call(UserspaceWireGuard().create)
