"""YAML from anybody, bounded; and YAML as Talos writes it."""

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.documents import (
    LIMIT_BYTES,
    LIMIT_DEPTH,
    LIMIT_DOCUMENTS,
    Mode,
    Unreadable,
    dump_documents,
    dump_yaml,
    parse_documents,
)

BOMB = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


def test_several_documents_and_every_scalar_is_text():
    text = b"# nothing\n---\nid: 0123\nat: 2024-01-01\non: yes\nnone: null\nempty:\n---\n- 1e3\n---\n---\njust text\n"
    assert parse_documents(text) == [
        {"id": "0123", "at": "2024-01-01", "on": "yes", "none": "null", "empty": ""},
        ["1e3"],
        "just text",
    ]


def test_a_tag_makes_nothing():
    assert parse_documents(b"a: !!python/object/apply:os.system [id]\nb: !!int 7\n") == [{"a": ["id"], "b": "7"}]


def test_a_byte_order_mark_is_none_of_it():
    assert parse_documents("\N{ZERO WIDTH NO-BREAK SPACE}a: b".encode()) == [{"a": "b"}]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(b"a" * (LIMIT_BYTES + 1), "larger than 1,024 KiB", id="too large"),
        pytest.param(b"\xff\xfe", "not UTF-8", id="no text"),
        pytest.param(b"\x7fELF\x00\x00", "characters that no text has|not YAML", id="a program"),
        pytest.param(b"a: b\n  c: d\n", "not YAML: the fault is in line 2, column 4", id="not YAML"),
        pytest.param(b"a: [", "not YAML: the fault is in line", id="cut off"),
        pytest.param(BOMB, "Line 2 has a YAML alias", id="a bomb"),
        pytest.param(b"a: &a\n  b: *a\n", "Line 2 has a YAML alias", id="a loop"),
        pytest.param(b"[" * (LIMIT_DEPTH + 1), "nested deeper", id="deep"),
        pytest.param(b"[" * 100_000, "nested deeper|not YAML", id="very deep"),
        pytest.param(b"---\na: b\n" * (LIMIT_DOCUMENTS + 1), "more than 200 documents", id="many documents"),
        pytest.param(b"- a\n" * 60_000, "By line [0-9]+ there is more in it", id="much"),
        pytest.param(b"a: 1\nb: 2\na: 3\n", "key in line 3 is there twice", id="a key twice"),
        pytest.param(b"? [a]\n: b\n", "key in line 1 is not text", id="a list for a key"),
    ],
)
def test_what_is_not_read_is_said(data, sentence):
    with pytest.raises(Unreadable, match=sentence):
        parse_documents(data)


@pytest.mark.parametrize("end", [b": :", b"\n\t- }", b' "', b"\n%"])
def test_a_fault_quotes_nothing(end):
    with pytest.raises(Unreadable) as fault:
        parse_documents(b"secret: hunter2 #" + end + b"\nhunter2: [hunter2: {\n")
    assert "hunter2" not in str(fault.value)


@given(st.binary(max_size=300) | st.text(alphabet="ab:-&*[]{}|>!%@\"'#,? \n\t01", max_size=200).map(str.encode))
def test_whatever_comes_is_read_or_refused(data):
    with contextlib.suppress(Unreadable):
        parse_documents(data)


def test_dump_is_as_talos_writes():
    document = {
        "kind": "X",
        "text too": "true",
        "list": ["0.0.0.0/0", "!10.0.0.0/8"],
        "mode": Mode(0o644),
        "text": "a\nb\n",
    }
    assert dump_yaml(document) == (
        "kind: X\ntext too: \"true\"\nlist:\n    - 0.0.0.0/0\n    - '!10.0.0.0/8'\nmode: 0644\ntext: |\n    a\n    b\n"
    )
    assert yaml.safe_load(dump_yaml(document)) == document


def test_documents_are_parted():
    assert dump_documents([{"a": 1}, {"b": 2}]) == "a: 1\n---\nb: 2\n"
