"""Records as a table, YAML or JSON, in the form of `talosctl get` (spec/kubespan.md §2.3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import msgspec

from kubespan.core.documents import dump_yaml
from kubespan.core.resources import Definition, Resource

Form = Literal["table", "yaml", "json"]
FORMS: tuple[Form, ...] = get_args(Form)

_INDENT = 4
_PADDING = 3
"""Spaces between columns."""


def render(resources: Sequence[Resource], definition: Definition, form: Form, node: str) -> str:
    """Write the records of one type; `node` is the name or address that the answer is by."""
    writers: dict[Form, Callable[[], str]] = {
        "table": lambda: _table(resources, definition, node),
        "yaml": lambda: "---\n".join(dump_yaml(_document(resource, node)) for resource in resources),
        "json": lambda: "".join(f"{json.dumps(_document(one, node), indent=_INDENT)}\n" for one in resources),
    }
    return writers[form]()


def _document(resource: Resource, node: str) -> dict[str, Any]:
    metadata = msgspec.structs.asdict(resource.metadata)
    return {"node": node, "metadata": metadata | {"owner": metadata["owner"] or None}, "spec": resource.spec}


def _table(resources: Iterable[Resource], definition: Definition, node: str) -> str:
    headings = ["NODE", "NAMESPACE", "TYPE", "ID", "VERSION"]
    resources = list(resources)
    extras = [(heading, key) for heading, key in definition.extras if any(key in one.spec for one in resources)]
    columns = [*definition.columns, *extras]
    rows = [[*headings, *(heading.upper() for heading, _ in columns)]]
    for resource in resources:
        metadata = resource.metadata
        fixed = [node, metadata.namespace, definition.display_type, metadata.id, str(metadata.version)]
        rows.append(fixed + [_cell(resource.spec.get(key)) for _, key in columns])
    widths = [max(map(len, column)) + _PADDING for column in zip(*rows, strict=True)]
    return "".join(f"{_line(row, widths)}\n" for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))
