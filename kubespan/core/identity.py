"""Who a machine is: node id, WireGuard key pair, KubeSpan address, signing key (spec/kubespan.md §1.2, §1.3, §1.5)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_BYTES = 32
MAC_BYTES = 6
LONG_MAC_BYTES = 8
"""InfiniBand and the like have EUI-64 addresses already."""
INTERFACE_ID_BYTES = 8
SUBNET_LENGTH = 64
"""Of a cluster's range: the other half of the address is the interface id."""
MAX_NODE_ID_BYTES = 256
"""What we accept of others; the encoding of 32 bytes has 43 to 52 characters."""

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_VALUES = {char: value for value, char in enumerate(_ALPHABET)}

# Node ids are not a number to the base of 62. The bytes are a row of bits, eaten from its low end six at a time; the
# four values whose bits are x1111x would need an alphabet of 64, so for them only five bits are taken.
_FIVE_BITS = 0x1F
_COMPACT = 0x1E
_BYTE = 8


def encode_node_id(raw: bytes) -> str:
    """Write bytes as a node id, as jxskiss/base62 does; 32 random bytes are a new one."""
    left = 8 * len(raw)
    bits = int.from_bytes(raw, "big")
    chars = []
    while left > 0:
        take = min(6, left)
        value = bits & ((1 << take) - 1)
        after = left - take
        if value & _COMPACT == _COMPACT:
            # The last group has no bit to leave for a next one, unless its sixth bit is set.
            if after > 0 or value > _FIVE_BITS:
                take -= 1
                after += 1
            value &= _FIVE_BITS
        chars.append(_ALPHABET[value])
        bits >>= take
        left = after
    return "".join(chars)


def decode_node_id(text: str) -> bytes:
    """Read the bytes of a node id; raises ValueError for a character that is not of the alphabet."""
    raw = bytearray()
    bits = size = 0
    for place, char in enumerate(text):
        value = _VALUES.get(char)
        if value is None:
            raise ValueError(f"a node id has letters and digits only; character {place + 1} is {char!r}")
        bits |= value << size
        if place == len(text) - 1:
            size += value.bit_length()
        else:
            size += 5 if value & _COMPACT == _COMPACT else 6
        if size >= _BYTE:
            raw.append(bits & 0xFF)
            bits >>= _BYTE
            size -= _BYTE
    if size > 0:
        raw.append(bits & 0xFF)
    raw.reverse()
    return bytes(raw)


def machine_id(node_id: str) -> str:
    """Give the /etc/machine-id that Talos derives: 32 hex digits of the node id's first half."""
    return decode_node_id(node_id)[:16].hex()


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A WireGuard key pair, both halves as base64; the private one never leaves the machine."""

    private_key: str = field(repr=False)
    public_key: str

    @classmethod
    def make(cls, random: bytes) -> KeyPair:
        """Make a pair of 32 random bytes."""
        if len(random) != KEY_BYTES:
            raise ValueError(f"a private key needs {KEY_BYTES} random bytes, got {len(random)}")
        raw = bytearray(random)
        # Clamped as WireGuard itself would: the kernel reports the clamped key, and ours must compare equal to it.
        raw[0] &= 248
        raw[31] = raw[31] & 127 | 64
        public = X25519PrivateKey.from_private_bytes(bytes(raw)).public_key().public_bytes_raw()
        return cls(base64.b64encode(raw).decode(), base64.b64encode(public).decode())

    @classmethod
    def from_private(cls, text: str) -> KeyPair:
        """Read a private key; raises ValueError, never with any of the text."""
        return cls.make(_parse_key(text, "the private key"))


def _parse_key(text: str, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what} is not standard base64") from None
    if len(raw) != KEY_BYTES:
        raise ValueError(f"{what} must be {KEY_BYTES} bytes, got {len(raw)}")
    return raw


def is_public_key(text: str) -> bool:
    """Say whether a text is a key exactly as WireGuard would write it.

    Other spellings of the same 32 bytes do not count: they would never compare equal to what the kernel reports.
    """
    try:
        return base64.b64encode(_parse_key(text, "the public key")).decode() == text
    except ValueError:
        return False


class Interface(NamedTuple):
    """A network interface of the machine, as far as the choice of a hardware address needs it."""

    name: str
    type: str
    """`ether` for Ethernet."""
    kind: str
    """What the kernel calls a virtual link (`bond`, `veth`, `bridge` …); empty for a physical one."""
    mac: bytes


def pick_interface(interfaces: Iterable[tuple[str, str, str, bytes]]) -> bytes | None:
    """Pick the MAC that the node's address is made of: the first physical Ethernet link by name, carrier or not."""
    physical = sorted((name.encode(), mac) for name, type_, kind, mac in interfaces if type_ == "ether" and not kind)
    return physical[0][1] if physical else None


def random_mac(random: bytes) -> bytes:
    """Make a MAC of six random bytes for a machine without a physical link: local, and for one receiver."""
    if len(random) != MAC_BYTES:
        raise ValueError(f"a MAC address needs {MAC_BYTES} random bytes, got {len(random)}")
    return bytes([random[0] & 0xFE | 0x02]) + random[1:]


def interface_id(mac: bytes) -> bytes:
    """Give the low 64 bits of an address: modified EUI-64 of a MAC of six or eight bytes."""
    if len(mac) == MAC_BYTES:
        return bytes([mac[0] ^ 0x02, mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5]])
    if len(mac) == LONG_MAC_BYTES:
        return bytes([mac[0] ^ 0x02]) + mac[1:]
    raise ValueError(f"a MAC address has 6 or 8 bytes, this one has {len(mac)}")


def node_address(prefix: IPv6Network, interface: bytes) -> IPv6Address:
    """Join a cluster's /64 and a machine's interface id."""
    if prefix.prefixlen != SUBNET_LENGTH:
        raise ValueError(f"{prefix} is not a /64")
    if len(interface) != INTERFACE_ID_BYTES:
        raise ValueError(f"an interface id has {INTERFACE_ID_BYTES} bytes, this one has {len(interface)}")
    return IPv6Address(prefix.network_address.packed[:8] + interface)


def make_signing_key(random: bytes) -> tuple[str, str]:
    """Make an Ed25519 pair of 32 random bytes: private and public half as base64."""
    private = Ed25519PrivateKey.from_private_bytes(random)
    return base64.b64encode(random).decode(), base64.b64encode(private.public_key().public_bytes_raw()).decode()


def sign(private_key: str, data: bytes) -> str:
    """Sign with an Ed25519 private key; base64."""
    key = Ed25519PrivateKey.from_private_bytes(_parse_key(private_key, "the signing key"))
    return base64.b64encode(key.sign(data)).decode()


def verify(public_key: str, signature: str, data: bytes) -> bool:
    """Say whether a signature is by this key over this data; nonsense in either is a plain no."""
    try:
        key = Ed25519PublicKey.from_public_bytes(_parse_key(public_key, "the public key"))
        key.verify(base64.b64decode(signature, validate=True), data)
    except (InvalidSignature, ValueError):
        return False
    return True
