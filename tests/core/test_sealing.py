"""The cluster secret opens for one node, one cluster and one generation."""

import pytest

from kubespan.core.cluster import make_cluster_secret
from kubespan.core.identity import KeyPair
from kubespan.core.sealing import open_sealed, seal

SECRET = make_cluster_secret(bytes(range(32)))
PAIR = KeyPair.make(b"\x01" * 32)
OTHER = KeyPair.make(b"\x02" * 32)
PURPOSE = {"cluster": "c", "node_id": "n", "generation": 1}


def test_what_was_sealed_opens():
    assert open_sealed(seal(SECRET, PAIR.public_key, **PURPOSE), PAIR.private_key, **PURPOSE) == SECRET


def test_sealing_twice_gives_two_texts():
    assert seal(SECRET, PAIR.public_key, **PURPOSE) != seal(SECRET, PAIR.public_key, **PURPOSE)


@pytest.mark.parametrize(
    ("key", "purpose"),
    [
        pytest.param(OTHER, PURPOSE, id="another node's key"),
        pytest.param(PAIR, PURPOSE | {"cluster": "d"}, id="another cluster"),
        pytest.param(PAIR, PURPOSE | {"node_id": "m"}, id="another node id"),
        pytest.param(PAIR, PURPOSE | {"generation": 2}, id="another generation"),
    ],
)
def test_it_opens_for_nobody_else(key, purpose):
    sealed = seal(SECRET, PAIR.public_key, **PURPOSE)
    with pytest.raises(ValueError, match="does not open with this node's key"):
        open_sealed(sealed, key.private_key, **purpose)


@pytest.mark.parametrize("sealed", ["", "!", "AAAA", SECRET])
def test_nonsense_does_not_open(sealed):
    with pytest.raises(ValueError, match="does not open with this node's key"):
        open_sealed(sealed, PAIR.private_key, **PURPOSE)


def test_a_changed_byte_does_not_open():
    sealed = seal(SECRET, PAIR.public_key, **PURPOSE)
    changed = sealed[:60] + ("A" if sealed[60] != "A" else "B") + sealed[61:]
    with pytest.raises(ValueError, match="does not open"):
        open_sealed(changed, PAIR.private_key, **PURPOSE)
