"""A machine that is not there: its keys, its names, and what it says of itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from kubespan import __version__
from kubespan.core.identity import KeyPair, encode_node_id, make_signing_key
from kubespan.core.messages import Claim, EnrolRequest


@dataclass(frozen=True)
class Machine:
    """A machine's keys and names, the same ones for the same seed and number."""

    seed: str
    number: int

    def _bytes(self, what: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/{self.number}/{what}".encode()).digest()

    @cached_property
    def keys(self) -> KeyPair:
        return KeyPair.make(self._bytes("wireguard"))

    @cached_property
    def node_id(self) -> str:
        return encode_node_id(self._bytes("node id"))

    @cached_property
    def signing(self) -> tuple[str, str]:
        """The private and the public half."""
        return make_signing_key(self._bytes("signing"))

    @property
    def name(self) -> str:
        return f"{self.seed}-{self.number:05}"

    @property
    def addresses(self) -> tuple[str, ...]:
        high, low = divmod(self.number, 250)
        return f"10.{high // 250}.{high % 250}.{low + 1}", f"2001:db8::{high + 1:x}:{low + 1:x}"

    def request(self, token: str, versions: tuple[int, ...]) -> EnrolRequest:
        """Ask to join."""
        return EnrolRequest(
            versions=versions,
            token=token,
            node_id=self.node_id,
            name=self.name,
            public_key=self.keys.public_key,
            verify_key=self.signing[1],
            interface_id=self._bytes("interface")[:8].hex(),
            hostname=f"{self.name}.example",
            operating_system="Debian GNU/Linux 12 (bookworm)",
            agent_version=__version__,
            addresses=self.addresses,
        )

    def claim(self) -> Claim:
        """What it says of itself once it is connected."""
        return Claim(
            hostname=f"{self.name}.example",
            operating_system="Debian GNU/Linux 12 (bookworm)",
            agent_version=__version__,
            backend="kernel",
            listen_port=51820,
            addresses=self.addresses,
        )
