"""Changes of discovery's state as they travel between processes, through one Redis channel."""

from __future__ import annotations

import msgspec

from kubespan.discovery.state import SealedAffiliate

CHANNEL = "kubespan:discovery"


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """Changes of a cluster, numbered on from `since`; each an id, and the affiliate as it is now unless it is gone."""

    cluster: int
    since: int
    events: tuple[tuple[str, SealedAffiliate | None], ...]


_decoder = msgspec.msgpack.Decoder(Parcel)
_encoder = msgspec.msgpack.Encoder()


def dump_parcel(parcel: Parcel) -> bytes:
    """Encode a parcel."""
    return _encoder.encode(parcel)


def parse_parcel(data: bytes) -> Parcel:
    """Read a parcel; raises msgspec.DecodeError."""
    return _decoder.decode(data)
