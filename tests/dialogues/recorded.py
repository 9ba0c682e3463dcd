"""Recordings by `record.py`, one folder a protocol version: what was said, by whom, and the strict schema of then."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from kubespan.core.messages import VERSIONS

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recording:
    """One release's dialogue."""

    dialogue: dict[str, Any]
    schema: dict[str, Any]

    @property
    def version(self) -> int:
        """The protocol's."""
        return self.dialogue["protocol"]

    def understand(self, side: str, body: bytes | str) -> dict[str, Any]:
        """Read what is said to that release, as strictly as it would; raises ValidationError."""
        said = json.loads(body)
        self._validator(side).validate(said)
        return said

    @cache  # noqa: B019 - a few recordings, kept as long as the tests run
    def _validator(self, side: str) -> Draft202012Validator:
        return Draft202012Validator(self.schema[side])

    def __hash__(self) -> int:
        return id(self)


def read(version: int) -> Recording:
    """The recording of a protocol version."""
    folder = HERE / f"v{version}"
    return Recording(*(json.loads((folder / f"{name}.json").read_text()) for name in ("dialogue", "schema")))


PREVIOUS = [read(version) for version in VERSIONS[1:]]
"""Of each version besides the present one that this release speaks."""
