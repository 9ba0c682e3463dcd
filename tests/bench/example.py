"""A cluster of a thousand to measure with."""

from __future__ import annotations

from kubespan.core.identity import KeyPair
from kubespan.core.messages import Member, Revision, Snapshot
from kubespan.core.options import Options

MEMBERS = 1000
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def make_keys(number: int) -> KeyPair:
    """The same ones for the same number, which is in the middle: clamping changes the first and the last byte."""
    return KeyPair.make((number << 64).to_bytes(32, "big"))


def make_snapshot(members: int = MEMBERS) -> Snapshot:
    """Everything that a node of it is told."""
    made = tuple(
        Member(
            index=number,
            node_id=f"node-{number:04}",
            name=f"machine-{number:04}",
            public_key=make_keys(number + 1).public_key,
            address=f"fd21:4de:ec13:da02::{number + 1:x}",
            addresses=(f"10.{number // 250}.{number % 250}.1", f"2001:db8::{number + 1:x}"),
            endpoints=(f"10.{number // 250}.{number % 250}.1:51820", f"[2001:db8::{number + 1:x}]:51820"),
            hostname=f"machine-{number:04}.example",
            operating_system="Debian GNU/Linux 12",
        )
        for number in range(members)
    )
    return Snapshot(revision=Revision(1, members), secret_generation=1, options=Options(), members=made)
