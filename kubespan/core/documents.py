"""YAML as Talos reads and writes it: several documents in one text, four spaces, indented lists.

Text and structures alone: PyYAML opens no file here. What is read comes from anybody, so it is bounded before anything
is made of it: its size, its depth, how much there is in it; and an alias, by which a small file becomes a huge one, is
refused. Every scalar is read as text, so that no number, date or tag of the writer's makes anything else of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import yaml

LIMIT_BYTES = 1024 * 1024
"""A machine configuration has some 40 kB with all its comments; inline manifests may make it more."""
TOO_LARGE = f"It is larger than {LIMIT_BYTES // 1024:,} KiB. Leave out what is not needed here, such as manifests."
LIMIT_DEPTH = 50
LIMIT_DOCUMENTS = 200
LIMIT_EVENTS = 50_000
"""A large configuration has some thousands; each costs time."""

_INDENT = 4

_Base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # the one that libyaml does is twenty times as fast


class Unreadable(ValueError):
    """A text is not what can be read here; the sentence has the place, and nothing of the text."""


class _Loader(_Base):  # type: ignore[misc]  # theirs has no types
    """Scalars as text, tags ignored, and no key twice: the last one would win unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - the library's signature
        made: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise Unreadable(f"The key in line {_line(key_node)} is not text.")
            if key in made:
                raise Unreadable(f"The key in line {_line(key_node)} is there twice.")
            made[str(key)] = self.construct_object(value_node, deep=deep)
        return made


def _line(at: Any) -> int:
    """The line, as people count, at which an event or a node begins."""
    return int(at.start_mark.line) + 1


def parse_documents(data: bytes) -> list[Any]:
    """Read every document of a text: mappings, lists and texts. Empty ones are left out.

    Raises Unreadable.
    """
    if len(data) > LIMIT_BYTES:
        raise Unreadable(TOO_LARGE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("It is not UTF-8 text.") from None
    try:
        _check(text)
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The error's own words quote the text.
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Unreadable(f"It is not YAML: the fault is{place or ' not said where'}.") from None
    except yaml.YAMLError:
        raise Unreadable("It is not YAML: it has characters that no text has.") from None
    return [document for document in documents if document not in ("", None)]


def _check(text: str) -> None:
    """Look at the text's events alone, before anything is made of them."""
    depth = documents = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Base)):
        if number > LIMIT_EVENTS:
            raise Unreadable(f"By line {_line(event)} there is more in it than in any Talos configuration.")
        match event:
            case yaml.AliasEvent():
                raise Unreadable(
                    f"Line {_line(event)} has a YAML alias, by which a small file can be made a huge one. "
                    "Write out what it stands for."
                )
            case yaml.DocumentStartEvent():
                documents += 1
            case yaml.CollectionStartEvent():
                depth += 1
            case yaml.CollectionEndEvent():
                depth -= 1
            case _:
                continue
        if depth > LIMIT_DEPTH:
            raise Unreadable(f"Line {_line(event)} is nested deeper than any Talos configuration.")
        if documents > LIMIT_DOCUMENTS:
            raise Unreadable(f"It has more than {LIMIT_DOCUMENTS} documents.")


class Mode(int):
    """A file's permissions, which people read in octal digits."""


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
    if "\n" in text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    tag: str = dumper.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # theirs
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if tag.endswith(":str") else '"')


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(Mode, lambda dumper, mode: dumper.represent_scalar("tag:yaml.org,2002:int", f"0{mode:o}"))
_Dumper.add_representer(type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", ""))


def dump_yaml(document: Any) -> str:
    """Write one YAML document, keys in their order."""
    text: str = yaml.dump(document, Dumper=_Dumper, indent=_INDENT, sort_keys=False, allow_unicode=True, width=10**9)
    return text


def dump_documents(documents: Iterable[Any]) -> str:
    """Write several documents as one text."""
    return "---\n".join(dump_yaml(document) for document in documents)
