"""The cluster secret on its way to one node, readable by that node alone.

HPKE base mode (RFC 9180) with X25519, HKDF-SHA256 and ChaCha20-Poly1305, to the node's WireGuard public key. What it
is for is bound in: a secret sealed for one cluster, node and generation opens for no other.
"""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def _info(cluster: str, node_id: str, generation: int) -> bytes:
    return f"kubespan-web cluster secret 1|{cluster}|{node_id}|{generation}".encode()


def seal(secret: str, public_key: str, *, cluster: str, node_id: str, generation: int) -> str:
    """Seal a cluster secret to a node's WireGuard public key; base64."""
    recipient = X25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
    info = _info(cluster, node_id, generation)
    return base64.b64encode(_SUITE.encrypt(secret.encode(), recipient, info=info)).decode()


def open_sealed(sealed: str, private_key: str, *, cluster: str, node_id: str, generation: int) -> str:
    """Open what `seal` made; raises ValueError when it is not for this key, cluster, node and generation."""
    recipient = X25519PrivateKey.from_private_bytes(base64.b64decode(private_key, validate=True))
    try:
        blob = base64.b64decode(sealed, validate=True)
        return _SUITE.decrypt(blob, recipient, info=_info(cluster, node_id, generation)).decode()
    except (InvalidTag, binascii.Error, ValueError):
        raise ValueError("the sealed cluster secret does not open with this node's key") from None
