"""Figures of links as people read them, as frontend/src has them."""

from __future__ import annotations

from django import template

register = template.Library()

NOT_MEASURED = "not measured"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
STEP = 1024
WHOLE = 10
HUNDRED = 100
SECOND_MS = 1000


@register.filter
def round_trip(seconds: float | None) -> str:
    """A round trip: `0.4 ms`, `12 ms`, `1.2 s`."""
    if seconds is None:
        return NOT_MEASURED
    ms = seconds * SECOND_MS
    if ms >= SECOND_MS:
        return f"{seconds:.1f} s"
    return f"{ms:.1f} ms" if ms < WHOLE else f"{ms:.0f} ms"


@register.filter
def share(value: float | None) -> str:
    """A share as per cent: `0 %`, `0.4 %`, `12 %`."""
    if value is None:
        return NOT_MEASURED
    percent = value * HUNDRED
    return f"{percent:.1f} %" if 0 < percent < WHOLE else f"{percent:.0f} %"


@register.filter
def size(count: int) -> str:
    """Bytes in binary units, with three digits at most."""
    value, unit = float(count), 0
    while value >= STEP and unit < len(UNITS) - 1:
        value /= STEP
        unit += 1
    digits = 0 if unit == 0 or value >= HUNDRED else 1 if value >= WHOLE else 2
    return f"{value:,.{digits}f} {UNITS[unit]}"
