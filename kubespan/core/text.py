"""Words that somebody else wrote."""

from __future__ import annotations


def printable(text: str, limit: int = 256) -> str:
    """What may be kept and shown of them: no control characters (terminals obey them, databases refuse), no novels."""
    return "".join(char for char in text if char.isprintable())[:limit]
