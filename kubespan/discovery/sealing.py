"""Sealing what a machine says of itself so that only its cluster reads it (spec/discovery-protocol.md §3 and §4).

Affiliates are sealed by AES-256-GCM with the cluster secret as it is, the nonce in front; endpoints by AES in ECB mode,
so that one endpoint seen by several machines is the same bytes, which a service that cannot read them can merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import MAX_PORT, Endpoint, IPAddress, IPInterface
from kubespan.discovery.proto import affiliate_pb2 as proto

NONCE_BYTES = 12
TAG_BYTES = 16
BLOCK_BYTES = 16
ADDRESS_BYTES = 16
ADDRESS_KINDS: dict[int, type[IPAddress]] = {4: IPv4Address, 16: IPv6Address}
"""What an address of so many bytes is."""

MACHINE_TYPES = frozenset({"init", "controlplane", "worker", "unknown"})


Item = TypeVar("Item")


class Damaged(ValueError):
    """What was sealed is not what it can have been: too short, cut off, or no message of the protocol."""


class NotAuthentic(ValueError):
    """It was sealed with another secret, or changed since: the two cannot be told apart by one blob alone."""


def seal_affiliate(affiliate: Affiliate, secret: bytes, nonce: bytes) -> bytes:
    """Seal what a machine says of itself, but for its endpoints; the nonce must be random, and new for other words."""
    return nonce + AESGCM(secret).encrypt(nonce, dump_affiliate(affiliate), None)


def open_affiliate(data: bytes, secret: bytes) -> Affiliate:
    """Read what a machine said of itself; what cannot be of it is left out. Raises Damaged and NotAuthentic."""
    if len(data) < NONCE_BYTES + TAG_BYTES:
        raise Damaged(f"{len(data)} bytes are no sealed affiliate: it has at least {NONCE_BYTES + TAG_BYTES}")
    try:
        plain = AESGCM(secret).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None)
    except InvalidTag:
        raise NotAuthentic("it was sealed with another cluster secret, or changed on the way") from None
    return parse_affiliate(plain)


def seal_endpoint(endpoint: Endpoint, secret: bytes) -> bytes:
    """Seal an endpoint; the same endpoint and secret give the same bytes."""
    message = dump_endpoint(endpoint)
    plain = bytes([len(message)]) + message
    plain += bytes(-len(plain) % BLOCK_BYTES)
    encryptor = _ecb(secret).encryptor()
    return encryptor.update(plain) + encryptor.finalize()


def open_endpoint(data: bytes, secret: bytes) -> Endpoint:
    """Read an endpoint. Raises Damaged: nothing in it tells another secret from a change."""
    return endpoint_opener(secret)(data)


def endpoint_opener(secret: bytes) -> Callable[[bytes], Endpoint]:
    """What `open_endpoint` does, for many endpoints of one secret.

    In ECB mode no block depends on the one before, so one decryptor is good for all; to make it is most of the work.
    """
    decrypt = _ecb(secret).decryptor().update

    def open_one(data: bytes) -> Endpoint:
        if not data or len(data) % BLOCK_BYTES:
            raise Damaged(f"{len(data)} bytes are no sealed endpoint: it has whole blocks of {BLOCK_BYTES}")
        plain = decrypt(data)
        if plain[0] > len(plain) - 1:
            raise Damaged("an endpoint is longer than its own blocks")
        return parse_endpoint(plain[1 : 1 + plain[0]])

    return open_one


def _ecb(secret: bytes) -> Cipher[modes.ECB]:
    return Cipher(algorithms.AES256(secret), modes.ECB())  # noqa: S305 - the protocol's, see the top of this file


def dump_affiliate(affiliate: Affiliate) -> bytes:
    """Write an affiliate as the protocol has it, fields ascending and empty ones left out."""
    message = proto.Affiliate(
        node_id=affiliate.node_id,
        addresses=[address.packed for address in affiliate.addresses],
        hostname=affiliate.hostname,
        nodename=affiliate.nodename,
        machine_type=affiliate.machine_type,
        operating_system=affiliate.operating_system,
    )
    if affiliate.public_key:
        message.kubespan.public_key = affiliate.public_key
        message.kubespan.address = affiliate.address.packed if affiliate.address else b""
        message.kubespan.additional_addresses.extend(map(_prefix, affiliate.additional_addresses))
        message.kubespan.exclude_advertised_addresses.extend(map(_prefix, affiliate.exclude_advertised_networks))
    if affiliate.api_server_port is not None:
        message.control_plane.api_server_port = affiliate.api_server_port
    return message.SerializeToString(deterministic=True)


def parse_affiliate(plain: bytes) -> Affiliate:
    """Read an affiliate; items whose addresses cannot be are left out. Raises Damaged."""
    try:
        message = proto.Affiliate.FromString(plain)
    except (DecodeError, UnicodeDecodeError):
        raise Damaged("what was sealed is no affiliate") from None
    kubespan = message.kubespan
    own = _address(kubespan.address)
    return Affiliate(
        node_id=message.node_id,
        addresses=tuple(_present(map(_unmapped, message.addresses))),
        hostname=message.hostname,
        nodename=message.nodename,
        machine_type=_machine_type(message.machine_type),
        operating_system=message.operating_system,
        public_key=kubespan.public_key,
        address=own if isinstance(own, IPv6Address) else None,
        additional_addresses=tuple(_present(map(_interface, kubespan.additional_addresses))),
        exclude_advertised_networks=tuple(_present(map(_interface, kubespan.exclude_advertised_addresses))),
        api_server_port=message.control_plane.api_server_port if message.HasField("control_plane") else None,
    )


def dump_endpoint(endpoint: Endpoint) -> bytes:
    """Write an endpoint; its very bytes matter, for services merge equal ones."""
    return proto.Endpoint(ip=endpoint.ip.packed, port=endpoint.port).SerializeToString(deterministic=True)


def parse_endpoint(plain: bytes) -> Endpoint:
    """Read an endpoint. Raises Damaged."""
    try:
        message = proto.Endpoint.FromString(plain)
    except DecodeError:
        raise Damaged("what was sealed is no endpoint") from None
    address = _unmapped(message.ip)
    if address is None or message.port > MAX_PORT:
        raise Damaged("what was sealed is no endpoint that can be")
    return Endpoint(address, message.port)


def _prefix(interface: IPInterface) -> proto.IPPrefix:
    return proto.IPPrefix(ip=interface.ip.packed, bits=interface.network.prefixlen)


def _address(raw: bytes) -> IPAddress | None:
    """An address of its bytes; what follows the sixteenth names an interface of another machine."""
    raw = raw[:ADDRESS_BYTES]
    kind = ADDRESS_KINDS.get(len(raw))
    return kind(raw) if kind else None


def _unmapped(raw: bytes) -> IPAddress | None:
    """An address of its bytes; one of IPv4 in a cloak of IPv6 as what it is, so that a loopback is known for one."""
    address = _address(raw)
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _interface(prefix: proto.IPPrefix) -> IPInterface | None:
    address = _address(prefix.ip)
    if address is None or prefix.bits > address.max_prefixlen:
        return None
    return (
        IPv6Interface((address, prefix.bits))
        if isinstance(address, IPv6Address)
        else IPv4Interface((address, prefix.bits))
    )


def _present(items: Iterable[Item | None]) -> Iterable[Item]:
    return (item for item in items if item is not None)


def _machine_type(text: str) -> str:
    if text in {"", "join"}:
        return "worker"
    return text if text in MACHINE_TYPES else "unknown"
