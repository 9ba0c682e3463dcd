"""A stream of bytes that only a passphrase opens, and of which no part can be changed, moved, or left out.

The passphrase becomes two keys by scrypt (RFC 7914) with a salt of the file's own. One authenticates the header, so
that a wrong passphrase is known at once; the other encrypts chunks by AES-256-GCM. A chunk's nonce is its number and
whether it is the last (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, "Online authenticated-
encryption and its nonce-reuse misuse-resistance", 2015), and the header is authenticated with each: half a file ends
without a last chunk, and is refused. A key encrypts one file alone, for its salt is random.

Bytes of a file: MAGIC, log2 of scrypt's N, salt, HMAC-SHA256 of all that, then chunks of CHUNK bytes and a tag of 16.
"""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

MAGIC = b"kubespan-web backup 1\n"
"""With the version of the whole file; what follows may be anything in another one."""
MAGIC_WORD = MAGIC.rpartition(b" ")[0]

CHUNK = 64 * 1024
TAG = 16
SALT = 16
MAC = 32
KEY = 32

COST = 17
"""log2 of scrypt's N: with r = 8 it takes 128 MiB for about half a second (OWASP's recommendation)."""
COST_MOST = 20
"""A file that asks for more than 1 GiB is none of ours."""

LAST = b"\x01"
NOT_LAST = b"\x00"
COUNTER_BYTES = 11


class Unusable(Exception):
    """The file is no backup, not whole, or the passphrase is not its own; the sentence says which."""


class EncryptingWriter(io.RawIOBase):
    """Encrypts what is written to it into another stream; only `finish` makes it whole."""

    def __init__(self, target: BinaryIO, passphrase: str) -> None:
        super().__init__()
        self._target = target
        self._buffer = bytearray()
        self._number = 0
        start = MAGIC + bytes([COST]) + os.urandom(SALT)
        self._cipher, mac = _keys(passphrase, start)
        mac.update(start)
        self._header = start + mac.finalize()
        target.write(self._header)

    def writable(self) -> bool:
        """It is for writing alone."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # any buffer would do
        """Take bytes; a chunk goes out when it is full and more has come."""
        self._buffer += data
        while len(self._buffer) > CHUNK:
            self._put(bytes(self._buffer[:CHUNK]), NOT_LAST)
            del self._buffer[:CHUNK]
        return len(data)

    def finish(self) -> None:
        """Write the last chunk; without it the file is half a file."""
        self._put(bytes(self._buffer), LAST)
        self._buffer.clear()

    def _put(self, chunk: bytes, last: bytes) -> None:
        self._target.write(self._cipher.encrypt(_nonce(self._number, last), chunk, self._header))
        self._number += 1


class Sealed:
    """A file that the passphrase opens, to be read from its start as often as one likes. Raises Unusable."""

    def __init__(self, source: BinaryIO, passphrase: str) -> None:
        self._source = source
        source.seek(0)
        self._header = _read_header(source)
        self._cipher, mac = _keys(passphrase, self._header)
        mac.update(self._header[:-MAC])
        try:
            mac.verify(self._header[-MAC:])
        except InvalidSignature:
            raise Unusable("The passphrase does not open this backup (or its first bytes are damaged).") from None

    def open(self) -> io.BufferedReader:
        """Begin at the start; what is read raises Unusable where the file is not what was written."""
        self._source.seek(len(self._header))
        return io.BufferedReader(_DecryptingReader(self._source, self._cipher, self._header), CHUNK)


class _DecryptingReader(io.RawIOBase):
    """Gives what was encrypted, chunk by chunk, each only when it is known to be right."""

    def __init__(self, source: BinaryIO, cipher: AESGCM, header: bytes) -> None:
        super().__init__()
        self._source = source
        self._cipher = cipher
        self._header = header
        self._plain = b""
        self._number = 0
        self._ended = False
        self._ahead = source.read(CHUNK + TAG)

    def readable(self) -> bool:
        """It is for reading alone."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        """Fill as much of the buffer as a chunk has."""
        while not self._plain and not self._ended:
            self._plain = self._next()
        size = min(len(buffer), len(self._plain))
        buffer[:size] = self._plain[:size]
        self._plain = self._plain[size:]
        return size

    def _next(self) -> bytes:
        chunk, self._ahead = self._ahead, self._source.read(CHUNK + TAG)
        self._ended = not self._ahead
        nonce = _nonce(self._number, LAST if self._ended else NOT_LAST)
        self._number += 1
        try:
            return self._cipher.decrypt(nonce, chunk, self._header)
        except (InvalidTag, ValueError):
            how = "ends too early, or is damaged at its end" if self._ended else "is damaged"
            raise Unusable(f"The backup {how}: nothing of it is used.") from None


def _read_header(source: BinaryIO) -> bytes:
    size = len(MAGIC) + 1 + SALT + MAC
    header = source.read(size)
    if header[: len(MAGIC)] != MAGIC:
        if header.startswith(MAGIC_WORD + b" "):
            raise Unusable(
                "The backup was made by a newer release, whose files this one does not know: restore it with that."
            )
        raise Unusable("This is no backup of a console.")
    if len(header) < size:
        raise Unusable("The backup ends too early, or is damaged at its end: nothing of it is used.")
    return header


def _keys(passphrase: str, header: bytes) -> tuple[AESGCM, HMAC]:
    cost = header[len(MAGIC)]
    if not 1 <= cost <= COST_MOST:
        raise Unusable("The backup's first bytes are damaged: nothing of it is used.")
    salt = header[len(MAGIC) + 1 : len(MAGIC) + 1 + SALT]
    both = Scrypt(salt=salt, length=2 * KEY, n=2**cost, r=8, p=1).derive(passphrase.encode())
    return AESGCM(both[:KEY]), HMAC(both[KEY:], SHA256())


def _nonce(number: int, last: bytes) -> bytes:
    return number.to_bytes(COUNTER_BYTES, "big") + last
