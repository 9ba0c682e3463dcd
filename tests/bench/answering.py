"""Any number of WireGuard peers that answer handshakes and nothing else, in one process and on one UDP port.

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

INITIATION, RESPONSE = 1, 2
_INITIATION = struct.Struct("<B3xI32s48s28s16s16x")
_RESPONSE = struct.Struct("<B3xII32s16s")
_NONCE = bytes(12)


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


class Answering(asyncio.DatagramProtocol):
    """The peers' one socket; `handshakes` counts what was answered."""

    def __init__(self, peers: Iterable[KeyPair], preshared_key: str) -> None:
        self.handshakes = 0
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
        _, mixed, key = _derive(chain, self._preshared, 3)
        state = _hash(state, mixed)
        empty = ChaCha20Poly1305(key).encrypt(_NONCE, b"", state)
        message = _RESPONSE.pack(RESPONSE, self.handshakes & 0xFFFFFFFF, sender, own_public, empty)
        return message + _mac(_hash(b"mac1----", initiator), message) + bytes(16)
