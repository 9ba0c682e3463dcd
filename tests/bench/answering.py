"""Any number of WireGuard peers that answer handshakes, and echoes of ICMPv6, in one process and on one UDP port.

So an agent has peers that are up, without a machine for each: the tunnel's other end is the responder's half of the
handshake (https://www.wireguard.com/protocol/). Whom an initiation is for, its first MAC says.
"""

from __future__ import annotations

import asyncio
import hmac
import struct
from base64 import b64decode
from collections.abc import Iterable
from hashlib import blake2s

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from kubespan.core.identity import KeyPair

INITIATION, RESPONSE, DATA = 1, 2, 4
_INITIATION = struct.Struct("<B3xI32s48s28s16s16x")
_RESPONSE = struct.Struct("<B3xII32s16s")
_DATA = struct.Struct("<B3xIQ")
_NONCE = bytes(12)
_IPV6, _ICMPV6, _ECHO_REQUEST, _ECHO_REPLY = 6, 58, 128, 129
_HEADER = 40
_SESSIONS = 8192
"""Kept; of more, the oldest are forgotten."""


def _hash(*parts: bytes) -> bytes:
    return blake2s(b"".join(parts)).digest()


def _mac(key: bytes, data: bytes) -> bytes:
    return blake2s(data, key=key, digest_size=16).digest()


def _derive(chain: bytes, data: bytes, number: int) -> list[bytes]:
    secret = hmac.digest(chain, data, "blake2s")
    keys = [hmac.digest(secret, b"\1", "blake2s")]
    for counter in range(2, number + 1):
        keys.append(hmac.digest(secret, keys[-1] + bytes((counter,)), "blake2s"))
    return keys


_CHAIN = _hash(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
_START = _hash(_CHAIN, b"WireGuard v1 zx2c4 Jason@zx2c4.com")


def _reply(packet: bytes) -> bytes | None:
    """The echo that answers this one; none where it is none, as a keepalive."""
    if len(packet) <= _HEADER or packet[0] >> 4 != _IPV6 or (packet[6], packet[_HEADER]) != (_ICMPV6, _ECHO_REQUEST):
        return None
    # The type is greater by one, so the checksum is less by as much, in ones' complement; addresses change places.
    (checksum,) = struct.unpack_from("!H", packet, _HEADER + 2)
    checksum -= (_ECHO_REPLY - _ECHO_REQUEST) << 8
    checksum = (checksum - 1) & 0xFFFF if checksum < 0 else checksum
    head = packet[:7] + bytes((64,)) + packet[24:40] + packet[8:24]
    return head + struct.pack("!BBH", _ECHO_REPLY, 0, checksum) + packet[_HEADER + 4 :]


class _Session:
    """The keys of one handshake."""

    def __init__(self, chain: bytes, sender: int) -> None:
        receiving, sending = _derive(chain, b"", 2)
        self._receiving, self._sending = ChaCha20Poly1305(receiving), ChaCha20Poly1305(sending)
        self._sender = sender
        self._sent = 0

    def answer(self, data: bytes) -> bytes | None:
        """Answer a packet, if it is an echo."""
        _, _, counter = _DATA.unpack_from(data)
        reply = _reply(self._receiving.decrypt(struct.pack("<4xQ", counter), data[_DATA.size :], b""))
        if reply is None:
            return None
        counter, self._sent = self._sent, self._sent + 1
        return _DATA.pack(DATA, self._sender, counter) + self._sending.encrypt(struct.pack("<4xQ", counter), reply, b"")


class Answering(asyncio.DatagramProtocol):
    """The peers' one socket; `handshakes` and `echoes` count what was answered."""

    def __init__(self, peers: Iterable[KeyPair], preshared_key: str) -> None:
        self.handshakes = self.echoes = 0
        self._sessions: dict[int, _Session] = {}
        self._preshared = b64decode(preshared_key)
        self._peers = [
            (_hash(b"mac1----", public), public, X25519PrivateKey.from_private_bytes(b64decode(keys.private_key)))
            for keys in peers
            for public in [b64decode(keys.public_key)]
        ]
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(data) == _INITIATION.size and data[0] == INITIATION and self._transport is not None:
            self._transport.sendto(self._answer(data), addr)
            self.handshakes += 1
        elif len(data) > _DATA.size and data[0] == DATA and self._transport is not None:
            session = self._sessions.get(_DATA.unpack_from(data)[1])
            if session is not None and (answer := session.answer(data)) is not None:
                self._transport.sendto(answer, addr)
                self.echoes += 1

    def _answer(self, data: bytes) -> bytes:
        _, sender, ephemeral, static, timestamp, mac = _INITIATION.unpack(data)
        public, private = next((p, k) for key, p, k in self._peers if _mac(key, data[:116]) == mac)
        theirs = X25519PublicKey.from_public_bytes(ephemeral)

        state = _hash(_hash(_START, public), ephemeral)
        (chain,) = _derive(_CHAIN, ephemeral, 1)
        chain, key = _derive(chain, private.exchange(theirs), 2)
        initiator = ChaCha20Poly1305(key).decrypt(_NONCE, static, state)
        known = X25519PublicKey.from_public_bytes(initiator)
        state = _hash(state, static)
        chain, _ = _derive(chain, private.exchange(known), 2)
        state = _hash(state, timestamp)

        own = X25519PrivateKey.generate()
        own_public = own.public_key().public_bytes_raw()
        (chain,) = _derive(chain, own_public, 1)
        state = _hash(state, own_public)
        (chain,) = _derive(chain, own.exchange(theirs), 1)
        (chain,) = _derive(chain, own.exchange(known), 1)
        chain, mixed, key = _derive(chain, self._preshared, 3)
        self._sessions[self.handshakes & 0xFFFFFFFF] = _Session(chain, sender)
        if len(self._sessions) > _SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        state = _hash(state, mixed)
        empty = ChaCha20Poly1305(key).encrypt(_NONCE, b"", state)
        message = _RESPONSE.pack(RESPONSE, self.handshakes & 0xFFFFFFFF, sender, own_public, empty)
        return message + _mac(_hash(b"mac1----", initiator), message) + bytes(16)
