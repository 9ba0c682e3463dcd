"""Records as a table, YAML or JSON, in the form of `talosctl get` (spec/kubespan.md §2.3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import msgspec
import yaml

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


class _Dumper(yaml.SafeDumper):
    """YAML as Talos' own encoder writes it: four spaces, indented lists, bare timestamps, nothing for none."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the library's signature
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the same value twice is written twice
        return True


# A time is a text of ours in the form of RFC 3339, and is written bare.
_Dumper.yaml_implicit_resolvers = {
    char: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for char, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    tag: str = dumper.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # theirs
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if tag.endswith(":str") else '"')


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", ""))


def dump_yaml(document: dict[str, Any]) -> str:
    """Write one YAML document, keys in their order."""
    text: str = yaml.dump(document, Dumper=_Dumper, indent=_INDENT, sort_keys=False, allow_unicode=True, width=10**9)
    return text


def _table(resources: Iterable[Resource], definition: Definition, node: str) -> str:
    headings = ["NODE", "NAMESPACE", "TYPE", "ID", "VERSION"]
    rows = [[*headings, *(heading.upper() for heading, _ in definition.columns)]]
    for resource in resources:
        metadata = resource.metadata
        fixed = [node, metadata.namespace, definition.display_type, metadata.id, str(metadata.version)]
        rows.append(fixed + [_cell(resource.spec.get(key)) for _, key in definition.columns])
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
