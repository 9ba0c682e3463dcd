"""Durations as people read them; the same table as frontend/src/format.test.ts has."""

import pytest

from kubespan.core.duration import age


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(-3, "0 s", id="not yet"),
        pytest.param(59.9, "59 s", id="seconds"),
        pytest.param(60, "1 m", id="a minute"),
        pytest.param(3599, "59 m", id="minutes"),
        pytest.param(3600, "1 h", id="an hour"),
        pytest.param(5400, "1 h 30 m", id="an hour and a half"),
        pytest.param(86399, "23 h 59 m", id="nearly a day"),
        pytest.param(86400 * 2 + 3600 * 3, "2 d 3 h", id="days"),
        pytest.param(86400 * 10 + 3600 * 3, "10 d", id="many days"),
    ],
)
def test_age(seconds, text):
    assert age(seconds) == text
