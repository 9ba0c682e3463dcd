"""Which releases take which patch."""

import pytest

from kubespan.core.options import Options
from kubespan.core.talos.eras import ERAS, OPTIONS, USUAL, Release, find_era


def test_every_release_that_differs_has_its_era():
    assert [era.name for era in ERAS] == [
        "0.12 to 0.14",
        "1.0 to 1.1",
        "1.2 to 1.4",
        "1.5 to 1.6",
        "1.7",
        "1.8 to 1.12",
        "1.13",
        "1.14",
        "1.15 and later",
    ]
    assert USUAL.name == "1.14"


def test_every_option_that_talos_has_too_is_known():
    assert set(OPTIONS) == set(Options.__struct_fields__) - {"force_from_start", "probes"}


@pytest.mark.parametrize(
    ("text", "era"),
    [
        ("1.8", "1.8 to 1.12"),
        ("v1.12.7", "1.8 to 1.12"),
        ("Talos (v1.13.0-beta.1)", "1.13"),
        ("1.99", "1.15 and later"),
        ("0.14.3", "0.12 to 0.14"),
        ("0.9", "0.12 to 0.14"),
        ("1.1", "1.0 to 1.1"),
    ],
)
def test_a_releases_era(text, era):
    assert find_era(Release.parse(text)).name == era


@pytest.mark.parametrize("text", ["", "1", "Debian 12", "Alpine 3.20x", "١.٢"])
def test_what_is_no_release(text):
    with pytest.raises(ValueError, match="not a release of Talos"):
        Release.parse(text)
