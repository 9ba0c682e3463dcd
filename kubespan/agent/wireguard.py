"""The kernel's own WireGuard, over generic netlink.

pyroute2 brings the socket, the family's number and the dump's end; what is in the messages is packed and unpacked
here. That way many peers go in one message (1,000 in 0.07 s instead of 2 s), a message is never longer than its
16-bit attribute can say, and keys are never in an object that a library writes into its debugging log.

Layout: linux/include/uapi/linux/wireguard.h. All attributes are in the machine's byte order but ports.
"""

from __future__ import annotations

import errno
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6
from struct import Struct

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket

from kubespan.agent.kernel import Backend, Device, KernelError, refusal
from kubespan.agent.netlink import create_link, delete_link
from kubespan.core.endpoint import Endpoint, IPNetwork, share
from kubespan.core.plan import LINK_NAME, Link, Peer, PeerCounters

FAMILY = "wireguard"
GET_DEVICE, SET_DEVICE = 0, 1

DEVICE_NAME, DEVICE_PRIVATE_KEY, DEVICE_PORT, DEVICE_FWMARK, DEVICE_PEERS = 2, 3, 6, 7, 8
PEER_KEY, PEER_PRESHARED, PEER_FLAGS, PEER_ENDPOINT, PEER_KEEPALIVE = 1, 2, 3, 4, 5
PEER_HANDSHAKE, PEER_RECEIVED, PEER_SENT, PEER_ALLOWED = 6, 7, 8, 9
ALLOWED_FAMILY, ALLOWED_ADDRESS, ALLOWED_LENGTH = 1, 2, 3
REMOVE_ME, REPLACE_ALLOWED_IPS, UPDATE_ONLY = 1, 2, 4

NESTED = 0x8000
TYPE_MASK = 0x3FFF

MESSAGE_LIMIT = 60_000
"""Bytes of peers in one message: the attribute that holds them all has a length of 16 bits."""
ALLOWED_IPS_LIMIT = 1_000
"""Allowed IPs in one piece of a peer; 40 bytes each, so that a piece always fits into a message."""
MOST_WORDS = 8192
"""Networks, and endpoints, that are known again at the next look: as objects they are large."""
DUMP_ATTEMPTS = 10
"""Readings of a device whose peers somebody else changes all the while."""

_MESSAGE = Struct("=IHHIIBBH")
_ATTRIBUTE = Struct("=HH")
_U16, _U32, _U64 = Struct("=H"), Struct("=I"), Struct("=Q")
_TIME = Struct("=qq")
_PORT = Struct("!H")
_SOCKADDR4 = Struct("=H2s4s8x")
_SOCKADDR6 = Struct("=H2sI16sI")
_NO_KEY = bytes(32)


def encode_device(link: Link) -> bytes:
    """Pack the device's own settings."""
    return b"".join(
        (
            _attribute(DEVICE_PRIVATE_KEY, b64decode(link.private_key)),
            _attribute(DEVICE_PORT, _U16.pack(link.listen_port)),
            _attribute(DEVICE_FWMARK, _U32.pack(link.fwmark)),
        )
    )


def encode_peers(peers: Iterable[Peer]) -> list[bytes]:
    """Pack peers to add or change into as few messages as their size allows."""
    return _batch(piece for peer in peers for piece in _encode_peer(peer))


def encode_preshared_keys(peers: Iterable[Peer]) -> list[bytes]:
    """Pack preshared keys of peers that are there, and nothing else of them."""
    flags = _attribute(PEER_FLAGS, _U32.pack(UPDATE_ONLY))
    return _batch(
        _attribute(
            NESTED,
            _attribute(PEER_KEY, b64decode(peer.public_key))
            + flags
            + _attribute(PEER_PRESHARED, b64decode(peer.preshared_key) or _NO_KEY),
        )
        for peer in peers
    )


def encode_removals(public_keys: Iterable[str]) -> list[bytes]:
    """Pack the removal of peers; update-only, so that a missing one is not made first."""
    flags = _attribute(PEER_FLAGS, _U32.pack(REMOVE_ME | UPDATE_ONLY))
    return _batch(_attribute(NESTED, _attribute(PEER_KEY, b64decode(key)) + flags) for key in public_keys)


def _batch(pieces: Iterable[bytes]) -> list[bytes]:
    batches: list[list[bytes]] = []
    size = 0
    for piece in pieces:
        if not batches or size + len(piece) > MESSAGE_LIMIT:
            batches.append([])
            size = 0
        batches[-1].append(piece)
        size += len(piece)
    return [_attribute(DEVICE_PEERS | NESTED, b"".join(batch)) for batch in batches]


def _encode_peer(peer: Peer) -> Iterator[bytes]:
    """Yield the peer in one piece, or in several where its allowed IPs are very many: only the first replaces them."""
    key = _attribute(PEER_KEY, b64decode(peer.public_key))
    first = [
        key,
        _attribute(PEER_PRESHARED, b64decode(peer.preshared_key) or _NO_KEY),
        _attribute(PEER_FLAGS, _U32.pack(REPLACE_ALLOWED_IPS)),
        _attribute(PEER_KEEPALIVE, _U16.pack(peer.keepalive)),
    ]
    if peer.endpoint is not None:
        first.append(_attribute(PEER_ENDPOINT, _encode_endpoint(peer.endpoint)))
    allowed = [_encode_network(network) for network in peer.allowed_ips]
    for start in range(0, max(len(allowed), 1), ALLOWED_IPS_LIMIT):
        head = b"".join(first) if start == 0 else key + _attribute(PEER_FLAGS, _U32.pack(UPDATE_ONLY))
        chunk = b"".join(allowed[start : start + ALLOWED_IPS_LIMIT])
        yield _attribute(NESTED, head + _attribute(PEER_ALLOWED | NESTED, chunk))


def _encode_endpoint(endpoint: Endpoint) -> bytes:
    port = _PORT.pack(endpoint.port)
    if isinstance(endpoint.ip, IPv4Address):
        return _SOCKADDR4.pack(AF_INET, port, endpoint.ip.packed)
    return _SOCKADDR6.pack(AF_INET6, port, 0, endpoint.ip.packed, 0)


def _encode_network(network: IPNetwork) -> bytes:
    return _attribute(
        NESTED,
        _attribute(ALLOWED_FAMILY, _U16.pack(AF_INET if isinstance(network, IPv4Network) else AF_INET6))
        + _attribute(ALLOWED_ADDRESS, network.network_address.packed)
        + _attribute(ALLOWED_LENGTH, bytes((network.prefixlen,))),
    )


def _attribute(kind: int, payload: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def decode_device(messages: Iterable[bytes]) -> Device:
    """Read a dump of one device.

    Only the first message has the device's own settings; a peer that did not fit goes on in the next one, under the
    same key and with nothing but more allowed IPs.
    """
    own: dict[int, bytes] = {}
    found: dict[bytes, _DumpedPeer] = {}
    for message in messages:
        for kind, payload in _attributes(message):
            if kind == DEVICE_PEERS:
                for _, content in _attributes(payload):
                    _read_peer(content, found)
            else:
                own[kind] = payload
    peers = [peer.value() for peer in found.values()]
    return Device(
        private_key=_decode_key(own.get(DEVICE_PRIVATE_KEY, _NO_KEY)),
        listen_port=_U16.unpack(own[DEVICE_PORT])[0] if DEVICE_PORT in own else 0,
        fwmark=_U32.unpack(own[DEVICE_FWMARK])[0] if DEVICE_FWMARK in own else 0,
        peers={peer.public_key: peer for peer in peers},
        counters={peer.public_key: dumped.counters for peer, dumped in zip(peers, found.values(), strict=True)},
    )


@dataclass(slots=True)
class _DumpedPeer:
    key: bytes
    preshared: bytes = field(default=_NO_KEY, repr=False)
    endpoint: Endpoint | None = None
    keepalive: int = 0
    counters: PeerCounters = field(default_factory=PeerCounters)
    allowed: list[IPNetwork] = field(default_factory=list)

    def value(self) -> Peer:
        return Peer(
            public_key=_decode_key(self.key),
            preshared_key=_decode_key(self.preshared),
            endpoint=self.endpoint,
            allowed_ips=tuple(self.allowed),
            keepalive=self.keepalive,
        )


def _read_peer(content: bytes, found: dict[bytes, _DumpedPeer]) -> None:
    read = dict(_attributes(content))
    key = read[PEER_KEY]
    peer = found.get(key)
    if peer is None:
        seconds, nanoseconds = _TIME.unpack(read.get(PEER_HANDSHAKE, bytes(_TIME.size)))
        peer = found[key] = _DumpedPeer(
            key=key,
            preshared=read.get(PEER_PRESHARED, _NO_KEY),
            endpoint=_decode_endpoint(read.get(PEER_ENDPOINT, b"")),
            keepalive=_U16.unpack(read[PEER_KEEPALIVE])[0] if PEER_KEEPALIVE in read else 0,
            counters=PeerCounters(
                last_handshake=seconds + nanoseconds / 1e9,
                received=_U64.unpack(read[PEER_RECEIVED])[0] if PEER_RECEIVED in read else 0,
                sent=_U64.unpack(read[PEER_SENT])[0] if PEER_SENT in read else 0,
            ),
        )
    peer.allowed += [_decode_network(entry) for _, entry in _attributes(read.get(PEER_ALLOWED, b""))]


def _decode_key(raw: bytes) -> str:
    return "" if raw == _NO_KEY else b64encode(raw).decode()


@lru_cache(maxsize=MOST_WORDS)
def _decode_endpoint(raw: bytes) -> Endpoint | None:
    if len(raw) == _SOCKADDR4.size:
        _, port, address = _SOCKADDR4.unpack(raw)
        return share(Endpoint(IPv4Address(address), _PORT.unpack(port)[0]))
    if len(raw) == _SOCKADDR6.size:
        _, port, _, address, _ = _SOCKADDR6.unpack(raw)
        ip = IPv6Address(address)
        return share(Endpoint(ip.ipv4_mapped or ip, _PORT.unpack(port)[0]))
    return None


@lru_cache(maxsize=MOST_WORDS)
def _decode_network(entry: bytes) -> IPNetwork:
    read = dict(_attributes(entry))
    address, length = read[ALLOWED_ADDRESS], read[ALLOWED_LENGTH][0]
    if _U16.unpack(read[ALLOWED_FAMILY])[0] == AF_INET:
        return share(IPv4Network((address, length)))
    return share(IPv6Network((address, length)))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            raise ValueError(f"an attribute of {length} bytes")
        yield kind & TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


class _Message(genlmsg):  # type: ignore[misc]  # the library has no types
    """A generic netlink message whose attributes stay bytes."""

    nla_map = ()
    payload = b""

    def encode(self) -> None:
        header = self["header"]
        self.data = (
            _MESSAGE.pack(
                _MESSAGE.size + len(self.payload),
                header["type"],
                header["flags"],
                header["sequence_number"],
                header["pid"],
                self["cmd"],
                1,
                0,
            )
            + self.payload
        )

    def attributes(self) -> bytes:
        start = self.offset
        return bytes(self.data[start + _MESSAGE.size : start + self["header"]["length"]])


class _Changed(Exception):
    """Peers were changed while they were read: the kernel ends a dump whose next peer was removed, and flags that."""


class _Socket(AsyncGenericNetlinkSocket):  # type: ignore[misc]  # the library has no types
    module_err_level = "debug"  # a kernel without WireGuard is no error of ours


_ALONE = "find out which other program sets the interface's peers"


class KernelWireGuard:
    """WireGuard of the running kernel."""

    backend: Backend = "kernel"

    def __init__(self, name: str = LINK_NAME) -> None:
        self._name = name

    async def create(self) -> None:
        """Make the interface; whatever else bears its name, such as wireguard-go's, is replaced."""
        await delete_link(self._name)
        await create_link(self._name, kind="wireguard")

    async def delete(self) -> None:
        """Remove the interface; none is no error."""
        await delete_link(self._name)

    async def configure(self, link: Link) -> None:
        """Set key, port and mark; the kernel itself leaves alone what is so already."""
        await self._set("setting up WireGuard", [encode_device(link)])

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
        """Read the device; none where it is missing or another kind of interface."""
        for _ in range(DUMP_ATTEMPTS):
            try:
                return decode_device(await self._request(GET_DEVICE, NLM_F_REQUEST | NLM_F_DUMP, [b""]))
            except _Changed:
                continue
            except NetlinkError as error:
                if error.code in {errno.ENODEV, errno.EOPNOTSUPP, errno.ENOENT}:
                    return None
                raise refusal("reading WireGuard's state", error.code) from None
        raise KernelError(f"reading WireGuard's state: it changed {DUMP_ATTEMPTS} times meanwhile", _ALONE)

    async def _set(self, doing: str, payloads: Sequence[bytes]) -> None:
        try:
            await self._request(SET_DEVICE, NLM_F_REQUEST | NLM_F_ACK, payloads)
        except NetlinkError as error:
            raise refusal(doing, error.code) from None

    async def _request(self, command: int, flags: int, payloads: Sequence[bytes]) -> list[bytes]:
        replies: list[bytes] = []
        whole = True
        name = _attribute(DEVICE_NAME, self._name.encode() + b"\0")
        async with _Socket() as socket:
            await socket.bind(FAMILY, _Message)
            for payload in payloads:
                message = _Message()
                message["cmd"] = command
                message.payload = name + payload
                response = await socket.nlm_request(message, msg_type=socket.prid, msg_flags=flags)
                async for reply in response:
                    whole = whole and not reply["header"]["flags"] & NLM_F_DUMP_INTR
                    if isinstance(reply, _Message):
                        replies.append(reply.attributes())
        if not whole:
            raise _Changed
        return replies


async def is_available() -> bool:
    """Tell whether this kernel has WireGuard; asking makes it load the module where that is allowed."""
    try:
        async with _Socket() as socket:
            await socket.bind(FAMILY, _Message)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return False
        raise refusal("asking the kernel for WireGuard", error.code) from None
    except OSError as error:
        raise KernelError(f"asking the kernel for WireGuard: {error.strerror}") from None
    return True
