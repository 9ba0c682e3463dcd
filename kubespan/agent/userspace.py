"""WireGuard by wireguard-go, where the kernel has none: a process of its own, spoken to over its UAPI socket.

The process is nobody's child. It is started in a session of its own, under systemd also in a scope of its own, puts
itself into the background, and goes on when the agent ends; the next agent finds it by its socket and adopts it. It
ends with its interface: when somebody deletes that, or kills the process, the other goes too, the kernel announces
the interface's end, and the agent's next pass makes both anew.

The protocol is text, a request ends with an empty line, and a wrong line leaves those before it applied: an error
says nothing of what is set now, which is for the next observation to tell. Numbers and keys are as in
https://www.wireguard.com/xplatform/.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path

from kubespan.agent.kernel import Backend, Device, KernelError, refusal
from kubespan.agent.netlink import delete_link
from kubespan.core.endpoint import Endpoint, IPNetwork, share
from kubespan.core.plan import LINK_NAME, Link, Peer, PeerCounters

PROGRAM = "wireguard-go"
SOCKETS = Path("/run/wireguard")
SYSTEMD = Path("/run/systemd/system")
"""Exists where systemd is the first process (sd_booted(3))."""
TUN = Path("/dev/net/tun")

ANSWER_SECONDS = 10.0
"""The longest wait for an answer; 1,000 peers take a tenth of a second."""
START_SECONDS = 10.0
"""The longest wait for the process to start, or to end."""
POLL_SECONDS = 0.01
EX_NOT_FOUND = 127
"""What a shell gives for a program that is not there."""

MOST_WORDS = 8192
"""Networks, and endpoints, that are known again at the next look."""

_ALLOWED = "allowed_ip="
_NO_KEY = bytes(32).hex()
_INSTALL = f"install the package {PROGRAM}, or use a kernel with WireGuard"


def encode_device(link: Link, present: Device) -> str:
    """Write what differs of the device's own settings: setting a port again would open its sockets anew."""
    lines = []
    if link.private_key != present.private_key:
        lines.append(f"private_key={_hex(link.private_key)}")
    if link.fwmark != present.fwmark:
        lines.append(f"fwmark={link.fwmark}")
    if link.listen_port != present.listen_port:
        lines.append(f"listen_port={link.listen_port}")
    return "\n".join(lines)


def encode_peers(peers: Iterable[Peer]) -> str:
    """Write peers to add or change."""
    return "\n".join(line for peer in peers for line in _encode_peer(peer))


def _encode_peer(peer: Peer) -> Iterator[str]:
    yield f"public_key={_hex(peer.public_key)}"
    yield f"preshared_key={_hex(peer.preshared_key) or _NO_KEY}"
    if peer.endpoint is not None:
        yield f"endpoint={peer.endpoint}"
    yield f"persistent_keepalive_interval={peer.keepalive}"
    yield "replace_allowed_ips=true"
    for network in peer.allowed_ips:
        yield f"allowed_ip={network}"


def encode_preshared_keys(peers: Iterable[Peer]) -> str:
    """Write preshared keys of peers that are there."""
    return "\n".join(
        f"public_key={_hex(peer.public_key)}\nupdate_only=true\npreshared_key={_hex(peer.preshared_key) or _NO_KEY}"
        for peer in peers
    )


def encode_removals(public_keys: Iterable[str]) -> str:
    """Write the removal of peers."""
    return "\n".join(f"public_key={_hex(key)}\nremove=true" for key in public_keys)


def decode_device(answer: str) -> Device:
    """Read the answer to `get=1`."""
    own, *others = answer.split("public_key=")
    values = dict(line.split("=", 1) for line in own.splitlines())
    peers: dict[str, Peer] = {}
    counters: dict[str, PeerCounters] = {}
    for text in others:
        peer, counted = _decode_peer(text)
        peers[peer.public_key] = peer
        counters[peer.public_key] = counted
    return Device(
        private_key=_base64(values.get("private_key", _NO_KEY)),
        listen_port=int(values.get("listen_port", "0")),
        fwmark=int(values.get("fwmark", "0")),
        peers=peers,
        counters=counters,
    )


def _decode_peer(text: str) -> tuple[Peer, PeerCounters]:
    """Read a peer from its key on, which stands without its name."""
    key, *lines = text.splitlines()
    values = dict(line.split("=", 1) for line in lines)
    allowed = tuple(_parse_network(line.removeprefix(_ALLOWED)) for line in lines if line.startswith(_ALLOWED))
    endpoint = values.get("endpoint")
    peer = Peer(
        public_key=_base64(key),
        preshared_key=_base64(values.get("preshared_key", _NO_KEY)),
        endpoint=_parse_endpoint(endpoint) if endpoint else None,
        allowed_ips=allowed,
        keepalive=int(values.get("persistent_keepalive_interval", "0")),
    )
    counters = PeerCounters(
        last_handshake=int(values.get("last_handshake_time_sec", "0"))
        + int(values.get("last_handshake_time_nsec", "0")) / 1e9,
        received=int(values.get("rx_bytes", "0")),
        sent=int(values.get("tx_bytes", "0")),
    )
    return peer, counters


# Each look reads the same words, and a network is an object of half a kilobyte.
@lru_cache(maxsize=MOST_WORDS)
def _parse_network(text: str) -> IPNetwork:
    return share(ip_network(text))


@lru_cache(maxsize=MOST_WORDS)
def _parse_endpoint(text: str) -> Endpoint:
    """Read an endpoint; a link-local one has a zone, which is this machine's own word and is dropped."""
    host, _, port = text.rpartition(":")
    address, zone, _ = host.partition("%")
    return share(Endpoint.parse(f"{address}{']' if zone else ''}:{port}"))


def _hex(key: str) -> str:
    return b64decode(key).hex()


def _base64(key: str) -> str:
    return "" if key == _NO_KEY else b64encode(bytes.fromhex(key)).decode()


class UserspaceWireGuard:
    """WireGuard of a wireguard-go process."""

    backend: Backend = "userspace"

    def __init__(self, name: str = LINK_NAME) -> None:
        self._name = name
        self._socket = SOCKETS / f"{name}.sock"

    async def create(self) -> None:
        """Start the process, which makes the interface; one of that name that nobody serves is removed first."""
        await self.delete()
        reason = ""
        for command in _commands(self._name):
            code, reason = await _run(command)
            if code == 0:
                await self._wait(alive=True)
                return
        raise KernelError(f"{PROGRAM} did not start: {reason}", _start_remedy())

    async def delete(self) -> None:
        """Remove the interface, and with it the process; none is no error."""
        await delete_link(self._name)
        await self._wait(alive=False)

    async def configure(self, link: Link) -> None:
        """Set key, port and mark where they differ."""
        present = await self.dump()
        if present is None:
            raise KernelError(f"{PROGRAM} has vanished")
        await self._set("setting up WireGuard", encode_device(link, present))

    async def set_peers(self, peers: Sequence[Peer]) -> None:
        """Add or change these peers."""
        await self._set("setting peers", encode_peers(peers))

    async def set_preshared_keys(self, peers: Sequence[Peer]) -> None:
        """Give peers their preshared keys."""
        await self._set("setting preshared keys", encode_preshared_keys(peers))

    async def remove_peers(self, public_keys: Sequence[str]) -> None:
        """Remove these peers; a missing one is no error."""
        await self._set("removing peers", encode_removals(public_keys))

    async def dump(self) -> Device | None:
        """Read the device; none where no process serves it."""
        answer = await self._ask("get=1")
        if answer is None:
            return None
        return decode_device(self._checked("reading WireGuard's state", answer))

    async def _set(self, doing: str, lines: str) -> None:
        if not lines:
            return
        answer = await self._ask(f"set=1\n{lines}")
        if answer is None:
            raise KernelError(f"{doing}: {PROGRAM} has vanished")
        self._checked(doing, answer)

    def _checked(self, doing: str, answer: str) -> str:
        """Take the errno, which ends every answer, off it; raise KernelError where it is one."""
        body, separator, number = answer.rstrip("\n").rpartition("errno=")
        if not separator:
            raise KernelError(f"{doing}: {PROGRAM} broke off")
        if number != "0":
            raise refusal(doing, abs(int(number)))
        return body

    async def _ask(self, request: str) -> str | None:
        """Send one request; none where nobody listens."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(f"{request}\n\n".encode())
                    writer.write_eof()
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        except (FileNotFoundError, ConnectionError):
            return None
        except TimeoutError:
            raise KernelError(
                f"{PROGRAM} does not answer within {ANSWER_SECONDS:.0f} s", "end that process; the agent starts another"
            ) from None
        except OSError as error:
            raise refusal(f"asking {PROGRAM}", error.errno or 0) from None

    async def _wait(self, *, alive: bool) -> None:
        """Wait until somebody, or nobody, listens; that takes milliseconds."""
        try:
            async with asyncio.timeout(START_SECONDS):
                # Nothing announces that a process listens, or that it no longer does.
                while (await self._ask("get=1") is not None) is not alive:  # noqa: ASYNC110
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            state = "start" if alive else "end"
            raise KernelError(f"{PROGRAM} did not {state} within {START_SECONDS:.0f} s") from None


def _start_remedy() -> str:
    if not shutil.which(PROGRAM):
        return _INSTALL
    if not TUN.exists():
        return f"load the module tun, or give the container the device {TUN}"
    return "" if os.geteuid() == 0 else "run the agent as root"


def _commands(name: str) -> list[list[str]]:
    """Word the start, in the order to try.

    Under systemd first in a scope of its own, where neither the service's end nor its restrictions reach it; should
    that be refused, the service's `KillMode=process` must do.
    """
    plain = [PROGRAM, name]
    scope = ["systemd-run", "--scope", "--quiet", "--collect", f"--description=WireGuard of {name}", *plain]
    return [scope, plain] if SYSTEMD.is_dir() else [plain]


async def _run(command: Sequence[str]) -> tuple[int, str]:
    """Run a program that puts itself into the background; what it wrote until then is the reason when it fails."""
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=environment,
        )
    except FileNotFoundError:
        return EX_NOT_FOUND, f"{command[0]} is not installed"
    try:
        output, _ = await asyncio.wait_for(process.communicate(), START_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise KernelError(f"{PROGRAM} did not start within {START_SECONDS:.0f} s") from None
    # Before its reason or after it, the program draws a box around an advice.
    lines = [line for line in output.decode(errors="replace").splitlines() if line and line[0] not in "┌│└"]
    return process.returncode or 0, lines[-1] if lines else "no reason given"
