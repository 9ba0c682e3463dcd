"""A backup's encryption: what was written comes back whole with its passphrase, and nothing else comes back at all."""

from __future__ import annotations

import io

import pytest

from nodes.backups import crypt
from nodes.backups.crypt import CHUNK, MAGIC, MAGIC_WORD, TAG, EncryptingWriter, Sealed, Unusable

HEADER = len(MAGIC) + 1 + 16 + 32
PASSPHRASE = "a passphrase of tests"
CHEAP = 4
"""log2 of scrypt's N."""


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(crypt, "COST", CHEAP)


def seal(plain: bytes, passphrase: str = PASSPHRASE) -> bytes:
    """Encrypt in writes of odd sizes."""
    target = io.BytesIO()
    writer = EncryptingWriter(target, passphrase)
    for start in range(0, len(plain), 10_007):
        writer.write(plain[start : start + 10_007])
    writer.finish()
    return target.getvalue()


def unseal(sealed: bytes, passphrase: str = PASSPHRASE) -> bytes:
    return Sealed(io.BytesIO(sealed), passphrase).open().read()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_was_written_comes_back(size):
    plain = bytes(number % 251 for number in range(size))
    sealed = seal(plain)
    assert unseal(sealed) == plain
    assert len(sealed) == HEADER + size + TAG * max(1, -(-size // CHUNK))


def test_it_can_be_read_again():
    sealed = Sealed(io.BytesIO(seal(b"rows")), PASSPHRASE)
    assert [sealed.open().read(), sealed.open().read()] == [b"rows", b"rows"]


def test_nothing_of_it_is_seen_and_no_two_are_alike():
    plain = b"cluster secret " * 10_000
    one, two = seal(plain), seal(plain)
    assert b"cluster" not in one
    assert one[HEADER:] != two[HEADER:]


def test_another_passphrase():
    with pytest.raises(Unusable, match="passphrase does not open"):
        unseal(seal(b"rows"), "another passphrase")


with pytest.MonkeyPatch.context() as cheap:
    cheap.setattr(crypt, "COST", CHEAP)
    SEALED = seal(b"x" * (2 * CHUNK + 100))
FULL = CHUNK + TAG


@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        pytest.param(b"", "no backup", id="nothing"),
        pytest.param(b"PK\x03\x04" + SEALED, "no backup", id="something else"),
        pytest.param(MAGIC_WORD + b" 2\n" + SEALED, "made by a newer release", id="a newer form"),
        pytest.param(SEALED[: HEADER - 1], "ends too early", id="half a header"),
        pytest.param(SEALED[:HEADER], "ends too early", id="header alone"),
        pytest.param(SEALED[: HEADER + FULL], "ends too early", id="cut between chunks"),
        pytest.param(SEALED[: HEADER + FULL + 1000], "ends too early", id="cut in a chunk"),
        pytest.param(SEALED[:-1], "ends too early", id="last byte missing"),
        pytest.param(SEALED + b"\0", "damaged", id="a byte more"),
        pytest.param(SEALED + SEALED[HEADER:], "damaged", id="twice"),
        pytest.param(
            SEALED[:HEADER] + SEALED[HEADER + FULL : HEADER + 2 * FULL] + SEALED[HEADER : HEADER + FULL]
            + SEALED[HEADER + 2 * FULL :], "damaged", id="chunks in another order",
        ),
        pytest.param(SEALED[:HEADER] + SEALED[HEADER + FULL :], "damaged", id="a chunk missing"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused(damaged, sentence):
    with pytest.raises(Unusable, match=sentence):
        unseal(damaged)


@pytest.mark.parametrize("place", [0, len(MAGIC), len(MAGIC) + 1, HEADER - 1, HEADER, HEADER + FULL, len(SEALED) - 1])
def test_a_bit_that_changed_is_found(place):
    damaged = bytearray(SEALED)
    damaged[place] ^= 1
    with pytest.raises(Unusable):
        unseal(bytes(damaged))
