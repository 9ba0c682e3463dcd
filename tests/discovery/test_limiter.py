"""Token buckets, by a clock of the test's."""

import pytest

from kubespan.discovery.limiter import Limiter

ONE, OTHER = b"\x7f\0\0\1", b"\x0a\0\0\1"


def test_a_burst_is_free_and_the_next_one_waits():
    limiter = Limiter(rate=1.0, burst=60)
    assert [limiter.reserve(ONE, 0.0, 1.0) for _ in range(60)] == [0.0] * 60
    assert limiter.reserve(ONE, 0.0, 0.5) is None
    assert limiter.reserve(ONE, 0.0, 1.0) == 1.0
    assert limiter.reserve(ONE, 0.0, None) == 2.0
    assert limiter.reserve(OTHER, 0.0, 0.0) == 0.0


def test_who_is_refused_pays_nothing():
    limiter = Limiter(rate=1.0, burst=1)
    limiter.reserve(ONE, 0.0, None)
    for _ in range(10):
        assert limiter.reserve(ONE, 0.0, 0.5) is None
    assert limiter.reserve(ONE, 0.0, 1.0) == pytest.approx(1.0)


def test_a_token_that_was_not_used_comes_back():
    limiter = Limiter(rate=1.0, burst=1)
    limiter.reserve(ONE, 0.0, None)
    limiter.restore(ONE)
    limiter.restore(OTHER)
    assert limiter.reserve(ONE, 0.0, 0.0) == 0.0


def test_full_buckets_are_forgotten():
    limiter = Limiter(rate=1.0, burst=2)
    limiter.reserve(ONE, 0.0, None)
    limiter.reserve(OTHER, 0.5, None)
    limiter.collect(0.9)
    assert len(limiter) == 2
    limiter.collect(1.0)
    assert len(limiter) == 1
